//! Which rows a rank trains: a contiguous range of the global row numbers, nearest to where its rows already lie.
//!
//! A batch is the same set of rows whoever trains it, and takes them evenly spaced over the numbers (see `order`). So
//! ranks that own equal contiguous ranges have equal shares of every batch, within a row or two. The ranges are given to
//! the ranks whose processes hold most of their rows; what lies elsewhere is fetched before the first step.
//!
//! Ranges are cut where a partition ends if that is near enough to an equal cut, so that equal partitions are not cut at
//! all and nothing is fetched for the sake of a few rows.

use std::cmp::Reverse;
use std::ops::Range;

use kindling_shards::Endpoint;
use serde::Deserialize;

use crate::error::{Error, Result};

/// A cut may be moved by half of this part of all rows; the same part is the smallest logical shard of `order`.
const GRAIN: u64 = 840;

/// Where one partition's rows lie.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardRef {
    /// The partition's number in the ingest job.
    pub partition: u32,
    /// The executor process that holds it.
    pub process: String,
    /// Its key in that process's store.
    pub key: u64,
    /// Rows to train on.
    pub rows: u64,
    /// Rows to validate on.
    pub validation_rows: u64,
    /// Where that process serves them; absent where nobody else may need them.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
}

/// A run of rows with consecutive numbers in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The rows' global numbers.
    pub(crate) rows: Range<u64>,
    /// The shard's index in the plan, or among those that the rank reads.
    pub(crate) shard: usize,
    /// The row of the shard that has number `rows.start`.
    pub(crate) first: u64,
}

/// The rows of one rank, by global number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owned {
    segments: Vec<Segment>,
}

/// What each rank owns. Every rank works out the same from the same shards and processes.
#[derive(Debug)]
pub(crate) struct Balance<'a> {
    shards: &'a [ShardRef],
    /// By rank: which of the equal ranges is its own.
    ranges: Vec<u64>,
}

