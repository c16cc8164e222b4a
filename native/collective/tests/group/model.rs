//! What operations come to, computed the plain way in one place: to compare with.

#![allow(clippy::panic, reason = "a test fails by panicking, also in its helpers")]

use half::{bf16, f16};
use kindling_collective::{DType, ReduceOp, chunk};

/// What a type can be reduced by: a mean of integers would be cut off.
pub(crate) fn reductions(dtype: DType) -> Vec<ReduceOp> {
    ReduceOp::ALL.into_iter().filter(|op| dtype.is_float() || *op != ReduceOp::Mean).collect()
}

/// A rank's values: sums of them depend on the order of summation, and signs and sizes vary.
pub(crate) fn values(rank: usize, length: usize, dtype: DType) -> Vec<u8> {
    const SCALES: [f64; 7] = [1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(rank as u64 + 1);
    let mut bytes = Vec::with_capacity(length * dtype.size());
    for _ in 0..length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 16) as i64;
        let real = (value % 2_000_003 - 1_000_001) as f64 * SCALES[(value % 7) as usize];
        match dtype {
            DType::F32 => bytes.extend_from_slice(&(real as f32).to_le_bytes()),
            DType::F64 => bytes.extend_from_slice(&real.to_le_bytes()),
            // f16 ends at 65504.
            DType::F16 => bytes.extend_from_slice(&f16::from_f64(real / 1e6).to_le_bytes()),
            DType::BF16 => bytes.extend_from_slice(&bf16::from_f64(real).to_le_bytes()),
            DType::I32 => bytes.extend_from_slice(&(value.wrapping_mul(value) as i32).to_le_bytes()),
            DType::I64 => bytes.extend_from_slice(&value.wrapping_mul(value).to_le_bytes()),
            DType::U8 => bytes.push(value as u8),
        }
    }
    bytes
}

fn pick<T: PartialOrd>(op: ReduceOp, left: T, right: T, sum: fn(T, T) -> T) -> T {
    match op {
        ReduceOp::Sum | ReduceOp::Mean => sum(left, right),
        ReduceOp::Max if left > right => left,
        ReduceOp::Min if left < right => left,
        ReduceOp::Max | ReduceOp::Min => right,
    }
}

/// `sum = sum ∘ more`, element by element: the plain way, to compare with.
pub(crate) fn combine(sum: &mut [u8], more: &[u8], dtype: DType, op: ReduceOp) {
    macro_rules! by {
        ($type:ty, $add:expr) => {
            for (l, r) in sum.chunks_mut(dtype.size()).zip(more.chunks(dtype.size())) {
                let (left, right) =
                    (<$type>::from_le_bytes((&*l).try_into().unwrap()), <$type>::from_le_bytes(r.try_into().unwrap()));
                l.copy_from_slice(&pick(op, left, right, $add).to_le_bytes());
            }
        };
    }
    match dtype {
        DType::F32 => by!(f32, |l: f32, r: f32| l + r),
        DType::F64 => by!(f64, |l: f64, r: f64| l + r),
        DType::F16 => by!(f16, |l: f16, r: f16| f16::from_f32(l.to_f32() + r.to_f32())),
        DType::BF16 => by!(bf16, |l: bf16, r: bf16| bf16::from_f32(l.to_f32() + r.to_f32())),
        DType::I32 => by!(i32, i32::wrapping_add),
        DType::I64 => by!(i64, i64::wrapping_add),
        DType::U8 => by!(u8, u8::wrapping_add),
    }
}

/// `sum / world`, element by element.
fn divide(sum: &mut [u8], dtype: DType, world: usize) {
    for element in sum.chunks_mut(dtype.size()) {
        let bytes = &*element;
        let quotient = match dtype {
            DType::F32 => (f32::from_le_bytes(bytes.try_into().unwrap()) / world as f32).to_le_bytes().to_vec(),
            DType::F64 => (f64::from_le_bytes(bytes.try_into().unwrap()) / world as f64).to_le_bytes().to_vec(),
            DType::F16 => {
                let sum = f16::from_le_bytes(bytes.try_into().unwrap());
                f16::from_f32(sum.to_f32() / world as f32).to_le_bytes().to_vec()
            }
            DType::BF16 => {
                let sum = bf16::from_le_bytes(bytes.try_into().unwrap());
                bf16::from_f32(sum.to_f32() / world as f32).to_le_bytes().to_vec()
            }
            DType::I32 | DType::I64 | DType::U8 => panic!("no mean of integers"),
        };
        element.copy_from_slice(&quotient);
    }
}

/// The bytes of a chunk.
pub(crate) fn part(length: usize, dtype: DType, world: usize, number: usize) -> std::ops::Range<usize> {
    let range = chunk(length, world, number);
    range.start * dtype.size()..range.end * dtype.size()
}

/// The promised result: chunk c is x_c + x_(c+1) + … around the ranks.
pub(crate) fn expected(world: usize, length: usize, dtype: DType, op: ReduceOp) -> Vec<u8> {
    let inputs: Vec<Vec<u8>> = (0..world).map(|rank| values(rank, length, dtype)).collect();
    let mut result = Vec::with_capacity(length * dtype.size());
    for number in 0..world {
        let range = part(length, dtype, world, number);
        let mut sum = inputs[number][range.clone()].to_vec();
        for step in 1..world {
            combine(&mut sum, &inputs[(number + step) % world][range.clone()], dtype, op);
        }
        if op == ReduceOp::Mean {
            divide(&mut sum, dtype, world);
        }
        result.extend_from_slice(&sum);
    }
    result
}
