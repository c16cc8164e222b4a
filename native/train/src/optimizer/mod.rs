//! Optimizers over flat parameters: on ATen's fused kernels where it has them, else on its in-place operators.
//!
//! tch's optimizers hide their state and step parameter by parameter; these keep it in flat buffers beside the
//! parameters, under PyTorch's names. An optimizer is a [`Family`], one file each. It is given *parts*: ranges of the
//! flat buffers that are stepped alike, or single tensors where the family needs norms or shapes. A parameter without
//! gradient is left alone (no decay, no step counted), as PyTorch does.

mod adafactor;
mod adagrad;
mod adam;
mod config;
mod counters;
mod fused;
mod groups;
mod kernels;
mod lamb;
mod lars;
mod lion;
mod parts;
mod rmsprop;
mod sgd;

pub use config::OptimizerConfig;
pub use groups::GroupConfig;
pub(crate) use groups::{Group, Groups};

use tch::Tensor;

use crate::error::{Doing, Result};
use crate::parameters::{Flat, ParameterStore, Segment, place};
use counters::Counters;
use parts::{Part, Segments};

/// How one optimizer steps.
trait Family: Send {
    /// What it keeps beside every element of a parameter, under PyTorch's names.
    fn slots(&self) -> Vec<&'static str>;

    /// What the slots hold at first.
    fn initial(&self) -> f64 {
        0.0
    }

    /// What it keeps for a parameter of these sizes in shapes of its own.
    fn own(&self, _sizes: &[i64]) -> Vec<(&'static str, Vec<i64>)> {
        Vec::new()
    }

    /// Whether a part must be one tensor in its shape, instead of any range of the flat buffer.
    fn by_tensor(&self) -> bool {
        false
    }

    /// Whether the kernel rounds the last elements of a range, which fill no vector register, in another way than the others.
    /// Then a range ends where a parameter does, and every element is rounded as PyTorch rounds it.
    fn rounds_by_place(&self) -> bool {
        false
    }

    /// The longest range that is good to work on: families with temporaries keep those small and in the cache.
    fn longest(&self) -> i64 {
        i64::MAX
    }

    /// Steps every part. `group` has the learning rate of this step. A part's slots come in the order of `slots`, its
    /// own tensors behind them.
    fn step(&mut self, parts: &[Part], group: Group) -> Result<()>;
}

fn family(config: &OptimizerConfig) -> Result<Box<dyn Family>> {
    Ok(match *config {
        OptimizerConfig::Sgd { momentum, dampening, nesterov, .. } => {
            Box::new(sgd::Sgd::new(momentum, dampening, nesterov))
        }
        OptimizerConfig::Adam { beta1, beta2, epsilon, amsgrad, .. } => {
            Box::new(adam::Adam::new("aten::_fused_adam_", [beta1, beta2], epsilon, amsgrad))
        }
        OptimizerConfig::Adamw { beta1, beta2, epsilon, amsgrad, .. } => {
            Box::new(adam::Adam::new("aten::_fused_adamw_", [beta1, beta2], epsilon, amsgrad))
        }
        OptimizerConfig::Adagrad { learning_rate_decay, initial_accumulator, epsilon, .. } => {
            Box::new(adagrad::Adagrad::new(learning_rate_decay, initial_accumulator, epsilon))
        }
        OptimizerConfig::Rmsprop { alpha, epsilon, momentum, centered, .. } => {
            Box::new(rmsprop::RmsProp::new(alpha, epsilon, momentum, centered)?)
        }
        OptimizerConfig::Lamb { beta1, beta2, epsilon, .. } => Box::new(lamb::Lamb::new([beta1, beta2], epsilon)?),
        OptimizerConfig::Lars { momentum, trust_coefficient, .. } => {
            Box::new(lars::Lars::new(momentum, trust_coefficient)?)
        }
        OptimizerConfig::Lion { beta1, beta2, .. } => Box::new(lion::Lion::new([beta1, beta2])?),
        OptimizerConfig::Adafactor { beta2_decay, epsilon1, epsilon2, clip_threshold, .. } => {
            Box::new(adafactor::Adafactor::new(beta2_decay, epsilon1, epsilon2, clip_threshold)?)
        }
    })
}

