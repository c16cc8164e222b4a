//! Any sequence of operations, on every transport: what comes back is what a plain model says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::dice::Dice;
use group::model::{expected, part, reductions, values};
use group::*;
use kindling_collective::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// One operation as all ranks know it. The lengths are numbers of elements.
#[derive(Clone, Debug)]
enum Step {
    AllReduce {
        length: usize,
        dtype: DType,
        op: ReduceOp,
    },
    /// Small integers, whose sums are exact in 16 bits.
    Narrow {
        length: usize,
        wire: Wire,
    },
    ReduceScatter {
        length: usize,
        dtype: DType,
        op: ReduceOp,
    },
    AllGather {
        length: usize,
        dtype: DType,
    },
    /// The bytes of rank r; cut off at the world.
    Gather {
        lengths: Vec<usize>,
    },
    Broadcast {
        length: usize,
        dtype: DType,
        root: usize,
    },
    AllToAll {
        each: usize,
        dtype: DType,
    },
    Transfer {
        length: usize,
        dtype: DType,
        from: usize,
        steps: usize,
    },
    Barrier,
}

/// A length: mostly short, or about where the ways of moving bytes change, or anything up to 50 000.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0..20usize, 0..3000usize, 7_000..9_000usize, 0..50_000usize]
}

fn dtype() -> impl Strategy<Value = DType> {
    proptest::sample::select(DType::ALL.to_vec())
}

fn reduction() -> impl Strategy<Value = (DType, ReduceOp)> {
    dtype().prop_flat_map(|dtype| (Just(dtype), proptest::sample::select(reductions(dtype))))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (length(), reduction()).prop_map(|(length, (dtype, op))| Step::AllReduce { length, dtype, op }),
        1 => (length(), proptest::bool::ANY)
            .prop_map(|(length, half)| Step::Narrow { length, wire: if half { Wire::F16 } else { Wire::BF16 } }),
        2 => (length(), reduction()).prop_map(|(length, (dtype, op))| Step::ReduceScatter { length, dtype, op }),
        2 => (length(), dtype()).prop_map(|(length, dtype)| Step::AllGather { length, dtype }),
        2 => proptest::collection::vec(length(), 9).prop_map(|lengths| Step::Gather { lengths }),
        2 => (length(), dtype(), 0..9usize).prop_map(|(length, dtype, root)| Step::Broadcast { length, dtype, root }),
        2 => (0..6000usize, dtype()).prop_map(|(each, dtype)| Step::AllToAll { each, dtype }),
        2 => (length(), dtype(), 0..9usize, 0..8usize)
            .prop_map(|(length, dtype, from, steps)| Step::Transfer { length, dtype, from, steps }),
        1 => Just(Step::Barrier),
    ]
}

/// An operation in flight, and what it must come to.
enum Flight {
    /// The buffer's bytes from `start` on.
    Work {
        work: Work,
        start: usize,
        expectation: Vec<u8>,
    },
    Gather(Gather, Vec<Vec<u8>>),
}

impl Flight {
    fn land(self) -> bool {
        match self {
            Flight::Work { work, start, expectation } => {
                bytes(work.wait().unwrap())[start..start + expectation.len()] == *expectation
            }
            Flight::Gather(gather, expectation) => gather.wait().unwrap() == expectation,
        }
    }
}

fn small_integers(rank: usize, length: usize) -> Vec<f32> {
    (0..length).map(|index| ((rank * 5 + index) % 17) as f32 - 8.0).collect()
}

fn to_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Starts a step on this rank; none where it takes no part.
fn start(group: &dyn Communicator, number: usize, step: &Step) -> Option<Flight> {
    let (rank, world) = (group.rank(), group.size());
    let whole = |work: Result<Work, Error>, expectation| Flight::Work { work: work.unwrap(), start: 0, expectation };
    let mine = |length: usize, dtype: DType| buffer(values(rank, length, dtype), dtype);
    Some(match *step {
        Step::AllReduce { length, dtype, op } => {
            whole(group.start_all_reduce(mine(length, dtype), op), expected(world, length, dtype, op))
        }
        Step::Narrow { length, wire } => {
            // At most 9 * 8 = 72: exact in f16 and in bf16, in any order.
            let sums = (0..length).map(|i| (0..world).map(|rank| ((rank * 5 + i) % 17) as f32 - 8.0).sum());
            let mine = buffer(to_bytes(small_integers(rank, length)), DType::F32);
            whole(group.start_all_reduce_as(mine, ReduceOp::Sum, wire), to_bytes(sums))
        }
        Step::ReduceScatter { length, dtype, op } => {
            let own = part(length, dtype, world, rank);
            let work = group.start_reduce_scatter(mine(length, dtype), op).unwrap();
            Flight::Work { work, start: own.start, expectation: expected(world, length, dtype, op)[own].to_vec() }
        }
        Step::AllGather { length, dtype } => {
            let chunk = |peer| values(peer, length, dtype)[part(length, dtype, world, peer)].to_vec();
            whole(group.start_all_gather(mine(length, dtype)), (0..world).flat_map(chunk).collect())
        }
        Step::Gather { ref lengths } => {
            let bytes = |peer: usize| values(peer + number, lengths[peer], DType::U8);
            let gather = group.start_all_gather_bytes(bytes(rank)).unwrap();
            Flight::Gather(gather, (0..world).map(bytes).collect())
        }
        Step::Broadcast { length, dtype, root } => {
            let root = root % world;
            whole(group.start_broadcast(mine(length, dtype), root), values(root, length, dtype))
        }
        Step::AllToAll { each, dtype } => {
            let length = each * world;
            let chunk = |peer| values(peer, length, dtype)[part(length, dtype, world, rank)].to_vec();
            whole(group.start_all_to_all(mine(length, dtype)), (0..world).flat_map(chunk).collect())
        }
        Step::Transfer { length, dtype, from, steps } => {
            if world == 1 {
                return None;
            }
            let from = from % world;
            let to = (from + 1 + steps % (world - 1)) % world;
            let sent = values(from, length, dtype);
            if rank == from {
                whole(group.start_send(mine(length, dtype), to), sent)
            } else if rank == to {
                whole(group.start_receive(buffer(vec![0; sent.len()], dtype), from), sent)
            } else {
                return None;
            }
        }
        Step::Barrier => whole(group.start_barrier(), Vec::new()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        // Each try runs on all transports.
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_sequence_of_operations_comes_to_what_the_model_says_on_every_transport(
        world in 1usize..=9,
        steps in proptest::collection::vec(step(), 1..16),
        seed in any::<u64>(),
    ) {
        for transport in ALL {
            let wrong = ranks(transport, world, |group| {
                // Each rank waits for its oldest whenever more are in flight than it likes to have just now.
                let mut dice = Dice::new(seed ^ group.rank() as u64);
                let mut flights = VecDeque::new();
                let mut wrong = Vec::new();
                let mut land = |(number, flight): (usize, Flight)| if !flight.land() { wrong.push(number) };
                for (number, step) in steps.iter().enumerate() {
                    flights.extend(start(&*group, number, step).map(|flight| (number, flight)));
                    let most = dice.below(9);
                    while flights.len() > most {
                        flights.pop_front().into_iter().for_each(&mut land);
                    }
                }
                flights.into_iter().for_each(&mut land);
                wrong
            });
            prop_assert!(wrong.iter().all(Vec::is_empty), "{:?}: wrong by rank: {:?}", transport, wrong);
        }
    }
}
