//! How waits end when something is wrong.

use super::super::api::Api;
use super::super::table::NcclTable;
use super::*;
use crate::error::ErrorKind;
use crate::operation::{Kind, Operation};
use crate::reduce::ReduceOp;
use std::ffi::c_int;
use std::sync::Barrier;
use std::time::Instant;

fn short(operation: u64) -> NcclOptions {
    NcclOptions { operation_timeout: Duration::from_millis(operation), ..options() }
}

fn sum(group: &dyn Communicator, elements: usize, device: i32) -> Result<Buffer, Error> {
    group.start_all_reduce(floats(vec![1.0; elements], device), ReduceOp::Sum)?.wait()
}

#[test]
fn a_rank_that_never_starts_is_named_by_all_ranks() {
    let device = fake::device();
    let together = Barrier::new(3);
    let errors = ranks(3, device, &short(500), |group| {
        sum(&*group, 4, device).unwrap();
        let error = if group.rank() == 2 {
            // It is busy with something else until the others have given up.
            together.wait();
            refusal(sum(&*group, 4, device))
        } else {
            let error = refusal(sum(&*group, 4, device));
            together.wait();
            error
        };
        assert_eq!(refusal(group.start_barrier()).kind(), error.kind(), "the first failure stays");
        error
    });
    for error in errors {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(2)), "{error}");
        assert!(error.to_string().contains("it has not started the operation, its last is 1"), "{error}");
        assert!(error.to_string().contains("all-reduce (sum) of 4 f32 (operation 2"), "{error}");
    }
    assert_eq!(fake::ended(device), (3, 0));
}

#[test]
fn other_lengths_are_a_mismatch_long_before_the_deadline() {
    let device = fake::device();
    let began = Instant::now();
    let errors = ranks(2, device, &options(), |group| refusal(sum(&*group, 4 + group.rank(), device)));
    assert!(began.elapsed() < Duration::from_secs(5));
    for error in errors {
        let Error::Mismatch { sequence: 1, rank: 0, peer: 1, operation, peer_operation } = error else {
            panic!("{error}")
        };
        assert_eq!((operation.elements, peer_operation.elements), (4, 5));
    }
}

#[test]
fn another_reduction_is_a_mismatch_although_nccl_does_not_hang() {
    let device = fake::device();
    let errors = ranks(2, device, &options(), |group| {
        let op = if group.rank() == 0 { ReduceOp::Sum } else { ReduceOp::Max };
        loop {
            let kind = Kind::AllReduce(op);
            let works = group.start_all_reduce(floats([1.0], device), op).and_then(crate::Work::wait);
            match works {
                Err(Error::Mismatch { rank, operation, peer_operation, .. }) => {
                    let theirs = if rank == group.rank() { operation } else { peer_operation };
                    break (theirs.kind == kind, Operation { kind, ..theirs } == theirs);
                }
                Err(other) => panic!("{other}"),
                // The bytes came through; the next round of the watch finds it.
                Ok(_) => thread::yield_now(),
            }
        }
    });
    assert_eq!(errors, [(true, true); 2]);
}

#[test]
fn an_error_of_nccl_on_one_rank_fails_all_naming_it() {
    let devices = [fake::device(), fake::device(), fake::device()];
    let together = Barrier::new(3);
    let errors = bootstraps(3, |bootstrap| {
        let (device, aborter) = (devices[bootstrap.rank()], bootstrap.aborter());
        let group = connect_with(Ok(fake::api()), bootstrap, device, &options(), &aborter).unwrap();
        sum(&*group, 4, device).unwrap();
        group.start_barrier().unwrap().wait().unwrap();
        let error = if group.rank() == 1 {
            let work = group.start_receive(floats([0.0], device), 0).unwrap();
            fake::wish(device, fake::Wish { remote_error: true, ..Default::default() });
            refusal(work.wait())
        } else {
            // A wait in the bootstrap group and a wait for the GPU.
            let barrier = group.start_barrier().unwrap();
            if group.rank() == 2 { refusal(barrier.wait()) } else { refusal(sum(&*group, 4, device)) }
        };
        // Nobody learns it from a rank that leaves.
        together.wait();
        error
    });
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        let text = format!("{error}");
        assert!(text.contains("rank 1 (") && text.contains("answers 6: remote error"), "{text}");
    }
    for device in devices {
        assert_eq!(fake::ended(device), (1, 0));
    }
}

#[test]
fn a_rank_that_is_gone_is_lost_to_the_others() {
    let device = fake::device();
    let errors = ranks(3, device, &options(), |group| {
        if group.rank() == 1 {
            return None;
        }
        let began = Instant::now();
        let error = refusal(sum(&*group, 4, device));
        assert!(began.elapsed() < Duration::from_secs(5));
        Some(error)
    });
    for error in errors.into_iter().flatten() {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::PeerLost, Some(1)), "{error}");
    }
}

