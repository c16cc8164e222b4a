//! Pictures as rows of a tensor: PNG and JPEG files or plain pixels, brought to a size and a number of channels.
//!
//! What comes out is `height * width * channels` bytes, row by row from the top, the channels of a pixel side by side (RGB).
//!
//! * **Decoding** is the `image` crate's. The orientation that a camera noted (EXIF) is not applied, as in Pillow's `open`
//!   and torchvision's `decode_image`. Sixteen bits per value become eight.
//! * **Channels**: grey from colour is ITU-R 601's luma, as Pillow's mode `L` has it; colour from grey repeats it; an alpha
//!   channel is dropped where none is wanted, and opaque where none was.
//! * **Resizing** is bilinear with antialiasing: a triangle as wide as the scale, which is Pillow's and torchvision's
//!   `BILINEAR` (with `antialias=True`). A picture that has the size already is left as it is. The proportions are not kept.
//!
//! A picture that would take more than [`MOST_BYTES`] is refused before it is decoded.
//!
//! ```
//! use kindling_images::{Channels, Size, from_pixels};
//! // Two grey pixels become four.
//! let wide = from_pixels(&[10, 30], Size { height: 1, width: 2 }, 1, Size { height: 1, width: 4 }, Channels::Grey)?;
//! assert_eq!(wide, [10, 15, 25, 30]);
//! # Ok::<(), kindling_images::Error>(())
//! ```

use std::io::Cursor;

use image::imageops::{FilterType, resize};
use image::{DynamicImage, GrayImage, ImageReader, Limits, RgbImage, RgbaImage};

/// Memory that one decoded picture may take: a file of a few bytes can claim to be as large as it likes.
pub const MOST_BYTES: u64 = 512 << 20;

/// What is wrong with a picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes begin like no format that is read.
    #[error("is neither PNG nor JPEG ({bytes} bytes)")]
    Format {
        /// How many bytes there are.
        bytes: usize,
    },
    /// The file is cut off, damaged, or too large.
    #[error("cannot be decoded: {0}")]
    Broken(#[from] image::ImageError),
    /// Pixels that are not what they are said to be.
    #[error("holds {found} bytes, but {height} x {width} pixels of {channels} channels are {expected}")]
    Pixels {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: u64,
        /// Rows of pixels.
        height: u32,
        /// Pixels in a row.
        width: u32,
        /// Bytes of a pixel.
        channels: u8,
    },
    /// A picture without pixels, or with a number of channels that has no meaning here.
    #[error("has {height} x {width} pixels of {channels} channels: at least one pixel of 1, 3 or 4 channels is needed")]
    Shape {
        /// Rows of pixels.
        height: u32,
        /// Pixels in a row.
        width: u32,
        /// Bytes of a pixel.
        channels: u8,
    },
}

/// How large a picture is, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Pixels in a row.
    pub width: u32,
}

/// The channels that a picture is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// One: luma.
    Grey,
    /// Three: red, green, blue.
    Rgb,
    /// Four: red, green, blue, alpha.
    Rgba,
}

impl Channels {
    /// By their number.
    pub fn of(count: u8) -> Option<Channels> {
        match count {
            1 => Some(Channels::Grey),
            3 => Some(Channels::Rgb),
            4 => Some(Channels::Rgba),
            _ => None,
        }
    }
}

/// A PNG or JPEG file.
pub fn from_file(bytes: &[u8], size: Size, channels: Channels) -> Result<Vec<u8>, Error> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|source| Error::Broken(image::ImageError::IoError(source)))?;
    if reader.format().is_none() {
        return Err(Error::Format { bytes: bytes.len() });
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let picture = match reader.decode() {
        Ok(picture) => picture,
        // A format that is known by its first bytes, but not read.
        Err(image::ImageError::Unsupported(_)) if !is_read(bytes) => return Err(Error::Format { bytes: bytes.len() }),
        Err(error) => return Err(Error::Broken(error)),
    };
    Ok(to_size(picture, size, channels))
}

/// Pixels as they lie, row by row from the top, red first, of `from` pixels with `depth` bytes each.
pub fn from_pixels(pixels: &[u8], from: Size, depth: u8, size: Size, channels: Channels) -> Result<Vec<u8>, Error> {
    let Size { height, width } = from;
    let expected = u64::from(height).saturating_mul(u64::from(width)).saturating_mul(u64::from(depth));
    let held = Channels::of(depth).filter(|_| expected > 0).ok_or(Error::Shape { height, width, channels: depth })?;
    let wrong = || Error::Pixels { found: pixels.len(), expected, height, width, channels: depth };
    if u64::try_from(pixels.len()).ok() != Some(expected) {
        return Err(wrong());
    }
    let copy = pixels.to_vec();
    let picture = match held {
        Channels::Grey => GrayImage::from_raw(width, height, copy).map(DynamicImage::ImageLuma8),
        Channels::Rgb => RgbImage::from_raw(width, height, copy).map(DynamicImage::ImageRgb8),
        Channels::Rgba => RgbaImage::from_raw(width, height, copy).map(DynamicImage::ImageRgba8),
    };
    Ok(to_size(picture.ok_or_else(wrong)?, size, channels))
}

fn is_read(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG") || bytes.starts_with(&[0xff, 0xd8, 0xff])
}

fn to_size(picture: DynamicImage, size: Size, channels: Channels) -> Vec<u8> {
    let Size { height, width } = size;
    let fits = picture.width() == width && picture.height() == height;
    match channels {
        Channels::Grey => {
            let grey = grey(picture);
            if fits { grey } else { resize(&grey, width, height, FilterType::Triangle) }.into_raw()
        }
        Channels::Rgb => {
            let rgb = picture.into_rgb8();
            if fits { rgb } else { resize(&rgb, width, height, FilterType::Triangle) }.into_raw()
        }
        Channels::Rgba => {
            let rgba = picture.into_rgba8();
            if fits { rgba } else { resize(&rgba, width, height, FilterType::Triangle) }.into_raw()
        }
    }
}

/// Luma by ITU-R 601, where the `image` crate weighs by 709.
fn grey(picture: DynamicImage) -> GrayImage {
    if !picture.color().has_color() {
        return picture.into_luma8();
    }
    let rgb = picture.into_rgb8();
    let (width, height) = rgb.dimensions();
    let luma = |pixel: &image::Rgb<u8>| {
        let [red, green, blue] = pixel.0.map(u32::from);
        // 0.299, 0.587 and 0.114 in parts of 65536, rounded: at most 255.
        u8::try_from((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).unwrap_or(u8::MAX)
    };
    let mut grey = GrayImage::new(width, height);
    grey.pixels_mut().zip(rgb.pixels()).for_each(|(out, pixel)| out.0 = [luma(pixel)]);
    grey
}

#[cfg(test)]
mod tests;
