//! What ends a group: losses, silence, aborts. On every survivor, in time, with the right rank named.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::*;
use kindling_collective::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Memory that tells when it is dropped.
struct Watched {
    bytes: Vec<u8>,
    dropped: Arc<AtomicUsize>,
}

impl Region for Watched {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

fn sum(group: &dyn Communicator, length: usize) -> Result<Work, Error> {
    group.start_all_reduce(buffer(vec![1; length], DType::U8), ReduceOp::Sum)
}

#[test]
fn a_rank_that_leaves_in_the_middle_of_an_operation_is_named_by_all_within_a_second() {
    for transport in ALL {
        for world in [2, 3, 5] {
            for length in [100, 5_000_000] {
                let left = Mutex::new(None);
                let errors = ranks(transport, world, |group| {
                    // A rank that is through sooner may miss rank 1 and fail the group while others are in here still.
                    let together = group.start_barrier().and_then(Work::wait);
                    if group.rank() == 1 {
                        // The others are waiting by now, or soon: the loss must reach them in either case.
                        *left.lock().unwrap() = Some(Instant::now());
                        drop(group);
                        return None;
                    }
                    let error = together.and_then(|_| sum(&*group, length)?.wait()).unwrap_err();
                    let noticed = Instant::now();
                    let again = sum(&*group, 1).unwrap_err();
                    assert_eq!(again.to_string(), error.to_string());
                    Some((error, noticed))
                });
                let left = left.into_inner().unwrap().unwrap();
                for (error, noticed) in errors.into_iter().flatten() {
                    assert_eq!(error.kind(), ErrorKind::PeerLost, "{error}");
                    assert_eq!(error.culprit(), Some(1), "{transport:?} {world}: {error}");
                    assert!(noticed.saturating_duration_since(left) < Duration::from_secs(1), "{error}");
                }
            }
        }
    }
}

#[test]
fn ranks_that_leave_at_once_after_the_last_operation_disturb_nobody() {
    for transport in ALL {
        for round in 0..30 {
            let world = 2 + round % 4;
            ranks(transport, world, |group| {
                let length = [10, 60_000, 1_000_000][round % 3];
                let work = sum(&*group, length).unwrap();
                drop(group);
                assert!(bytes(work.wait().unwrap()).iter().all(|byte| usize::from(*byte) == world));
            });
        }
    }
}

#[test]
fn dropping_everything_with_an_operation_in_flight_aborts_the_others() {
    // Nobody leaves before everybody has met and started.
    let started = Barrier::new(3);
    let errors = ranks(Transport::Tcp, 3, |group| {
        let work = sum(&*group, 5_000_000).unwrap();
        started.wait();
        if group.rank() == 2 {
            // Rank 2 never starts the second operation, so the second is in flight when it goes.
            drop(work);
            let more = sum(&*group, 5_000_000);
            drop(group);
            drop(more);
            return None;
        }
        let first = work.wait();
        let error = first.and_then(|_| sum(&*group, 5_000_000)?.wait()).and_then(|_| sum(&*group, 1)?.wait());
        Some(error.unwrap_err())
    });
    for error in errors.into_iter().flatten() {
        assert!(matches!(error.kind(), ErrorKind::Aborted | ErrorKind::PeerLost), "{error}");
        assert_eq!(error.culprit(), Some(2), "{error}");
    }
}

#[test]
fn a_rank_that_does_not_start_the_operation_is_named_when_the_deadline_has_passed() {
    for transport in ALL {
        for (world, length) in [(2, 100), (4, 100), (4, 5_000_000)] {
            let done = Barrier::new(world);
            let errors = patient_ranks(transport, world, Duration::from_millis(300), |group| {
                let began = Instant::now();
                let error = (group.rank() != 1).then(|| sum(&*group, length).and_then(Work::wait).unwrap_err());
                let elapsed = began.elapsed();
                done.wait();
                error.map(|error| (error, elapsed))
            });
            for (error, elapsed) in errors.into_iter().flatten() {
                assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
                assert_eq!(error.culprit(), Some(1), "{transport:?} {world}: {error}");
                assert!(error.to_string().contains("has not started"), "{error}");
                assert!(elapsed >= Duration::from_millis(280) && elapsed < Duration::from_secs(3), "{elapsed:?}");
            }
        }
    }
}

/// Aborts a group of four in the middle of an operation and returns how long the last rank took to wake.
fn abort(transport: Transport, length: usize) -> Duration {
    let aborted = Mutex::new(None);
    let waiting = Barrier::new(4);
    let errors = ranks(transport, 4, |group| {
        let aborter = group.aborter();
        if group.rank() == 2 {
            waiting.wait();
            *aborted.lock().unwrap() = Some(Instant::now());
            aborter.abort("the task was killed");
            aborter.abort("a second reason does not count");
            let error = sum(&*group, length).unwrap_err();
            return (error, Instant::now());
        }
        let work = sum(&*group, length).unwrap();
        waiting.wait();
        let error = work.wait().unwrap_err();
        (error, Instant::now())
    });
    let aborted = aborted.into_inner().unwrap().unwrap();
    let elapsed = errors.iter().map(|(_, woken)| woken.saturating_duration_since(aborted)).max().unwrap();
    for (error, _) in errors {
        assert_eq!(error.to_string(), "aborted by rank 2: the task was killed");
    }
    elapsed
}

#[test]
fn an_abort_wakes_every_wait_of_every_rank_within_100_ms() {
    for transport in ALL {
        for length in [100, 5_000_000] {
            // A machine that is busy with other things may keep a thread waiting for longer than that by itself.
            let quickest = (0..3).map(|_| abort(transport, length)).min().unwrap();
            println!("{transport:?} {length}: woken after {quickest:?}");
            assert!(quickest < Duration::from_millis(100), "{transport:?} {length}: {quickest:?}");
        }
    }
}

#[test]
fn an_abort_before_or_while_connecting_ends_the_connecting() {
    for transport in ALL {
        let mut tickets = tickets(transport, 2, LONG, LONG);
        let (late, early) = (tickets.pop().unwrap(), tickets.pop().unwrap());
        let aborter = early.aborter.clone();
        std::thread::scope(|scope| {
            let connecting = scope.spawn(|| early.connect().err());
            // Whether rank 0 waits already or not yet does not matter: rank 1 never comes.
            let began = Instant::now();
            aborter.abort("changed its mind");
            let error = connecting.join().unwrap().unwrap();
            assert_eq!(error.to_string(), "aborted by rank 0: changed its mind");
            assert!(began.elapsed() < Duration::from_secs(1));
        });
        late.aborter.abort("before");
        assert_eq!(late.connect().err().unwrap().to_string(), "aborted by rank 1: before");
    }
}

#[test]
fn the_buffers_of_a_failed_operation_are_dropped_once_nobody_can_touch_them() {
    for transport in ALL {
        let dropped = Arc::new(AtomicUsize::new(0));
        // Rank 1 stays until the others have ended: leaving would make it a lost peer where its words come too late.
        let (started, ended) = (Barrier::new(3), Barrier::new(3));
        ranks(transport, 3, |group| {
            if group.rank() == 1 {
                started.wait();
                group.aborter().abort("enough");
                ended.wait();
                return;
            }
            let region = Watched { bytes: vec![1; 3_000_000], dropped: Arc::clone(&dropped) };
            let work = group.start_all_reduce(Buffer::new(Box::new(region), DType::U8), ReduceOp::Sum).unwrap();
            started.wait();
            let outcome = work.wait();
            ended.wait();
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Aborted);
        });
        // The groups are gone, and with them every thread that could write.
        assert_eq!(dropped.load(Ordering::SeqCst), 2, "{transport:?}");
    }
}

