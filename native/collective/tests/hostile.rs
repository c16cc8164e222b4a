//! Links that are slow, cut at any byte, lying or silent: right bits or an error, never a hang, never wrong bytes.
//!
//! The ranks meet through [proxies](group::proxy). What plain TCP cannot do is asked of nobody here: a bit of the
//! *payload* that is turned over on the way passes for what was sent, where the network's own checksums let it pass.
//! Under TLS it does not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::dice::Dice;
use group::model::{expected, part, values};
use group::proxy::{Fault, Mischief, Proxy, Way};
use group::*;
use kindling_collective::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Groups at a time: mostly they wait.
const GROUPS: usize = 40;

/// The time in which a group must form or fail.
const FORMING: Duration = Duration::from_millis(500);

const HEARTBEAT: Duration = Duration::from_millis(100);

/// When every rank has its error, on an idle machine. The longest way there: the rendezvous is given up after
/// [`FORMING`]; a rank that was through with it gives the others another 2 s, and then asks around, for 1 s.
const PROMPT: Duration = Duration::from_millis(500 + 2000 + 1000);

/// When a rank that has not come back hangs. Two cores are shared by [`GROUPS`] groups.
const HANGS: Duration = Duration::from_secs(30);

/// The bytes of a handshake over plain TCP: hello and proof, challenge and verdict.
fn handshake(way: Way) -> u64 {
    match way {
        Way::There => 96,
        Way::Back => 84,
    }
}

/// The bytes of an operation's announcement: header, sequence, operation.
const ANNOUNCEMENT: u64 = 8 + 8 + 20;

/// Runs all cases, several at a time.
fn run<T: Send>(cases: Vec<T>, test: impl Fn(T) + Sync) {
    let (began, count) = (Instant::now(), cases.len());
    let cases = Mutex::new(cases.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..GROUPS {
            scope.spawn(|| {
                while let Some(case) = { cases.lock().unwrap().next() } {
                    test(case);
                }
            });
        }
    });
    println!("{count} cases in {:.1} s", began.elapsed().as_secs_f64());
}

/// Connects all tickets, each on a thread of its own, and runs `body` on those that succeed. Panics when one hangs.
fn meet(
    tickets: Vec<Ticket>,
    what: &str,
    body: impl Fn(&dyn Communicator) -> Result<(), Error> + Clone + Send + 'static,
) -> Vec<Option<Error>> {
    let world = tickets.len();
    let (sender, results) = channel();
    for (rank, ticket) in tickets.into_iter().enumerate() {
        let (sender, body) = (sender.clone(), body.clone());
        std::thread::spawn(move || {
            // The communicator is dropped before: that may not hang either.
            let error = ticket.connect().and_then(|group| body(&*group)).err();
            let _ = sender.send((rank, error));
        });
    }
    drop(sender);
    let until = Instant::now() + HANGS;
    let mut errors: Vec<Option<Option<Error>>> = vec![None; world];
    while errors.iter().any(Option::is_none) {
        match results.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((rank, error)) => errors[rank] = Some(error),
            Err(error) => panic!("a rank hangs or has panicked ({error}): {what}: {errors:?}"),
        }
    }
    errors.into_iter().flatten().collect()
}

/// Bytes that a rank contributes to a round; sums of them wrap, and do not depend on their order.
fn contribution(rank: usize, round: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (rank * 101 + round * 31 + index * 7) as u8).collect()
}

/// Reductions, broadcasts and gathers, each with the right bytes or an error. The gathers move all lengths over every link
/// both ways.
fn rounds(group: &dyn Communicator, lengths: &[usize]) -> Result<(), Error> {
    let (rank, world) = (group.rank(), group.size());
    for (round, length) in lengths.iter().copied().enumerate() {
        let mine = contribution(rank, round, length);
        let sum = bytes(group.start_all_reduce(buffer(mine, DType::U8), ReduceOp::Sum)?.wait()?);
        let others = (1..world).map(|rank| contribution(rank, round, length));
        let right = others.fold(contribution(0, round, length), |sum, more| {
            sum.iter().zip(more).map(|(sum, more)| sum.wrapping_add(more)).collect()
        });
        assert!(sum == right, "wrong bytes were passed off as a sum");
        let root = round % world;
        let given = group.start_broadcast(buffer(contribution(rank, round, length), DType::U8), root)?.wait()?;
        assert!(bytes(given) == contribution(root, round, length), "wrong bytes were passed off as a broadcast");
        let parts = group.start_all_gather_bytes(contribution(rank, round, length))?.wait()?;
        let right = |(peer, part): (usize, &Vec<u8>)| *part == contribution(peer, round, length);
        assert!(parts.len() == world && parts.iter().enumerate().all(right), "wrong bytes were passed off as gathered");
    }
    Ok(())
}

