//! Optimizers over flat parameters, on ATen's fused kernels.
//!
//! tch's optimizers hide their state and step parameter by parameter; these keep it in flat buffers beside the
//! parameters. Semantics are PyTorch's: AdamW decouples its weight decay, SGD adds it to the gradient, a parameter
//! without gradient is left alone (no decay, no step counted).

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::parameters::{Flat, ParameterStore};
use crate::shim::{Call, Constant};

/// An optimizer and its settings, named as in `torch.optim`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    Adamw {
        /// Step size.
        learning_rate: f64,
        /// Fraction of `learning_rate` by which a parameter shrinks each step.
        weight_decay: f64,
        /// Decay of the mean of gradients.
        beta1: f64,
        /// Decay of the mean of squared gradients.
        beta2: f64,
        /// Added to the denominator.
        epsilon: f64,
    },
    /// Stochastic gradient descent, with momentum if it is not 0.
    Sgd {
        /// Step size.
        learning_rate: f64,
        /// Added to the gradient times the parameter (L2).
        weight_decay: f64,
        /// Decay of the running gradient.
        momentum: f64,
    },
}

impl OptimizerConfig {
    /// Refuses values that no optimizer takes.
    pub fn check(&self) -> Result<()> {
        let at_least_zero = |name: &str, value: f64| {
            if value.is_finite() && value >= 0.0 {
                Ok(())
            } else {
                Err(Error::Config(format!("{name} must be a number of at least 0, not {value}")))
            }
        };
        let below_one = |name: &str, value: f64| {
            at_least_zero(name, value)?;
            if value < 1.0 { Ok(()) } else { Err(Error::Config(format!("{name} must be below 1, not {value}"))) }
        };
        match *self {
            OptimizerConfig::Adamw { learning_rate, weight_decay, beta1, beta2, epsilon } => {
                at_least_zero("learningRate", learning_rate)?;
                at_least_zero("weightDecay", weight_decay)?;
                below_one("beta1", beta1)?;
                below_one("beta2", beta2)?;
                at_least_zero("epsilon", epsilon)
            }
            OptimizerConfig::Sgd { learning_rate, weight_decay, momentum } => {
                at_least_zero("learningRate", learning_rate)?;
                at_least_zero("weightDecay", weight_decay)?;
                at_least_zero("momentum", momentum)
            }
        }
    }
}

/// The state of an optimizer over all flat buffers.
pub(crate) struct Optimizer {
    config: OptimizerConfig,
    call: Call,
    flats: Vec<State>,
}

/// State beside one flat buffer.
struct State {
    /// The moments, each as long as the parameters: AdamW's mean and mean of squares, SGD's momentum.
    moments: Vec<Tensor>,
    /// Steps that each segment has taken.
    steps: Vec<u64>,
}

impl Optimizer {
    pub(crate) fn new(config: OptimizerConfig, parameters: &ParameterStore) -> Result<Optimizer> {
        config.check()?;
        let moments = match config {
            OptimizerConfig::Adamw { .. } => 2,
            OptimizerConfig::Sgd { momentum, .. } => usize::from(momentum != 0.0),
        };
        let state = |flat: &Flat| -> Result<State> {
            let zeros = |_| Tensor::f_zeros([flat.length], (flat.kind, Device::Cpu));
            let moments = (0..moments).map(zeros).collect::<std::result::Result<_, _>>();
            Ok(State { moments: moments.doing("allocating the optimizer")?, steps: vec![0; flat.segments.len()] })
        };
        let flats = parameters.flats.iter().map(state).collect::<Result<_>>()?;
        let call = match config {
            OptimizerConfig::Adamw { .. } => adamw(config),
            OptimizerConfig::Sgd { .. } => sgd(config),
        };
        Ok(Optimizer { config, call: call.doing("finding the fused optimizer")?, flats })
    }