#[test]
fn a_buffer_comes_back_with_its_own_region() {
    for transport in ALL {
        let dropped = Arc::new(AtomicUsize::new(0));
        ranks(transport, 2, |group| {
            let mut bytes = vec![1; 100_000];
            let address = bytes.as_mut_ptr() as usize;
            let region = Watched { bytes, dropped: Arc::clone(&dropped) };
            let work = group.start_all_reduce(Buffer::new(Box::new(region), DType::U8), ReduceOp::Sum).unwrap();
            let mut region = work.wait().unwrap().into_region();
            assert_eq!(region.bytes().as_mut_ptr() as usize, address);
            assert!(region.bytes().iter().all(|byte| *byte == 2));
        });
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_rank_that_computes_for_many_heartbeats_is_not_taken_for_dead() {
    for transport in ALL {
        for length in [100, 1_000_000] {
            let mut tickets = tickets(transport, 3, LONG, LONG);
            for ticket in &mut tickets {
                ticket.options.heartbeat = Duration::from_millis(20);
            }
            let late = Duration::from_millis(400);
            outcomes(tickets, |group| {
                let group = group.unwrap();
                let began = Instant::now();
                while group.rank() == 1 && began.elapsed() < late {
                    std::hint::spin_loop();
                }
                let work = sum(&*group, length).unwrap();
                assert!(bytes(work.wait().unwrap()).iter().all(|byte| *byte == 3));
                group.start_barrier().unwrap().wait().unwrap();
            });
        }
    }
}

/// Keeps what is logged, for tests that look for a line.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_stall_is_logged_with_the_ranks_that_are_missing_and_does_no_harm() {
    // Only this test installs a logger in this process.
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    for transport in ALL {
        LINES.0.lock().unwrap().clear();
        let mut tickets = tickets(transport, 3, LONG, LONG);
        for ticket in &mut tickets {
            ticket.options.stall_warning = Duration::from_millis(50);
        }
        outcomes(tickets, |group| {
            let group = group.unwrap();
            // Rank 1 starts only when both others have logged whom they wait for.
            let warned = |rank: usize| {
                let start = format!("rank {rank} waits ");
                let told = |line: &String| line.starts_with(&start) && line.contains("(missing: rank 1)");
                LINES.0.lock().unwrap().iter().any(told)
            };
            let began = Instant::now();
            while group.rank() == 1 && !(warned(0) && warned(2)) {
                assert!(began.elapsed() < LONG, "{transport:?}: {:?}", LINES.0.lock().unwrap());
                std::thread::yield_now();
            }
            assert!(sum(&*group, 100).unwrap().wait().is_ok());
            group.start_barrier().unwrap().wait().unwrap();
        });
    }
}

#[test]
fn a_rank_that_fails_writes_its_last_operations() {
    for transport in ALL {
        let folder = std::env::temp_dir().join(format!("kindling-records-{}-{transport:?}", std::process::id()));
        let mut tickets = tickets(transport, 2, LONG, LONG);
        for ticket in &mut tickets {
            ticket.options.run = format!("records of {transport:?}");
            ticket.options.record_folder = Some(folder.clone());
        }
        let done = Barrier::new(2);
        outcomes(tickets, |group| {
            let group = group.unwrap();
            sum(&*group, 100).unwrap().wait().unwrap();
            done.wait();
            if group.rank() == 1 {
                group.aborter().abort("enough");
            }
            assert!(sum(&*group, 200).and_then(Work::wait).is_err());
        });
        for rank in 0..2 {
            let path = folder.join(format!("kindling-records_of_{transport:?}-attempt1-rank{rank}.json"));
            let sheet: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            assert_eq!(sheet["error"], "aborted by rank 1: enough");
            let records = sheet["records"].as_array().unwrap();
            let first = records.iter().find(|record| record["sequence"] == 1).unwrap();
            assert_eq!(first["operation"], "all-reduce (sum) of 100 u8");
            assert_eq!(first["state"], "finished");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
