//! The contract of every transport: results, order, mismatches. One suite, run over all of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::*;
use kindling_collective::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const OPS: [ReduceOp; 3] = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min];
const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::I64, DType::U8];

/// A rank's values: sums of them depend on the order of summation, and signs and sizes vary.
fn values(rank: usize, length: usize, dtype: DType) -> Vec<u8> {
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
            DType::I64 => bytes.extend_from_slice(&value.wrapping_mul(value).to_le_bytes()),
            DType::U8 => bytes.push(value as u8),
        }
    }
    bytes
}

/// `sum = sum ∘ more`, element by element: the plain way, to compare with.
fn combine(sum: &mut [u8], more: &[u8], dtype: DType, op: ReduceOp) {
    macro_rules! by {
        ($type:ty, $add:expr) => {
            for (l, r) in sum.chunks_mut(dtype.size()).zip(more.chunks(dtype.size())) {
                let (left, right) =
                    (<$type>::from_le_bytes((&*l).try_into().unwrap()), <$type>::from_le_bytes(r.try_into().unwrap()));
                let result: $type = match op {
                    ReduceOp::Sum => $add(left, right),
                    ReduceOp::Max => {
                        if left > right {
                            left
                        } else {
                            right
                        }
                    }
                    ReduceOp::Min => {
                        if left < right {
                            left
                        } else {
                            right
                        }
                    }
                };
                l.copy_from_slice(&result.to_le_bytes());
            }
        };
    }
    match dtype {
        DType::F32 => by!(f32, |l: f32, r: f32| l + r),
        DType::F64 => by!(f64, |l: f64, r: f64| l + r),
        DType::I64 => by!(i64, i64::wrapping_add),
        DType::U8 => by!(u8, u8::wrapping_add),
    }
}

/// The promised result: chunk c is x_c + x_(c+1) + … around the ranks.
fn expected(world: usize, length: usize, dtype: DType, op: ReduceOp) -> Vec<u8> {
    let inputs: Vec<Vec<u8>> = (0..world).map(|rank| values(rank, length, dtype)).collect();
    let (each, more) = (length / world, length % world);
    let mut result = Vec::with_capacity(length * dtype.size());
    for chunk in 0..world {
        let from = result.len();
        let to = from + (each + usize::from(chunk < more)) * dtype.size();
        let mut sum = inputs[chunk][from..to].to_vec();
        for step in 1..world {
            combine(&mut sum, &inputs[(chunk + step) % world][from..to], dtype, op);
        }
        result.extend_from_slice(&sum);
    }
    result
}

fn all_reduce_everything(transport: Transport, world: usize, lengths: &[usize]) {
    let cases: Vec<(usize, DType, ReduceOp)> = lengths
        .iter()
        .flat_map(|length| DTYPES.map(|dtype| OPS.map(|op| (*length, dtype, op))).into_iter().flatten())
        .collect();
    let expectations: Vec<Vec<u8>> =
        cases.iter().map(|(length, dtype, op)| expected(world, *length, *dtype, *op)).collect();
    ranks(transport, world, |group| {
        for ((length, dtype, op), expectation) in cases.iter().zip(&expectations) {
            let mine = buffer(values(group.rank(), *length, *dtype), *dtype);
            let result = bytes(group.start_all_reduce(mine, *op).unwrap().wait().unwrap());
            assert!(result == *expectation, "{transport:?} {op:?} of {length} {dtype:?} in a world of {world}");
        }
    });
}

#[test]
fn every_reduction_has_the_promised_bits_on_every_rank_of_either_transport() {
    for transport in BOTH {
        for world in 1..=5 {
            // The last two, as f32, lie on both sides of the change from whole contributions to chunks.
            let change = 256 * 1024 / size_of::<f32>() / world;
            all_reduce_everything(transport, world, &[0, 1, 2, 3, 7, 1000, change, change + 1]);
        }
        all_reduce_everything(transport, 9, &[0, 1, 8, 9, 10, 1000, 5000]);
    }
}

#[test]
fn long_buffers_that_no_chunk_count_divides_are_reduced_exactly() {
    for transport in BOTH {
        for world in [2, 3, 5] {
            all_reduce_everything(transport, world, &[100_003]);
        }
    }
}

