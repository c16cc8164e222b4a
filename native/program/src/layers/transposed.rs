//! Transposed convolutions, which make an image larger.

use serde::Deserialize;

use super::activation::Activation;
use super::build::{Build, Built, Rows, Weight};
use super::convolution::{Image, kernel_order, pad, with_channels};
use super::initial::Initializer;
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{DataFormat, Padding, Sizes, positive, yes};
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "conv1dTranspose",
        class: "Conv1DTranspose",
        read: |s| Ok(AnyLayer::layer(Transposed { rank: 1, settings: s.read()? })),
    },
    Kind {
        name: "conv2dTranspose",
        class: "Conv2DTranspose",
        read: |s| Ok(AnyLayer::layer(Transposed { rank: 2, settings: s.read()? })),
    },
    Kind {
        name: "conv3dTranspose",
        class: "Conv3DTranspose",
        read: |s| Ok(AnyLayer::layer(Transposed { rank: 3, settings: s.read()? })),
    },
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TransposedSettings {
    filters: i64,
    kernel_size: Sizes,
    #[serde(default = "Sizes::one")]
    strides: Sizes,
    #[serde(default)]
    padding: Padding,
    #[serde(default)]
    output_padding: Option<Sizes>,
    #[serde(default)]
    data_format: Option<DataFormat>,
    #[serde(default = "Sizes::one")]
    dilation_rate: Sizes,
    #[serde(default)]
    activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

struct Transposed {
    rank: usize,
    settings: TransposedSettings,
}

impl Layer for Transposed {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let (s, rank) = (&self.settings, self.rank);
        positive("filters", s.filters)?;
        if s.padding == Padding::Causal {
            return Err("padding is causal, it must be valid or same".into());
        }
        let image = Image::of(b, x, rank, s.data_format)?;
        let kernel = s.kernel_size.positive("kernelSize", rank)?;
        let strides = s.strides.positive("strides", rank)?;
        let dilation = s.dilation_rate.positive("dilationRate", rank)?;
        let extra = match &s.output_padding {
            None => vec![None; rank],
            Some(extra) => {
                let extra = extra.of_rank("outputPadding", rank)?;
                if let Some((extra, stride)) =
                    extra.iter().zip(&strides).find(|(extra, stride)| !(0..**stride).contains(*extra))
                {
                    return Err(
                        format!("outputPadding is {extra}, it must be from 0 and below the stride, {stride}").into()
                    );
                }
                extra.into_iter().map(Some).collect()
            }
        };
        let too_large = "the result is too large";
        // What ATen gives without padding, and what Keras cuts off it or adds to it.
        let mut natural = Vec::new();
        let mut cuts = Vec::new();
        for ((((&size, &window), &stride), &dilation), extra) in
            image.spatial().iter().zip(&kernel).zip(&strides).zip(&dilation).zip(extra)
        {
            let reach = (window - 1).checked_mul(dilation).and_then(|reach| reach.checked_add(1)).ok_or(too_large)?;
            let full = (size - 1).checked_mul(stride).and_then(|steps| steps.checked_add(reach)).ok_or(too_large)?;
            full.checked_add(stride).ok_or(too_large)?;
            let (before, after) = cut(s.padding, reach, stride, extra);
            if full - before - after <= 0 {
                return Err("nothing of the result is left".into());
            }
            natural.push(full);
            cuts.push((before, after));
        }

        // In Keras the kernel is (window, filters, channels): its last two axes change places for ATen.
        let (order, keras) =
            (kernel_order(rank), kernel.iter().copied().chain([s.filters, image.channels()]).collect());
        let weight = b.parameter(&Weight::kernel("weight", keras, &order, &s.kernel_initializer))?;
        let bias = b.optional(s.use_bias, &Weight::vector("bias", s.filters, &s.bias_initializer))?;
        // ATen cuts both sides alike, and what it adds at the end it has no say over.
        let even = cuts.iter().all(|&(before, after)| before == after && before >= 0);
        let padding: Vec<i64> = cuts.iter().map(|&(before, _)| if even { before } else { 0 }).collect();
        let sizes = natural.iter().zip(&padding).map(|(full, cut)| full - 2 * cut);
        let shape = with_channels(s.filters, sizes);
        let args = vec![
            ("input", Arg::Tensor(image.rows.value)),
            ("weight", weight),
            ("bias", if even { bias.clone() } else { Arg::None }),
            ("stride", Arg::Ints(strides)),
            ("padding", Arg::Ints(padding)),
            ("output_padding", Arg::Ints(vec![0; rank])),
            ("groups", Arg::Int(1)),
            ("dilation", Arg::Ints(dilation)),
        ];
        let op = if rank == 1 { "conv_transpose1d".to_owned() } else { format!("conv_transpose{rank}d.input") };
        let mut y = b.call("", &op, args, shape);
        if !even {
            let margins: Vec<_> = cuts.iter().map(|&(before, after)| (-before, -after)).collect();
            y = pad(b, &y, &margins);
        }
        if let (false, Arg::Tensor(_)) = (even, &bias) {
            // With the channels last a bias needs no shape of its own.
            let last: Vec<usize> = (1..=rank).chain([0]).collect();
            let first: Vec<usize> = std::iter::once(rank).chain(0..rank).collect();
            let turned = b.permute(&y, &last);
            let args = vec![("self", Arg::Tensor(turned.value)), ("other", bias)];
            let sum = b.call("add", "add.Tensor", args, turned.shape.clone());
            y = b.permute(&sum, &first);
        }
        let y = image.back(b, &y);
        Ok(s.activation.apply(b, &y))
    }
}

/// What Keras cuts off the full result at either end; below 0 it adds zeros.
fn cut(padding: Padding, reach: i64, stride: i64, extra: Option<i64>) -> (i64, i64) {
    if padding != Padding::Same {
        return (0, -extra.unwrap_or_else(|| reach.max(stride) - reach));
    }
    // The padding of the convolution that this is the transpose of.
    let total = match extra {
        None => stride + reach - 2,
        Some(extra) => reach + reach % 2 - 2 + extra,
    };
    let left = (total / 2 + total % 2).min(reach - 1);
    (reach - 1 - left, reach - 1 - (total - left))
}
