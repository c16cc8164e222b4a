//! The arithmetic: `left ∘ right`, element by element, over bytes of any alignment.
//!
//! Elements are read and written as arrays of bytes, which compilers turn into unaligned vector loads: no alignment is
//! asked of anybody's memory, and no unsafe code is needed. f16 and bf16 are widened to f32 in blocks, combined there
//! and rounded to nearest even.

use crate::buffer::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::Serialize;

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ReduceOp {
    /// The sum; integers wrap.
    Sum = 0,
    /// The largest; NaN wins.
    Max = 1,
    /// The smallest; NaN wins.
    Min = 2,
    /// The sum divided by the number of ranks, for floating-point types only. The sum is formed first, in the type
    /// itself, so it may overflow where the mean would not.
    Mean = 3,
}

impl ReduceOp {
    /// All reductions.
    pub const ALL: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min];

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Mean => "mean",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
        }
    }
}

/// Which operand the result replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    Left,
    Right,
}

/// Elements of f16 and bf16 that are widened at once: small enough for the stack and the first-level cache.
const BLOCK: usize = 512;

/// Combines every element of `more` with its counterpart in `kept`, which the result replaces. `side` says which
/// operand `kept` is. Works on whole elements of the shorter of the two.
///
/// The order of the operands is part of the promise of bit-equal results (max of +0 and -0 depends on it).
pub(crate) fn fold(op: ReduceOp, dtype: DType, kept: &mut [u8], more: &[u8], side: Into) {
    macro_rules! by_element {
        ($type:ty, $sum:expr) => {{
            const SIZE: usize = size_of::<$type>();
            let pairs = more.as_chunks::<SIZE>().0.iter().zip(kept.as_chunks_mut::<SIZE>().0);
            let ordered = |kept: [u8; SIZE], more: [u8; SIZE], combine: fn($type, $type) -> $type| {
                let (kept, more) = (<$type>::from_le_bytes(kept), <$type>::from_le_bytes(more));
                match side {
                    Into::Left => combine(kept, more),
                    Into::Right => combine(more, kept),
                }
                .to_le_bytes()
            };
            match op {
                ReduceOp::Sum | ReduceOp::Mean => each(pairs, |k, m| ordered(k, m, $sum)),
                ReduceOp::Max => each(pairs, |k, m| ordered(k, m, max)),
                ReduceOp::Min => each(pairs, |k, m| ordered(k, m, min)),
            }
        }};
    }
    macro_rules! by_block {
        ($type:ty) => {{
            let (kept, more) = (kept.as_chunks_mut::<2>().0, more.as_chunks::<2>().0);
            for (kept, more) in kept.chunks_mut(BLOCK).zip(more.chunks(BLOCK)) {
                let count = kept.len().min(more.len());
                let (mut narrow, mut ours, mut theirs) = ([<$type>::ZERO; BLOCK], [0f32; BLOCK], [0f32; BLOCK]);
                let (narrow, ours, theirs) =
                    (first(&mut narrow, count), first(&mut ours, count), first(&mut theirs, count));
                narrow.iter_mut().zip(&*kept).for_each(|(to, from)| *to = <$type>::from_le_bytes(*from));
                narrow.convert_to_f32_slice(ours);
                narrow.iter_mut().zip(more).for_each(|(to, from)| *to = <$type>::from_le_bytes(*from));
                narrow.convert_to_f32_slice(theirs);
                fold_f32(op, ours, theirs, side);
                narrow.convert_from_f32_slice(ours);
                kept.iter_mut().zip(&*narrow).for_each(|(to, from)| *to = from.to_le_bytes());
            }
        }};
    }
    match dtype {
        DType::F32 => by_element!(f32, |l: f32, r: f32| l + r),
        DType::F64 => by_element!(f64, |l: f64, r: f64| l + r),
        DType::I32 => by_element!(i32, i32::wrapping_add),
        DType::I64 => by_element!(i64, i64::wrapping_add),
        DType::U8 => by_element!(u8, u8::wrapping_add),
        DType::F16 => by_block!(f16),
        DType::BF16 => by_block!(bf16),
    }
}

/// The first `count` elements, of at least so many.
pub(crate) fn first<T>(elements: &mut [T], count: usize) -> &mut [T] {
    elements.get_mut(..count).unwrap_or_default()
}

/// Divides every element by `world` when the reduction is a mean. Done once, by whoever has formed the whole sum.
pub(crate) fn finish(op: ReduceOp, dtype: DType, sum: &mut [u8], world: usize) {
    if op != ReduceOp::Mean {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "a world has far fewer than 2^24 ranks")]
    let divisor = world as f32;
    match dtype {
        DType::F32 => map(sum, |x| (f32::from_le_bytes(x) / divisor).to_le_bytes()),
        DType::F64 => map(sum, |x| (f64::from_le_bytes(x) / f64::from(divisor)).to_le_bytes()),
        DType::F16 => map(sum, |x| f16::from_f32(f16::from_le_bytes(x).to_f32() / divisor).to_le_bytes()),
        DType::BF16 => map(sum, |x| bf16::from_f32(bf16::from_le_bytes(x).to_f32() / divisor).to_le_bytes()),
        // Refused when the operation was started.
        DType::I32 | DType::I64 | DType::U8 => {}
    }
}

fn map<const SIZE: usize>(bytes: &mut [u8], with: impl Fn([u8; SIZE]) -> [u8; SIZE]) {
    bytes.as_chunks_mut::<SIZE>().0.iter_mut().for_each(|element| *element = with(*element));
}