/// Waits until the group fails: for something that nobody sends.
fn wait_for_the_end(group: &dyn Communicator) -> Result<(), Error> {
    let peer = (group.rank() + 1) % group.size();
    group.start_receive(buffer(vec![0], DType::U8), peer)?.wait().map(|_| ())
}

/// A group whose rank 0 reaches rank 1 through a proxy. It must end with an error on every rank, in time.
#[derive(Debug)]
struct Doomed {
    transport: Transport,
    world: usize,
    fault: Fault,
    /// The operations' timeout.
    patience: Duration,
    seed: u64,
}

impl Doomed {
    /// None when the group had its end before the mischief could be done, or has recovered.
    fn run(self) -> Option<Vec<Error>> {
        let what = format!("{self:?}");
        let Doomed { transport, world, fault, patience, seed } = self;
        let mut tickets = tickets(transport, world, FORMING, patience);
        for ticket in &mut tickets {
            ticket.options.heartbeat = HEARTBEAT;
        }
        let proxy = Proxy::between(&mut tickets, 0, 1, fault, &mut Dice::new(seed));
        let began = Instant::now();
        let errors = meet(tickets, &what, move |group| {
            rounds(group, &MIXED)?;
            wait_for_the_end(group)
        });
        let elapsed = began.elapsed();
        // Where one connection of a handshake was spoiled, the next may have served.
        let healed = fault.victim.is_some() && proxy.connections() > 2;
        if !proxy.has_struck() || healed || proxy.was_harmless() {
            return None;
        }
        // Another as much for the operations, and for the cores that other groups have.
        assert!(elapsed < PROMPT + patience.min(PROMPT) + Duration::from_secs(3), "{elapsed:?}: {what}: {errors:?}");
        let unharmed: Vec<usize> = (0..world).filter(|rank| errors[*rank].is_none()).collect();
        assert!(unharmed.is_empty(), "{unharmed:?} succeeded: {what}: {errors:?}");
        Some(errors.into_iter().flatten().collect())
    }
}

/// Runs all of them. Nearly all must have met what was meant for them.
fn doom(cases: Vec<Doomed>) {
    doom_and(cases, |_, _| {});
}

/// The same, with a look at each error.
fn doom_and(cases: Vec<Doomed>, look: impl Fn(&str, &Error) + Sync) {
    let (count, struck) = (cases.len(), AtomicUsize::new(0));
    run(cases, |case| {
        let what = format!("{case:?}");
        if let Some(errors) = case.run() {
            struck.fetch_add(1, Ordering::Relaxed);
            errors.iter().for_each(|error| look(&what, error));
        }
    });
    let struck = struck.into_inner();
    assert!(struck * 20 >= count * 19, "only {struck} of {count} cases had something to suffer");
}

/// A length of each kind: whole contributions, and a ring that moves 150 kB each way.
const MIXED: [usize; 4] = [10, 1000, 150_000, 3];

