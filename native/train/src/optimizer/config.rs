//! Optimizers and their settings as a run is given them. Names, meaning and defaults are PyTorch's where `torch.optim` has
//! the optimizer; the others name their paper.

use serde::Deserialize;

use crate::check::{at_least, below_one, positive};
use crate::error::{Error, Result};

/// An optimizer and its settings. Only `learningRate` has no default.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Stochastic gradient descent (`torch.optim.SGD`).
    Sgd {
        /// Step size.
        learning_rate: f64,
        /// Times the parameter, added to the gradient (L2).
        #[serde(default)]
        weight_decay: f64,
        /// Decay of the running gradient; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// Share of each gradient that does not enter the running one, from the second step on.
        #[serde(default)]
        dampening: f64,
        /// Whether the step looks ahead (Nesterov): needs momentum and no dampening.
        #[serde(default)]
        nesterov: bool,
    },
    /// Adam (`torch.optim.Adam`): the weight decay is part of the gradient.
    Adam {
        /// Step size.
        learning_rate: f64,
        /// Times the parameter, added to the gradient (L2).
        #[serde(default)]
        weight_decay: f64,
        /// Decay of the mean of gradients.
        #[serde(default = "adam_beta1")]
        beta1: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "adam_beta2")]
        beta2: f64,
        /// Added to the denominator.
        #[serde(default = "adam_epsilon")]
        epsilon: f64,
        /// Whether the denominator is the largest so far (Reddi and others, 2018).
        #[serde(default)]
        amsgrad: bool,
    },
    /// Adam with decoupled weight decay (`torch.optim.AdamW`; Loshchilov and Hutter, 2019).
    Adamw {
        /// Step size.
        learning_rate: f64,
        /// Fraction of `learning_rate` by which a parameter shrinks each step.
        #[serde(default = "adamw_decay")]
        weight_decay: f64,
        /// Decay of the mean of gradients.
        #[serde(default = "adam_beta1")]
        beta1: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "adam_beta2")]
        beta2: f64,
        /// Added to the denominator.
        #[serde(default = "adam_epsilon")]
        epsilon: f64,
        /// Whether the denominator is the largest so far.
        #[serde(default)]
        amsgrad: bool,
    },
    /// Adagrad (`torch.optim.Adagrad`).
    Adagrad {
        /// Step size.
        learning_rate: f64,
        /// Times the parameter, added to the gradient (L2).
        #[serde(default)]
        weight_decay: f64,
        /// The step size of step `t` (from 0) is `learningRate / (1 + t * learningRateDecay)`.
        #[serde(default)]
        learning_rate_decay: f64,
        /// Where the sum of squared gradients starts.
        #[serde(default)]
        initial_accumulator: f64,
        /// Added to the denominator.
        #[serde(default = "adagrad_epsilon")]
        epsilon: f64,
    },
    /// RMSprop (`torch.optim.RMSprop`).
    Rmsprop {
        /// Step size.
        learning_rate: f64,
        /// Times the parameter, added to the gradient (L2).
        #[serde(default)]
        weight_decay: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "rmsprop_alpha")]
        alpha: f64,
        /// Added to the denominator.
        #[serde(default = "adam_epsilon")]
        epsilon: f64,
        /// Decay of the running step; 0 keeps none.
        #[serde(default)]
        momentum: f64,
        /// Whether the gradient is divided by its deviation instead of its root mean square.
        #[serde(default)]
        centered: bool,
    },
    /// LAMB (You and others, "Large Batch Optimization for Deep Learning", 2020, algorithm 2, with bias correction).
    /// Gradients are clipped by `clipNorm` only, not by a norm of its own.
    Lamb {
        /// Step size.
        learning_rate: f64,
        /// Times the parameter, added to the direction before it is scaled.
        #[serde(default = "adamw_decay")]
        weight_decay: f64,
        /// Decay of the mean of gradients.
        #[serde(default = "adam_beta1")]
        beta1: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "adam_beta2")]
        beta2: f64,
        /// Added to the denominator.
        #[serde(default = "lamb_epsilon")]
        epsilon: f64,
    },
    /// LARS (You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017, algorithm 1).
    Lars {
        /// Step size, before each tensor's own factor.
        learning_rate: f64,
        /// Times the parameter, added to the gradient, and part of the tensor's factor.
        #[serde(default)]
        weight_decay: f64,
        /// Decay of the running step.
        #[serde(default = "lars_momentum")]
        momentum: f64,
        /// How long a tensor's step is, as a share of its norm.
        #[serde(default = "lars_trust")]
        trust_coefficient: f64,
    },
    /// Lion (Chen and others, "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2).
    Lion {
        /// Step size.
        learning_rate: f64,
        /// Fraction of `learning_rate` by which a parameter shrinks each step.
        #[serde(default)]
        weight_decay: f64,
        /// Share of the running gradient in the direction of the step.
        #[serde(default = "adam_beta1")]
        beta1: f64,
        /// Decay of the running gradient.
        #[serde(default = "lion_beta2")]
        beta2: f64,
    },
    /// Adafactor (`torch.optim.Adafactor`; Shazeer and Stern, 2018).
    Adafactor {
        /// The largest relative step size.
        learning_rate: f64,
        /// Fraction of `learning_rate` by which a parameter shrinks each step.
        #[serde(default)]
        weight_decay: f64,
        /// The power of the step that gives the decay of the mean of squared gradients; at most 0.
        #[serde(default = "adafactor_decay")]
        beta2_decay: f64,
        /// The least root of a squared gradient; the dtype's own epsilon if it is not given.
        #[serde(default)]
        epsilon1: Option<f64>,
        /// The least root mean square of a parameter that its step is scaled by.
        #[serde(default = "adafactor_epsilon2")]
        epsilon2: f64,
        /// The largest root mean square of an update before it is scaled.
        #[serde(default = "one")]
        clip_threshold: f64,
    },
}