impl<'a> Balance<'a> {
    /// Gives every rank a range; `processes[r]` is rank r's process.
    pub(crate) fn new(shards: &'a [ShardRef], processes: &[&str]) -> Balance<'a> {
        let world = processes.len() as u64;
        let cuts = cuts(shards, |shard| shard.rows, world);
        // How many rows of each range each process holds, the largest first; ties go to the earlier range and rank.
        let mut wishes = Vec::new();
        for (range, rows) in (0..world).zip(cuts.windows(2)) {
            let [start, end] = rows else { continue };
            let mut held: Vec<(&str, u64)> = Vec::new();
            for segment in segments(shards, |shard| shard.rows, &(*start..*end)) {
                let Some(shard) = shards.get(segment.shard) else { continue };
                let rows = segment.rows.end - segment.rows.start;
                match held.iter_mut().find(|(process, _)| *process == shard.process) {
                    Some((_, count)) => *count += rows,
                    None => held.push((&shard.process, rows)),
                }
            }
            wishes.extend(held.into_iter().map(|(process, rows)| (Reverse(rows), range, process)));
        }
        wishes.sort_unstable();
        let mut of_rank: Vec<Option<u64>> = vec![None; processes.len()];
        let mut taken = vec![false; processes.len()];
        for (_, range, process) in wishes {
            let Some(done) = taken.get_mut(usize::try_from(range).unwrap_or(usize::MAX)).filter(|done| !**done) else {
                continue;
            };
            let free = of_rank.iter_mut().zip(processes).find(|(own, here)| own.is_none() && **here == process);
            if let Some((own, _)) = free {
                *own = Some(range);
                *done = true;
            }
        }
        let mut left = (0..world).zip(&taken).filter(|(_, taken)| !**taken).map(|(range, _)| range);
        let ranges = of_rank.into_iter().map(|own| own.or_else(|| left.next()).unwrap_or(world)).collect();
        Balance { shards, ranges }
    }

    /// What `rank` owns of the rows that `rows_of` counts: those that train or those that validate.
    pub(crate) fn owned(&self, rows_of: impl Fn(&ShardRef) -> u64, rank: usize) -> Result<Owned> {
        let range = self.ranges.get(rank).and_then(|range| usize::try_from(*range).ok());
        let range = range.ok_or_else(|| Error::Config(format!("rank {rank} is not in the roster")))?;
        let cuts = cuts(self.shards, &rows_of, self.ranges.len() as u64);
        let rows = match cuts.get(range..).unwrap_or(&[]) {
            [start, end, ..] => *start..*end,
            _ => 0..0,
        };
        Ok(Owned { segments: segments(self.shards, rows_of, &rows) })
    }
}

/// The rows that each rank would fetch from other processes, were rank r in `processes[r]`: those that train and those that
/// validate.
///
/// # Errors
/// None, as all ranks asked for are in `processes`.
pub fn moves(shards: &[ShardRef], processes: &[&str]) -> Result<Vec<u64>> {
    let balance = Balance::new(shards, processes);
    let of_rank = |(rank, process): (usize, &&str)| {
        let elsewhere = |owned: &Owned| -> u64 {
            let held = |segment: &&Segment| shards.get(segment.shard).is_some_and(|shard| shard.process == *process);
            owned
                .segments()
                .iter()
                .filter(|segment| !held(segment))
                .map(|segment| segment.rows.end - segment.rows.start)
                .sum()
        };
        let training = balance.owned(|shard| shard.rows, rank)?;
        let validation = balance.owned(|shard| shard.validation_rows, rank)?;
        Ok(elsewhere(&training) + elsewhere(&validation))
    };
    processes.iter().enumerate().map(of_rank).collect()
}

/// The row numbers at which `parts` ranges begin, and where the last one ends.
fn cuts(shards: &[ShardRef], rows_of: impl Fn(&ShardRef) -> u64, parts: u64) -> Vec<u64> {
    let mut ends = Vec::with_capacity(shards.len());
    let mut rows = 0u64;
    for shard in shards {
        rows += rows_of(shard);
        ends.push(rows);
    }
    let near = rows / GRAIN / 2;
    let at = |index| {
        let even = cut(rows, index, parts);
        let next = ends.partition_point(|end| *end < even);
        let around = ends.get(next.saturating_sub(1)..(next + 1).min(ends.len())).unwrap_or(&[]);
        let nearest = around.iter().copied().min_by_key(|end| end.abs_diff(even));
        nearest.filter(|end| end.abs_diff(even) <= near && index > 0 && index < parts).unwrap_or(even)
    };
    (0..=parts).map(at).collect()
}

/// Where the `index`-th of `parts` equal parts of `rows` begins.
fn cut(rows: u64, index: u64, parts: u64) -> u64 {
    let start = u128::from(rows) * u128::from(index) / u128::from(parts.max(1));
    u64::try_from(start).unwrap_or(rows)
}

/// Where the rows of those numbers lie.
fn segments(shards: &[ShardRef], rows_of: impl Fn(&ShardRef) -> u64, rows: &Range<u64>) -> Vec<Segment> {
    let mut found = Vec::new();
    let mut begin = 0u64;
    for (index, shard) in shards.iter().enumerate() {
        let end = begin + rows_of(shard);
        let (start, stop) = (rows.start.max(begin), rows.end.min(end));
        if start < stop {
            found.push(Segment { rows: start..stop, shard: index, first: start - begin });
        }
        begin = end;
    }
    found
}

impl Owned {
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments, each of which may be said to lie elsewhere.
    pub(crate) fn segments_mut(&mut self) -> &mut [Segment] {
        &mut self.segments
    }

    /// Whether any of the rows `start..end` is owned.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        let next = self.segments.partition_point(|segment| segment.rows.end <= start);
        self.segments.get(next).is_some_and(|segment| segment.rows.start < end)
    }

    /// Those of the rows `rows` that are owned: the shard, and the rows in it.
    pub(crate) fn within(&self, rows: &Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let (start, end) = (rows.start, rows.end);
        let next = self.segments.partition_point(|segment| segment.rows.end <= start);
        let touched =
            self.segments.get(next..).unwrap_or(&[]).iter().take_while(move |segment| segment.rows.start < end);
        touched.map(move |segment| {
            let local = |row: u64| segment.first + (row - segment.rows.start);
            (segment.shard, local(start.max(segment.rows.start))..local(end.min(segment.rows.end)))
        })
    }

