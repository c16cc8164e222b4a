//! The largest or the mean of windows, or of all there is.

use serde::Deserialize;

use super::build::{Build, Built, Rows, dim_of};
use super::convolution::{Axis, Image, with_channels};
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{DataFormat, Padding, Sizes};
use crate::ir::Arg;

/// What becomes of the numbers in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Max,
    Mean,
}

macro_rules! windows {
    ($name:literal, $class:literal, $pool:expr, $rank:literal) => {
        Kind {
            name: $name,
            class: $class,
            read: |s| Ok(AnyLayer::layer(Windowed { pool: $pool, rank: $rank, settings: s.read()? })),
        }
    };
}

macro_rules! global {
    ($name:literal, $class:literal, $pool:expr, $rank:literal) => {
        Kind {
            name: $name,
            class: $class,
            read: |s| Ok(AnyLayer::layer(Global { pool: $pool, rank: $rank, settings: s.read()? })),
        }
    };
}

pub(super) const KINDS: &[Kind] = &[
    windows!("maxPooling1d", "MaxPooling1D", Pool::Max, 1),
    windows!("maxPooling2d", "MaxPooling2D", Pool::Max, 2),
    windows!("maxPooling3d", "MaxPooling3D", Pool::Max, 3),
    windows!("averagePooling1d", "AveragePooling1D", Pool::Mean, 1),
    windows!("averagePooling2d", "AveragePooling2D", Pool::Mean, 2),
    windows!("averagePooling3d", "AveragePooling3D", Pool::Mean, 3),
    global!("globalMaxPooling1d", "GlobalMaxPooling1D", Pool::Max, 1),
    global!("globalMaxPooling2d", "GlobalMaxPooling2D", Pool::Max, 2),
    global!("globalMaxPooling3d", "GlobalMaxPooling3D", Pool::Max, 3),
    global!("globalAveragePooling1d", "GlobalAveragePooling1D", Pool::Mean, 1),
    global!("globalAveragePooling2d", "GlobalAveragePooling2D", Pool::Mean, 2),
    global!("globalAveragePooling3d", "GlobalAveragePooling3D", Pool::Mean, 3),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WindowSettings {
    #[serde(default = "two")]
    pool_size: Sizes,
    /// As far as the window is long, if not given.
    #[serde(default)]
    strides: Option<Sizes>,
    #[serde(default)]
    padding: Padding,
    #[serde(default)]
    data_format: Option<DataFormat>,
}

fn two() -> Sizes {
    Sizes::All(2)
}

struct Windowed {
    pool: Pool,
    rank: usize,
    settings: WindowSettings,
}

impl Layer for Windowed {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let (s, rank) = (&self.settings, self.rank);
        if s.padding == Padding::Causal {
            return Err("padding is causal, it must be valid or same".into());
        }
        let image = Image::of(b, x, rank, s.data_format)?;
        let window = s.pool_size.positive("poolSize", rank)?;
        let strides = s.strides.as_ref().unwrap_or(&s.pool_size).positive("strides", rank)?;
        let dilation = vec![1; rank];
        let axes = Axis::all(s.padding, image.spatial(), &window, &strides, &dilation);
        let axes = axes.ok_or_else(|| image.too_small("window", &window))?;
        let mut x = image.rows.clone();
        let mut padding: Vec<i64> = axes.iter().map(|axis| axis.before).collect();
        if axes.iter().any(|axis| axis.before != axis.after) {
            padding.fill(0);
            x = repeat_edges(b, &x, &axes);
        }
        let shape = with_channels(image.channels(), axes.iter().map(|axis| axis.size));
        let mut args = vec![
            ("self", Arg::Tensor(x.value)),
            ("kernel_size", Arg::Ints(window)),
            ("stride", Arg::Ints(strides)),
            ("padding", Arg::Ints(padding)),
        ];
        let name = match self.pool {
            Pool::Max => {
                args.extend([("dilation", Arg::Ints(dilation)), ("ceil_mode", Arg::Bool(false))]);
                "max_pool"
            }
            Pool::Mean => {
                args.extend([("ceil_mode", Arg::Bool(false)), ("count_include_pad", Arg::Bool(false))]);
                "avg_pool"
            }
        };
        let y = b.call("", &format!("{name}{rank}d"), args, shape);
        Ok(image.back(b, &y))
    }
}

/// What Keras does over PyTorch where "same" needs more padding at the end than at the start: the edge once more.
fn repeat_edges(b: &mut Build, x: &Rows, axes: &[Axis]) -> Rows {
    let pads = axes.iter().rev().flat_map(|axis| [axis.before, axis.after]).collect();
    let channels = x.shape.first().copied().unwrap_or(0);
    let padded = x.shape.iter().skip(1).zip(axes).map(|(size, axis)| size + axis.before + axis.after);
    let shape = with_channels(channels, padded);
    let args = vec![("self", Arg::Tensor(x.value)), ("padding", Arg::Ints(pads))];
    b.call("pad", &format!("replication_pad{}d", axes.len()), args, shape)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GlobalSettings {
    #[serde(default)]
    data_format: Option<DataFormat>,
    #[serde(default)]
    keepdims: bool,
}

struct Global {
    pool: Pool,
    rank: usize,
    settings: GlobalSettings,
}

impl Layer for Global {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let image = Image::of(b, x, self.rank, self.settings.data_format)?;
        let dims = (1..=self.rank).map(dim_of).collect();
        let keepdims = self.settings.keepdims;
        let ones = if keepdims { vec![1; self.rank] } else { Vec::new() };
        let shape = with_channels(image.channels(), ones);
        let args =
            vec![("self", Arg::Tensor(image.rows.value)), ("dim", Arg::Ints(dims)), ("keepdim", Arg::Bool(keepdims))];
        let op = if self.pool == Pool::Max { "amax" } else { "mean.dim" };
        let y = b.call("", op, args, shape);
        Ok(if keepdims { image.back(b, &y) } else { y })
    }
}