fn adam_beta1() -> f64 {
    0.9
}
fn adam_beta2() -> f64 {
    0.999
}
fn adam_epsilon() -> f64 {
    1e-8
}
fn adamw_decay() -> f64 {
    0.01
}
fn adagrad_epsilon() -> f64 {
    1e-10
}
fn rmsprop_alpha() -> f64 {
    0.99
}
fn lamb_epsilon() -> f64 {
    1e-6
}
fn lars_momentum() -> f64 {
    0.9
}
fn lars_trust() -> f64 {
    1e-3
}
fn lion_beta2() -> f64 {
    0.99
}
fn adafactor_decay() -> f64 {
    -0.8
}
fn adafactor_epsilon2() -> f64 {
    1e-3
}
fn one() -> f64 {
    1.0
}

impl OptimizerConfig {
    /// The optimizer's name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            OptimizerConfig::Sgd { .. } => "sgd",
            OptimizerConfig::Adam { .. } => "adam",
            OptimizerConfig::Adamw { .. } => "adamw",
            OptimizerConfig::Adagrad { .. } => "adagrad",
            OptimizerConfig::Rmsprop { .. } => "rmsprop",
            OptimizerConfig::Lamb { .. } => "lamb",
            OptimizerConfig::Lars { .. } => "lars",
            OptimizerConfig::Lion { .. } => "lion",
            OptimizerConfig::Adafactor { .. } => "adafactor",
        }
    }

    /// The step size before any schedule.
    pub fn learning_rate(&self) -> f64 {
        match *self {
            OptimizerConfig::Sgd { learning_rate, .. }
            | OptimizerConfig::Adam { learning_rate, .. }
            | OptimizerConfig::Adamw { learning_rate, .. }
            | OptimizerConfig::Adagrad { learning_rate, .. }
            | OptimizerConfig::Rmsprop { learning_rate, .. }
            | OptimizerConfig::Lamb { learning_rate, .. }
            | OptimizerConfig::Lars { learning_rate, .. }
            | OptimizerConfig::Lion { learning_rate, .. }
            | OptimizerConfig::Adafactor { learning_rate, .. } => learning_rate,
        }
    }

    /// The weight decay of parameters whose group says nothing else.
    pub fn weight_decay(&self) -> f64 {
        match *self {
            OptimizerConfig::Sgd { weight_decay, .. }
            | OptimizerConfig::Adam { weight_decay, .. }
            | OptimizerConfig::Adamw { weight_decay, .. }
            | OptimizerConfig::Adagrad { weight_decay, .. }
            | OptimizerConfig::Rmsprop { weight_decay, .. }
            | OptimizerConfig::Lamb { weight_decay, .. }
            | OptimizerConfig::Lars { weight_decay, .. }
            | OptimizerConfig::Lion { weight_decay, .. }
            | OptimizerConfig::Adafactor { weight_decay, .. } => weight_decay,
        }
    }

    /// Refuses values that no optimizer takes.
    pub fn check(&self) -> Result<()> {
        at_least(0.0, "learningRate", self.learning_rate())?;
        at_least(0.0, "weightDecay", self.weight_decay())?;
        match *self {
            OptimizerConfig::Sgd { momentum, dampening, nesterov, .. } => {
                at_least(0.0, "momentum", momentum)?;
                if !dampening.is_finite() {
                    return Err(Error::Config(format!("dampening must be a number, not {dampening}")));
                }
                if nesterov && (momentum == 0.0 || dampening != 0.0) {
                    return Err(Error::Config(format!(
                        "nesterov needs a momentum above 0 and no dampening; they are {momentum} and {dampening}"
                    )));
                }
                if dampening != 0.0 && momentum == 0.0 {
                    return Err(Error::Config("dampening does nothing without momentum: set both or none".to_owned()));
                }
                Ok(())
            }
            OptimizerConfig::Adam { beta1, beta2, epsilon, .. }
            | OptimizerConfig::Adamw { beta1, beta2, epsilon, .. }
            | OptimizerConfig::Lamb { beta1, beta2, epsilon, .. } => {
                below_one("beta1", beta1)?;
                below_one("beta2", beta2)?;
                at_least(0.0, "epsilon", epsilon)
            }
            OptimizerConfig::Adagrad { learning_rate_decay, initial_accumulator, epsilon, .. } => {
                at_least(0.0, "learningRateDecay", learning_rate_decay)?;
                at_least(0.0, "initialAccumulator", initial_accumulator)?;
                at_least(0.0, "epsilon", epsilon)
            }
            OptimizerConfig::Rmsprop { alpha, epsilon, momentum, .. } => {
                at_least(0.0, "alpha", alpha)?;
                at_least(0.0, "epsilon", epsilon)?;
                at_least(0.0, "momentum", momentum)
            }
            OptimizerConfig::Lars { momentum, trust_coefficient, .. } => {
                at_least(0.0, "momentum", momentum)?;
                positive("trustCoefficient", trust_coefficient)
            }
            OptimizerConfig::Lion { beta1, beta2, .. } => {
                below_one("beta1", beta1)?;
                below_one("beta2", beta2)
            }
            OptimizerConfig::Adafactor { beta2_decay, epsilon1, epsilon2, clip_threshold, .. } => {
                if !beta2_decay.is_finite() || beta2_decay > 0.0 {
                    return Err(Error::Config(format!("beta2Decay must be a number of at most 0, not {beta2_decay}")));
                }
                at_least(0.0, "epsilon1", epsilon1.unwrap_or(0.0))?;
                at_least(0.0, "epsilon2", epsilon2)?;
                at_least(1.0, "clipThreshold", clip_threshold)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> std::result::Result<OptimizerConfig, String> {
        let config: OptimizerConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_learning_rate_is_all_that_must_be_said() {
        for name in ["sgd", "adam", "adamw", "adagrad", "rmsprop", "lamb", "lars", "lion", "adafactor"] {
            let config = config(&format!(r#"{{"name":"{name}","learningRate":0.5}}"#)).unwrap();
            assert_eq!((config.name(), config.learning_rate()), (name, 0.5));
            assert!(self::config(&format!(r#"{{"name":"{name}"}}"#)).unwrap_err().contains("learningRate"));
        }
    }

    #[test]
    fn settings_that_no_optimizer_takes_are_refused_by_name() {
        for (settings, named) in [
            (r#""name":"adamw","learningRate":0.1,"beta1":1.0"#, "beta1"),
            (r#""name":"sgd","learningRate":-1"#, "learningRate"),
            (r#""name":"sgd","learningRate":0.1,"beta1":0.9"#, "beta1"),
            (r#""name":"sgd","learningRate":0.1,"nesterov":true"#, "nesterov"),
            (r#""name":"sgd","learningRate":0.1,"dampening":0.5"#, "dampening"),
            (r#""name":"adagrad","learningRate":0.1,"initialAccumulator":-0.5"#, "initialAccumulator"),
            (r#""name":"rmsprop","learningRate":0.1,"alpha":-0.5"#, "alpha"),
            (r#""name":"lars","learningRate":0.1,"trustCoefficient":0"#, "trustCoefficient"),
            (r#""name":"lion","learningRate":0.1,"beta2":1"#, "beta2"),
            (r#""name":"adafactor","learningRate":0.1,"beta2Decay":0.8"#, "beta2Decay"),
            (r#""name":"adafactor","learningRate":0.1,"clipThreshold":0.5"#, "clipThreshold"),
            (r#""name":"adadelta","learningRate":0.1"#, "adadelta"),
        ] {
            let error = config(&format!("{{{settings}}}")).unwrap_err();
            assert!(error.contains(named), "{settings}: {error}");
        }
        let nan = OptimizerConfig::Sgd {
            learning_rate: f64::NAN,
            weight_decay: 0.0,
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
        };
        assert!(nan.check().unwrap_err().to_string().contains("learningRate"));
    }
}
