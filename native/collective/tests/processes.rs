//! Ranks as processes of their own, which are killed or stopped: what the survivors see, and how soon.
//!
//! The test starts its own executable once per rank, with [`PLACE`] naming its rank; see [`rank`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::dice::Dice;
use kindling_collective::*;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PLACE: &str = "KINDLING_TEST_PLACE";

/// The time in which a group must form.
const RENDEZVOUS: Duration = Duration::from_secs(5);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// One rank: prints its endpoint, reads the roster, works until it fails, and reports how and when. Then it stays until
/// its standard input ends, as a rank stays that has more to do than this: only the killed one leaves.
#[test]
#[ignore = "a part of the other tests, which start it as a process"]
fn rank() {
    let place = std::env::var(PLACE).unwrap();
    let place: Vec<&str> = place.split(' ').collect();
    let (rank, world): (usize, usize) = (place[0].parse().unwrap(), place[1].parse().unwrap());
    let lengths: Vec<usize> = place[2].split(',').map(|length| length.parse().unwrap()).collect();
    let secret = Secret::from_hex(place[3]).unwrap();
    let listener = Listener::bind("127.0.0.1").unwrap();
    println!("\n@{}", serde_json::to_string(&listener.endpoint(place[0])).unwrap());
    let mut lines = std::io::stdin().lines();
    let roster: Vec<Endpoint> =
        (0..world).map(|_| serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()).collect();
    let options = Options {
        rendezvous_timeout: RENDEZVOUS,
        heartbeat: Duration::from_millis(place[5].parse().unwrap()),
        shared_memory: place[4] == "shared",
        ..Options::new("processes", 0, rank, secret)
    };
    let error = match connect(listener, &roster, options, &Aborter::new()) {
        Ok(group) => work(&*group, &lengths),
        Err(error) => error,
    };
    println!("\n@{} {:?} {} {error}", now().as_micros(), error.kind(), error.culprit().map_or(-1, |rank| rank as i64));
    assert!(lines.next().is_none());
}

/// Reduces, one length after the other, until that fails.
fn work(group: &dyn Communicator, lengths: &[usize]) -> Error {
    for (round, length) in lengths.iter().cycle().enumerate() {
        let buffer = Buffer::new(Box::new(vec![1; *length]), DType::U8);
        match group.start_all_reduce(buffer, ReduceOp::Sum).and_then(Work::wait) {
            Ok(mut sum) => assert!(sum.bytes().iter().all(|byte| usize::from(*byte) == group.size()), "wrong bytes"),
            Err(error) => return error,
        }
        if round == 10 {
            println!("\n@running");
        }
    }
    panic!("there are no lengths")
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

/// How a group of processes is to work.
struct Job<'a> {
    world: usize,
    lengths: &'a [usize],
    links: &'a str,
    heartbeat: Duration,
}

impl Job<'_> {
    /// Starts the processes and gives them their roster.
    fn launch(&self) -> Vec<Rank> {
        let secret = Secret::generate().unwrap().to_hex();
        let lengths: Vec<String> = self.lengths.iter().map(usize::to_string).collect();
        let (world, links, heartbeat) = (self.world, self.links, self.heartbeat.as_millis());
        let mut ranks: Vec<Rank> = (0..world)
            .map(|rank| {
                let mut child = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "rank", "--ignored", "--nocapture"])
                    .env(PLACE, format!("{rank} {world} {} {secret} {links} {heartbeat}", lengths.join(",")))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let lines = BufReader::new(child.stdout.take().unwrap()).lines();
                Rank { child, lines }
            })
            .collect();
        let endpoints: Vec<String> = ranks.iter_mut().map(Rank::report).collect();
        for rank in &mut ranks {
            rank.child.stdin.as_mut().unwrap().write_all(format!("{}\n", endpoints.join("\n")).as_bytes()).unwrap();
        }
        ranks
    }
}

/// A group that is at work.
fn start(world: usize, length: usize, links: &str) -> Vec<Rank> {
    let mut ranks = Job { world, lengths: &[length], links, heartbeat: Duration::from_millis(300) }.launch();
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
    for (world, length, links) in
        [(2, 100, "tcp"), (5, 100, "tcp"), (5, 3_000_000, "tcp"), (2, 100, "shared"), (5, 3_000_000, "shared")]
    {
        let mut ranks = start(world, length, links);
        let since = now();
        ranks[1].child.kill().unwrap();
        let last = survivors(&mut ranks, 1, ErrorKind::PeerLost, since);
        assert!(last < Duration::from_secs(1), "{last:?}");
    }
}