#[test]
fn a_buffer_far_larger_than_all_socket_buffers_passes() {
    let length = 3_000_001;
    let expectation = expected(2, length, DType::F32, ReduceOp::Sum);
    for transport in BOTH {
        ranks(transport, 2, |group| {
            let mine = buffer(values(group.rank(), length, DType::F32), DType::F32);
            let result = bytes(group.start_all_reduce(mine, ReduceOp::Sum).unwrap().wait().unwrap());
            assert!(result == expectation, "{transport:?}");
        });
    }
}

#[test]
fn a_broadcast_gives_every_rank_the_roots_bytes() {
    for transport in BOTH {
        for world in [1, 2, 3, 5] {
            ranks(transport, world, |group| {
                for root in 0..world {
                    for length in [0, 1, 7, 300_001] {
                        let mine = buffer(values(group.rank(), length, DType::U8), DType::U8);
                        let result = bytes(group.start_broadcast(mine, root).unwrap().wait().unwrap());
                        assert!(result == values(root, length, DType::U8), "{transport:?} {world} {root} {length}");
                    }
                }
            });
        }
    }
}

#[test]
fn a_gather_gives_every_rank_all_bytes_in_rank_order_whatever_their_lengths() {
    for transport in BOTH {
        for world in [1, 2, 3, 5, 9] {
            ranks(transport, world, |group| {
                for scale in [0, 1, 1000, 100_001] {
                    let part = |rank: usize| values(rank, (rank * rank % 4) * scale, DType::U8);
                    let parts = group.start_all_gather(part(group.rank())).unwrap().wait().unwrap();
                    assert!(parts == (0..world).map(part).collect::<Vec<_>>(), "{transport:?} {world} {scale}");
                }
            });
        }
    }
}

#[test]
fn nobody_passes_a_barrier_before_everybody_has_come() {
    for transport in BOTH {
        for world in 1..=5 {
            let came = AtomicUsize::new(0);
            ranks(transport, world, |group| {
                for round in 1..=50 {
                    came.fetch_add(1, Ordering::SeqCst);
                    group.start_barrier().unwrap().wait().unwrap();
                    assert!(came.load(Ordering::SeqCst) >= round * world);
                    group.start_barrier().unwrap().wait().unwrap();
                }
            });
        }
    }
}

#[test]
fn many_operations_in_flight_finish_in_order_with_their_own_results() {
    for transport in BOTH {
        for world in [2, 3, 4] {
            ranks(transport, world, |group| {
                let rank = group.rank();
                let mut works = Vec::new();
                let mut gathers = Vec::new();
                for number in 0..120 {
                    let length = [0, 5, 3000, 20_000][number % 4] + number;
                    let mine = buffer(values(rank + number, length, DType::I64), DType::I64);
                    works.push(group.start_all_reduce(mine, ReduceOp::Sum).unwrap());
                    if number % 10 == 0 {
                        gathers.push(group.start_all_gather(vec![rank as u8; number]).unwrap());
                        works.push(group.start_barrier().unwrap());
                        works.push(
                            group.start_broadcast(buffer(vec![rank as u8; number], DType::U8), number % world).unwrap(),
                        );
                    }
                }
                for (number, gather) in gathers.into_iter().enumerate() {
                    let parts = gather.wait().unwrap();
                    assert_eq!(parts, (0..world).map(|rank| vec![rank as u8; number * 10]).collect::<Vec<_>>());
                }
                let mut works = works.into_iter();
                for number in 0..120 {
                    let length = [0, 5, 3000, 20_000][number % 4] + number;
                    let result = bytes(works.next().unwrap().wait().unwrap());
                    let sum: Vec<u8> = (0..world)
                        .map(|rank| values(rank + number, length, DType::I64))
                        .reduce(|mut sum, more| {
                            combine(&mut sum, &more, DType::I64, ReduceOp::Sum);
                            sum
                        })
                        .unwrap();
                    assert!(result == sum, "{transport:?} {world} {number}");
                    if number % 10 == 0 {
                        assert!(bytes(works.next().unwrap().wait().unwrap()).is_empty());
                        let root = (number % world) as u8;
                        assert_eq!(bytes(works.next().unwrap().wait().unwrap()), vec![root; number]);
                    }
                }
            });
        }
    }
}

