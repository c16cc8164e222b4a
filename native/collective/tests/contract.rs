//! The contract of every transport: results, order, mismatches. One suite, run over all of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::model::{combine, expected, part, reductions, values};
use group::*;
use kindling_collective::*;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

fn all_reduce_everything(transport: Transport, world: usize, lengths: &[usize]) {
    let cases: Vec<(usize, DType, ReduceOp)> = lengths
        .iter()
        .flat_map(|length| DType::ALL.map(|dtype| (*length, dtype)))
        .flat_map(|(length, dtype)| reductions(dtype).into_iter().map(move |op| (length, dtype, op)))
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
fn every_reduction_has_the_promised_bits_on_every_rank_of_every_transport() {
    for transport in ALL {
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
    for transport in ALL {
        for world in [2, 3, 5] {
            all_reduce_everything(transport, world, &[100_003]);
        }
    }
}

#[test]
fn a_buffer_far_larger_than_all_socket_buffers_passes() {
    let length = 3_000_001;
    let expectation = expected(2, length, DType::F32, ReduceOp::Sum);
    for transport in ALL {
        ranks(transport, 2, |group| {
            let mine = buffer(values(group.rank(), length, DType::F32), DType::F32);
            let result = bytes(group.start_all_reduce(mine, ReduceOp::Sum).unwrap().wait().unwrap());
            assert!(result == expectation, "{transport:?}");
        });
    }
}

#[test]
fn a_broadcast_gives_every_rank_the_roots_bytes() {
    for transport in ALL {
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
    for transport in ALL {
        for world in [1, 2, 3, 5, 9] {
            ranks(transport, world, |group| {
                for scale in [0, 1, 1000, 100_001] {
                    let part = |rank: usize| values(rank, (rank * rank % 4) * scale, DType::U8);
                    let parts = group.start_all_gather_bytes(part(group.rank())).unwrap().wait().unwrap();
                    assert!(parts == (0..world).map(part).collect::<Vec<_>>(), "{transport:?} {world} {scale}");
                }
            });
        }
    }
}

/// Groups that share the cores, so that any thread is put aside anywhere. What is short ends with its waiter's help, what is
/// not with the progress thread's: an operation of the one kind after one of the other is handed over.
#[test]
fn no_operation_is_left_lying_however_crowded_the_machine_is() {
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                ranks(Transport::Tcp, 3, |group| {
                    for round in 0..300 {
                        let given = group.start_broadcast(buffer(vec![7; 1000], DType::U8), round % 3).unwrap();
                        assert_eq!(given.wait().unwrap().length(), 1000);
                        let parts = group.start_all_gather_bytes(vec![group.rank() as u8; 1000]).unwrap();
                        assert_eq!(parts.wait().unwrap().len(), 3);
                    }
                })
            });
        }
    });
}

#[test]
fn a_reduce_scatter_gives_rank_r_the_bits_of_chunk_r_of_an_all_reduce() {
    for transport in ALL {
        for world in 1..=5 {
            ranks(transport, world, |group| {
                let rank = group.rank();
                for length in [0, 1, world + 1, 1000, 60_001] {
                    for dtype in DType::ALL {
                        for op in reductions(dtype) {
                            let mine = buffer(values(rank, length, dtype), dtype);
                            let result = bytes(group.start_reduce_scatter(mine, op).unwrap().wait().unwrap());
                            let own = part(length, dtype, world, rank);
                            let expectation = &expected(world, length, dtype, op)[own.clone()];
                            assert!(result[own] == *expectation, "{transport:?} {world} {length} {dtype:?} {op:?}");
                        }
                    }
                }
            });
        }
    }
}

#[test]
fn an_all_gather_puts_chunk_r_of_rank_r_into_every_buffer() {
    for transport in ALL {
        for world in [1, 2, 3, 5] {
            ranks(transport, world, |group| {
                for length in [0, 1, world, 1001, 200_003] {
                    for dtype in [DType::F32, DType::F16, DType::U8] {
                        let mine = buffer(values(group.rank(), length, dtype), dtype);
                        let result = bytes(group.start_all_gather(mine).unwrap().wait().unwrap());
                        for number in 0..world {
                            let range = part(length, dtype, world, number);
                            let theirs = &values(number, length, dtype)[range.clone()];
                            assert!(result[range] == *theirs, "{transport:?} {world} {length} {number}");
                        }
                    }
                }
            });
        }
    }
}

