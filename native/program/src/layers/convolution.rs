//! Convolutions over one, two and three dimensions, plain, by channel and separable.

use serde::Deserialize;

use super::activation::{Activation, floats};
use super::build::{Build, Built, Rows, Weight};
use super::initial::Initializer;
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{DataFormat, Padding, Sizes, positive, yes};
use crate::ir::Arg;

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "conv1d", class: "Conv1D", read: |s| Ok(AnyLayer::layer(Conv { rank: 1, settings: s.read()? })) },
    Kind { name: "conv2d", class: "Conv2D", read: |s| Ok(AnyLayer::layer(Conv { rank: 2, settings: s.read()? })) },
    Kind { name: "conv3d", class: "Conv3D", read: |s| Ok(AnyLayer::layer(Conv { rank: 3, settings: s.read()? })) },
    Kind {
        name: "depthwiseConv1d",
        class: "DepthwiseConv1D",
        read: |s| Ok(AnyLayer::layer(Depthwise { rank: 1, settings: s.read()? })),
    },
    Kind {
        name: "depthwiseConv2d",
        class: "DepthwiseConv2D",
        read: |s| Ok(AnyLayer::layer(Depthwise { rank: 2, settings: s.read()? })),
    },
    Kind {
        name: "separableConv1d",
        class: "SeparableConv1D",
        read: |s| Ok(AnyLayer::layer(Separable { rank: 1, settings: s.read()? })),
    },
    Kind {
        name: "separableConv2d",
        class: "SeparableConv2D",
        read: |s| Ok(AnyLayer::layer(Separable { rank: 2, settings: s.read()? })),
    },
];

/// Rows seen with their channels first, as ATen wants them. It is a view: nothing is copied.
pub(super) struct Image {
    pub(super) rows: Rows,
    format: DataFormat,
}

impl Image {
    /// `rank` counts the dimensions beside the channels.
    pub(super) fn of(b: &mut Build, x: &Rows, rank: usize, format: Option<DataFormat>) -> Built<Self> {
        floats(x)?;
        let format = format.unwrap_or(b.data_format);
        if x.shape.len() != rank + 1 {
            let axes = match rank {
                1 => "steps",
                2 => "height, width",
                _ => "depth, height, width",
            };
            return Err(match format {
                DataFormat::ChannelsLast => format!("a row must be ({axes}, channels)"),
                DataFormat::ChannelsFirst => format!("a row must be (channels, {axes})"),
            }
            .into());
        }
        let order: Vec<usize> = match format {
            DataFormat::ChannelsLast => std::iter::once(rank).chain(0..rank).collect(),
            DataFormat::ChannelsFirst => (0..=rank).collect(),
        };
        Ok(Self { rows: b.permute(x, &order), format })
    }

    pub(super) fn channels(&self) -> i64 {
        self.rows.shape.first().copied().unwrap_or(0)
    }

    pub(super) fn spatial(&self) -> &[i64] {
        self.rows.shape.get(1..).unwrap_or_default()
    }

    /// What became of the rows, with the channels where they were.
    pub(super) fn back(&self, b: &mut Build, y: &Rows) -> Rows {
        match self.format {
            DataFormat::ChannelsLast => {
                let order: Vec<usize> = (1..y.shape.len()).chain([0]).collect();
                b.permute(y, &order)
            }
            DataFormat::ChannelsFirst => y.clone(),
        }
    }

    /// For a message: what a window that is too large may mean.
    pub(super) fn too_small(&self, what: &str, window: &[i64]) -> String {
        let order = match self.format {
            DataFormat::ChannelsLast => "channels last",
            DataFormat::ChannelsFirst => "channels first",
        };
        format!("the {what} {window:?} is larger than the {:?} it moves over (shapes are {order} here)", self.spatial())
    }
}

/// Channels and the dimensions beside them.
pub(super) fn with_channels(channels: i64, spatial: impl IntoIterator<Item = i64>) -> Vec<i64> {
    std::iter::once(channels).chain(spatial).collect()
}

