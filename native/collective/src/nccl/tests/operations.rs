//! What each operation does to the buffers.

use super::*;
use crate::operation::{Wire, chunk};
use crate::record::RecordState;
use crate::reduce::ReduceOp;

/// Element i of rank r before an operation.
fn element(rank: usize, index: usize) -> f32 {
    (10 * rank + index) as f32
}

fn mine(rank: usize, elements: usize, device: i32) -> Buffer {
    floats((0..elements).map(|index| element(rank, index)), device)
}

/// Runs one operation on 1 to 4 ranks, with lengths that do and do not divide, and compares with `expected(rank, size,
/// elements)`, where None is an element that nothing is promised of.
fn check(
    start: impl Fn(&dyn Communicator, Buffer) -> Result<crate::Work, Error> + Sync,
    expected: impl Fn(usize, usize, usize) -> Vec<Option<f32>> + Sync,
    divides: bool,
) {
    for size in 1..=4 {
        for elements in [0, 1, 7, 12] {
            if divides && elements % size != 0 {
                continue;
            }
            let device = fake::device();
            ranks(size, device, &options(), |group| {
                let rank = group.rank();
                let buffer = start(&*group, mine(rank, elements, device)).unwrap().wait().unwrap();
                let got = read(&buffer);
                let expected = expected(rank, size, elements);
                assert_eq!(got.len(), expected.len());
                for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    assert!(expected.is_none_or(|expected| expected == *got), "{rank} of {size}, {index}: {got}");
                }
            });
            assert_eq!(fake::ended(device), (0, size), "all communicators are destroyed and none is aborted");
        }
    }
}

fn reduced(op: ReduceOp, size: usize, index: usize) -> f32 {
    let all = (0..size).map(|rank| element(rank, index));
    match op {
        ReduceOp::Sum => all.sum(),
        ReduceOp::Mean => all.sum::<f32>() / size as f32,
        ReduceOp::Max => element(size - 1, index),
        ReduceOp::Min => element(0, index),
    }
}

#[test]
fn an_all_reduce_leaves_the_reduction_everywhere() {
    for op in ReduceOp::ALL {
        check(
            |group, buffer| group.start_all_reduce(buffer, op),
            |_, size, elements| (0..elements).map(|index| Some(reduced(op, size, index))).collect(),
            false,
        );
    }
}

#[test]
fn a_reduce_scatter_leaves_each_rank_its_chunk_also_where_chunks_differ() {
    for op in [ReduceOp::Sum, ReduceOp::Mean] {
        check(
            |group, buffer| group.start_reduce_scatter(buffer, op),
            |rank, size, elements| {
                let own = chunk(elements, size, rank);
                (0..elements).map(|index| own.contains(&index).then(|| reduced(op, size, index))).collect()
            },
            false,
        );
    }
}

#[test]
fn an_all_gather_leaves_every_chunk_everywhere_also_where_chunks_differ() {
    check(
        |group, buffer| group.start_all_gather(buffer),
        |_, size, elements| {
            (0..size)
                .flat_map(|rank| chunk(elements, size, rank).map(move |index| Some(element(rank, index))))
                .collect()
        },
        false,
    );
}

#[test]
fn a_broadcast_leaves_the_roots_buffer_everywhere() {
    check(
        |group, buffer| group.start_broadcast(buffer, group.size() - 1),
        |_, size, elements| (0..elements).map(|index| Some(element(size - 1, index))).collect(),
        false,
    );
}

#[test]
fn an_all_to_all_transposes_the_chunks_and_keeps_what_stays() {
    check(
        |group, buffer| group.start_all_to_all(buffer),
        |rank, size, elements| {
            let own = chunk(elements, size, rank);
            (0..size).flat_map(|from| own.clone().map(move |index| Some(element(from, index)))).collect()
        },
        true,
    );
}

#[test]
fn every_type_goes_through() {
    let device = fake::device();
    for dtype in DType::ALL {
        ranks(2, device, &options(), |group| {
            let buffer = Memory::buffer(vec![0; 24], dtype, device, &Arc::default());
            group.start_all_reduce(buffer, ReduceOp::Sum).unwrap().wait().unwrap();
        });
    }
}

