//! A checkpointed segment: nodes that keep nothing for backward but what they read from outside, and run again when
//! backward asks for what they would have kept.
//!
//! The second run gives the values of the first, bit for bit:
//!
//! * It reads what the first one read. Nothing of that is changed in place meanwhile (the program's rewrite sees to it)
//!   except buffers: of those that the program writes, a copy is kept, and the second run writes into that. So running
//!   statistics and counts move once per step.
//! * It draws the same random numbers, from a copy of the generator.
//! * It takes the statistics of synchronised batch norms from the first run and asks no other rank.
//! * Gradients and autocast are as they were (see `shim/checkpoint.cpp` and `modes`).
//!
//! It ends as soon as backward has all it needs.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kindling_program::{Node, Scope, ValueId};
use tch::{Device, Tensor};

use crate::compile::{Step, Work};
use crate::error::{Doing, Error, Result, Torch};
use crate::modes::Modes;
use crate::norms::{Moments, Norms};
use crate::shim::Generator;
use crate::shim_checkpoint::Frame;
use crate::slots::{Slot, put};
use crate::within::{Remembered, Trouble, Within};

/// See the file.
pub(crate) struct Segment {
    body: Arc<Mutex<Body>>,
    /// What its nodes read from outside.
    reads: Vec<ValueId>,
    /// Those of `reads` that are buffers which the program writes, or what a write returned.
    changing: HashSet<ValueId>,
    random: bool,
    device: Device,
}

/// What runs, first and again: never both at once, as backward begins when forward has ended.
struct Body {
    steps: Vec<Step>,
    /// The values of the second run.
    slots: Vec<Slot>,
}

/// What the second run needs to know of the first.
struct Again {
    inputs: Vec<(ValueId, Slot)>,
    generator: Option<Generator>,
    norms: Option<Arc<Norms>>,
    moments: VecDeque<Moments>,
    device: Device,
}

impl Segment {
    /// `nodes` and their `steps`, compiled for `device`; `values` counts those of the program.
    pub(crate) fn new(
        nodes: &[Node],
        steps: Vec<Step>,
        values: usize,
        changing: &HashSet<ValueId>,
        device: Device,
    ) -> Segment {
        let mut inside = HashSet::new();
        for node in nodes {
            node.walk(&mut |node| inside.extend(node.defines()));
        }
        let uses: HashSet<ValueId> =
            nodes.iter().flat_map(Node::uses).filter(|value| !inside.contains(value)).collect();
        let mut reads: Vec<ValueId> = uses.into_iter().collect();
        reads.sort_unstable();
        let changing = reads.iter().copied().filter(|value| changing.contains(value)).collect();
        let random = steps.iter().any(draws);
        let slots = std::iter::repeat_with(Slot::default).take(values).collect();
        Segment { body: Arc::new(Mutex::new(Body { steps, slots })), reads, changing, random, device }
    }

    /// Runs the nodes for the first time in this step.
    pub(crate) fn run(&self, slots: &mut [Slot], within: &mut Within<'_>) -> Result<()> {
        let inputs = self.inputs(slots)?;
        let generator = if self.random { Some(within.generator.copied().doing("copying a generator")?) } else { None };
        let norms = within.norms.cloned();
        let again =
            Arc::new(Mutex::new(Again { inputs, generator, norms, moments: VecDeque::new(), device: self.device }));
        let (body, known, trouble) = (Arc::clone(&self.body), Arc::clone(&again), within.trouble.clone());
        let recompute = move || match lock(&body).run_again(&mut lock(&known), &trouble) {
            Ok(()) => true,
            Err(error) => {
                trouble.note(error);
                false
            }
        };
        // The second run begins outside of the program's own regions, so the frame must not remember one as the caller's.
        within.modes.enter(Scope::default()).doing("leaving a region before a checkpointed segment")?;
        let _forgetting = Frame::enter(Box::new(recompute)).doing("entering a checkpointed segment")?;
        within.moments = Remembered::Kept(Vec::new());
        let done = lock(&self.body).steps.iter_mut().try_for_each(|step| step.run(slots, within));
        if let Remembered::Kept(kept) = std::mem::replace(&mut within.moments, Remembered::Nothing) {
            lock(&again).moments = kept.into();
        }
        done
    }

    /// What the segment reads, as it is now.
    fn inputs(&self, slots: &[Slot]) -> Result<Vec<(ValueId, Slot)>> {
        // Two values may be one buffer, before and after a write: they share a copy.
        let mut copies: Vec<(*mut std::ffi::c_void, Tensor)> = Vec::new();
        let mut inputs = Vec::with_capacity(self.reads.len());
        for &value in &self.reads {
            let slot = match slots.get(value.index()) {
                Some(Slot::Tensor(tensor)) if self.changing.contains(&value) => {
                    let address = tensor.data_ptr();
                    let copy = match copies.iter().find(|(known, _)| *known == address) {
                        Some((_, copy)) => copy.shallow_clone(),
                        None => {
                            let mut copy = tensor.f_empty_like().doing("copying a buffer")?;
                            copy.f_copy_(tensor).doing("copying a buffer")?;
                            copies.push((address, copy.shallow_clone()));
                            copy
                        }
                    };
                    Slot::Tensor(copy)
                }
                Some(Slot::Tensor(tensor)) => Slot::Tensor(tensor.shallow_clone()),
                Some(Slot::Number(number)) => Slot::Number(*number),
                // A use in a branch of a cond, of a value of the branch that did not run.
                Some(Slot::Empty) | None => continue,
            };
            inputs.push((value, slot));
        }
        Ok(inputs)
    }
}

impl Body {
    fn run_again(&mut self, again: &mut Again, trouble: &Trouble) -> Result<()> {
        let outcome = self.walk(again, trouble);
        self.slots.fill_with(Slot::default);
        outcome
    }

    fn walk(&mut self, again: &mut Again, trouble: &Trouble) -> Result<()> {
        for (value, slot) in again.inputs.drain(..) {
            put(&mut self.slots, value, slot)?;
        }
        let mut none = Generator::new(0, again.device).doing("making a random generator")?;
        let mut within = Within {
            generator: again.generator.as_mut().unwrap_or(&mut none),
            modes: Modes::new(again.device),
            norms: again.norms.as_ref(),
            trouble,
            moments: Remembered::Given(std::mem::take(&mut again.moments)),
        };
        for step in &mut self.steps {
            if Frame::complete() {
                break;
            }
            step.run(&mut self.slots, &mut within).map_err(|error| again_failed(&step.node, error))?;
        }
        Ok(())
    }
}

fn again_failed(node: &str, error: Error) -> Error {
    match error {
        Error::Node { op, source, .. } => Error::Node {
            node: node.to_owned(),
            op,
            source: Torch(format!("{source} (when its checkpointed segment ran again)")),
        },
        other => other,
    }
}

fn draws(step: &Step) -> bool {
    match &step.work {
        Work::Call { random, .. } => *random,
        Work::Cond { blocks, .. } => blocks.iter().flat_map(|block| &block.steps).any(draws),
        Work::Scalar { .. } | Work::Size { .. } => false,
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // After a panic the step has failed, and the next one fills everything anew.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