#[test]
fn an_all_to_all_exchanges_the_chunks_of_every_two_ranks() {
    for transport in ALL {
        for world in [1, 2, 3, 5] {
            ranks(transport, world, |group| {
                let rank = group.rank();
                for each in [0, 1, 77, 100_001] {
                    let length = each * world;
                    for dtype in [DType::F64, DType::U8] {
                        let mine = buffer(values(rank, length, dtype), dtype);
                        let result = bytes(group.start_all_to_all(mine).unwrap().wait().unwrap());
                        for number in 0..world {
                            let theirs = &values(number, length, dtype)[part(length, dtype, world, rank)];
                            let come = &result[part(length, dtype, world, number)];
                            assert!(come == theirs, "{transport:?} {world} {each} {number}");
                        }
                    }
                }
                if world > 1 {
                    let uneven = group.start_all_to_all(buffer(vec![0; world + 1], DType::U8)).unwrap_err();
                    assert_eq!(uneven.kind(), ErrorKind::Invalid);
                }
            });
        }
    }
}

#[test]
fn transfers_between_all_pairs_at_once_arrive_in_order() {
    for transport in ALL {
        for world in [2, 3, 5] {
            ranks(transport, world, |group| {
                let rank = group.rank();
                let mut works = Vec::new();
                for (number, length) in [3usize, 0, 500_001, 40].into_iter().enumerate() {
                    for peer in (0..world).filter(|peer| *peer != rank) {
                        let mine = values(rank * 10 + number, length, DType::I32);
                        let sent = group.start_send(buffer(mine.clone(), DType::I32), peer).unwrap();
                        works.push((sent, mine));
                        let theirs = values(peer * 10 + number, length, DType::I32);
                        let room = buffer(vec![0; theirs.len()], DType::I32);
                        works.push((group.start_receive(room, peer).unwrap(), theirs));
                    }
                }
                for (work, expectation) in works {
                    assert!(bytes(work.wait().unwrap()) == expectation, "{transport:?} {world}");
                }
                group.start_barrier().unwrap().wait().unwrap();
            });
        }
    }
}

#[test]
fn a_transfer_of_another_length_or_type_is_a_mismatch_that_names_both_sides() {
    for transport in ALL {
        for (length, dtype) in [(64, DType::F64), (32, DType::F32)] {
            let errors = outcomes(tickets(transport, 3, LONG, LONG), |group| {
                // The others may be so far ahead that the news of their mismatch ends this rank's connecting.
                let group = match group {
                    Ok(group) => group,
                    Err(error) => return Some(error),
                };
                let work = match group.rank() {
                    0 => group.start_send(buffer(vec![0; 64], DType::F32), 1),
                    1 => group.start_receive(buffer(vec![0; length], dtype), 0),
                    _ => group.start_barrier(),
                };
                work.and_then(Work::wait).and_then(|_| group.start_barrier()?.wait()).err()
            });
            for error in errors {
                let Some(Error::Mismatch { operation, peer_operation, .. }) = error else {
                    panic!("{transport:?} {error:?}")
                };
                let kind = Kind::Transfer { from: 0, to: 1 };
                assert_eq!((operation.kind, peer_operation.kind), (kind, kind));
                assert_ne!(operation, peer_operation);
            }
        }
    }
}

