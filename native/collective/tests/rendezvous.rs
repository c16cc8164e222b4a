//! Who gets in, who is kept out, and who is named when somebody is missing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

mod group;

use group::*;
use kindling_collective::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(500);

fn port(ticket: &Ticket) -> (String, u16) {
    let endpoint = &ticket.roster[ticket.options.rank];
    (endpoint.host.clone(), endpoint.port)
}

fn works(group: Result<std::sync::Arc<dyn Communicator>, Error>) -> Option<Error> {
    match group {
        Ok(group) => group.start_barrier().and_then(Work::wait).err(),
        Err(error) => Some(error),
    }
}

#[test]
fn a_rank_that_never_connects_is_named_by_all_when_the_deadline_has_passed() {
    for transport in ALL {
        for world in [2, 3, 5] {
            let mut tickets = tickets(transport, world, SHORT, LONG);
            // Its listener stays open, so that its port answers and only the rank itself is silent.
            let _missing = tickets.remove(1);
            let began = Instant::now();
            for error in outcomes(tickets, |group| group.err().unwrap()) {
                assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
                assert_eq!(error.culprit(), Some(1), "{transport:?} {world}: {error}");
            }
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        }
    }
}

#[test]
fn a_rank_whose_port_is_closed_is_named_long_before_the_deadline() {
    // Whether the others are to connect to it, or it to them.
    for (world, gone) in [(2, 0), (2, 1), (3, 1), (4, 0)] {
        let mut tickets = tickets(Transport::Tcp, world, LONG, LONG);
        drop(tickets.remove(gone));
        let began = Instant::now();
        for error in outcomes(tickets, |group| group.err().unwrap()) {
            assert_eq!(error.kind(), ErrorKind::PeerLost, "{error}");
            assert_eq!(error.culprit(), Some(gone), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    }
}

#[test]
fn a_wrong_secret_is_refused_and_costs_only_that_connection() {
    let tickets = tickets(Transport::Tcp, 2, LONG, LONG);
    // An intruder that knows everything but the secret, in the place of rank 0. It has a listener of its own.
    let listener = Listener::bind("127.0.0.1").unwrap();
    let mut roster = tickets[0].roster.clone();
    roster[0] = listener.endpoint("process 0");
    let secret = Secret::generate().unwrap();
    let intruder = Ticket {
        listener,
        roster,
        options: Options { secret, rendezvous_timeout: SHORT * 4, ..tickets[0].options.clone() },
        aborter: Aborter::new(),
    };
    std::thread::scope(|scope| {
        let mut tickets = tickets.into_iter();
        let (first, second) = (tickets.next().unwrap(), tickets.next().unwrap());
        let second = scope.spawn(|| works(second.connect()));
        let error = intruder.connect().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(error.culprit(), Some(1));
        assert!(error.to_string().contains("another secret"), "{error}");
        // Rank 1 has waited on, and the right rank 0 gets in.
        assert!(works(first.connect()).is_none());
        assert!(second.join().unwrap().is_none());
    });
}

#[test]
fn different_secrets_inside_one_process_are_refused() {
    let mut tickets = tickets(Transport::Local, 2, SHORT, LONG);
    tickets[1].options.secret = Secret::generate().unwrap();
    let errors = outcomes(tickets, |group| group.err().unwrap());
    assert!(errors.iter().any(|error| error.kind() == ErrorKind::Refused));
}

#[test]
fn a_zombie_of_an_earlier_attempt_is_told_that_its_time_is_over() {
    let mut tickets = tickets(Transport::Tcp, 2, SHORT * 2, LONG);
    tickets[0].options.attempt = 0;
    let errors = outcomes(tickets, |group| group.err().unwrap());
    assert!(errors.iter().any(|error| error.kind() == ErrorKind::Refused && error.to_string().contains("attempt")));
}

#[test]
fn attempts_of_one_run_do_not_meet_inside_a_process() {
    let mut tickets = tickets(Transport::Local, 2, SHORT, LONG);
    tickets[0].options.attempt = 0;
    for error in outcomes(tickets, |group| group.err().unwrap()) {
        assert_eq!(error.kind(), ErrorKind::Deadline);
    }
}

#[test]
fn an_abandoned_group_leaves_nothing_behind_for_the_next_of_its_name() {
    let mut tickets = tickets(Transport::Local, 2, SHORT, LONG);
    let again = Ticket {
        listener: Listener::bind("127.0.0.1").unwrap(),
        roster: tickets[0].roster.clone(),
        options: tickets[0].options.clone(),
        aborter: Aborter::new(),
    };
    let mut roster = again.roster.clone();
    roster[0] = again.listener.endpoint("one process");
    tickets[1].roster.clone_from(&roster);
    let second = tickets.pop().unwrap();
    assert_eq!(tickets.pop().unwrap().connect().err().unwrap().culprit(), Some(1));
    let errors = outcomes(vec![Ticket { roster, ..again }, second], works);
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
}

#[test]
fn one_rank_cannot_connect_twice() {
    let tickets = tickets(Transport::Local, 2, SHORT, LONG);
    let twin = Ticket {
        listener: Listener::bind("127.0.0.1").unwrap(),
        roster: tickets[0].roster.clone(),
        options: tickets[0].options.clone(),
        aborter: Aborter::new(),
    };
    // The twin's listener is not in the roster: that is refused even before.
    assert_eq!(twin.connect().err().unwrap().kind(), ErrorKind::Invalid);
    assert!(outcomes(tickets, works).iter().all(Option::is_none));
}

#[test]
fn strangers_at_the_listener_cost_only_their_own_connections() {
    let tickets = tickets(Transport::Tcp, 3, LONG, LONG);
    let ports: Vec<_> = tickets.iter().map(port).collect();
    // They come before the ranks do, and stay: silent, noisy, half a greeting, a greeting without a proof, gone at once.
    let mut strangers = Vec::new();
    for port in &ports {
        for number in 0..50u8 {
            let mut stream = TcpStream::connect(port).unwrap();
            match number % 5 {
                0 => {}
                1 => stream.write_all(&[number.wrapping_mul(37); 1000]).unwrap(),
                2 => stream.write_all(b"KINDLING\x02\x00").unwrap(),
                3 => stream.write_all(&[b"KINDLING\x02\x00\x00\x00".as_slice(), &[number; 90]].concat()).unwrap(),
                _ => continue,
            }
            strangers.push(stream);
        }
    }
    let errors = outcomes(tickets, works);
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
    // Nobody has told them anything but a challenge and a refusal.
    for mut stranger in strangers {
        stranger.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut heard = Vec::new();
        let _ = stranger.read_to_end(&mut heard);
        assert!(heard.len() <= 84, "{}", heard.len());
    }
}

/// What a stranger says, and whether it says afterwards that it will say no more.
fn greetings() -> Vec<(Vec<u8>, bool)> {
    let hello = [b"KINDLING\x02\x00\x00\x00".as_slice(), &[7; 32]].concat();
    vec![
        // A port scanner, and one that waits for us to begin.
        (Vec::new(), true),
        (Vec::new(), false),
        // Half open: the end after half a hello, after a hello, and no end.
        (hello[..20].to_vec(), true),
        (hello[..20].to_vec(), false),
        (hello.clone(), true),
        (hello.clone(), false),
        // A proof without the secret, for rank 0's place at rank 1 in a world of 2.
        ([&hello[..], &[1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &[9; 32]].concat(), false),
        // The header of a frame that claims 4 GiB; alone, and where the proof should be.
        (vec![2, 0, 0, 0, 255, 255, 255, 255], false),
        ([&hello[..], &[2, 0, 0, 0, 255, 255, 255, 255].repeat(8)].concat(), false),
        // The beginning of TLS, HTTP, and noise.
        (vec![22, 3, 1, 255, 255, 1, 0, 255, 252, 3, 3], false),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(), true),
        ((0..70_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 15) as u8).collect(), true),
    ]
}

/// Knocks with each greeting at both of a rank's doors, and returns the connections, so that they stay.
fn knock(endpoint: &Endpoint) -> (Vec<TcpStream>, Vec<UnixStream>) {
    let (mut remote, mut local) = (Vec::new(), Vec::new());
    let door = SocketAddr::from_abstract_name(endpoint.door.as_bytes()).unwrap();
    for (greeting, ends) in greetings() {
        // The door may have closed, or turned the stranger away in the middle of its greeting: that is as good.
        if let Ok(mut stream) = TcpStream::connect((endpoint.host.as_str(), endpoint.port)) {
            let _ = stream.write_all(&greeting);
            let _ = ends.then(|| stream.shutdown(Shutdown::Write));
            remote.push(stream);
        }
        if let Ok(mut stream) = UnixStream::connect_addr(&door) {
            // Nobody may be reading yet, and a local socket holds only so much.
            stream.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
            let _ = stream.write_all(&greeting);
            let _ = ends.then(|| stream.shutdown(Shutdown::Write));
            local.push(stream);
        }
    }
    (remote, local)
}

#[test]
fn strangers_at_either_door_cost_a_forming_group_nothing() {
    for transport in [Transport::Tcp, Transport::Shared, Transport::Encrypted, Transport::Mixed] {
        let mut tickets = tickets(transport, 3, LONG, LONG);
        let endpoints = tickets[0].roster.clone();
        let last = tickets.pop().unwrap();
        // Some have come before the ranks, and stay.
        let _early: Vec<_> = endpoints.iter().map(knock).collect();
        let (over, knocks) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            // Others keep coming while two ranks wait for the third.
            let stranger = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let _ = endpoints.iter().map(knock).collect::<Vec<_>>();
                    knocks.fetch_add(1, Ordering::SeqCst);
                }
            });
            let group = scope.spawn(|| outcomes(tickets, works));
            let until = Instant::now() + LONG;
            while knocks.load(Ordering::SeqCst) < 3 {
                assert!(Instant::now() < until && !stranger.is_finished());
                std::thread::yield_now();
            }
            let began = Instant::now();
            let third = works(last.connect());
            let elapsed = began.elapsed();
            let others = group.join().unwrap();
            over.store(true, Ordering::SeqCst);
            assert!(third.is_none() && others.iter().all(Option::is_none), "{transport:?}: {third:?} {others:?}");
            // A handshake takes milliseconds. That a rank loses its place to a crowd of strangers and comes again is part of
            // it; that it waits until one of them has had its 10 s is not.
            assert!(elapsed < Duration::from_secs(5), "{transport:?}: {elapsed:?}");
            println!("{transport:?}: together after {elapsed:?}");
        });
    }
}