/// An optimizer and its state over all flat buffers.
pub(crate) struct Optimizer {
    name: &'static str,
    family: Box<dyn Family>,
    groups: Groups,
    flats: Vec<FlatState>,
    /// What was stepped last time; made anew when other parameters have a gradient.
    plan: Option<Plan>,
}

/// State beside one flat buffer.
struct FlatState {
    /// Each as long as the parameters.
    slots: Vec<Tensor>,
    /// Per segment: tensors in shapes of their own.
    own: Vec<Vec<Tensor>>,
    /// Steps that each segment has taken.
    steps: Vec<u64>,
}

struct Plan {
    used: Vec<bool>,
    /// The parts of each group that has any.
    groups: Vec<(Group, Vec<Part>)>,
    counters: Counters,
}

/// One tensor of the optimizer's state.
pub(crate) struct StateTensor {
    /// The parameter it belongs to, by its index in the program.
    pub(crate) parameter: usize,
    /// What it is, under PyTorch's name.
    pub(crate) slot: &'static str,
    /// The state itself: writing here changes it.
    pub(crate) tensor: Tensor,
}

impl Optimizer {
    pub(crate) fn new(config: &OptimizerConfig, groups: Groups, parameters: &ParameterStore) -> Result<Optimizer> {
        config.check()?;
        let family = family(config)?;
        let state = |flat: &Flat| -> Result<FlatState> {
            let slot = |_| {
                let options = (flat.kind, flat.values.device());
                Tensor::f_full([flat.length], family.initial(), options).doing("allocating the optimizer")
            };
            let own = |segment: &Segment| -> Result<Vec<Tensor>> {
                let sizes = parameters.views.get(segment.parameter).map(Tensor::size).unwrap_or_default();
                let zeros = |(_, sizes): (&str, Vec<i64>)| {
                    Tensor::f_zeros(sizes, (flat.kind, flat.values.device())).doing("allocating the optimizer")
                };
                family.own(&sizes).into_iter().map(zeros).collect()
            };
            Ok(FlatState {
                slots: family.slots().into_iter().map(slot).collect::<Result<_>>()?,
                own: flat.segments.iter().map(own).collect::<Result<_>>()?,
                steps: vec![0; flat.segments.len()],
            })
        };
        let flats = parameters.flats.iter().map(state).collect::<Result<_>>()?;
        Ok(Optimizer { name: config.name(), family, groups, flats, plan: None })
    }

    /// What the configuration calls it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Takes one step on the parameters that `used` (in the order of the flats' segments) says have a gradient. `rate`
    /// makes the learning rate of this step from the one that a group is given.
    pub(crate) fn step(&mut self, parameters: &ParameterStore, used: &[bool], rate: impl Fn(f64) -> f64) -> Result<()> {
        if self.plan.as_ref().is_none_or(|plan| plan.used != used) {
            self.plan = Some(self.plan(parameters, used)?);
        }
        let Some(plan) = &mut self.plan else { return Ok(()) };
        plan.counters.count()?;
        for (group, parts) in &mut plan.groups {
            for part in parts.iter_mut() {
                part.steps += 1;
                part.find_gradient()?;
            }
            let group = Group { learning_rate: rate(group.learning_rate), ..*group };
            self.family.step(parts, group)?;
            parts.iter_mut().for_each(Part::drop_gradient);
        }
        let mut used = used.iter().copied();
        for steps in self.flats.iter_mut().flat_map(|state| &mut state.steps) {
            *steps += u64::from(used.next().unwrap_or(false));
        }
        Ok(())
    }