/// Every kind of operation, the results against the model.
fn everything(group: &dyn Communicator, length: usize) {
    let (rank, world) = (group.rank(), group.size());
    let dtype = DType::F32;
    let mine = || buffer(values(rank, length, dtype), dtype);
    let sum = expected(world, length, dtype, ReduceOp::Sum);
    let own = part(length, dtype, world, rank);
    let reduced = group.start_all_reduce(mine(), ReduceOp::Sum).unwrap();
    let scattered = group.start_reduce_scatter(mine(), ReduceOp::Sum).unwrap();
    let gathered = group.start_all_gather(mine()).unwrap();
    let parts = group.start_all_gather_bytes(values(rank, length / (rank + 1), DType::U8)).unwrap();
    let given = group.start_broadcast(mine(), world - 1).unwrap();
    let whole = length / world * world;
    let exchanged = group.start_all_to_all(buffer(values(rank, whole, dtype), dtype)).unwrap();
    let sent = group.start_send(mine(), (rank + 1) % world).unwrap();
    let before = (rank + world - 1) % world;
    let received = group.start_receive(buffer(vec![0; length * 4], dtype), before).unwrap();
    let narrow = group.start_all_reduce_as(mine(), ReduceOp::Sum, Wire::BF16).unwrap();
    assert!(bytes(reduced.wait().unwrap()) == sum);
    assert!(bytes(scattered.wait().unwrap())[own.clone()] == sum[own]);
    let gathered = bytes(gathered.wait().unwrap());
    let parts = parts.wait().unwrap();
    let exchanged = bytes(exchanged.wait().unwrap());
    for (peer, bytes) in parts.iter().enumerate() {
        let range = part(length, dtype, world, peer);
        assert!(gathered[range.clone()] == values(peer, length, dtype)[range]);
        assert!(*bytes == values(peer, length / (peer + 1), DType::U8));
        let come = part(whole, dtype, world, peer);
        assert!(exchanged[come] == values(peer, whole, dtype)[part(whole, dtype, world, rank)]);
    }
    assert!(bytes(given.wait().unwrap()) == values(world - 1, length, dtype));
    assert!(bytes(sent.wait().unwrap()) == values(rank, length, dtype));
    assert!(bytes(received.wait().unwrap()) == values(before, length, dtype));
    // Which bits these are depends on the path; that all ranks have the same does not.
    let narrow = bytes(narrow.wait().unwrap());
    let all = group.start_all_gather_bytes(narrow.clone()).unwrap().wait().unwrap();
    assert!(all.iter().all(|other| *other == narrow));
    group.start_barrier().unwrap().wait().unwrap();
}

#[test]
fn every_operation_has_the_exact_bits_over_links_that_pass_a_few_bytes_at_a_time() {
    let transports = [Transport::Tcp, Transport::Sockets, Transport::Encrypted];
    let cases = transports.into_iter().flat_map(|transport| (2..=4).map(move |world| (transport, world))).collect();
    run(cases, |(transport, world)| {
        let mut tickets = tickets(transport, world, LONG, LONG);
        let mut dice = Dice::new(world as u64);
        let fault = Fault { mischief: Mischief::Drip, way: Way::There, victim: None };
        let _proxies: Vec<Proxy> = (0..world * world)
            .map(|pair| (pair / world, pair % world))
            .filter(|(from, to)| from != to)
            .map(|(from, to)| Proxy::between(&mut tickets, from, to, fault, &mut dice))
            .collect();
        let errors = meet(tickets, "a few bytes at a time", |group| {
            // The last goes around the ring.
            [0, 1, 5, 1001, 40_003].into_iter().for_each(|length| everything(group, length));
            Ok(())
        });
        assert!(errors.iter().all(Option::is_none), "{transport:?} {world}: {errors:?}");
    });
}

#[test]
fn a_connection_cut_at_any_byte_ends_every_rank_with_an_error() {
    let mut cases = Vec::new();
    let mut dice = Dice::new(1);
    let mut add = |transport, world, way, at, victim| {
        let mischief = Mischief::Cut { at, reset: dice.coin() };
        let fault = Fault { mischief, way, victim };
        cases.push(Doomed { transport, world, fault, patience: LONG, seed: dice.roll() });
    };
    for way in [Way::There, Way::Back] {
        // Every connection, again and again: the handshake, the rendezvous and the first operations.
        (0..400).for_each(|at| add(Transport::Tcp, 2, way, at, None));
    }
    let mut random = Dice::new(2);
    for _ in 0..100 {
        let way = random.pick(&[Way::There, Way::Back]);
        let world = 2 + random.below(3);
        // Far into the long operations of the data link.
        add(Transport::Tcp, world, way, 400 + random.below(140_000) as u64, Some(0));
        // The control link, behind the handshake: up to its tenth heartbeat.
        add(Transport::Tcp, world, way, handshake(way) + 1 + random.below(80) as u64, Some(1));
        add(Transport::Encrypted, world, way, random.below(20_000) as u64, None);
    }
    doom(cases);
}