#[test]
fn a_dropped_work_does_not_stop_the_operation_for_others() {
    for transport in BOTH {
        ranks(transport, 3, |group| {
            for length in [10, 100_000] {
                let work = group.start_all_reduce(buffer(vec![1; length], DType::U8), ReduceOp::Sum).unwrap();
                if group.rank() == 1 {
                    drop(work);
                } else {
                    assert!(bytes(work.wait().unwrap()).iter().all(|byte| *byte == 3));
                }
            }
            group.start_barrier().unwrap().wait().unwrap();
        });
    }
}

/// Rank 1 starts `odd`, the others `even`; everybody gets the same mismatch, now and later.
fn mismatch(
    transport: Transport,
    even: impl Fn(&dyn Communicator) -> Result<Work, Error> + Sync,
    odd: impl Fn(&dyn Communicator) -> Result<Work, Error> + Sync,
) {
    let errors = outcomes(tickets(transport, 3, LONG, LONG), |group| {
        let start = |group: &dyn Communicator| if group.rank() == 1 { odd(group) } else { even(group) };
        // The others may be so far ahead that the news of their mismatch ends this rank's connecting.
        let group = match group {
            Ok(group) => group,
            Err(error) => return error,
        };
        // A broadcast's root may be done before the others have come; then the next operation tells.
        let error = start(&*group).and_then(Work::wait).and_then(|_| group.start_barrier()?.wait()).unwrap_err();
        let later = group.start_barrier().and_then(Work::wait).unwrap_err();
        assert_eq!(later.to_string(), error.to_string());
        error
    });
    for error in errors {
        let Error::Mismatch { rank, peer, operation, peer_operation, sequence } = error else {
            panic!("{transport:?}: {error}")
        };
        assert_eq!(sequence, 1);
        assert!(rank == 1 || peer == 1, "{rank} {peer}");
        assert_ne!(operation, peer_operation);
    }
}

#[test]
fn another_length_type_reduction_root_or_operation_is_a_mismatch_that_names_both_sides() {
    let reduce = |length: usize, dtype: DType, op: ReduceOp| {
        move |group: &dyn Communicator| group.start_all_reduce(buffer(vec![0; length], dtype), op)
    };
    let broadcast =
        |root: usize| move |group: &dyn Communicator| group.start_broadcast(buffer(vec![0; 64], DType::U8), root);
    for transport in BOTH {
        mismatch(transport, reduce(64, DType::F32, ReduceOp::Sum), reduce(68, DType::F32, ReduceOp::Sum));
        mismatch(transport, reduce(80_000, DType::F32, ReduceOp::Sum), reduce(8, DType::F32, ReduceOp::Sum));
        mismatch(transport, reduce(64, DType::F64, ReduceOp::Sum), reduce(64, DType::I64, ReduceOp::Sum));
        mismatch(transport, reduce(64, DType::F32, ReduceOp::Max), reduce(64, DType::F32, ReduceOp::Min));
        mismatch(transport, broadcast(0), broadcast(2));
        mismatch(transport, reduce(64, DType::U8, ReduceOp::Sum), |group| group.start_barrier());
    }
}

#[test]
fn what_cannot_be_right_is_refused_without_harm_to_the_group() {
    for transport in BOTH {
        ranks(transport, 2, |group| {
            let torn = group.start_all_reduce(buffer(vec![0; 7], DType::F32), ReduceOp::Sum).unwrap_err();
            assert_eq!(torn.kind(), ErrorKind::Invalid);
            let root = group.start_broadcast(buffer(vec![], DType::U8), 2).unwrap_err();
            assert_eq!(root.kind(), ErrorKind::Invalid);
            group.start_barrier().unwrap().wait().unwrap();
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_length_in_any_small_world_has_the_same_bits_on_both_transports(world in 1usize..6, length in 0usize..40_000) {
        let expectation = expected(world, length, DType::F32, ReduceOp::Sum);
        for transport in BOTH {
            let results = ranks(transport, world, |group| {
                let mine = buffer(values(group.rank(), length, DType::F32), DType::F32);
                bytes(group.start_all_reduce(mine, ReduceOp::Sum).unwrap().wait().unwrap())
            });
            prop_assert!(results.iter().all(|result| *result == expectation));
        }
    }
}
