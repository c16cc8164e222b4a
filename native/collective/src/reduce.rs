//! The arithmetic: `right = left ∘ right`, element by element, over bytes of any alignment.
//!
//! Elements are read and written as arrays of bytes, which compilers turn into unaligned vector loads: no alignment is
//! asked of anybody's memory, and no unsafe code is needed.

use crate::buffer::DType;

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReduceOp {
    /// The sum; integers wrap.
    Sum = 0,
    /// The largest; NaN wins.
    Max = 1,
    /// The smallest; NaN wins.
    Min = 2,
}

impl ReduceOp {
    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
        }
    }
}

/// Replaces every element of `right` by `left ∘ right`. Works on whole elements of the shorter of the two.
///
/// The order of the operands is part of the promise of bit-equal results (max of +0 and -0 depends on it).
pub(crate) fn fold(op: ReduceOp, dtype: DType, left: &[u8], right: &mut [u8]) {
    macro_rules! by_element {
        ($type:ty, $sum:expr) => {{
            const SIZE: usize = size_of::<$type>();
            let (left, right) = (left.as_chunks::<SIZE>().0, right.as_chunks_mut::<SIZE>().0);
            let pairs = left.iter().zip(right);
            match op {
                ReduceOp::Sum => {
                    each(pairs, |l, r| $sum(<$type>::from_le_bytes(l), <$type>::from_le_bytes(r)).to_le_bytes())
                }
                ReduceOp::Max => {
                    each(pairs, |l, r| max(<$type>::from_le_bytes(l), <$type>::from_le_bytes(r)).to_le_bytes())
                }
                ReduceOp::Min => {
                    each(pairs, |l, r| min(<$type>::from_le_bytes(l), <$type>::from_le_bytes(r)).to_le_bytes())
                }
            }
        }};
    }
    match dtype {
        DType::F32 => by_element!(f32, |l: f32, r: f32| l + r),
        DType::F64 => by_element!(f64, |l: f64, r: f64| l + r),
        DType::I64 => by_element!(i64, i64::wrapping_add),
        DType::U8 => by_element!(u8, u8::wrapping_add),
    }
}

fn each<'a, const SIZE: usize>(
    pairs: impl Iterator<Item = (&'a [u8; SIZE], &'a mut [u8; SIZE])>,
    combine: impl Fn([u8; SIZE], [u8; SIZE]) -> [u8; SIZE],
) {
    for (left, right) in pairs {
        *right = combine(*left, *right);
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

    fn folded(op: ReduceOp, left: f32, right: f32) -> f32 {
        let mut bytes = right.to_le_bytes();
        fold(op, DType::F32, &left.to_le_bytes(), &mut bytes);
        f32::from_le_bytes(bytes)
    }

    #[test]
    fn nan_wins_from_either_side() {
        for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min] {
            assert!(folded(op, f32::NAN, 1.0).is_nan());
            assert!(folded(op, 1.0, f32::NAN).is_nan());
        }
    }

    #[test]
    fn integers_wrap() {
        let mut bytes = [200u8, 1];
        fold(ReduceOp::Sum, DType::U8, &[100, 1], &mut bytes);
        assert_eq!(bytes, [44, 2]);
        let mut bytes = 1i64.to_le_bytes();
        fold(ReduceOp::Sum, DType::I64, &i64::MAX.to_le_bytes(), &mut bytes);
        assert_eq!(i64::from_le_bytes(bytes), i64::MIN);
    }

    #[test]
    fn memory_of_any_alignment_is_folded() {
        let floats: Vec<u8> = (0..40).flat_map(|i| (i as f32).to_le_bytes()).collect();
        for shift in 0..4 {
            let mut memory = vec![0u8; shift];
            memory.extend_from_slice(&floats);
            fold(ReduceOp::Sum, DType::F32, &floats, &mut memory[shift..]);
            let expected: Vec<u8> = (0..40).flat_map(|i| (2.0 * i as f32).to_le_bytes()).collect();
            assert_eq!(memory[shift..], expected);
        }
    }
}