/// A window that moves along one dimension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// Padding before the image.
    pub(super) before: i64,
    /// Padding after the image.
    pub(super) after: i64,
    /// Size of the result.
    pub(super) size: i64,
}

impl Axis {
    /// `None` if the window does not fit.
    pub(super) fn new(padding: Padding, size: i64, window: i64, stride: i64, dilation: i64) -> Option<Self> {
        let reach = (window - 1).checked_mul(dilation)?.checked_add(1)?;
        let steps = (size - 1) / stride;
        match padding {
            Padding::Valid => (reach <= size).then(|| Self { before: 0, after: 0, size: (size - reach) / stride + 1 }),
            Padding::Same => {
                // As many results as steps fit into the image; the padding that takes goes half before, the odd one after.
                let total = steps.checked_mul(stride)?.checked_add(reach)?.saturating_sub(size).max(0);
                size.checked_add(total)?;
                Some(Self { before: total / 2, after: total - total / 2, size: steps + 1 })
            }
            Padding::Causal => {
                size.checked_add(reach)?;
                Some(Self { before: reach - 1, after: 0, size: steps + 1 })
            }
        }
    }

    /// All axes of an image; `None` if the window does not fit one.
    pub(super) fn all(
        padding: Padding,
        spatial: &[i64],
        window: &[i64],
        strides: &[i64],
        dilation: &[i64],
    ) -> Option<Vec<Self>> {
        let settings = window.iter().zip(strides).zip(dilation);
        let axis = |(&size, ((&window, &stride), &dilation))| Self::new(padding, size, window, stride, dilation);
        spatial.iter().zip(settings).map(axis).collect()
    }
}

/// A window's settings, checked, and what it makes of an image.
struct Windows {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilation: Vec<i64>,
    axes: Vec<Axis>,
}

impl Windows {
    fn new(image: &Image, kernel: &Sizes, strides: &Sizes, dilation: &Sizes, padding: Padding) -> Built<Self> {
        let rank = image.spatial().len();
        let kernel = kernel.positive("kernelSize", rank)?;
        let strides = strides.positive("strides", rank)?;
        let dilation = dilation.positive("dilationRate", rank)?;
        if padding == Padding::Causal && rank != 1 {
            return Err("padding is causal, which only a convolution over one dimension can be".into());
        }
        if strides.iter().any(|&stride| stride > 1) && dilation.iter().any(|&rate| rate > 1) {
            return Err("strides and dilationRate are both above 1, which Keras does not allow".into());
        }
        let axes = Axis::all(padding, image.spatial(), &kernel, &strides, &dilation);
        let axes = axes.ok_or_else(|| image.too_small("kernel", &kernel))?;
        Ok(Self { kernel, strides, dilation, axes })
    }

    /// Keras' shape of a kernel over these windows.
    fn keras(&self, input: i64, output: i64) -> Vec<i64> {
        self.kernel.iter().copied().chain([input, output]).collect()
    }

    /// Moves the windows over the image.
    fn convolve(&self, b: &mut Build, x: &Rows, filters: i64, groups: i64, weight: Arg, bias: Arg) -> Built {
        let mut x = x.clone();
        // ATen pads both sides alike; Keras' "same" may need one more at the end.
        let mut padding: Vec<i64> = self.axes.iter().map(|axis| axis.before).collect();
        if self.axes.iter().any(|axis| axis.before != axis.after) {
            padding.fill(0);
            x = pad(b, &x, &self.axes.iter().map(|axis| (axis.before, axis.after)).collect::<Vec<_>>());
        }
        let shape = with_channels(filters, self.axes.iter().map(|axis| axis.size));
        let args = vec![
            ("input", Arg::Tensor(x.value)),
            ("weight", weight),
            ("bias", bias),
            ("stride", Arg::Ints(self.strides.clone())),
            ("padding", Arg::Ints(padding)),
            ("dilation", Arg::Ints(self.dilation.clone())),
            ("groups", Arg::Int(groups)),
        ];
        Ok(b.call("", &format!("conv{}d", self.axes.len()), args, shape))
    }
}