#[test]
fn two_ranks_that_send_to_each_other_first_do_not_wait_for_ever() {
    let device = fake::device();
    ranks(3, device, &options(), |group| {
        let (rank, size) = (group.rank(), group.size());
        let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
        for round in 0..3 {
            let sent = [next, before].map(|to| group.start_send(mine(rank + 10 * round, 5, device), to).unwrap());
            for from in [before, next] {
                let received = group.start_receive(mine(99, 5, device), from).unwrap().wait().unwrap();
                assert_eq!(read(&received), read(&mine(from + 10 * round, 5, device)));
            }
            sent.into_iter().for_each(|work| drop(work.wait().unwrap()));
        }
        let sequences: Vec<u64> = group.records().iter().map(|record| record.sequence).collect();
        assert_eq!((sequences.len(), sequences.into_iter().max()), (12, Some(3)));
    });
    assert_eq!(fake::ended(device), (0, 3 + 2 * 6), "the group's and one of two ranks for each direction");
}

#[test]
fn many_operations_started_at_once_end_in_order_and_are_recorded() {
    let device = fake::device();
    ranks(2, device, &options(), |group| {
        let works: Vec<_> =
            (0..50).map(|_| group.start_all_reduce(mine(1, 8, device), ReduceOp::Sum).unwrap()).collect();
        let bytes = group.start_all_gather_bytes(vec![group.rank() as u8; group.rank() + 1]).unwrap();
        let barrier = group.start_barrier().unwrap();
        assert_eq!(bytes.wait().unwrap(), [vec![0], vec![1, 1]]);
        barrier.wait().unwrap();
        works.into_iter().for_each(|work| drop(work.wait().unwrap()));
        let records = group.records();
        assert!(records.iter().all(|record| record.state == RecordState::Finished));
        assert!(records.iter().map(|record| record.sequence).eq(1..=52));
        assert_eq!(records[51].operation, "barrier");
    });
}

#[test]
fn a_work_that_is_dropped_goes_on_and_frees_its_buffer_after() {
    let (device, alive) = (fake::device(), Arc::new(AtomicUsize::new(0)));
    ranks(2, device, &options(), |group| {
        let buffer = Memory::buffer(vec![0; 16], DType::F32, device, &alive);
        drop(group.start_all_reduce(buffer, ReduceOp::Sum).unwrap());
        // The group's end waits for it.
        drop(group);
    });
    assert_eq!((alive.load(Ordering::SeqCst), fake::ended(device)), (0, (0, 2)));
}

#[test]
fn a_split_makes_groups_of_their_own() {
    let device = fake::device();
    ranks(3, device, &options(), |group| {
        let color = (group.rank() != 1).then_some(0);
        let part = group.split(color, -i64::try_from(group.rank()).unwrap()).unwrap();
        assert_eq!(part.is_some(), color.is_some());
        if let Some(part) = part {
            assert_eq!((part.size(), part.rank()), (2, usize::from(group.rank() == 0)));
            let buffer = part.start_all_reduce(mine(group.rank(), 2, device), ReduceOp::Sum).unwrap().wait().unwrap();
            assert_eq!(read(&buffer), [20.0, 22.0]);
        }
        group.start_barrier().unwrap().wait().unwrap();
    });
    assert_eq!(fake::ended(device), (0, 5));
}

#[test]
fn what_cannot_be_right_is_refused_before_it_starts() {
    let device = fake::device();
    ranks(2, device, &options(), |group| {
        let host = Buffer::new(Box::new(vec![0; 4]), DType::F32);
        let here = || mine(0, 3, device);
        let elsewhere = mine(0, 3, device + 1_000_000);
        for (refused, why) in [
            (group.start_all_reduce(host, ReduceOp::Sum), "host's memory"),
            (group.start_all_reduce(elsewhere, ReduceOp::Sum), "but this rank's is GPU"),
            (group.start_all_reduce_as(here(), ReduceOp::Sum, Wire::BF16), "not as bf16"),
            (group.start_all_to_all(here()), "no 2 equal chunks"),
            (group.start_broadcast(here(), 2), "below 2"),
            (group.start_send(here(), group.rank()), "another rank"),
        ] {
            let error = refusal(refused).to_string();
            assert!(error.contains(why), "{error}");
        }
        // None of it has cost the group its order.
        group.start_barrier().unwrap().wait().unwrap();
        assert_eq!(group.records()[0].sequence, 1);
    });
}