fn fold_f32(op: ReduceOp, kept: &mut [f32], more: &[f32], side: Into) {
    let combine: fn(f32, f32) -> f32 = match op {
        ReduceOp::Sum | ReduceOp::Mean => |l, r| l + r,
        ReduceOp::Max => max,
        ReduceOp::Min => min,
    };
    for (kept, more) in kept.iter_mut().zip(more) {
        *kept = if side == Into::Left { combine(*kept, *more) } else { combine(*more, *kept) };
    }
}

fn each<'a, const SIZE: usize>(
    pairs: impl Iterator<Item = (&'a [u8; SIZE], &'a mut [u8; SIZE])>,
    combine: impl Fn([u8; SIZE], [u8; SIZE]) -> [u8; SIZE],
) {
    for (more, kept) in pairs {
        *kept = combine(*kept, *more);
    }
}

/// The larger; a NaN on either side wins (`x != x` is how a NaN shows itself, also for types that have none).
#[allow(clippy::eq_op, reason = "x != x is the test for NaN that also compiles for integers")]
fn max<T: PartialOrd + Copy>(left: T, right: T) -> T {
    if left > right || left != left { left } else { right }
}

#[allow(clippy::eq_op, reason = "x != x is the test for NaN that also compiles for integers")]
fn min<T: PartialOrd + Copy>(left: T, right: T) -> T {
    if left < right || left != left { left } else { right }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(op: ReduceOp, left: f32, right: f32) -> [f32; 2] {
        [Into::Right, Into::Left].map(|side| {
            let (mut kept, more) = if side == Into::Right { (right, left) } else { (left, right) }.into_bytes();
            fold(op, DType::F32, &mut kept, &more, side);
            f32::from_le_bytes(kept)
        })
    }

    trait IntoBytes {
        fn into_bytes(self) -> ([u8; 4], [u8; 4]);
    }

    impl IntoBytes for (f32, f32) {
        fn into_bytes(self) -> ([u8; 4], [u8; 4]) {
            (self.0.to_le_bytes(), self.1.to_le_bytes())
        }
    }

    #[test]
    fn nan_wins_from_either_side() {
        for op in ReduceOp::ALL {
            assert!(folded(op, f32::NAN, 1.0).iter().all(|result| result.is_nan()));
            assert!(folded(op, 1.0, f32::NAN).iter().all(|result| result.is_nan()));
        }
    }

    #[test]
    fn the_order_of_the_operands_does_not_depend_on_which_of_them_is_kept() {
        for (left, right) in [(0.0f32, -0.0f32), (-0.0, 0.0), (1.0, 2.0)] {
            for op in ReduceOp::ALL {
                let [a, b] = folded(op, left, right);
                assert_eq!(a.to_bits(), b.to_bits(), "{op:?} {left} {right}");
            }
        }
    }

    #[test]
    fn integers_wrap() {
        let mut bytes = [200u8, 1];
        fold(ReduceOp::Sum, DType::U8, &mut bytes, &[100, 1], Into::Right);
        assert_eq!(bytes, [44, 2]);
        let mut bytes = 1i64.to_le_bytes();
        fold(ReduceOp::Sum, DType::I64, &mut bytes, &i64::MAX.to_le_bytes(), Into::Right);
        assert_eq!(i64::from_le_bytes(bytes), i64::MIN);
        let mut bytes = 1i32.to_le_bytes();
        fold(ReduceOp::Sum, DType::I32, &mut bytes, &i32::MAX.to_le_bytes(), Into::Left);
        assert_eq!(i32::from_le_bytes(bytes), i32::MIN);
    }

    #[test]
    fn half_floats_are_summed_in_f32_and_rounded_to_nearest_even() {
        // More elements than a block has, and not a multiple of it.
        let count = 2 * BLOCK + 37;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 - 300.0) * 0.37).collect();
        let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        let mut kept: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let more: Vec<u8> = halves.iter().rev().flat_map(|half| half.to_le_bytes()).collect();
        fold(ReduceOp::Sum, DType::F16, &mut kept, &more, Into::Left);
        for (i, sum) in kept.as_chunks::<2>().0.iter().enumerate() {
            let expected = f16::from_f32(halves[i].to_f32() + halves[count - 1 - i].to_f32());
            assert_eq!(f16::from_le_bytes(*sum).to_bits(), expected.to_bits());
        }
        let mut kept = bf16::from_f32(1.0).to_le_bytes();
        // 1 + 2^-8 lies exactly between two bf16; the even one is 1.
        fold(ReduceOp::Sum, DType::BF16, &mut kept, &bf16::from_f32(1.0 / 256.0).to_le_bytes(), Into::Right);
        assert_eq!(bf16::from_le_bytes(kept), bf16::ONE);
    }

    #[test]
    fn a_mean_is_the_sum_divided_once() {
        let mut sum: Vec<u8> = [1.0f32, 10.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        finish(ReduceOp::Mean, DType::F32, &mut sum, 3);
        let expected: Vec<u8> = [1.0f32 / 3.0, 10.0 / 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(sum, expected);
        let before = sum.clone();
        finish(ReduceOp::Sum, DType::F32, &mut sum, 3);
        assert_eq!(sum, before);
    }

    #[test]
    fn memory_of_any_alignment_is_folded() {
        let floats: Vec<u8> = (0..40).flat_map(|i| (i as f32).to_le_bytes()).collect();
        for shift in 0..4 {
            let mut memory = vec![0u8; shift];
            memory.extend_from_slice(&floats);
            fold(ReduceOp::Sum, DType::F32, &mut memory[shift..], &floats, Into::Right);
            let expected: Vec<u8> = (0..40).flat_map(|i| (2.0 * i as f32).to_le_bytes()).collect();
            assert_eq!(memory[shift..], expected);
        }
    }
}