#[test]
fn what_travels_as_16_bits_is_summed_in_f32_and_equal_on_all_ranks() {
    // Every hop rounds a partial sum once, and the result is rounded: at most n + 1 half units of the largest partial
    // sum, which is no larger than the sum of the absolute values.
    for transport in ALL {
        for world in [1, 2, 3, 5] {
            for (wire, unit) in [(Wire::F16, 1.0 / 2048.0), (Wire::BF16, 1.0 / 256.0)] {
                for op in [ReduceOp::Sum, ReduceOp::Mean] {
                    for length in [1, 1000, 200_003] {
                        let scaled = |rank: usize| -> Vec<f32> {
                            let bytes = values(rank, length, DType::F32);
                            bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) * 1e-5).collect()
                        };
                        let results = ranks(transport, world, |group| {
                            let mine = scaled(group.rank()).iter().flat_map(|x| x.to_le_bytes()).collect();
                            let work = group.start_all_reduce_as(buffer(mine, DType::F32), op, wire).unwrap();
                            bytes(work.wait().unwrap())
                        });
                        assert!(results.iter().all(|result| *result == results[0]), "{transport:?} {world}");
                        let inputs: Vec<Vec<f32>> = (0..world).map(scaled).collect();
                        let divisor = if op == ReduceOp::Mean { world as f64 } else { 1.0 };
                        for (i, result) in results[0].chunks(4).enumerate() {
                            let result = f64::from(f32::from_le_bytes(result.try_into().unwrap()));
                            let exact: f64 = inputs.iter().map(|x| f64::from(x[i])).sum::<f64>() / divisor;
                            let size: f64 = inputs.iter().map(|x| f64::from(x[i].abs())).sum::<f64>() / divisor;
                            // Below 2^-14 f16 has a fixed unit of 2^-24.
                            let bound = (world + 1) as f64 * (unit * size).max(6e-8);
                            assert!((result - exact).abs() <= bound, "{transport:?} {world} {wire:?} {result} {exact}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_split_makes_groups_of_their_own_in_the_order_of_the_keys() {
    for transport in ALL {
        ranks(transport, 5, |world| {
            let rank = world.rank();
            // Ranks 0, 2, 4 backwards; ranks 1, 3; then a group without rank 4.
            let half = world.split(Some(rank as u32 % 2), -(rank as i64)).unwrap().unwrap();
            let members = if rank % 2 == 0 { vec![4, 2, 0] } else { vec![3, 1] };
            assert_eq!((half.size(), members[half.rank()]), (members.len(), rank));
            let rest = world.split((rank != 4).then_some(7), 0).unwrap();
            assert_eq!(rest.as_ref().map(|rest| (rest.rank(), rest.size())), (rank != 4).then_some((rank, 4)));
            for _ in 0..3 {
                let mine = vec![1u8 << rank; 1000];
                let in_half = half.start_all_reduce(buffer(mine.clone(), DType::U8), ReduceOp::Sum).unwrap();
                let in_all = world.start_all_reduce(buffer(mine, DType::U8), ReduceOp::Sum).unwrap();
                assert_eq!(bytes(in_all.wait().unwrap()), vec![31; 1000]);
                let sum: u8 = members.iter().map(|member| 1u8 << member).sum();
                assert_eq!(bytes(in_half.wait().unwrap()), vec![sum; 1000]);
            }
            // A group of a group.
            let alone = half.split(Some(rank as u32), 0).unwrap().unwrap();
            assert_eq!(alone.size(), 1);
            world.start_barrier().unwrap().wait().unwrap();
        });
    }
}

#[test]
fn two_levels_give_equal_bits_on_all_ranks_close_to_those_of_one() {
    // Machines of equally many ranks, of different numbers, and one machine alone.
    for (world, machines) in [(4, vec![0, 0, 1, 1]), (5, vec![0, 1, 0, 2, 2]), (3, vec![0, 0, 0]), (3, vec![0, 1, 2])] {
        for transport in [Transport::Local, Transport::Shared, Transport::Tcp] {
            for op in [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max] {
                let length = 50_003;
                let results = ranks(transport, world, |group| {
                    let machine = format!("machine {}", machines[group.rank()]);
                    let levels = Hierarchy::new(&*group, &machine).unwrap();
                    let mine = || buffer(values(group.rank(), length, DType::F64), DType::F64);
                    // Several in flight.
                    let works = [0; 3].map(|_| levels.start_all_reduce(mine(), op).unwrap());
                    works.map(|work| bytes(work.wait().unwrap()))
                });
                assert!(results.iter().flatten().all(|result| *result == results[0][0]), "{machines:?}");
                let flat = expected(world, length, DType::F64, op);
                let inputs: Vec<Vec<u8>> = (0..world).map(|rank| values(rank, length, DType::F64)).collect();
                let at = |bytes: &[u8], i: usize| f64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap());
                for i in 0..length {
                    let size: f64 = inputs.iter().map(|input| at(input, i).abs()).sum();
                    let bound = 2.0 * (world - 1) as f64 * size * f64::EPSILON;
                    let (one, two) = (at(&flat, i), at(&results[0][0], i));
                    assert!((one - two).abs() <= bound, "{machines:?} {op:?}: {one} and {two}");
                }
            }
        }
    }
}

#[test]
fn the_records_tell_what_was_done() {
    for transport in ALL {
        ranks(transport, 2, |group| {
            group.start_all_reduce(buffer(vec![0; 64], DType::F32), ReduceOp::Sum).unwrap().wait().unwrap();
            group.start_barrier().unwrap().wait().unwrap();
            let records = group.records();
            let last: Vec<(u64, &str, u64, RecordState)> = records[records.len() - 2..]
                .iter()
                .map(|record| (record.sequence, record.operation.as_str(), record.bytes, record.state))
                .collect();
            let reduced = (1, "all-reduce (sum) of 16 f32", 64, RecordState::Finished);
            assert_eq!(last, [reduced, (2, "barrier", 0, RecordState::Finished)]);
            assert!(records.iter().all(|record| record.end_us.unwrap() >= record.start_us));
        });
    }
}

#[test]
fn nobody_passes_a_barrier_before_everybody_has_come() {
    for transport in ALL {
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
    for transport in ALL {
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
                        gathers.push(group.start_all_gather_bytes(vec![rank as u8; number]).unwrap());
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
    for transport in ALL {
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
    for transport in ALL {
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
    for transport in ALL {
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
    fn any_length_in_any_small_world_has_the_same_bits_on_all_transports(world in 1usize..6, length in 0usize..40_000) {
        let expectation = expected(world, length, DType::F32, ReduceOp::Sum);
        for transport in ALL {
            let results = ranks(transport, world, |group| {
                let mine = buffer(values(group.rank(), length, DType::F32), DType::F32);
                bytes(group.start_all_reduce(mine, ReduceOp::Sum).unwrap().wait().unwrap())
            });
            prop_assert!(results.iter().all(|result| *result == expectation));
        }
    }
}