    /// The shard and the row in it that has this global number, if this rank owns it.
    pub(crate) fn locate(&self, row: u64) -> Option<(usize, u64)> {
        let next = self.segments.partition_point(|segment| segment.rows.end <= row);
        let segment = self.segments.get(next).filter(|segment| segment.rows.contains(&row))?;
        Some((segment.shard, segment.first + (row - segment.rows.start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Order;

    fn shards(sizes: &[(u64, &str)]) -> Vec<ShardRef> {
        let shard = |(partition, &(rows, process)): (usize, &(u64, &str))| ShardRef {
            partition: partition as u32,
            process: process.to_owned(),
            key: partition as u64 + 1,
            rows,
            validation_rows: rows / 3,
            endpoint: None,
        };
        sizes.iter().enumerate().map(shard).collect()
    }

    #[test]
    fn what_would_move_is_what_ranks_fetch_of_both_kinds_of_rows() {
        // 90 rows that train and 30 that validate, two thirds of each in one process.
        let shards = shards(&[(30, "a"), (30, "a"), (30, "b")]);
        assert_eq!(moves(&shards, &["a", "b"]).unwrap(), [0, 15 + 5]);
        assert_eq!(moves(&shards, &["b", "a"]).unwrap(), [15 + 5, 0]);
        assert_eq!(moves(&shards, &["c"]).unwrap(), [90 + 30]);
        // Neighbours in turn: each rank holds half of its range, and gives as much away.
        let turns: Vec<(u64, &str)> = (0..8).map(|i| (3, ["a", "b"][i % 2])).collect();
        assert_eq!(moves(&self::shards(&turns), &["a", "b"]).unwrap(), [6 + 2, 6 + 2]);
    }

    /// Rows of a rank's segments that lie in other processes.
    fn fetched(shards: &[ShardRef], owned: &Owned, process: &str) -> u64 {
        let elsewhere = owned.segments().iter().filter(|segment| shards[segment.shard].process != process);
        elsewhere.map(|segment| segment.rows.end - segment.rows.start).sum()
    }

    #[test]
    fn every_row_has_exactly_one_owner_whatever_the_partitions_and_the_world() {
        let layouts = [
            vec![(5, "a"), (0, "b"), (61, "b"), (7, "a"), (1, "b"), (3, "a")],
            vec![(1, "a")],
            vec![(0, "a"), (0, "b")],
            vec![(100_000, "c"), (3, "a"), (0, "b"), (17, "c")],
        ];
        for layout in &layouts {
            let shards = shards(layout);
            let total: u64 = shards.iter().map(|s| s.rows).sum();
            let worlds = [vec!["a"], vec!["a", "b"], vec!["b", "a", "b"], vec!["a", "b", "a", "a", "x", "c", "b"]];
            for processes in worlds {
                let balance = Balance::new(&shards, &processes);
                for rows_of in [|s: &ShardRef| s.rows, |s: &ShardRef| s.validation_rows] {
                    let mut next: Vec<Range<u64>> = Vec::new();
                    for rank in 0..processes.len() {
                        let owned = balance.owned(rows_of, rank).unwrap();
                        for segment in owned.segments() {
                            let before: u64 = shards[..segment.shard].iter().map(rows_of).sum();
                            assert_eq!(before + segment.first, segment.rows.start);
                            assert!(
                                segment.first + segment.rows.end - segment.rows.start
                                    <= rows_of(&shards[segment.shard])
                            );
                            assert_eq!(owned.locate(segment.rows.start), Some((segment.shard, segment.first)));
                            assert!(owned.touches(segment.rows.start, segment.rows.end));
                            next.push(segment.rows.clone());
                        }
                    }
                    next.sort_by_key(|rows| rows.start);
                    let all = next.iter().fold(0, |end, rows| if rows.start == end { rows.end } else { u64::MAX });
                    assert_eq!(all, shards.iter().map(rows_of).sum::<u64>(), "{layout:?} {processes:?}");
                }
                let counts = (0..processes.len()).map(|rank| {
                    let owned = balance.owned(|s| s.rows, rank).unwrap();
                    owned.segments().iter().map(|s| s.rows.end - s.rows.start).sum::<u64>()
                });
                let counts: Vec<u64> = counts.collect();
                let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
                assert!(spread <= 1 + total / GRAIN, "{counts:?}");
            }
        }
    }

    #[test]
    fn ranks_take_the_ranges_that_lie_beside_them() {
        // In whatever order the processes come, nothing moves.
        let shards = shards(&[(50, "a"), (50, "a"), (100, "b"), (100, "c")]);
        for processes in [["a", "b", "c"], ["c", "a", "b"], ["b", "c", "a"]] {
            let balance = Balance::new(&shards, &processes);
            for (rank, process) in processes.iter().enumerate() {
                let owned = balance.owned(|s| s.rows, rank).unwrap();
                assert_eq!(fetched(&shards, &owned, process), 0, "{processes:?}");
                assert_eq!(owned.segments().iter().map(|s| s.rows.end - s.rows.start).sum::<u64>(), 100);
            }
        }
    }

    #[test]
    fn only_the_excess_is_fetched() {
        // One process has read two thirds of the rows.
        let shards = shards(&[(30_000, "a"), (30_000, "a"), (30_000, "b")]);
        let processes = ["b", "a"];
        let balance = Balance::new(&shards, &processes);
        let moved: u64 = processes
            .iter()
            .enumerate()
            .map(|(rank, process)| fetched(&shards, &balance.owned(|s| s.rows, rank).unwrap(), process))
            .sum();
        assert_eq!(moved, 15_000);
    }

    #[test]
    fn partitions_that_are_nearly_equal_are_not_cut() {
        let shards = shards(&[(84_000, "a"), (84_040, "b"), (83_990, "c")]);
        let processes = ["a", "b", "c"];
        let balance = Balance::new(&shards, &processes);
        for (rank, process) in processes.iter().enumerate() {
            assert_eq!(fetched(&shards, &balance.owned(|s| s.rows, rank).unwrap(), process), 0);
        }
    }

    #[test]
    fn a_rank_away_from_the_data_and_a_process_without_a_rank_are_served() {
        let shards = shards(&[(10, "a"), (10, "b")]);
        let balance = Balance::new(&shards, &["c"]);
        assert_eq!(fetched(&shards, &balance.owned(|s| s.rows, 0).unwrap(), "c"), 20);
    }

    #[test]
    fn a_rank_may_own_nothing() {
        let shards = shards(&[(1, "a")]);
        let balance = Balance::new(&shards, &["a", "a", "a"]);
        let counts: Vec<usize> = (0..3).map(|rank| balance.owned(|s| s.rows, rank).unwrap().segments().len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 1, "{counts:?}");
    }

    #[test]
    fn every_rank_has_its_share_of_every_batch() {
        // Executors hold every other partition, the last of which is short, and batches are no multiple of the world.
        let sizes: Vec<(u64, &str)> = (0..40).map(|i| (if i == 39 { 500 } else { 2_500 }, ["a", "b"][i % 2])).collect();
        let shards = shards(&sizes);
        let rows = sizes.iter().map(|(rows, _)| rows).sum();
        for processes in [vec!["a", "b"], vec!["a", "b", "a"], vec!["a", "a", "b", "b", "a"]] {
            let balance = Balance::new(&shards, &processes);
            let owned: Vec<Owned> = (0..processes.len()).map(|rank| balance.owned(|s| s.rows, rank).unwrap()).collect();
            for batch in [50, 256, 1000] {
                let order = Order::new(rows, 4, batch, 7, true);
                let epoch = order.epoch(2);
                for step in 0..order.steps() {
                    let even = order.batch_rows(step) as f64 / processes.len() as f64;
                    let mut counts = vec![0u64; processes.len()];
                    for row in epoch.batch(step) {
                        counts[owned.iter().position(|owned| owned.locate(row).is_some()).unwrap()] += 1;
                    }
                    assert!(counts.iter().all(|&count| (count as f64 - even).abs() <= 4.0), "{batch} {counts:?}");
                }
            }
        }
    }
}
