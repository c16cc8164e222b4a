//! What the codes are: a block of numbers as one scale and a few bits each, and back.
//!
//! A chunk is cut into blocks of [`BLOCK`] elements with a scale (f32) of their own. [`Codec::Int8`]: the scale is
//! max |v| / 127, the code round(v / scale), ties to even. [`Codec::OneBit`]: the scale is the mean of |v|, the code is
//! the sign. A block of zeros stays a block of zeros.
//!
//! The loops go over arrays of fixed width, so that the compiler makes vector code of them.

/// Elements that share a scale.
pub(super) const BLOCK: usize = 2048;

/// How numbers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// One byte each: 4 times smaller.
    Int8,
    /// One bit each: 32 times smaller.
    OneBit,
}

/// Whether decompressed numbers replace what is there or are added to it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fill {
    Set,
    Add,
}

impl Codec {
    /// Bytes that the codes of `elements` take.
    pub(super) fn bytes(self, elements: usize) -> usize {
        match self {
            Codec::Int8 => elements,
            Codec::OneBit => elements.div_ceil(8),
        }
    }

    /// The scale of a block, of which [`largest`] is known.
    pub(super) fn scale(self, values: &[f32], largest: f32) -> f32 {
        match self {
            Codec::Int8 => scale_int8(largest),
            Codec::OneBit => mean(values),
        }
    }

    /// Compresses a block.
    pub(super) fn pack(self, values: &[f32], scale: f32, bits: &mut [u8]) {
        match self {
            Codec::Int8 => pack_int8(values, scale, bits),
            Codec::OneBit => pack_signs(values, bits),
        }
    }

    /// Decompresses a block.
    pub(super) fn expand(self, scale: f32, bits: &[u8], values: &mut [f32], fill: Fill) {
        match (self, fill) {
            (Codec::Int8, Fill::Set) => expand_int8(scale, bits, values, |_, new| new),
            (Codec::Int8, Fill::Add) => expand_int8(scale, bits, values, |old, new| old + new),
            (Codec::OneBit, Fill::Set) => expand_signs(scale, bits, values, |_, new| new),
            (Codec::OneBit, Fill::Add) => expand_signs(scale, bits, values, |old, new| old + new),
        }
    }
}

/// max |v|; not finite when some v is not.
pub(super) fn largest(values: &[f32]) -> f32 {
    // As integers the absolute values have the order of the numbers, with infinity and then NaN above all.
    let mut lanes = [0i32; 16];
    let (rows, rest) = values.as_chunks::<16>();
    let magnitude = |value: &f32| value.abs().to_bits().cast_signed();
    for row in rows {
        for (lane, value) in lanes.iter_mut().zip(row) {
            *lane = (*lane).max(magnitude(value));
        }
    }
    let rest = rest.iter().map(magnitude).max().unwrap_or(0);
    f32::from_bits(lanes.into_iter().max().unwrap_or(0).max(rest).cast_unsigned())
}

/// The mean of |v|. In f64, so that it neither overflows nor depends on more than these lanes.
fn mean(values: &[f32]) -> f32 {
    let mut lanes = [0f64; 8];
    let (rows, rest) = values.as_chunks::<8>();
    for row in rows {
        for (lane, value) in lanes.iter_mut().zip(row) {
            *lane += f64::from(value.abs());
        }
    }
    let sum = lanes.iter().sum::<f64>() + rest.iter().map(|value| f64::from(value.abs())).sum::<f64>();
    if values.is_empty() { 0.0 } else { (sum / values.len() as f64) as f32 }
}

fn scale_int8(largest: f32) -> f32 {
    let scale = largest / 127.0;
    // Rounded up near the largest f32 of all, the code 127 would stand for infinity.
    if (scale * 127.0).is_finite() { scale } else { scale.next_down() }
}

/// Added to a number below 2^22, it leaves the number rounded to nearest even in the low bits. Rust's `round_ties_even`
/// is a call per element where SSE 4.1 may not be assumed.
const TO_INTEGER: f32 = 12_582_912.0;

fn pack_int8(values: &[f32], scale: f32, bits: &mut [u8]) {
    // Numbers so small that their scale is zero are left to the residual.
    if scale == 0.0 {
        bits.fill(0);
        return;
    }
    for (value, code) in values.iter().zip(bits) {
        let ratio = value / scale;
        // A subnormal scale is too coarse to have been rounded well: hence the bounds.
        let ratio = if ratio > 127.0 { 127.0 } else { ratio };
        let ratio = if ratio < -127.0 { -127.0 } else { ratio };
        *code = (ratio + TO_INTEGER).to_bits() as u8;
    }
}

/// Element i is bit i % 8 of byte i / 8, set if negative.
fn pack_signs(values: &[f32], bits: &mut [u8]) {
    let (rows, rest) = values.as_chunks::<8>();
    for (row, byte) in rows.iter().zip(&mut *bits) {
        // Eight bytes of 0 or 1; the product gathers them in the topmost byte, the first lowest.
        let signs = u64::from_le_bytes(row.map(|value| (value.to_bits() >> 31) as u8));
        *byte = (signs.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    if let (Some(byte), false) = (bits.get_mut(rows.len()), rest.is_empty()) {
        *byte = rest.iter().rev().fold(0, |byte, value| byte << 1 | (value.to_bits() >> 31) as u8);
    }
}

#[inline(always)]
fn expand_int8(scale: f32, bits: &[u8], values: &mut [f32], into: impl Fn(f32, f32) -> f32) {
    for (value, code) in values.iter_mut().zip(bits) {
        *value = into(*value, f32::from(code.cast_signed()) * scale);
    }
}

#[inline(always)]
fn expand_signs(scale: f32, bits: &[u8], values: &mut [f32], into: impl Fn(f32, f32) -> f32) {
    const MASKS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    let number = |byte: u8, mask: u32| {
        let sign = if u32::from(byte) & mask == 0 { 0 } else { 1 << 31 };
        f32::from_bits(scale.to_bits() | sign)
    };
    let (rows, rest) = values.as_chunks_mut::<8>();
    for (row, byte) in rows.iter_mut().zip(bits) {
        for (value, mask) in row.iter_mut().zip(MASKS) {
            *value = into(*value, number(*byte, mask));
        }
    }
    if let Some(byte) = bits.get(rows.len()) {
        for (value, mask) in rest.iter_mut().zip(MASKS) {
            *value = into(*value, number(*byte, mask));
        }
    }
}