    /// Takes one step on the parameters that `used` (in the order of the flats' segments) says have a gradient.
    pub(crate) fn step(&mut self, parameters: &ParameterStore, used: &[bool]) -> Result<()> {
        let mut used = used.iter().copied();
        for (flat, state) in parameters.flats.iter().zip(&mut self.flats) {
            let used: Vec<bool> = flat.segments.iter().map(|_| used.next().unwrap_or(false)).collect();
            for run in runs(flat, &used, &state.steps) {
                step_range(self.config, &mut self.call, flat, state, &run)?;
            }
            for (steps, _) in state.steps.iter_mut().zip(&used).filter(|&(_, &used)| used) {
                *steps += 1;
            }
        }
        Ok(())
    }
}

/// A range of a flat buffer whose segments all have a gradient and have taken the same number of steps.
struct Run {
    start: i64,
    length: i64,
    steps: u64,
}

fn runs(flat: &Flat, used: &[bool], steps: &[u64]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let ends = flat.segments.iter().skip(1).map(|next| next.offset).chain([flat.length]);
    let mut joined = false;
    for (((segment, end), &used), &steps) in flat.segments.iter().zip(ends).zip(used).zip(steps) {
        if !used {
            joined = false;
            continue;
        }
        match runs.last_mut() {
            Some(run) if joined && run.steps == steps => run.length = end - run.start,
            _ => runs.push(Run { start: segment.offset, length: end - segment.offset, steps }),
        }
        joined = true;
    }
    runs
}

fn step_range(config: OptimizerConfig, call: &mut Call, flat: &Flat, state: &State, run: &Run) -> Result<()> {
    let cut = |tensor: &Tensor| tensor.f_narrow(0, run.start, run.length).doing("cutting the parameters");
    let mut arguments = vec![cut(&flat.values)?, cut(&flat.grads)?];
    for moment in &state.moments {
        arguments.push(cut(moment)?);
    }
    match config {
        OptimizerConfig::Adamw { .. } => {
            #[expect(clippy::cast_precision_loss, reason = "PyTorch counts steps in float32 too")]
            let count = (run.steps + 1) as f64;
            arguments.push(Tensor::f_full([], count, (Kind::Float, Device::Cpu)).doing("counting steps")?);
        }
        OptimizerConfig::Sgd { .. } => {
            call.set("is_first_step", Constant::Bool(run.steps == 0)).doing("setting up SGD")?;
        }
    }
    let borrowed: Vec<&Tensor> = arguments.iter().collect();
    call.run(&borrowed, &[], None).map(drop).doing("stepping the optimizer")
}

fn adamw(config: OptimizerConfig) -> std::result::Result<Call, crate::error::Torch> {
    let mut call = Call::new("aten::_fused_adamw_", "")?;
    for list in ["self", "grads", "exp_avgs", "exp_avg_sqs"] {
        call.bind_tensors(list, &[true])?;
    }
    call.bind_tensors("max_exp_avg_sqs", &[])?;
    call.bind_tensors("state_steps", &[true])?;
    if let OptimizerConfig::Adamw { learning_rate, weight_decay, beta1, beta2, epsilon } = config {
        let settings = [
            ("lr", learning_rate),
            ("weight_decay", weight_decay),
            ("beta1", beta1),
            ("beta2", beta2),
            ("eps", epsilon),
        ];
        for (name, value) in settings {
            call.set(name, Constant::Float(value))?;
        }
    }
    call.set("amsgrad", Constant::Bool(false))?;
    call.set("maximize", Constant::Bool(false))?;
    Ok(call)
}

