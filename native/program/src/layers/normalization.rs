//! Normalisations. Their `epsilon` is Keras', and larger than PyTorch's.

use serde::Deserialize;

use super::activation::floats;
use super::build::{Build, Built, Rows, Weight};
use super::initial::Initializer;
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{Sizes, keras_epsilon, last_axis, positive, positive_real, row_axis, yes};
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "batchNorm", class: "BatchNormalization", read: |s| s.read::<BatchNorm>().map(AnyLayer::layer) },
    Kind { name: "layerNorm", class: "LayerNormalization", read: |s| s.read::<LayerNorm>().map(AnyLayer::layer) },
    Kind { name: "groupNorm", class: "GroupNormalization", read: |s| s.read::<GroupNorm>().map(AnyLayer::layer) },
    Kind { name: "rmsNorm", class: "RMSNormalization", read: |s| s.read::<RmsNorm>().map(AnyLayer::layer) },
];

/// The order of a row's axes with `axis` first, and the one that puts it back.
fn to_front(axis: usize, rank: usize) -> (Vec<usize>, Vec<usize>) {
    let there = std::iter::once(axis).chain((0..rank).filter(|&other| other != axis)).collect();
    let back = (1..=axis).chain([0]).chain(axis + 1..rank).collect();
    (there, back)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BatchNorm {
    #[serde(default = "last_axis")]
    axis: i64,
    #[serde(default = "keras_momentum")]
    momentum: f64,
    #[serde(default = "keras_epsilon")]
    epsilon: f64,
    #[serde(default = "yes")]
    center: bool,
    #[serde(default = "yes")]
    scale: bool,
    #[serde(default = "Initializer::zeros")]
    beta_initializer: Initializer,
    #[serde(default = "Initializer::ones")]
    gamma_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    moving_mean_initializer: Initializer,
    #[serde(default = "Initializer::ones")]
    moving_variance_initializer: Initializer,
}

fn keras_momentum() -> f64 {
    0.99
}

impl Layer for BatchNorm {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(format!("momentum is {}, it must be from 0 to 1", self.momentum).into());
        }
        positive_real("epsilon", self.epsilon)?;
        let axis = row_axis("axis", self.axis, x.shape.len())?;
        let channels = x.shape.get(axis).copied().unwrap_or(0);
        let (there, back) = to_front(axis, x.shape.len());
        let x = b.permute(x, &there);
        let weight = b.optional(self.scale, &Weight::vector("weight", channels, &self.gamma_initializer))?;
        let bias = b.optional(self.center, &Weight::vector("bias", channels, &self.beta_initializer))?;
        let mean = b.buffer(&Weight::vector("running_mean", channels, &self.moving_mean_initializer))?;
        let var = b.buffer(&Weight::vector("running_var", channels, &self.moving_variance_initializer))?;
        let batches = b.counter("num_batches_tracked")?;
        // In Keras a frozen batch norm uses its statistics and leaves them alone.
        let training = b.trainable();
        if training {
            b.count_up(batches);
        }
        let args = vec![
            ("input", Arg::Tensor(x.value)),
            ("weight", weight),
            ("bias", bias),
            ("running_mean", mean),
            ("running_var", var),
            ("training", Arg::Bool(training)),
            // Keras' momentum is what is kept, ATen's what is taken from the batch.
            ("momentum", Arg::Float(1.0 - self.momentum)),
            ("eps", Arg::Float(self.epsilon)),
            ("cudnn_enabled", Arg::Bool(true)),
        ];
        let y = b.call("", "batch_norm", args, x.shape.clone());
        Ok(b.permute(&y, &back))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LayerNorm {
    #[serde(default = "last_axes")]
    axis: Sizes,
    #[serde(default = "keras_epsilon")]
    epsilon: f64,
    #[serde(default = "yes")]
    center: bool,
    #[serde(default = "yes")]
    scale: bool,
    #[serde(default = "Initializer::zeros")]
    beta_initializer: Initializer,
    #[serde(default = "Initializer::ones")]
    gamma_initializer: Initializer,
}

fn last_axes() -> Sizes {
    Sizes::All(-1)
}

/// The sizes of the axes that are normalised over, which must be a row's last ones.
fn trailing(axis: &Sizes, shape: &[i64]) -> Result<Vec<i64>, String> {
    let axes = match axis {
        Sizes::All(axis) => std::slice::from_ref(axis),
        Sizes::Each(axes) => axes,
    };
    let mut found = axes.iter().map(|&axis| row_axis("axis", axis, shape.len())).collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    let start = shape.len().saturating_sub(found.len());
    if found.is_empty() || !found.iter().copied().eq(start..shape.len()) {
        return Err(format!(
            "axis is {axes:?}, it must be a row's last axis or last axes; put a permute before and after"
        ));
    }
    Ok(shape.get(start..).unwrap_or_default().to_vec())
}

impl Layer for LayerNorm {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let norm = Norm { epsilon: self.epsilon, gamma: &self.gamma_initializer, beta: &self.beta_initializer };
        norm.build(b, x, &self.axis, (self.scale, self.center))
    }
}

