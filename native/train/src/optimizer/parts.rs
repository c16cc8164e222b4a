//! What a family steps at a time: ranges of a flat buffer, or tensors in their shape.

use tch::Tensor;

use super::counters::Counters;
use crate::error::{Doing, Result};
use crate::parameters::{Flat, place};

/// Parameters that are stepped alike, with their gradients and state.
pub(crate) struct Part {
    pub(super) values: Tensor,
    pub(super) grads: Tensor,
    /// The optimizer's state beside them.
    pub(super) slots: Vec<Tensor>,
    /// Steps taken, with the one at hand.
    pub(super) steps: u64,
    /// The same, as fused kernels read it: shared with the parts that have taken as many.
    pub(super) state_steps: Tensor,
    /// The range of its parameter that it is, if `grads` has to be cut anew in every step.
    adopted: Option<Adopted>,
}

/// A range of a gradient that is a tensor of its own, another one in every step.
struct Adopted {
    place: Tensor,
    start: i64,
    length: i64,
}

/// A range of a flat buffer whose segments have a gradient, the same group, and have taken the same number of steps.
#[derive(Debug, PartialEq)]
pub(super) struct Run {
    pub(super) group: usize,
    /// The first of its segments.
    pub(super) segment: usize,
    start: i64,
    length: i64,
    steps: u64,
}

impl Part {
    /// The segment at `offset` in the shape of `view`, with the place of its gradient.
    pub(super) fn tensor(
        flat: &Flat,
        offset: i64,
        (view, grads): (&Tensor, &Tensor),
        slots: &[Tensor],
        own: &[Tensor],
        steps: u64,
        counters: &mut Counters,
    ) -> Result<Part> {
        let placed = slots.iter().map(|slot| place(slot, offset, view));
        Ok(Part {
            values: place(&flat.values, offset, view)?,
            grads: grads.shallow_clone(),
            slots: placed.chain(own.iter().map(|tensor| Ok(tensor.shallow_clone()))).collect::<Result<_>>()?,
            steps,
            state_steps: counters.of(steps, flat.values.device())?,
            adopted: None,
        })
    }

    /// Finds the gradient of this step, if it is another tensor than in the last.
    pub(super) fn find_gradient(&mut self) -> Result<()> {
        if let Some(Adopted { place, start, length }) = &self.adopted {
            let all = i64::try_from(place.numel()).unwrap_or(i64::MAX);
            let cut = place.f_as_strided([all], [1], None).and_then(|flat| flat.f_narrow(0, *start, *length));
            self.grads = cut.doing("cutting a gradient")?;
        }
        Ok(())
    }

    /// Lets go of the gradient that [`Part::find_gradient`] found: what it lies in is free when the next step begins.
    pub(super) fn drop_gradient(&mut self) {
        if let Some(adopted) = &self.adopted {
            self.grads = adopted.place.shallow_clone();
        }
    }

    /// The run in ranges of at most `longest`. If the flat has no gradients, the run is one parameter without padding, and
    /// `place` becomes its gradient.
    pub(super) fn ranges(
        flat: &Flat,
        (run, place): (&Run, &Tensor),
        slots: &[Tensor],
        longest: i64,
        counters: &mut Counters,
    ) -> Result<Vec<Part>> {
        let end = run.start + run.length;
        let mut parts = Vec::new();
        let mut start = run.start;
        while start < end {
            let length = longest.min(end - start);
            let cut = |tensor: &Tensor| tensor.f_narrow(0, start, length).doing("cutting the parameters");
            let adopted = Adopted { place: place.shallow_clone(), start: start - run.start, length };
            parts.push(Part {
                values: cut(&flat.values)?,
                grads: flat.grads.as_ref().map_or_else(|| Ok(place.shallow_clone()), cut)?,
                slots: slots.iter().map(cut).collect::<Result<_>>()?,
                steps: run.steps,
                state_steps: counters.of(run.steps, flat.values.device())?,
                adopted: flat.grads.is_none().then_some(adopted),
            });
            start += length;
        }
        Ok(parts)
    }

    /// `steps` as a number to compute with.
    #[expect(clippy::cast_precision_loss, reason = "steps stay far below 2^53")]
    pub(super) fn count_as_float(&self) -> f64 {
        self.steps as f64
    }
}

/// What the runs of a flat buffer are cut by, segment by segment.
pub(super) struct Segments<'a> {
    pub(super) used: &'a [bool],
    pub(super) steps: &'a [u64],
    pub(super) groups: &'a [usize],
    /// How many elements there are before the padding, if a run must end with them.
    pub(super) elements: Option<&'a [i64]>,
    /// Whether every segment is a run of its own.
    pub(super) apart: bool,
}

/// The runs of a flat buffer.
pub(super) fn runs(flat: &Flat, by: &Segments<'_>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let ends = flat.segments.iter().skip(1).map(|next| next.offset).chain([flat.length]);
    let mut joined = false;
    let segments = flat.segments.iter().zip(ends).zip(by.used).zip(by.steps).zip(by.groups);
    for (index, ((((segment, end), &used), &steps), &group)) in segments.enumerate() {
        if !used {
            joined = false;
            continue;
        }
        let elements = by.elements.and_then(|elements| elements.get(index)).copied();
        joined &= !by.apart;
        let until = elements.map_or(end, |elements| segment.offset + elements);
        match runs.last_mut() {
            Some(run) if joined && run.steps == steps && run.group == group => run.length = until - run.start,
            _ => runs.push(Run { group, segment: index, start: segment.offset, length: until - segment.offset, steps }),
        }
        joined = until == end;
    }
    runs
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_join_neighbours_with_the_same_history_and_group_only() {
        let store = super::super::tests::store();
        let runs = |used: [bool; 3], steps: [u64; 3], groups: [usize; 3]| -> Vec<(usize, i64, i64)> {
            let by = super::Segments { used: &used, steps: &steps, groups: &groups, elements: None, apart: false };
            super::runs(&store.flats[0], &by).iter().map(|run| (run.group, run.start, run.length)).collect()
        };
        assert_eq!(runs([true; 3], [4; 3], [0; 3]), [(0, 0, 48)]);
        assert_eq!(runs([true, false, true], [4; 3], [0; 3]), [(0, 0, 16), (0, 32, 16)]);
        assert_eq!(runs([true; 3], [4, 4, 3], [0; 3]), [(0, 0, 32), (0, 32, 16)]);
        assert_eq!(runs([true; 3], [4; 3], [1, 0, 0]), [(1, 0, 16), (0, 16, 32)]);
        assert_eq!(runs([false; 3], [0; 3], [0; 3]), []);
    }

    #[test]
    fn runs_end_where_a_parameter_does_that_fills_no_line_if_they_must() {
        let store = super::super::tests::store();
        let lengths = |elements: [i64; 3]| -> Vec<(i64, i64)> {
            let by = super::Segments {
                used: &[true; 3],
                steps: &[0; 3],
                groups: &[0; 3],
                elements: Some(&elements),
                apart: false,
            };
            super::runs(&store.flats[0], &by).iter().map(|run| (run.start, run.length)).collect()
        };
        assert_eq!(lengths([6, 2, 4]), [(0, 6), (16, 2), (32, 4)]);
        assert_eq!(lengths([16, 2, 4]), [(0, 18), (32, 4)]);
        assert_eq!(lengths([16, 16, 4]), [(0, 36)]);
    }
}