    fn plan(&self, parameters: &ParameterStore, used: &[bool]) -> Result<Plan> {
        let mut groups: Vec<(Group, Vec<Part>)> =
            self.groups.settings.iter().map(|&group| (group, Vec::new())).collect();
        let mut counters = Counters::default();
        let mut flags = used.iter().copied();
        let mut places = parameters.places.iter();
        for (flat, state) in parameters.flats.iter().zip(&self.flats) {
            let places: Vec<&Tensor> = places.by_ref().take(flat.segments.len()).collect();
            let group_of = |parameter: usize| self.groups.of.get(parameter).copied().unwrap_or(0);
            let used: Vec<bool> = flat.segments.iter().map(|_| flags.next().unwrap_or(false)).collect();
            let segments: Vec<usize> = flat.segments.iter().map(|segment| group_of(segment.parameter)).collect();
            if self.family.by_tensor() {
                for (index, (segment, steps)) in flat.segments.iter().zip(&state.steps).enumerate() {
                    if !used.get(index).copied().unwrap_or(false) {
                        continue;
                    }
                    let (Some(view), Some(place)) = (parameters.views.get(segment.parameter), places.get(index)) else {
                        continue;
                    };
                    let own = state.own.get(index).map_or(&[][..], Vec::as_slice);
                    let part =
                        Part::tensor(flat, segment.offset, (view, place), &state.slots, own, *steps, &mut counters)?;
                    if let Some((_, parts)) = segments.get(index).and_then(|&group| groups.get_mut(group)) {
                        parts.push(part);
                    }
                }
            } else {
                let view = |segment: &Segment| parameters.views.get(segment.parameter);
                let elements = |segment: &Segment| view(segment).map_or(0, |view| view.numel() as i64);
                let elements: Vec<i64> = flat.segments.iter().map(elements).collect();
                let apart = flat.grads.is_none();
                let elements = (apart || self.family.rounds_by_place()).then_some(elements.as_slice());
                let by = Segments { used: &used, steps: &state.steps, groups: &segments, elements, apart };
                for run in parts::runs(flat, &by) {
                    if let (Some((_, parts)), Some(place)) = (groups.get_mut(run.group), places.get(run.segment)) {
                        let longest = self.family.longest();
                        parts.extend(Part::ranges(flat, (&run, place), &state.slots, longest, &mut counters)?);
                    }
                }
            }
        }
        groups.retain(|(_, parts)| !parts.is_empty());
        Ok(Plan { used: used.to_vec(), groups, counters })
    }

    /// Every tensor of the state, in its parameter's shape where it has one number per element.
    pub(crate) fn state(&self, parameters: &ParameterStore) -> Result<Vec<StateTensor>> {
        let mut tensors = Vec::new();
        for (flat, state) in parameters.flats.iter().zip(&self.flats) {
            for (segment, own) in flat.segments.iter().zip(&state.own) {
                let parameter = segment.parameter;
                let Some(view) = parameters.views.get(parameter) else { continue };
                for (slot, values) in self.family.slots().into_iter().zip(&state.slots) {
                    let tensor = place(values, segment.offset, view)?;
                    tensors.push(StateTensor { parameter, slot, tensor });
                }
                for ((slot, _), tensor) in self.family.own(&view.size()).into_iter().zip(own) {
                    tensors.push(StateTensor { parameter, slot, tensor: tensor.shallow_clone() });
                }
            }
        }
        Ok(tensors)
    }

    /// The steps that each trained parameter has taken, by its index in the program.
    pub(crate) fn steps(&self, parameters: &ParameterStore) -> Vec<(usize, u64)> {
        let segments = parameters.flats.iter().flat_map(|flat| &flat.segments).map(|segment| segment.parameter);
        segments.zip(self.flats.iter().flat_map(|state| state.steps.iter().copied())).collect()
    }

    /// Puts other step counts in the place of `steps`, in the same order.
    pub(crate) fn set_steps(&mut self, steps: &[u64]) {
        for (slot, &steps) in self.flats.iter_mut().flat_map(|state| &mut state.steps).zip(steps) {
            *slot = steps;
        }
        // Parts hold counts of their own.
        self.plan = None;
    }

    /// The optimizer's own learning rate, before any schedule.
    pub(crate) fn learning_rate(&self) -> f64 {
        self.base().next().unwrap_or(0.0)
    }

    /// The learning rates of all groups, the optimizer's own first, before any schedule.
    pub(crate) fn base(&self) -> impl Iterator<Item = f64> + '_ {
        self.groups.settings.iter().map(|group| group.learning_rate)
    }
}

/// Every optimizer with its settings, for tests of what must hold with each.
#[cfg(test)]
pub(crate) fn every_config() -> Vec<serde_json::Value> {
    tests::EVERY.iter().filter_map(|config| serde_json::from_str(config).ok()).collect()
}

#[cfg(test)]
mod tests;
