//! Layers that move elements, repeat them, add zeros around them or cut them off.

use serde::Deserialize;

use super::activation::Plain;
use super::build::{Build, Built, Rows};
use super::convolution::{Image, pad, with_channels};
use super::kinds::{AnyLayer, Kind, Layer};
use super::settings::{DataFormat, Margins, Sizes, elements, positive, product};
use crate::ir::Arg;

macro_rules! margins {
    ($name:literal, $class:literal, $rank:literal, $read:ident) => {
        Kind { name: $name, class: $class, read: |s| $read(s.read()?, $rank) }
    };
}

pub(super) const KINDS: &[Kind] = &[
    Kind { name: "flatten", class: "Flatten", read: |s| s.read::<Flatten>().map(AnyLayer::layer) },
    Kind { name: "reshape", class: "Reshape", read: |s| s.read::<Reshape>().map(AnyLayer::layer) },
    Kind { name: "permute", class: "Permute", read: |s| s.read::<Permute>().map(AnyLayer::layer) },
    Kind { name: "repeatVector", class: "RepeatVector", read: |s| s.read::<RepeatVector>().map(AnyLayer::layer) },
    margins!("zeroPadding1d", "ZeroPadding1D", 1, padding),
    margins!("zeroPadding2d", "ZeroPadding2D", 2, padding),
    margins!("zeroPadding3d", "ZeroPadding3D", 3, padding),
    margins!("cropping1d", "Cropping1D", 1, cropping),
    margins!("cropping2d", "Cropping2D", 2, cropping),
    margins!("cropping3d", "Cropping3D", 3, cropping),
    Kind { name: "upSampling1d", class: "UpSampling1D", read: |s| up_sampling(s.read()?, 1) },
    Kind { name: "upSampling2d", class: "UpSampling2D", read: |s| up_sampling(s.read()?, 2) },
    Kind { name: "upSampling3d", class: "UpSampling3D", read: |s| up_sampling(s.read()?, 3) },
    Kind { name: "identity", class: "Identity", read: |s| s.read::<Plain>().map(|_| AnyLayer::layer(Identity)) },
];

/// Whether a layer of that type changes nothing but the shape.
pub(super) fn moves_only(kind: &str) -> bool {
    Kind::named(kind)
        .is_ok_and(|kind| ["Flatten", "Reshape", "Permute", "RepeatVector", "Identity"].contains(&kind.class))
}

struct Identity;