#[test]
fn a_connection_cut_before_it_was_welcomed_is_made_again() {
    let mut cases = Vec::new();
    for victim in [0, 1] {
        // Whole messages and pieces of them. The last byte of the proof brings a welcome, which may be lost: that is an
        // end of the link for one side and a new beginning for the other. So may the last byte of the challenge, whose
        // answer can be quicker than the cut.
        for at in [0, 1, 8, 43, 44, 45, 95] {
            cases.push((victim, Way::There, at));
        }
        for at in [0, 1, 43] {
            cases.push((victim, Way::Back, at));
        }
    }
    run(cases, |(victim, way, at)| {
        for world in [2, 3] {
            let mut tickets = tickets(Transport::Tcp, world, LONG, LONG);
            let fault = Fault { mischief: Mischief::Cut { at, reset: false }, way, victim: Some(victim) };
            let proxy = Proxy::between(&mut tickets, 0, 1, fault, &mut Dice::new(at));
            let errors = meet(tickets, &format!("{fault:?}"), |group| rounds(group, &MIXED));
            assert!(proxy.has_struck() && errors.iter().all(Option::is_none), "{fault:?}: {errors:?}");
        }
    });
}

#[test]
fn a_bit_turned_over_in_a_handshake_or_an_announcement_ends_every_rank_with_an_error() {
    let mut cases = Vec::new();
    let mut dice = Dice::new(3);
    let mut add = |way, at, bit, victim| {
        let fault = Fault { mischief: Mischief::Flip { at, bit }, way, victim };
        cases.push(Doomed { transport: Transport::Tcp, world: 2, fault, patience: LONG, seed: dice.roll() });
    };
    let mut random = Dice::new(4);
    for way in [Way::There, Way::Back] {
        let begins = handshake(way);
        (0..begins).for_each(|at| add(way, at, random.below(8) as u8, None));
        // The rendezvous, then the first reduction, which travels whole, then the broadcast from rank 0.
        let reduction = begins + ANNOUNCEMENT;
        let broadcast = reduction + ANNOUNCEMENT + MIXED[0] as u64;
        for frame in [begins, reduction, broadcast] {
            if frame == broadcast && way == Way::Back {
                // It goes one way.
                continue;
            }
            for at in 0..ANNOUNCEMENT {
                // Every bit of the header, and one of each byte of the body.
                let bits = if at < 8 {
                    0..8
                } else {
                    let bit = random.below(8) as u8;
                    bit..bit + 1
                };
                bits.for_each(|bit| add(way, frame + at, bit, Some(0)));
            }
        }
        for at in 0..8 {
            // The first heartbeat. That it is taken for the sign that a census was heard does no harm: either says that
            // the neighbour is alive.
            (0..8).filter(|bit| (at, *bit) != (0, 1)).for_each(|bit| add(way, begins + at, bit, Some(1)));
        }
    }
    doom(cases);
}

#[test]
fn a_bit_turned_over_anywhere_under_tls_ends_every_rank_with_an_error() {
    let mut cases = Vec::new();
    let mut dice = Dice::new(5);
    for number in 0..320 {
        let way = dice.pick(&[Way::There, Way::Back]);
        // The handshakes take about 1000 bytes, which are spoiled on every connection or another one would serve; the
        // operations take more than 150 kB. The control link says 30 bytes with each heartbeat, so only its beginning
        // comes within the time of a test.
        let (at, victim) = match number % 4 {
            0 | 1 => (dice.below(1200), None),
            2 => (1200 + dice.below(140_000), Some(0)),
            _ => (850 + dice.below(400), Some(1)),
        };
        let fault = Fault { mischief: Mischief::Flip { at: at as u64, bit: dice.below(8) as u8 }, way, victim };
        let world = 2 + dice.below(3);
        // Some recover, or meet a bit without meaning, and wait in vain for their end.
        cases.push(Doomed { transport: Transport::Encrypted, world, fault, patience: PROMPT, seed: dice.roll() });
    }
    doom(cases);
}

