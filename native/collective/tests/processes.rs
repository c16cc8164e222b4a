//! Ranks as processes of their own, which are killed or stopped: what the survivors see, and how soon.
//!
//! The test starts its own executable once per rank, with [`PLACE`] naming its rank; see [`rank`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

use kindling_collective::*;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PLACE: &str = "KINDLING_TEST_PLACE";

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// One rank: prints its port, reads all ports, reduces until it fails, and reports how and when.
#[test]
#[ignore = "a part of the other tests, which start it as a process"]
fn rank() {
    let place = std::env::var(PLACE).unwrap();
    let place: Vec<&str> = place.split(' ').collect();
    let (rank, world, length): (usize, usize, usize) =
        (place[0].parse().unwrap(), place[1].parse().unwrap(), place[2].parse().unwrap());
    let secret = Secret::from_hex(place[3]).unwrap();
    let listener = Listener::bind("127.0.0.1").unwrap();
    println!("\n@{}", listener.endpoint("").port);
    let mut lines = std::io::stdin().lines();
    let roster: Vec<Endpoint> = (0..world)
        .map(|rank| Endpoint {
            process: rank.to_string(),
            host: "127.0.0.1".into(),
            port: lines.next().unwrap().unwrap().parse().unwrap(),
        })
        .collect();
    let options = Options {
        run: "processes".into(),
        attempt: 0,
        rank,
        secret,
        rendezvous_timeout: Duration::from_secs(20),
        operation_timeout: Duration::from_millis(1000),
    };
    let group = connect(listener, &roster, options, &Aborter::new()).unwrap();
    let mut rounds = 0;
    let error = loop {
        let buffer = Buffer::new(Box::new(vec![1; length]), DType::U8);
        match group.start_all_reduce(buffer, ReduceOp::Sum).and_then(Work::wait) {
            Ok(_) => rounds += 1,
            Err(error) => break error,
        }
        if rounds == 10 {
            println!("\n@running");
        }
    };
    println!("\n@{} {:?} {} {error}", now().as_micros(), error.kind(), error.culprit().unwrap());
}

struct Rank {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Rank {
    /// The next line that is meant for us: the test harness prints its own.
    fn report(&mut self) -> String {
        let line = self.lines.by_ref().map(Result::unwrap).find(|line| line.starts_with('@')).unwrap();
        line[1..].to_owned()
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(world: usize, length: usize) -> Vec<Rank> {
    let secret = Secret::generate().unwrap().to_hex();
    let mut ranks: Vec<Rank> = (0..world)
        .map(|rank| {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rank", "--ignored", "--nocapture"])
                .env(PLACE, format!("{rank} {world} {length} {secret}"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            Rank { child, lines }
        })
        .collect();
    let ports: Vec<String> = ranks.iter_mut().map(Rank::report).collect();
    for rank in &mut ranks {
        rank.child.stdin.as_mut().unwrap().write_all(format!("{}\n", ports.join("\n")).as_bytes()).unwrap();
    }
    for rank in &mut ranks {
        assert_eq!(rank.report(), "running");
    }
    ranks
}

/// Asserts what every rank but `culprit` reports, and returns how long after `since` the last one noticed.
fn survivors(ranks: &mut [Rank], culprit: usize, kind: ErrorKind, since: Duration) -> Duration {
    let mut last = Duration::ZERO;
    for (number, rank) in ranks.iter_mut().enumerate().filter(|(number, _)| *number != culprit) {
        let report = rank.report();
        let parts: Vec<&str> = report.splitn(4, ' ').collect();
        let elapsed = Duration::from_micros(parts[0].parse().unwrap()).saturating_sub(since);
        println!("rank {number} after {:.1} ms: {}", elapsed.as_secs_f64() * 1e3, parts[3]);
        assert_eq!(parts[1], format!("{kind:?}"), "{report}");
        assert_eq!(parts[2], culprit.to_string(), "{report}");
        last = last.max(elapsed);
    }
    last
}

#[test]
fn a_killed_process_is_named_by_every_survivor_within_a_second() {
    for (world, length) in [(2, 100), (5, 100), (5, 3_000_000)] {
        let mut ranks = start(world, length);
        let since = now();
        ranks[1].child.kill().unwrap();
        let last = survivors(&mut ranks, 1, ErrorKind::PeerLost, since);
        assert!(last < Duration::from_secs(1), "{last:?}");
    }
}

#[test]
fn a_stopped_process_is_named_by_every_survivor_when_the_deadline_has_passed() {
    for (world, length) in [(2, 100), (5, 3_000_000)] {
        let mut ranks = start(world, length);
        let since = now();
        let stop = format!("kill -STOP {}", ranks[1].child.id());
        assert!(Command::new("sh").args(["-c", &stop]).status().unwrap().success());
        let last = survivors(&mut ranks, 1, ErrorKind::Deadline, since);
        assert!(last < Duration::from_secs(5), "{last:?}");
    }
}