impl Layer for Identity {
    fn build(&self, _: &mut Build, x: &Rows) -> Built {
        Ok(x.clone())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Flatten {
    #[serde(default)]
    data_format: Option<DataFormat>,
}

impl Layer for Flatten {
    /// In the order of an image with its channels last, whatever order it has.
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let flat = elements(&x.shape)?;
        let mut x = x.clone();
        if self.data_format.unwrap_or(b.data_format) == DataFormat::ChannelsFirst && x.shape.len() > 1 {
            let last: Vec<usize> = (1..x.shape.len()).chain([0]).collect();
            x = b.permute(&x, &last);
        }
        if x.shape.is_empty() {
            return Ok(b.reshape(&x, vec![1]));
        }
        let args = vec![("self", Arg::Tensor(x.value)), ("start_dim", Arg::Int(1)), ("end_dim", Arg::Int(-1))];
        Ok(b.call_typed("", "flatten.using_ints", args, vec![flat], x.dtype))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Reshape {
    target_shape: Vec<i64>,
}

impl Layer for Reshape {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let (count, target) = (elements(&x.shape)?, &self.target_shape);
        let misfit = || format!("targetShape {target:?} does not hold the {count} elements of a row");
        let known: Vec<i64> = target.iter().copied().filter(|&size| size != -1).collect();
        if known.iter().any(|&size| size <= 0) {
            return Err(misfit().into());
        }
        let held = product(&known).ok_or_else(misfit)?;
        let shape: Vec<i64> = match target.len() - known.len() {
            0 if held == count => target.clone(),
            1 if count % held == 0 => target.iter().map(|&size| if size == -1 { count / held } else { size }).collect(),
            _ => return Err(misfit().into()),
        };
        Ok(b.reshape(x, shape))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permute {
    /// The row's axes, from 1, in their new order.
    dims: Vec<i64>,
}

impl Layer for Permute {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let rank = x.shape.len();
        let order: Vec<usize> = self.dims.iter().filter_map(|&dim| usize::try_from(dim.checked_sub(1)?).ok()).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) || self.dims.len() != rank {
            return Err(format!("dims is {:?}, it must be each of a row's axes, 1 to {rank}, once", self.dims).into());
        }
        Ok(b.permute(x, &order))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepeatVector {
    n: i64,
}

impl Layer for RepeatVector {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        positive("n", self.n)?;
        let &[features] = x.shape.as_slice() else {
            return Err("a row must be one vector".into());
        };
        let args = vec![("self", Arg::Tensor(x.value)), ("dim", Arg::Int(1))];
        let one = b.call_typed("unsqueeze", "unsqueeze", args, vec![1, features], x.dtype);
        // -1 leaves a size as it is.
        let args = vec![("self", Arg::Tensor(one.value)), ("size", Arg::Ints(vec![-1, self.n, -1]))];
        Ok(b.call_typed("", "expand", args, vec![self.n, features], x.dtype))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PaddingSettings {
    #[serde(default = "one_margin")]
    padding: Margins,
    #[serde(default)]
    data_format: Option<DataFormat>,
}

fn one_margin() -> Margins {
    Margins::all(1)
}

fn padding(s: PaddingSettings, rank: usize) -> Result<AnyLayer, String> {
    let margins = s.padding.pairs("padding", rank)?;
    Ok(AnyLayer::layer(Padded { margins, data_format: s.data_format }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CroppingSettings {
    #[serde(default)]
    cropping: Option<Margins>,
    #[serde(default)]
    data_format: Option<DataFormat>,
}

fn cropping(s: CroppingSettings, rank: usize) -> Result<AnyLayer, String> {
    // Keras' default cuts nothing off an image, and one step off everything else.
    let cropping = s.cropping.unwrap_or_else(|| Margins::all(i64::from(rank != 2)));
    let margins = cropping.pairs("cropping", rank)?.iter().map(|&(before, after)| (-before, -after)).collect();
    Ok(AnyLayer::layer(Padded { margins, data_format: s.data_format }))
}

/// Zeros around an image; margins below 0 cut.
struct Padded {
    margins: Vec<(i64, i64)>,
    data_format: Option<DataFormat>,
}

impl Layer for Padded {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let image = Image::of(b, x, self.margins.len(), self.data_format)?;
        for (&size, &(before, after)) in image.spatial().iter().zip(&self.margins) {
            match size.checked_add(before).and_then(|size| size.checked_add(after)) {
                Some(size) if size > 0 => {}
                Some(_) => return Err(format!("nothing is left of the {size} that it cuts from").into()),
                None => return Err("the padding is too large".into()),
            }
        }
        let y = pad(b, &image.rows, &self.margins);
        Ok(image.back(b, &y))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Interpolation {
    #[default]
    Nearest,
    Bilinear,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpSamplingSettings {
    #[serde(default = "two")]
    size: Sizes,
    #[serde(default)]
    data_format: Option<DataFormat>,
    #[serde(default)]
    interpolation: Interpolation,
}

fn two() -> Sizes {
    Sizes::All(2)
}

fn up_sampling(s: UpSamplingSettings, rank: usize) -> Result<AnyLayer, String> {
    let factors = s.size.positive("size", rank)?;
    if rank != 2 && s.interpolation != Interpolation::Nearest {
        return Err("interpolation is for images of two dimensions: leave it out".into());
    }
    Ok(AnyLayer::layer(UpSampling { factors, data_format: s.data_format, interpolation: s.interpolation }))
}

struct UpSampling {
    factors: Vec<i64>,
    data_format: Option<DataFormat>,
    interpolation: Interpolation,
}

impl Layer for UpSampling {
    fn build(&self, b: &mut Build, x: &Rows) -> Built {
        let image = Image::of(b, x, self.factors.len(), self.data_format)?;
        let sizes = image.spatial().iter().zip(&self.factors).map(|(size, factor)| size.checked_mul(*factor));
        let sizes: Vec<i64> = sizes.collect::<Option<_>>().ok_or("size is too large")?;
        let shape = with_channels(image.channels(), sizes.iter().copied());
        let mut args = vec![("self", Arg::Tensor(image.rows.value)), ("output_size", Arg::Ints(sizes))];
        let op = match self.interpolation {
            Interpolation::Nearest => format!("upsample_nearest{}d", self.factors.len()),
            Interpolation::Bilinear => {
                args.push(("align_corners", Arg::Bool(false)));
                "upsample_bilinear2d".to_owned()
            }
        };
        let y = b.call("", &op, args, shape);
        Ok(image.back(b, &y))
    }
}
