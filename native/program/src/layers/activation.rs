//! Activations: by name as a setting of other layers, and as layers with settings of their own.

use serde::Deserialize;

use super::build::{Build, Built, Rows, Weight, dim_of};
use super::initial::Initializer;
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{Sizes, last_axis, row_axis};
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "activation", class: "Activation", read: |s| s.read::<Named>().map(AnyLayer::layer) },
    Kind { name: "relu", class: "ReLU", read: |s| s.read::<Relu>().map(AnyLayer::layer) },
    Kind { name: "leakyRelu", class: "LeakyReLU", read: |s| s.read::<LeakyRelu>().map(AnyLayer::layer) },
    Kind { name: "prelu", class: "PReLU", read: |s| s.read::<Prelu>().map(AnyLayer::layer) },
    Kind { name: "elu", class: "ELU", read: |s| s.read::<Elu>().map(AnyLayer::layer) },
    Kind { name: "gelu", class: "GELU", read: |s| s.read::<Gelu>().map(AnyLayer::layer) },
    Kind { name: "softmax", class: "Softmax", read: |s| s.read::<Softmax>().map(AnyLayer::layer) },
    Kind { name: "tanh", class: "Tanh", read: |s| s.read::<Plain>().map(|_| AnyLayer::layer(Activation::Tanh)) },
    Kind {
        name: "sigmoid",
        class: "Sigmoid",
        read: |s| s.read::<Plain>().map(|_| AnyLayer::layer(Activation::Sigmoid)),
    },
];

/// Keras' names, with Keras' defaults for what they leave open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Activation {
    #[default]
    Linear,
    Relu,
    Relu6,
    LeakyRelu,
    Elu,
    Selu,
    Celu,
    Gelu,
    #[serde(alias = "swish")]
    Silu,
    #[serde(alias = "hard_swish")]
    HardSilu,
    Mish,
    Softplus,
    Softsign,
    Tanh,
    HardTanh,
    TanhShrink,
    SoftShrink,
    HardShrink,
    Sigmoid,
    HardSigmoid,
    LogSigmoid,
    Softmax,
    LogSoftmax,
    Exponential,
}

impl Activation {
    pub(super) fn apply(self, b: &mut Build, x: &Rows) -> Rows {
        let mut call = |step: &str, op: &str, args: Vec<(&'static str, Arg)>| call(b, x, step, op, args);
        let last = ("dim", Arg::Int(-1));
        match self {
            Self::Linear => x.clone(),
            Self::Relu => call("relu", "relu", vec![]),
            Self::Relu6 => call("relu6", "relu6", vec![]),
            Self::LeakyRelu => call("leaky_relu", "leaky_relu", vec![("negative_slope", Arg::Float(0.2))]),
            Self::Elu => call("elu", "elu", vec![]),
            Self::Selu => call("selu", "selu", vec![]),
            Self::Celu => call("celu", "celu", vec![]),
            Self::Gelu => call("gelu", "gelu", vec![("approximate", Arg::Str("none".into()))]),
            Self::Silu => call("silu", "silu", vec![]),
            Self::HardSilu => call("hard_silu", "hardswish", vec![]),
            Self::Mish => call("mish", "mish", vec![]),
            Self::Softplus => call("softplus", "softplus", vec![]),
            Self::Tanh => call("tanh", "tanh", vec![]),
            Self::HardTanh => call("hard_tanh", "hardtanh", vec![]),
            Self::SoftShrink => call("soft_shrink", "softshrink", vec![]),
            Self::HardShrink => call("hard_shrink", "hardshrink", vec![]),
            Self::Sigmoid => call("sigmoid", "sigmoid", vec![]),
            Self::HardSigmoid => call("hard_sigmoid", "hardsigmoid", vec![]),
            Self::LogSigmoid => call("log_sigmoid", "log_sigmoid", vec![]),
            Self::Softmax => call("softmax", "softmax.int", vec![last]),
            Self::LogSoftmax => call("log_softmax", "log_softmax.int", vec![last]),
            Self::Exponential => call("exp", "exp", vec![]),
            Self::TanhShrink => {
                let tanh = call("tanh", "tanh", vec![]);
                call("tanh_shrink", "sub.Tensor", vec![("other", Arg::Tensor(tanh.value))])
            }
            Self::Softsign => {
                let size = call("abs", "abs", vec![]);
                let divisor = scalar(b, &size, "plus_one", "add.Scalar", 1.0);
                let args = vec![("self", Arg::Tensor(x.value)), ("other", Arg::Tensor(divisor.value))];
                b.call("softsign", "div.Tensor", args, x.shape.clone())
            }
        }
    }
}

/// An operator on one tensor that keeps its shape.
fn call(b: &mut Build, x: &Rows, step: &str, op: &str, args: Vec<(&'static str, Arg)>) -> Rows {
    let args = std::iter::once(("self", Arg::Tensor(x.value))).chain(args).collect();
    b.call(step, op, args, x.shape.clone())
}

/// An operator on a tensor and a number.
pub(super) fn scalar(b: &mut Build, x: &Rows, step: &str, op: &str, number: f64) -> Rows {
    call(b, x, step, op, vec![("other", Arg::Float(number))])
}

impl Layer for Activation {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        Ok(self.apply(b, x))
    }
}

/// Most operators compute with fractions.
pub(super) fn floats(x: &Rows) -> Result<(), String> {
    if x.dtype.is_float() {
        return Ok(());
    }
    Err(format!(
        "it computes with fractions and is given {}: make the input float32, or put a rescaling first",
        x.dtype
    ))
}

/// A layer without settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plain {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    activation: Activation,
}