#[test]
fn a_connection_that_goes_silent_in_its_handshake_ends_every_rank_with_an_error_that_names_one_of_its_ends() {
    let mut cases = Vec::new();
    let mut dice = Dice::new(6);
    for number in 0..100 {
        let way = dice.pick(&[Way::There, Way::Back]);
        let transport = if number % 4 == 3 { Transport::Encrypted } else { Transport::Tcp };
        let victim = dice.pick(&[None, Some(0), Some(1)]);
        let fault = Fault { mischief: Mischief::Hush { at: dice.below(handshake(way) as usize) as u64 }, way, victim };
        cases.push(Doomed { transport, world: 2 + dice.below(3), fault, patience: LONG, seed: dice.roll() });
    }
    doom_and(cases, |what, error| {
        assert!(error.culprit().is_some_and(|rank| rank < 2), "{what}: {error}");
    });
}

#[test]
fn a_control_link_that_goes_silent_after_its_handshake_is_noticed_by_its_heartbeats() {
    let mut cases = Vec::new();
    let mut dice = Dice::new(7);
    for _ in 0..100 {
        let way = dice.pick(&[Way::There, Way::Back]);
        // Before the first word or in the middle of the tenth. The operations would wait for much longer.
        let mischief = Mischief::Hush { at: handshake(way) + dice.below(80) as u64 };
        let fault = Fault { mischief, way, victim: Some(1) };
        cases.push(Doomed {
            transport: Transport::Tcp,
            world: 2 + dice.below(3),
            fault,
            patience: LONG,
            seed: dice.roll(),
        });
    }
    let (all, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    doom_and(cases, |what, error| {
        all.fetch_add(1, Ordering::Relaxed);
        // A rank that the machine kept from its last connections until the others had given up knows only who left.
        if error.to_string().contains("in rendezvous") {
            late.fetch_add(1, Ordering::Relaxed);
            assert!(error.culprit().is_some(), "{what}: {error}");
            return;
        }
        assert!(error.culprit().is_some_and(|rank| rank < 2), "{what}: {error}");
        // Of two ranks, the second to notice may see the first one's leaving: the only way to tell it why is silent.
        assert!(matches!(error.kind(), ErrorKind::Deadline | ErrorKind::PeerLost), "{what}: {error}");
    });
    let (all, late) = (all.into_inner(), late.into_inner());
    assert!(late * 10 <= all, "{late} of {all} ranks had not connected when the others gave up");
}

#[test]
fn a_data_link_that_goes_silent_ends_every_rank_when_the_operation_has_waited_long_enough() {
    let mut cases = Vec::new();
    let mut dice = Dice::new(8);
    for number in 0..100 {
        let way = dice.pick(&[Way::There, Way::Back]);
        let transport = if number % 4 == 3 { Transport::Encrypted } else { Transport::Tcp };
        let most = dice.pick(&[200, 140_000]);
        let at = 100 + dice.below(most);
        let fault = Fault { mischief: Mischief::Hush { at: at as u64 }, way, victim: Some(0) };
        let world = 2 + dice.below(3);
        cases.push(Doomed { transport, world, fault, patience: Duration::from_millis(300), seed: dice.roll() });
    }
    // Some rank is named; not always one of the two ends: a rank that waits for another one's bytes does not know that
    // that one waits itself.
    doom_and(cases, |what, error| assert!(error.culprit().is_some(), "{what}: {error}"));
}

#[test]
fn a_wait_ends_at_its_deadline_although_the_ring_of_control_links_has_a_gap() {
    for transport in [Transport::Shared, Transport::Tcp] {
        for world in [3, 4] {
            let mut tickets = tickets(transport, world, LONG, Duration::from_millis(300));
            for ticket in &mut tickets {
                ticket.options.stall_warning = Duration::from_millis(100);
            }
            // Rank 0 has given its bytes away and leaves, which is in order; rank 1 does not come.
            let done = Arc::new(Barrier::new(world - 1));
            let errors = meet(tickets, "a gap", move |group| match group.rank() {
                0 => group.start_broadcast(buffer(vec![7; 100], DType::U8), 0)?.wait().map(|_| ()),
                1 => {
                    done.wait();
                    Ok(())
                }
                _ => {
                    let outcome = group.start_broadcast(buffer(vec![0; 100], DType::U8), 0).and_then(Work::wait);
                    done.wait();
                    outcome.map(|_| ())
                }
            });
            for error in errors.iter().skip(2) {
                let error = error.as_ref().unwrap();
                assert_eq!(error.kind(), ErrorKind::Deadline, "{transport:?} {world}: {error}");
            }
        }
    }
}
