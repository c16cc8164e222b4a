//! Nodes that do the same in every run on inputs of the same sizes, and what they made in the last one.
//!
//! Which nodes these are, `kindling_program` knows (`Program::standing_first`): such as number positions and mask what is to come.
//! What they make is computed again when the sizes of the inputs are others than in the last run, as in a smaller last batch.

use std::collections::HashSet;

use kindling_program::{Program, Scalar, ValueId};
use tch::Tensor;

use crate::compile::Step;
use crate::error::Result;
use crate::slots::{Slot, put};
use crate::within::Within;

/// Bytes that are worth keeping. What takes more is long in the making, too, but it would stay in memory for the whole run.
const MOST_BYTES: usize = 64 << 20;

/// See the file.
pub(crate) struct Standing {
    steps: Vec<Step>,
    /// What other nodes read of what these make, or the program returns.
    wanted: Vec<ValueId>,
    made: Option<Made>,
}

struct Made {
    /// Of the inputs.
    sizes: Vec<Vec<i64>>,
    values: Vec<(ValueId, Kept)>,
}

enum Kept {
    Tensor(Tensor),
    Number(Scalar),
}

impl Kept {
    fn of(slot: &Slot) -> Option<Kept> {
        match slot {
            Slot::Tensor(tensor) => Some(Kept::Tensor(tensor.shallow_clone())),
            Slot::Number(number) => Some(Kept::Number(*number)),
            Slot::Empty => None,
        }
    }

    fn slot(&self) -> Slot {
        match self {
            Kept::Tensor(tensor) => Slot::Tensor(tensor.shallow_clone()),
            Kept::Number(number) => Slot::Number(*number),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Kept::Tensor(tensor) => tensor.numel().saturating_mul(tensor.kind().elt_size_in_bytes()),
            Kept::Number(_) => 0,
        }
    }
}

impl Standing {
    /// `steps` are those of the first nodes of `program`.
    pub(crate) fn new(program: &Program, steps: Vec<Step>) -> Standing {
        let (standing, others) = program.nodes.split_at(steps.len().min(program.nodes.len()));
        let read: HashSet<ValueId> =
            others.iter().flat_map(|node| node.uses()).chain(program.outputs.iter().copied()).collect();
        let made = standing.iter().flat_map(|node| node.defines());
        Standing { wanted: made.filter(|value| read.contains(value)).collect(), steps, made: None }
    }

    /// Fills the slots that others read, for inputs of these sizes.
    pub(crate) fn run(&mut self, sizes: Vec<Vec<i64>>, slots: &mut [Slot], within: &mut Within<'_>) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        if let Some(made) = self.made.as_ref().filter(|made| made.sizes == sizes) {
            return made.values.iter().try_for_each(|(value, kept)| put(slots, *value, kept.slot()));
        }
        // Two sizes take no more memory than one.
        self.made = None;
        for step in &mut self.steps {
            step.run(slots, within)?;
        }
        let kept = |value: &ValueId| Some((*value, Kept::of(slots.get(value.index())?)?));
        let values: Vec<_> = self.wanted.iter().filter_map(kept).collect();
        let bytes = values.iter().fold(0_usize, |bytes, (_, kept)| bytes.saturating_add(kept.bytes()));
        self.made = (bytes <= MOST_BYTES && values.len() == self.wanted.len()).then_some(Made { sizes, values });
        Ok(())
    }

    /// What was made may be made of other values next time.
    pub(crate) fn forget(&mut self) {
        self.made = None;
    }
}
