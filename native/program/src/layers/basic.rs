//! Dense layers, embeddings, dropout and rescaling.

use serde::Deserialize;

use super::activation::{Activation, floats, scalar};
use super::build::{Build, Built, Rows, Weight};
use super::convolution::Image;
use super::initial::{Fans, Initializer};
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{DataFormat, positive, rate, yes};
use crate::dtype::DType;
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "dense", class: "Dense", read: |s| s.read::<Dense>().map(AnyLayer::layer) },
    Kind { name: "embedding", class: "Embedding", read: |s| s.read::<Embedding>().map(AnyLayer::layer) },
    Kind { name: "dropout", class: "Dropout", read: |s| s.read::<Dropout>().map(AnyLayer::layer) },
    Kind { name: "alphaDropout", class: "AlphaDropout", read: |s| s.read::<AlphaDropout>().map(AnyLayer::layer) },
    Kind {
        name: "spatialDropout1d",
        class: "SpatialDropout1D",
        read: |s| {
            let Dropout { rate } = s.read()?;
            Ok(AnyLayer::layer(SpatialDropout { rate, data_format: Some(DataFormat::ChannelsLast), rank: 1 }))
        },
    },
    Kind { name: "spatialDropout2d", class: "SpatialDropout2D", read: |s| spatial(s.read()?, 2) },
    Kind { name: "spatialDropout3d", class: "SpatialDropout3D", read: |s| spatial(s.read()?, 3) },
    Kind { name: "rescaling", class: "Rescaling", read: |s| s.read::<Rescaling>().map(AnyLayer::layer) },
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dense {
    units: i64,
    #[serde(default)]
    activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

impl Layer for Dense {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let linear = Linear { use_bias: self.use_bias, kernel: &self.kernel_initializer, bias: &self.bias_initializer };
        let y = linear.build(b, x, self.units)?;
        Ok(self.activation.apply(b, &y))
    }
}

/// What a dense layer is before its activation.
pub(super) struct Linear<'a> {
    pub(super) use_bias: bool,
    pub(super) kernel: &'a Initializer,
    pub(super) bias: &'a Initializer,
}

impl Linear<'_> {
    pub(super) fn build(&self, b: &mut Build, x: &Rows, units: i64) -> Built {
        let (_, features) = self.check(x, units)?;
        let weight = Weight::kernel("weight", vec![features, units], &[1, 0], self.kernel);
        let bias = Weight::vector("bias", units, self.bias);
        self.call(b, x, units, &weight, &bias)
    }

    /// As one of Keras' `EinsumDense`: the kernel has more axes there, which ATen's matrix runs together.
    pub(super) fn einsum(
        &self,
        b: &mut Build,
        x: &Rows,
        kernel: Vec<i64>,
        bias: Vec<i64>,
        order: &[usize],
        units: i64,
    ) -> Built {
        let (_, features) = self.check(x, units)?;
        let weight = Weight::kernel("weight", kernel, order, self.kernel)
            .seen_as(vec![units, features])
            .fans(Fans { input: features, output: units });
        let axes: Vec<usize> = (0..bias.len()).collect();
        let bias = Weight::kernel("bias", bias, &axes, self.bias).seen_as(vec![units]);
        self.call(b, x, units, &weight, &bias)
    }

    fn check<'x>(&self, x: &'x Rows, units: i64) -> Result<(&'x [i64], i64), String> {
        floats(x)?;
        positive("units", units)?;
        let (&features, before) = x.shape.split_last().ok_or("a row needs at least one dimension")?;
        Ok((before, features))
    }

    fn call(&self, b: &mut Build, x: &Rows, units: i64, weight: &Weight<'_>, bias: &Weight<'_>) -> Built {
        let (before, _) = self.check(x, units)?;
        let shape = before.iter().copied().chain([units]).collect();
        let weight = b.parameter(weight)?;
        let bias = b.optional(self.use_bias, bias)?;
        let args = vec![("input", Arg::Tensor(x.value)), ("weight", weight), ("bias", bias)];
        Ok(b.call("", "linear", args, shape))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Embedding {
    input_dim: i64,
    output_dim: i64,
    #[serde(default = "Initializer::uniform")]
    embeddings_initializer: Initializer,
}

impl Layer for Embedding {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        if !matches!(x.dtype, DType::Int32 | DType::Int64) {
            return Err(format!(
                "an embedding takes ids, which are integers, and is given {}: put it first in a sequence, or give the \
                 graph's input the dtype int64",
                x.dtype
            )
            .into());
        }
        positive("inputDim", self.input_dim)?;
        positive("outputDim", self.output_dim)?;
        let sizes = vec![self.input_dim, self.output_dim];
        let weight = b.parameter(&Weight::kernel("weight", sizes, &[0, 1], &self.embeddings_initializer))?;
        let shape = x.shape.iter().copied().chain([self.output_dim]).collect();
        Ok(b.call("", "embedding", vec![("weight", weight), ("indices", Arg::Tensor(x.value))], shape))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dropout {
    rate: f64,
}

impl Layer for Dropout {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        drop(b, x, "dropout", self.rate)
    }
}

/// Dropout that keeps the mean and deviation of activations that `selu` made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AlphaDropout {
    rate: f64,
}

impl Layer for AlphaDropout {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        drop(b, x, "alpha_dropout", self.rate)
    }
}

/// One of ATen's kinds of dropout, which train and rest by the same switch.
pub(super) fn drop(b: &mut Build, x: &Rows, op: &str, fraction: f64) -> Built {
    floats(x)?;
    rate("rate", fraction)?;
    let args = vec![("input", Arg::Tensor(x.value)), ("p", Arg::Float(fraction)), ("train", Arg::Bool(true))];
    Ok(b.call("", op, args, x.shape.clone()))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spatial {
    rate: f64,
    #[serde(default)]
    data_format: Option<DataFormat>,
}

fn spatial(Spatial { rate, data_format }: Spatial, rank: usize) -> Result<AnyLayer, String> {
    Ok(AnyLayer::layer(SpatialDropout { rate, data_format, rank }))
}

/// Drops whole channels.
struct SpatialDropout {
    rate: f64,
    data_format: Option<DataFormat>,
    rank: usize,
}

impl Layer for SpatialDropout {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let image = Image::of(b, x, self.rank, self.data_format)?;
        let y = drop(b, &image.rows, "feature_dropout", self.rate)?;
        Ok(image.back(b, &y))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rescaling {
    scale: f64,
    #[serde(default)]
    offset: f64,
}

impl Layer for Rescaling {
    /// Makes floats of integers, such as the bytes of an image.
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let mut y = x.clone();
        if !x.dtype.is_float() {
            let args = vec![("self", Arg::Tensor(x.value)), ("dtype", Arg::Dtype(DType::Float32))];
            y = b.call("cast", "_to_copy", args, x.shape.clone());
        }
        y = scalar(b, &y, "", "mul.Scalar", self.scale);
        Ok(if self.offset == 0.0 { y } else { scalar(b, &y, "offset", "add.Scalar", self.offset) })
    }
}