#[test]
fn who_knows_the_door_but_not_the_secret_shares_no_memory() {
    let tickets = tickets(Transport::Shared, 2, LONG, LONG);
    let listener = Listener::bind("127.0.0.1").unwrap();
    let mut roster = tickets[0].roster.clone();
    roster[0] = listener.endpoint("process 0");
    let secret = Secret::generate().unwrap();
    let options = Options { secret, rendezvous_timeout: SHORT * 4, ..tickets[0].options.clone() };
    let intruder = Ticket { listener, roster, options, aborter: Aborter::new() };
    std::thread::scope(|scope| {
        let mut tickets = tickets.into_iter();
        let (first, second) = (tickets.next().unwrap(), tickets.next().unwrap());
        let second = scope.spawn(|| works(second.connect()));
        let error = intruder.connect().err().unwrap();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Refused, Some(1)), "{error}");
        assert!(works(first.connect()).is_none());
        assert!(second.join().unwrap().is_none());
    });
}

#[test]
fn strangers_that_come_during_the_run_find_the_door_closed() {
    let tickets = tickets(Transport::Tcp, 2, LONG, LONG);
    let ports: Vec<_> = tickets.iter().map(port).collect();
    let connected = Barrier::new(2);
    outcomes(tickets, |group| {
        let group = group.unwrap();
        connected.wait();
        assert!(TcpStream::connect(&ports[group.rank()]).is_err());
        group.start_barrier().unwrap().wait().unwrap();
    });
}

#[test]
fn a_roster_that_does_not_fit_is_refused() {
    let mut ticket = tickets(Transport::Tcp, 2, SHORT, LONG).remove(0);
    ticket.options.rank = 2;
    assert_eq!(ticket.connect().err().unwrap().kind(), ErrorKind::Invalid);
    let mut ticket = tickets(Transport::Tcp, 2, SHORT, LONG).remove(0);
    ticket.roster.swap(0, 1);
    assert_eq!(ticket.connect().err().unwrap().kind(), ErrorKind::Invalid);
}

#[test]
fn a_world_of_one_is_complete_by_itself() {
    for transport in ALL {
        assert!(outcomes(tickets(transport, 1, SHORT, SHORT), works).iter().all(Option::is_none));
    }
}