impl Layer for Named {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        self.activation.build(b, x)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relu {
    #[serde(default)]
    max_value: Option<f64>,
    #[serde(default)]
    negative_slope: f64,
    #[serde(default)]
    threshold: f64,
}

impl Layer for Relu {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        let settings = [
            ("maxValue", self.max_value),
            ("negativeSlope", Some(self.negative_slope)),
            ("threshold", Some(self.threshold)),
        ];
        for (name, value) in settings {
            if let Some(value) = value.filter(|value| value.is_nan() || *value < 0.0) {
                return Err(format!("{name} is {value}, it must not be below 0").into());
            }
        }
        if self.negative_slope > 0.0 && self.max_value.is_none() && self.threshold == 0.0 {
            return Ok(call(b, x, "", "leaky_relu", vec![("negative_slope", Arg::Float(self.negative_slope))]));
        }
        let mut y = if self.threshold > 0.0 {
            let args = vec![("threshold", Arg::Float(self.threshold)), ("value", Arg::Float(0.0))];
            call(b, x, "threshold", "threshold", args)
        } else {
            call(b, x, "", "relu", vec![])
        };
        if let Some(most) = self.max_value {
            y = call(b, &y, "clamp", "clamp_max", vec![("max", Arg::Float(most))]);
        }
        if self.negative_slope > 0.0 {
            let below = scalar(b, x, "below", "rsub.Scalar", self.threshold);
            let below = call(b, &below, "negative", "relu", vec![]);
            let below = scalar(b, &below, "slope", "mul.Scalar", self.negative_slope);
            y = call(b, &y, "sub", "sub.Tensor", vec![("other", Arg::Tensor(below.value))]);
        }
        Ok(y)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeakyRelu {
    #[serde(default = "leaky_slope")]
    negative_slope: f64,
}

fn leaky_slope() -> f64 {
    0.3
}

impl Layer for LeakyRelu {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        if self.negative_slope.is_nan() || self.negative_slope < 0.0 {
            return Err(format!("negativeSlope is {}, it must not be below 0", self.negative_slope).into());
        }
        Ok(call(b, x, "", "leaky_relu", vec![("negative_slope", Arg::Float(self.negative_slope))]))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Elu {
    #[serde(default = "elu_alpha")]
    alpha: f64,
}

fn elu_alpha() -> f64 {
    1.0
}

impl Layer for Elu {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        Ok(call(b, x, "", "elu", vec![("alpha", Arg::Float(self.alpha))]))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gelu {
    /// By the hyperbolic tangent instead of the error function.
    #[serde(default)]
    approximate: bool,
}

impl Layer for Gelu {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        let approximate = if self.approximate { "tanh" } else { "none" };
        Ok(call(b, x, "", "gelu", vec![("approximate", Arg::Str(approximate.into()))]))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Softmax {
    #[serde(default = "last_axis")]
    axis: i64,
}

impl Layer for Softmax {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        let axis = row_axis("axis", self.axis, x.shape.len())?;
        Ok(call(b, x, "", "softmax.int", vec![("dim", Arg::Int(dim_of(axis)))]))
    }
}

/// A slope of its own for every element of a row, or for every one along the axes that are not shared.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Prelu {
    #[serde(default = "Initializer::zeros")]
    alpha_initializer: Initializer,
    #[serde(default)]
    shared_axes: Option<Sizes>,
}

impl Layer for Prelu {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        let mut shape = x.shape.clone();
        let shared = match &self.shared_axes {
            None => &[][..],
            Some(Sizes::All(axis)) => std::slice::from_ref(axis),
            Some(Sizes::Each(axes)) => axes,
        };
        for &axis in shared {
            let axis = row_axis("sharedAxes", axis, x.shape.len())?;
            if let Some(size) = shape.get_mut(axis) {
                *size = 1;
            }
        }
        let order: Vec<usize> = (0..shape.len()).collect();
        let alpha = b.parameter(&Weight::kernel("alpha", shape, &order, &self.alpha_initializer))?;
        let above = call(b, x, "", "relu", vec![]);
        let below = call(b, x, "neg", "neg", vec![]);
        let below = call(b, &below, "below", "relu", vec![]);
        let below = call(b, &below, "slope", "mul.Tensor", vec![("other", alpha)]);
        Ok(call(b, &above, "sub", "sub.Tensor", vec![("other", Arg::Tensor(below.value))]))
    }
}
