//! The arithmetic of operations on their way: what becomes of bytes that have come, and how whole contributions are
//! added up.

use super::plan::{Act, Seat};
use crate::buffer::DType;
use crate::operation::{Kind, Operation, Wire, chunk_range};
use crate::reduce::{self, Into, ReduceOp, fold};
use crate::wire;

/// Does with the bytes that have come what the block asks for.
pub(super) fn apply(operation: Operation, act: Act, narrow: bool, kept: &mut [u8], come: &[u8], size: usize) {
    let op = match operation.kind {
        Kind::AllReduce(op) | Kind::ReduceScatter(op) => op,
        _ => ReduceOp::Sum,
    };
    let (last, side) = match act {
        Act::Store if narrow => return wire::unpack(operation.wire, come, kept),
        Act::Store => return kept.copy_from_slice(come),
        Act::FoldLeft { last } => (last, Into::Right),
        Act::FoldRight { last } => (last, Into::Left),
    };
    if narrow {
        wire::add(operation.wire, come, kept);
    } else {
        fold(op, operation.dtype, kept, come, side);
    }
    if last {
        reduce::finish(op, operation.dtype, kept, size);
        if narrow {
            wire::round(operation.wire, kept);
        }
    }
}

/// All ranks' contributions as they travel, this rank's filled in.
pub(super) fn contribution(wire: Wire, bytes: &[u8], each: usize, seat: Seat) -> Vec<u8> {
    let mut items = vec![0; each * seat.size];
    if let Some(own) = items.get_mut(seat.rank * each..(seat.rank + 1) * each) {
        if wire == Wire::Full {
            own.copy_from_slice(bytes);
        } else {
            wire::pack(wire, bytes, own);
        }
    }
    items
}

/// Adds the contributions up, chunk c from rank c on around, and puts the result into `result`.
pub(super) fn add_up(op: ReduceOp, dtype: DType, items: &[u8], each: usize, size: usize, result: &mut [u8]) {
    for first in 0..size {
        let range = chunk_range(each / dtype.size(), dtype.size(), size, first);
        let Some(sum) = result.get_mut(range.clone()) else { return };
        for step in 0..size {
            let item = (first + step) % size * each;
            let Some(part) = items.get(item + range.start..item + range.end) else { return };
            if step == 0 {
                sum.copy_from_slice(part);
            } else {
                fold(op, dtype, sum, part, Into::Left);
            }
        }
        reduce::finish(op, dtype, sum, size);
    }
}

/// The same where the contributions are narrow: the sum is formed in f32, and rounded in the end.
pub(super) fn add_up_narrow(op: ReduceOp, wire: Wire, items: &[u8], each: usize, size: usize, result: &mut [u8]) {
    let elements = each / wire::NARROW;
    for first in 0..size {
        let narrow = chunk_range(elements, wire::NARROW, size, first);
        let Some(sum) = result.get_mut(chunk_range(elements, wire::BROAD, size, first)) else { return };
        for step in 0..size {
            let item = (first + step) % size * each;
            let Some(part) = items.get(item + narrow.start..item + narrow.end) else { return };
            if step == 0 {
                wire::unpack(wire, part, sum);
            } else {
                wire::add(wire, part, sum);
            }
        }
        reduce::finish(op, DType::F32, sum, size);
        wire::round(wire, sum);
    }
}