/// Zeros around an image with its channels first; margins below 0 cut.
pub(super) fn pad(b: &mut Build, x: &Rows, margins: &[(i64, i64)]) -> Rows {
    // ATen wants the last dimension first.
    let pads = margins.iter().rev().flat_map(|&(before, after)| [before, after]).collect();
    let (channels, spatial) = x.shape.split_first().map_or((0, &[][..]), |(&channels, spatial)| (channels, spatial));
    // Whoever pads has checked the sums.
    let padded =
        spatial.iter().zip(margins).map(|(size, (before, after))| size.saturating_add(*before).saturating_add(*after));
    let shape = with_channels(channels, padded);
    let args = vec![("self", Arg::Tensor(x.value)), ("pad", Arg::Ints(pads)), ("value", Arg::Float(0.0))];
    b.call_typed("pad", "constant_pad_nd", args, shape, x.dtype)
}

/// The axes of Keras' kernel in ATen's order: output, input, then the window.
pub(super) fn kernel_order(rank: usize) -> Vec<usize> {
    [rank + 1, rank].into_iter().chain(0..rank).collect()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConvSettings {
    filters: i64,
    kernel_size: Sizes,
    #[serde(default = "Sizes::one")]
    strides: Sizes,
    #[serde(default)]
    padding: Padding,
    #[serde(default)]
    data_format: Option<DataFormat>,
    #[serde(default = "Sizes::one")]
    dilation_rate: Sizes,
    #[serde(default = "one")]
    groups: i64,
    #[serde(default)]
    activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    kernel_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

pub(super) fn one() -> i64 {
    1
}

struct Conv {
    rank: usize,
    settings: ConvSettings,
}

impl Layer for Conv {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let s = &self.settings;
        positive("filters", s.filters)?;
        positive("groups", s.groups)?;
        let image = Image::of(b, x, self.rank, s.data_format)?;
        let channels = image.channels();
        for (name, number) in [("the channels", channels), ("filters", s.filters)] {
            if number % s.groups != 0 {
                return Err(format!("{name} are {number}, which {} groups cannot share", s.groups).into());
            }
        }
        let windows = Windows::new(&image, &s.kernel_size, &s.strides, &s.dilation_rate, s.padding)?;
        let order = kernel_order(self.rank);
        let keras = windows.keras(channels / s.groups, s.filters);
        let weight = b.parameter(&Weight::kernel("weight", keras, &order, &s.kernel_initializer))?;
        let bias = b.optional(s.use_bias, &Weight::vector("bias", s.filters, &s.bias_initializer))?;
        let y = windows.convolve(b, &image.rows, s.filters, s.groups, weight, bias)?;
        let y = image.back(b, &y);
        Ok(s.activation.apply(b, &y))
    }
}

/// Keras' kernel of a convolution by channel, (window, channels, multiplier), in ATen's order.
fn depthwise_order(rank: usize) -> Vec<usize> {
    [rank, rank + 1].into_iter().chain(0..rank).collect()
}

/// The weight of a convolution by channel, and how many channels come out.
fn depthwise<'a>(
    name: &'a str,
    windows: &Windows,
    channels: i64,
    multiplier: i64,
    order: &'a [usize],
    initializer: &'a Initializer,
) -> Result<(Weight<'a>, i64), String> {
    positive("depthMultiplier", multiplier)?;
    let outputs = channels.checked_mul(multiplier).ok_or("depthMultiplier is too large")?;
    let sizes = [outputs, 1].into_iter().chain(windows.kernel.iter().copied()).collect();
    Ok((Weight::kernel(name, windows.keras(channels, multiplier), order, initializer).seen_as(sizes), outputs))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DepthwiseSettings {
    kernel_size: Sizes,
    #[serde(default = "Sizes::one")]
    strides: Sizes,
    #[serde(default)]
    padding: Padding,
    #[serde(default = "one")]
    depth_multiplier: i64,
    #[serde(default)]
    data_format: Option<DataFormat>,
    #[serde(default = "Sizes::one")]
    dilation_rate: Sizes,
    #[serde(default)]
    activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    depthwise_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

struct Depthwise {
    rank: usize,
    settings: DepthwiseSettings,
}

impl Layer for Depthwise {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let s = &self.settings;
        not_causal(s.padding)?;
        let image = Image::of(b, x, self.rank, s.data_format)?;
        let windows = Windows::new(&image, &s.kernel_size, &s.strides, &s.dilation_rate, s.padding)?;
        let (channels, order) = (image.channels(), depthwise_order(self.rank));
        let (weight, outputs) =
            depthwise("weight", &windows, channels, s.depth_multiplier, &order, &s.depthwise_initializer)?;
        let weight = b.parameter(&weight)?;
        let bias = b.optional(s.use_bias, &Weight::vector("bias", outputs, &s.bias_initializer))?;
        let y = windows.convolve(b, &image.rows, outputs, channels, weight, bias)?;
        let y = image.back(b, &y);
        Ok(s.activation.apply(b, &y))
    }
}

fn not_causal(padding: Padding) -> Result<(), String> {
    if padding == Padding::Causal { Err("padding is causal, it must be valid or same".into()) } else { Ok(()) }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SeparableSettings {
    filters: i64,
    kernel_size: Sizes,
    #[serde(default = "Sizes::one")]
    strides: Sizes,
    #[serde(default)]
    padding: Padding,
    #[serde(default)]
    data_format: Option<DataFormat>,
    #[serde(default = "Sizes::one")]
    dilation_rate: Sizes,
    #[serde(default = "one")]
    depth_multiplier: i64,
    #[serde(default)]
    activation: Activation,
    #[serde(default = "yes")]
    use_bias: bool,
    #[serde(default = "Initializer::glorot_uniform")]
    depthwise_initializer: Initializer,
    #[serde(default = "Initializer::glorot_uniform")]
    pointwise_initializer: Initializer,
    #[serde(default = "Initializer::zeros")]
    bias_initializer: Initializer,
}

/// By channel, then over the channels of each point.
struct Separable {
    rank: usize,
    settings: SeparableSettings,
}

impl Layer for Separable {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let s = &self.settings;
        positive("filters", s.filters)?;
        let image = Image::of(b, x, self.rank, s.data_format)?;
        let windows = Windows::new(&image, &s.kernel_size, &s.strides, &s.dilation_rate, s.padding)?;
        let (channels, order) = (image.channels(), depthwise_order(self.rank));
        let (weight, outputs) =
            depthwise("depthwise", &windows, channels, s.depth_multiplier, &order, &s.depthwise_initializer)?;
        let weight = b.parameter(&weight)?;
        let deep = windows.convolve(b, &image.rows, outputs, channels, weight, Arg::None)?;

        let order = kernel_order(self.rank);
        let keras = std::iter::repeat_n(1, self.rank).chain([outputs, s.filters]).collect();
        let weight = b.parameter(&Weight::kernel("pointwise", keras, &order, &s.pointwise_initializer))?;
        let bias = b.optional(s.use_bias, &Weight::vector("bias", s.filters, &s.bias_initializer))?;
        let spatial: Vec<i64> = deep.shape.iter().skip(1).copied().collect();
        let ones = vec![1; self.rank];
        let axes = spatial.iter().map(|&size| Axis { before: 0, after: 0, size }).collect();
        let points = Windows { kernel: ones.clone(), strides: ones.clone(), dilation: ones, axes };
        let y = points.convolve(b, &deep, s.filters, 1, weight, bias)?;
        let y = image.back(b, &y);
        Ok(s.activation.apply(b, &y))
    }
}