fn sgd(config: OptimizerConfig) -> std::result::Result<Call, crate::error::Torch> {
    let mut call = Call::new("aten::_fused_sgd_", "")?;
    call.bind_tensors("self", &[true])?;
    call.bind_tensors("grads", &[true])?;
    if let OptimizerConfig::Sgd { learning_rate, weight_decay, momentum } = config {
        call.bind_tensors("momentum_buffer_list", if momentum == 0.0 { &[] } else { &[true] })?;
        for (name, value) in [("lr", learning_rate), ("weight_decay", weight_decay), ("momentum", momentum)] {
            call.set(name, Constant::Float(value))?;
        }
    }
    call.set("dampening", Constant::Float(0.0))?;
    for name in ["nesterov", "maximize", "is_first_step"] {
        call.set(name, Constant::Bool(false))?;
    }
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_program::Program;

    fn store() -> ParameterStore {
        // Three parameters: 0.weight (2x3), 0.bias (2), 1.weight (2x2) and no bias.
        let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":2},{"type":"dense","units":2,"useBias":false}]}"#;
        ParameterStore::new(&Program::read(layers.as_bytes().to_vec()).unwrap()).unwrap()
    }

    fn values(store: &ParameterStore, parameter: usize) -> Vec<f32> {
        Vec::try_from(store.views[parameter].detach().reshape([-1])).unwrap()
    }

    #[test]
    fn a_parameter_without_gradient_is_left_alone_and_takes_no_step() {
        let config =
            OptimizerConfig::Adamw { learning_rate: 0.1, weight_decay: 0.5, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        let store = store();
        let mut optimizer = Optimizer::new(config, &store).unwrap();
        let _ = store.flats[0].grads.shallow_clone().fill_(0.5);
        let before: Vec<Vec<f32>> = (0..3).map(|parameter| values(&store, parameter)).collect();
        optimizer.step(&store, &[true, false, true]).unwrap();
        assert_ne!(values(&store, 0), before[0]);
        assert_eq!(values(&store, 1), before[1]);
        assert_ne!(values(&store, 2), before[2]);
        assert_eq!(optimizer.flats[0].steps, [1, 0, 1]);
        // The late one takes its first step as a first step: with bias correction the update is the learning rate.
        optimizer.step(&store, &[true, true, true]).unwrap();
        for (after, before) in values(&store, 1).iter().zip(&before[1]) {
            let expected = before * (1.0 - 0.1 * 0.5) - 0.1;
            assert!((after - expected).abs() < 1e-6, "{after} {expected}");
        }
    }

    #[test]
    fn runs_join_neighbours_with_the_same_history_only() {
        let store = store();
        let runs = |used: [bool; 3], steps: [u64; 3]| -> Vec<(i64, i64)> {
            super::runs(&store.flats[0], &used, &steps).iter().map(|run| (run.start, run.length)).collect()
        };
        assert_eq!(runs([true; 3], [4; 3]), [(0, 48)]);
        assert_eq!(runs([true, false, true], [4; 3]), [(0, 16), (32, 16)]);
        assert_eq!(runs([true; 3], [4, 4, 3]), [(0, 32), (32, 16)]);
        assert_eq!(runs([false; 3], [0; 3]), []);
    }

    #[test]
    fn padding_stays_zero() {
        let config = OptimizerConfig::Sgd { learning_rate: 0.1, weight_decay: 0.1, momentum: 0.9 };
        let store = store();
        let mut optimizer = Optimizer::new(config, &store).unwrap();
        for view in &store.views {
            let _ = view.grad().fill_(1.0);
        }
        optimizer.step(&store, &[true; 3]).unwrap();
        let flat = Vec::<f32>::try_from(&store.flats[0].values).unwrap();
        assert!(flat[6..16].iter().chain(&flat[18..32]).chain(&flat[36..48]).all(|&value| value == 0.0), "{flat:?}");
    }

    #[test]
    fn settings_that_no_optimizer_takes_are_refused_by_name() {
        let config =
            OptimizerConfig::Adamw { learning_rate: 0.1, weight_decay: 0.0, beta1: 1.0, beta2: 0.9, epsilon: 1e-8 };
        assert!(config.check().unwrap_err().to_string().contains("beta1"));
        let config = OptimizerConfig::Sgd { learning_rate: f64::NAN, weight_decay: 0.0, momentum: 0.0 };
        assert!(config.check().unwrap_err().to_string().contains("learningRate"));
    }
}
