//! What a communicator of the fake does once all its ranks have enqueued an operation.

#![allow(unsafe_code, reason = "works on the memory that it is given")]

use crate::buffer::DType;
use crate::reduce::{Into, ReduceOp, finish, fold};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::ptr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct OperationId(pub(super) u64, pub(super) usize);

#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    AllReduce { memory: usize, count: usize, dtype: c_int, op: c_int },
    Reduce { memory: usize, count: usize, dtype: c_int, op: c_int, root: c_int },
    ReduceScatter { from: usize, to: usize, count: usize, dtype: c_int, op: c_int },
    AllGather { from: usize, to: usize, count: usize, dtype: c_int },
    Broadcast { memory: usize, count: usize, dtype: c_int, root: c_int },
    Send { memory: usize, count: usize, dtype: c_int, peer: c_int },
    Receive { memory: usize, count: usize, dtype: c_int, peer: c_int },
}

#[derive(Default)]
pub(super) struct World {
    pub(super) size: usize,
    pub(super) joined: BTreeSet<usize>,
    /// What each rank has enqueued, in order.
    pub(super) enqueued: BTreeMap<usize, Vec<Vec<Call>>>,
    pub(super) done: usize,
    pub(super) dead: bool,
}

impl World {
    pub(super) fn carry_out(&mut self) {
        while !self.dead {
            let calls: Vec<&Vec<Call>> = self.enqueued.values().filter_map(|own| own.get(self.done)).collect();
            if calls.len() < self.size || !carry_out(&calls) {
                return;
            }
            self.done += 1;
        }
    }
}

/// One operation of all ranks; false where the ranks' calls do not fit together, on which NCCL would hang.
fn carry_out(ranks: &[&Vec<Call>]) -> bool {
    if matches!(ranks[0].first(), Some(Call::Send { .. } | Call::Receive { .. })) {
        return transfers(ranks);
    }
    let same =
        |a: &Call, b: &Call| std::mem::discriminant(a) == std::mem::discriminant(b) && source(a).1 == source(b).1;
    let fits = ranks.iter().all(|calls| {
        calls.len() == ranks[0].len() && calls.iter().zip(ranks[0]).all(|(call, first)| same(call, first))
    });
    if fits {
        for index in 0..ranks[0].len() {
            collective(&ranks.iter().map(|calls| calls[index]).collect::<Vec<_>>());
        }
    }
    fits
}

/// Where a call reads, how many elements, and their type.
fn source(call: &Call) -> (usize, usize, c_int) {
    match *call {
        Call::AllReduce { memory, count, dtype, .. }
        | Call::Reduce { memory, count, dtype, .. }
        | Call::Broadcast { memory, count, dtype, .. }
        | Call::Send { memory, count, dtype, .. }
        | Call::Receive { memory, count, dtype, .. } => (memory, count, dtype),
        Call::ReduceScatter { from, count, dtype, .. } | Call::AllGather { from, count, dtype, .. } => {
            (from, count, dtype)
        }
    }
}

fn transfers(ranks: &[&Vec<Call>]) -> bool {
    // What is received would run into what is still to be sent.
    let span = |call: &Call| {
        let (memory, count, number) = source(call);
        memory..memory + count * dtype(number).size()
    };
    for calls in ranks {
        let (sends, receives): (Vec<&Call>, Vec<&Call>) =
            calls.iter().partition(|call| matches!(call, Call::Send { .. }));
        for (send, receive) in sends.iter().flat_map(|send| receives.iter().map(move |receive| (send, receive))) {
            let (send, receive) = (span(send), span(receive));
            if send.start < receive.end && receive.start < send.end {
                return false;
            }
        }
    }
    let mut sent: BTreeMap<(usize, usize), Vec<Vec<u8>>> = BTreeMap::new();
    for (rank, calls) in ranks.iter().enumerate() {
        for call in *calls {
            if let Call::Send { memory, count, dtype, peer } = *call {
                let bytes = bytes(memory, count, dtype).to_vec();
                sent.entry((rank, usize::try_from(peer).unwrap())).or_default().push(bytes);
            }
        }
    }
    for (rank, calls) in ranks.iter().enumerate() {
        for call in *calls {
            if let Call::Receive { memory, count, dtype, peer } = *call {
                let from = sent.get_mut(&(usize::try_from(peer).unwrap(), rank));
                let Some(come) = from.filter(|come| !come.is_empty()).map(|come| come.remove(0)) else { return false };
                let to = bytes(memory, count, dtype);
                if come.len() != to.len() {
                    return false;
                }
                to.copy_from_slice(&come);
            }
        }
    }
    true
}

fn collective(calls: &[Call]) {
    let world = calls.len();
    let read = |call: &Call, times: usize| {
        let (memory, count, dtype) = source(call);
        bytes(memory, count * times, dtype).to_vec()
    };
    let write = |call: &Call, result: &[u8]| {
        let (memory, count, dtype) = source(call);
        bytes(memory, count, dtype).copy_from_slice(result);
    };
    let root = |root: c_int| &calls[usize::try_from(root).unwrap()];
    match calls[0] {
        Call::AllReduce { op, .. } => {
            let result = reduced(calls, op, |call| read(call, 1));
            calls.iter().for_each(|call| write(call, &result));
        }
        Call::Reduce { op, root: number, .. } => write(root(number), &reduced(calls, op, |call| read(call, 1))),
        Call::ReduceScatter { op, .. } => {
            let result = reduced(calls, op, |call| read(call, world));
            for (rank, call) in calls.iter().enumerate() {
                if let Call::ReduceScatter { to, count, dtype, .. } = *call {
                    let part = bytes(to, count, dtype);
                    part.copy_from_slice(&result[rank * part.len()..][..part.len()]);
                }
            }
        }
        Call::AllGather { .. } => {
            let all: Vec<u8> = calls.iter().flat_map(|call| read(call, 1)).collect();
            for call in calls {
                if let Call::AllGather { to, count, dtype, .. } = *call {
                    bytes(to, count * world, dtype).copy_from_slice(&all);
                }
            }
        }
        Call::Broadcast { root: number, .. } => {
            let given = read(root(number), 1);
            calls.iter().for_each(|call| write(call, &given));
        }
        Call::Send { .. } | Call::Receive { .. } => {}
    }
}

fn reduced(calls: &[Call], op: c_int, read: impl Fn(&Call) -> Vec<u8>) -> Vec<u8> {
    let dtype = dtype(source(&calls[0]).2);
    let op = match op {
        0 => ReduceOp::Sum,
        2 => ReduceOp::Max,
        3 => ReduceOp::Min,
        4 => ReduceOp::Mean,
        _ => panic!("a reduction that NCCL does not have"),
    };
    let mut result = read(&calls[0]);
    calls.iter().skip(1).for_each(|call| fold(op, dtype, &mut result, &read(call), Into::Left));
    finish(op, dtype, &mut result, calls.len());
    result
}

fn dtype(number: c_int) -> DType {
    match number {
        1 => DType::U8,
        2 => DType::I32,
        4 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        9 => DType::BF16,
        _ => panic!("a type that NCCL does not have"),
    }
}

fn bytes(memory: usize, count: usize, number: c_int) -> &'static mut [u8] {
    // SAFETY: the groups under test keep a buffer until the operation is over or aborted; a dead world carries nothing
    // out.
    unsafe { std::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(memory), count * dtype(number).size()) }
}