/// What a layer norm is, in a layer of its own or within another.
pub(super) struct Norm<'a> {
    pub(super) epsilon: f64,
    pub(super) gamma: &'a Initializer,
    pub(super) beta: &'a Initializer,
}

impl Norm<'_> {
    pub(super) fn build(&self, b: &mut Build, x: &Rows, axis: &Sizes, (scale, center): (bool, bool)) -> Built {
        floats(x)?;
        positive_real("epsilon", self.epsilon)?;
        let sizes = trailing(axis, &x.shape)?;
        let order: Vec<usize> = (0..sizes.len()).collect();
        let weight = b.optional(scale, &Weight::kernel("weight", sizes.clone(), &order, self.gamma))?;
        let bias = b.optional(center, &Weight::kernel("bias", sizes.clone(), &order, self.beta))?;
        let args = vec![
            ("input", Arg::Tensor(x.value)),
            ("normalized_shape", Arg::Ints(sizes)),
            ("weight", weight),
            ("bias", bias),
            ("eps", Arg::Float(self.epsilon)),
        ];
        Ok(b.call("", "layer_norm", args, x.shape.clone()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupNorm {
    #[serde(default = "keras_groups")]
    groups: i64,
    #[serde(default = "last_axis")]
    axis: i64,
    #[serde(default = "keras_epsilon")]
    epsilon: f64,
    #[serde(default = "yes")]
    center: bool,
    #[serde(default = "yes")]
    scale: bool,
    #[serde(default = "Initializer::zeros")]
    beta_initializer: Initializer,
    #[serde(default = "Initializer::ones")]
    gamma_initializer: Initializer,
}

fn keras_groups() -> i64 {
    32
}

impl Layer for GroupNorm {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        positive_real("epsilon", self.epsilon)?;
        let axis = row_axis("axis", self.axis, x.shape.len())?;
        let channels = x.shape.get(axis).copied().unwrap_or(0);
        // -1: every channel is a group.
        let groups = if self.groups == -1 { channels } else { self.groups };
        positive("groups", groups)?;
        if channels % groups != 0 {
            return Err(format!("the channels are {channels}, which {groups} groups cannot share").into());
        }
        let (there, back) = to_front(axis, x.shape.len());
        let x = b.permute(x, &there);
        let weight = match (self.scale, self.center) {
            // libtorch 2.11 makes the gradient of a bias in the image of the weight and fails without one.
            (false, true) => Arg::Tensor(b.constant(&Weight::vector("weight", channels, &Initializer::ONES))?),
            (scale, _) => b.optional(scale, &Weight::vector("weight", channels, &self.gamma_initializer))?,
        };
        let bias = b.optional(self.center, &Weight::vector("bias", channels, &self.beta_initializer))?;
        let args = vec![
            ("input", Arg::Tensor(x.value)),
            ("num_groups", Arg::Int(groups)),
            ("weight", weight),
            ("bias", bias),
            ("eps", Arg::Float(self.epsilon)),
            ("cudnn_enabled", Arg::Bool(true)),
        ];
        let y = b.call("", "group_norm", args, x.shape.clone());
        Ok(b.permute(&y, &back))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RmsNorm {
    #[serde(default = "last_axes")]
    axis: Sizes,
    #[serde(default = "rms_epsilon")]
    epsilon: f64,
}

fn rms_epsilon() -> f64 {
    1e-6
}

impl Layer for RmsNorm {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        floats(x)?;
        positive_real("epsilon", self.epsilon)?;
        let sizes = trailing(&self.axis, &x.shape)?;
        let order: Vec<usize> = (0..sizes.len()).collect();
        let weight = b.parameter(&Weight::kernel("weight", sizes.clone(), &order, &Initializer::ONES))?;
        let args = vec![
            ("input", Arg::Tensor(x.value)),
            ("normalized_shape", Arg::Ints(sizes)),
            ("weight", weight),
            ("eps", Arg::Float(self.epsilon)),
        ];
        Ok(b.call("", "rms_norm", args, x.shape.clone()))
    }
}
