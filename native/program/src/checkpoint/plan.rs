//! Where to cut: the segments that keep the peak of the estimated memory lowest.
//!
//! A bound on what one segment may save turns the choice into a shortest path over places to cut: the way to a place is as
//! long as what the segments before it keep. Bounds are tried from small to large; what is kept plus the bound is the peak.
//! Nodes that no segment may hold are steps of their own, at the price of all they save.

use std::ops::Range;

use super::memory::Memory;
use crate::error::Error;

/// More places to cut than this are thinned out: those with the least memory across stay.
const PLACES: usize = 256;
/// Bounds tried, each a bit larger than the one before.
const BOUNDS: u32 = 40;

/// The segments with the lowest peak; none if that is lowest without.
pub(super) fn least(memory: &Memory) -> Vec<Range<usize>> {
    let graph = Graph::of(memory);
    let whole = memory.saved(0..memory.nodes());
    let mut best = (whole, Vec::new());
    for bound in bounds(whole) {
        let path = graph.shortest(bound, None);
        if let Some((peak, segments)) = path.filter(|(peak, _)| *peak < best.0) {
            best = (peak, segments);
        }
    }
    best.1
}

/// `count` segments, the last of which keeps everything and is not among those returned.
pub(super) fn counted(memory: &Memory, count: usize) -> Result<Vec<Range<usize>>, Error> {
    let graph = Graph::of(memory);
    let whole = memory.saved(0..memory.nodes());
    let again = count.saturating_sub(1);
    let most = graph.places.len().saturating_sub(1);
    let path = if again > most {
        None
    } else {
        bounds(whole).into_iter().filter_map(|bound| graph.shortest(bound, Some(again))).min_by_key(|(peak, _)| *peak)
    };
    path.map(|(_, segments)| segments).ok_or_else(|| Error::Checkpointing {
        problem: format!(
            "the program cannot be cut into {count} segments; it has {} places to cut at most: ask for fewer, or for \"auto\"",
            most.saturating_sub(1)
        ),
    })
}

/// From a thousandth of everything to everything.
fn bounds(whole: u64) -> Vec<u64> {
    let bound = |step: u32| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate"
        )]
        let bound = (whole as f64 * 1000_f64.powf(f64::from(step) / f64::from(BOUNDS) - 1.0)) as u64;
        bound
    };
    (0..BOUNDS).map(bound).chain([whole]).collect()
}

/// Places to cut, in the order of the nodes: the first is the start of the program, the last its end.
struct Graph<'a> {
    memory: &'a Memory,
    places: Vec<usize>,
    /// What a segment between two places keeps: `kept[from][to - from - 1]`; `None` if it cannot be computed again.
    kept: Vec<Vec<Option<u64>>>,
}

impl<'a> Graph<'a> {
    fn of(memory: &'a Memory) -> Self {
        let places = places(memory);
        let kept = places.iter().enumerate().map(|(from, &start)| {
            let ends = places.get(from + 1..).unwrap_or_default();
            let segment = |&end: &usize| memory.repeats(&(start..end)).then(|| memory.kept(&(start..end)));
            ends.iter().map(segment).collect()
        });
        let kept = kept.collect();
        Self { memory, places, kept }
    }

    /// The segments, none of which saves more than `bound`, that keep the least, and the peak with them; exactly `count`
    /// of them if given.
    fn shortest(&self, bound: u64, count: Option<usize>) -> Option<(u64, Vec<Range<usize>>)> {
        let end = self.places.len() - 1;
        let layers = count.unwrap_or(0) + 1;
        // The shortest way to a place over so many segments, and the last step of it.
        let mut ways: Vec<Vec<Option<Way>>> = vec![vec![None; end + 1]; layers];
        if let Some(start) = ways.first_mut().and_then(|layer| layer.first_mut()) {
            *start = Some(Way { length: 0, from: (0, 0), segment: false });
        }
        for from in 0..end {
            for layer in 0..layers {
                let Some(length) = way(&ways, layer, from).map(|way| way.length) else { continue };
                // Leaving the nodes up to the next place as they are.
                let plain = length.saturating_add(self.saved(from, from + 1));
                shorten(&mut ways, layer, from + 1, Way { length: plain, from: (layer, from), segment: false });
                let next = if count.is_some() { layer + 1 } else { layer };
                for to in from + 1..end {
                    if self.saved(from, to) > bound {
                        break;
                    }
                    let kept = self.kept.get(from).and_then(|kept| kept.get(to - from - 1)).copied().flatten();
                    let Some(kept) = kept else { break };
                    let length = length.saturating_add(kept);
                    shorten(&mut ways, next, to, Way { length, from: (layer, from), segment: true });
                }
            }
        }
        // The last stretch is kept whole, and gone before a segment is computed again.
        let last = layers - 1;
        let stop = (0..=end)
            .filter(|&place| count.is_none() || place < end)
            .filter(|&place| self.saved(place, end) <= bound)
            .filter_map(|place| Some((way(&ways, last, place)?.length, place)))
            .min()?;
        let (mut layer, mut place) = (last, stop.1);
        let mut segments = Vec::new();
        while let Some(step) = way(&ways, layer, place).filter(|_| place > 0) {
            if step.segment {
                segments.push(self.place(step.from.1)..self.place(place));
            }
            (layer, place) = step.from;
        }
        segments.reverse();
        Some((self.memory.peak(&segments), segments))
    }

    fn place(&self, index: usize) -> usize {
        self.places.get(index).copied().unwrap_or(0)
    }

    fn saved(&self, from: usize, to: usize) -> u64 {
        self.memory.saved(self.place(from)..self.place(to))
    }
}

#[derive(Debug, Clone, Copy)]
struct Way {
    length: u64,
    from: (usize, usize),
    segment: bool,
}

fn way(ways: &[Vec<Option<Way>>], layer: usize, place: usize) -> Option<Way> {
    ways.get(layer).and_then(|layer| layer.get(place)).copied().flatten()
}

fn shorten(ways: &mut [Vec<Option<Way>>], layer: usize, place: usize, new: Way) {
    if let Some(old) = ways.get_mut(layer).and_then(|layer| layer.get_mut(place))
        && old.is_none_or(|old| new.length < old.length)
    {
        *old = Some(new);
    }
}

/// All places between nodes, or the best of each of [`PLACES`] stretches that save equally much.
fn places(memory: &Memory) -> Vec<usize> {
    let end = memory.nodes();
    if end <= PLACES {
        return (0..=end).collect();
    }
    let whole = memory.saved(0..end).max(1);
    let mut best: Vec<Option<(u64, usize)>> = vec![None; PLACES];
    for place in 1..end {
        let across = memory.kept(&(0..place));
        let stretch = u128::from(memory.saved(0..place)) * PLACES as u128 / u128::from(whole);
        let stretch = usize::try_from(stretch).unwrap_or(0).min(PLACES - 1);
        if let Some(best) = best.get_mut(stretch)
            && best.is_none_or(|best| (across, place) < best)
        {
            *best = Some((across, place));
        }
    }
    std::iter::once(0).chain(best.into_iter().flatten().map(|(_, place)| place)).chain([end]).collect()
}