#[test]
fn a_stopped_process_is_named_by_every_survivor_when_the_deadline_has_passed() {
    for (world, length, links) in [(2, 100, "tcp"), (5, 3_000_000, "tcp"), (3, 3_000_000, "shared")] {
        let mut ranks = start(world, length, links);
        let since = now();
        let stop = format!("kill -STOP {}", ranks[1].child.id());
        assert!(Command::new("sh").args(["-c", &stop]).status().unwrap().success());
        let last = survivors(&mut ranks, 1, ErrorKind::Deadline, since);
        assert!(last < Duration::from_secs(5), "{last:?}");
    }
}

/// Rounds of killing, and how many groups at a time.
const ROUNDS: usize = 200;
const GROUPS: usize = 3;

/// What a survivor may need when it has a core to itself: loss is noticed by the connection's end, and a link's end alone
/// is waited on for 0.2 s in case somebody says more.
const PROMPT: Duration = Duration::from_secs(1);

/// What a survivor may need at worst. With [`GROUPS`] groups of up to 4 busy ranks, a thread of this machine's may wait for
/// a core for some time slices at each of the 4 steps from rank to rank; 2 s more is far above that, and far below what a
/// loss that goes unnoticed would take: 6 s of heartbeats.
const WORST: Duration = Duration::from_secs(3);

/// A kill at a random moment. Returns whether the group was only forming then, and what each survivor took.
fn kill(round: usize, dice: &mut Dice) -> (bool, Vec<Duration>) {
    let world = 2 + dice.below(3);
    let links = dice.pick(&["tcp", "shared"]);
    let lengths: Vec<usize> = (0..4).map(|_| dice.pick(&[0, 1, 100, 5_000, 70_000, 300_000, 2_000_000])).collect();
    let culprit = dice.below(world);
    let mut ranks = Job { world, lengths: &lengths, links, heartbeat: Duration::from_secs(2) }.launch();
    let what = format!("round {round}: rank {culprit} of {world}, {links}, {lengths:?}");
    // A quarter is killed while the group forms, or soon after; the others in the middle of their work.
    let forming = dice.below(4) == 0;
    if !forming {
        assert!(ranks.iter_mut().all(|rank| rank.report() == "running"), "{what}");
    }
    // Not to wait for anything: this is the moment.
    std::thread::sleep(Duration::from_micros(dice.below(if forming { 15_000 } else { 30_000 }) as u64));
    let since = now();
    ranks[culprit].child.kill().unwrap();
    let mut all = Vec::new();
    for (number, rank) in ranks.iter_mut().enumerate().filter(|(number, _)| *number != culprit) {
        let mut report = rank.report();
        if report == "running" {
            report = rank.report();
        }
        let parts: Vec<&str> = report.splitn(4, ' ').collect();
        let elapsed = Duration::from_micros(parts[0].parse().unwrap()).saturating_sub(since);
        assert!(["PeerLost", "Deadline", "Aborted"].contains(&parts[1]), "{what}: rank {number}: {report}");
        assert_eq!(parts[2], culprit.to_string(), "{what}: rank {number}: {report}");
        // Before they are linked, a rank to which the dead one should have connected cannot tell dead from late.
        let bound = if forming { WORST + RENDEZVOUS } else { WORST };
        assert!(elapsed < bound, "{what}: rank {number} after {elapsed:?}: {report}");
        all.push(elapsed);
    }
    (forming, all)
}

#[test]
fn whoever_is_killed_at_whatever_moment_is_named_by_every_survivor() {
    let given = std::env::var("KINDLING_TEST_SEED").ok();
    let seed = given.map_or_else(|| now().as_nanos() as u64, |seed| seed.parse().unwrap());
    println!("KINDLING_TEST_SEED={seed}");
    let began = Instant::now();
    let rounds = Mutex::new(0..ROUNDS);
    let taken = Mutex::new([Vec::new(), Vec::new()]);
    std::thread::scope(|scope| {
        for _ in 0..GROUPS {
            scope.spawn(|| {
                while let Some(round) = { rounds.lock().unwrap().next() } {
                    let mut dice = Dice::new(seed.wrapping_add(round as u64));
                    let (forming, all) = kill(round, &mut dice);
                    taken.lock().unwrap()[usize::from(forming)].extend(all);
                }
            });
        }
    });
    println!("{ROUNDS} rounds in {:.1} s", began.elapsed().as_secs_f64());
    for (mut taken, when) in taken.into_inner().unwrap().into_iter().zip(["at work", "forming"]) {
        taken.sort_unstable();
        let (median, worst) = (taken[taken.len() / 2], taken[taken.len() - 1]);
        println!("{when}: {} survivors, median {median:?}, worst {worst:?}", taken.len());
        assert!(median < PROMPT, "{when}: {median:?}");
    }
}