#[test]
fn an_abort_wakes_the_waits_of_all_ranks_and_lets_go_of_the_buffers() {
    let (device, alive) = (fake::device(), Arc::new(AtomicUsize::new(0)));
    let errors = ranks(2, device, &options(), |group| {
        if group.rank() == 1 {
            group.start_barrier().unwrap().wait().unwrap();
            let began = Instant::now();
            group.aborter().abort("the task was killed");
            let error = refusal(sum(&*group, 4, device));
            assert!(began.elapsed() < Duration::from_secs(1));
            return error;
        }
        let buffer = Memory::buffer(vec![0; 16], DType::F32, device, &alive);
        let work = group.start_receive(buffer, 1).unwrap();
        group.start_barrier().unwrap().wait().unwrap();
        refusal(work.wait())
    });
    for error in errors {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Aborted, Some(1)), "{error}");
        assert!(error.to_string().contains("the task was killed"), "{error}");
    }
    assert_eq!((alive.load(Ordering::SeqCst), fake::ended(device)), (0, (2, 0)));
}

#[test]
fn an_abort_that_hangs_is_bounded_and_keeps_the_buffers() {
    let (device, alive) = (fake::device(), Arc::new(AtomicUsize::new(0)));
    fake::wish(device, fake::Wish { abort_hangs: true, ..Default::default() });
    let began = Instant::now();
    let errors = ranks(2, device, &short(300), |group| {
        let buffer = Memory::buffer(vec![0; 16], DType::F32, device, &alive);
        if group.rank() == 0 {
            refusal(group.start_all_reduce(buffer, ReduceOp::Sum).and_then(crate::Work::wait))
        } else {
            // A receive of what is never sent.
            refusal(group.start_receive(buffer, 0).and_then(crate::Work::wait))
        }
    });
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("this executor must be restarted"), "{text}");
        assert!(text.contains("waited for in vain"), "the first error is kept: {text}");
    }
    assert_eq!(alive.load(Ordering::SeqCst), 2, "the GPU may still write into both");
    fake::wish(device, fake::Wish::default());
    // The aborts return after all, on their own threads, and only now are the buffers let go.
    while alive.load(Ordering::SeqCst) > 0 {
        assert!(began.elapsed() < Duration::from_secs(30));
        thread::yield_now();
    }
}

#[test]
fn a_rank_without_nccl_is_named_by_all_and_has_its_own_sentence() {
    let device = fake::device();
    extern "C" fn old(version: *mut c_int) -> c_int {
        #[allow(unsafe_code, reason = "stands for ncclGetVersion")]
        // SAFETY: the caller's integer is alive.
        unsafe {
            *version = 21_304
        };
        0
    }
    let errors = bootstraps(2, |bootstrap| {
        let api = if bootstrap.rank() == 1 {
            let table = NcclTable { get_version: old, ..fake::nccl() };
            Api::checked(table, fake::cuda(), Vec::new()).map(Arc::new)
        } else {
            Ok(fake::api())
        };
        refusal(connect_with(api, bootstrap, device, &options(), &Aborter::new()))
    });
    let sentence = "libnccl.so.2 is version 2.13.4; install NCCL 2.14 or newer";
    assert_eq!((errors[0].kind(), errors[0].culprit()), (ErrorKind::Refused, Some(1)));
    assert_eq!(errors[1].kind(), ErrorKind::Invalid);
    assert!(errors.iter().all(|error| error.to_string().contains(sentence)), "{errors:?}");
}

#[test]
fn a_device_that_is_not_there_is_named_by_all() {
    let errors = bootstraps(2, |bootstrap| {
        let device = if bootstrap.rank() == 0 { -1 } else { 0 };
        refusal(connect_with(Ok(fake::api()), bootstrap, device, &options(), &Aborter::new()))
    });
    assert!(errors.iter().all(|error| error.to_string().contains("there is no GPU -1")), "{errors:?}");
}

#[test]
fn a_communicator_that_is_never_complete_ends_at_the_rendezvous_deadline() {
    let device = fake::device();
    let errors = bootstraps(2, |bootstrap| {
        let (aborter, rank) = (bootstrap.aborter(), bootstrap.rank());
        if rank == 1 {
            // It says hello and splits, as a rank does, and then joins nothing; but it stays.
            let hello = [&22_809i32.to_le_bytes()[..], &[0; 128], b"a stranger"].concat();
            bootstrap.start_all_gather_bytes(hello).unwrap().wait().unwrap();
            let talk = bootstrap.split(Some(0), 0).unwrap().unwrap();
            while talk.start_all_gather_bytes(vec![0; 13]).unwrap().wait().is_ok_and(|told| told[0].get(1) == Some(&0))
            {
            }
            return None;
        }
        let options = NcclOptions { rendezvous_timeout: Duration::from_millis(300), ..options() };
        Some(refusal(connect_with(Ok(fake::api()), bootstrap, device, &options, &aborter)))
    });
    let error = errors[0].as_ref().unwrap();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("did not complete the communicator of 2 ranks"), "{error}");
    assert_eq!(fake::ended(device), (1, 0));
}

#[test]
fn a_rank_that_leaves_alone_is_lost_to_whoever_goes_on() {
    let device = fake::device();
    let errors = ranks(2, device, &options(), |group| {
        sum(&*group, 4, device).unwrap();
        (group.rank() == 0).then(|| refusal(sum(&*group, 4, device)))
    });
    let error = errors[0].as_ref().unwrap();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::PeerLost, Some(1)), "{error}");
    assert!(error.to_string().contains("left the group"), "{error}");
}
