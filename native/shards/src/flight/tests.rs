//! Two stores that talk over loopback; a proxy that cuts the wire; and a server that is worse than any real one (`bad`).

mod bad;
mod compressed;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket as FlightTicket,
};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::{Request, Response, Status, Streaming};

use bad::*;

use super::runtime::Shared;
use super::{Canceller, Endpoint, FetchSpec, Piece, Secret, ServeSpec, Ticket, chunk};
use crate::error::{Error, ErrorKind, Result};
use crate::filling::Given;
use crate::rows::ColumnData;
use crate::shard::Shard;
use crate::spec::{Budget, Column, DType, Role, Schema, ShardReport, ShardSpec, Split};
use crate::store::ShardStore;

const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn secret() -> Secret {
    Secret::from_hex(SECRET).unwrap()
}

fn columns() -> Vec<Column> {
    let column = |name: &str, role, dtype, width| Column { name: name.into(), role, dtype, width };
    vec![column("x", Role::Input, DType::Float32, 3), column("x", Role::Label, DType::Int64, 1)]
}

/// A shard of partition 6 whose row r has the label r and three values made of it, in batches of these sizes.
fn fill(store: &ShardStore, run: &str, budget: Budget, batches: &[i64]) -> ShardReport {
    let live_runs = vec!["r".to_owned(), "s".to_owned()];
    let spec = ShardSpec { run: run.into(), partition: 6, attempt: 1, live_runs, columns: columns(), budget };
    let key = store.open(spec).unwrap();
    let mut next = 0;
    for rows in batches {
        write(store, key, next..next + rows);
        next += rows;
    }
    store.close(key).unwrap()
}

fn write(store: &ShardStore, key: u64, rows: std::ops::Range<i64>) {
    let labels: Vec<i64> = rows.collect();
    let x: Vec<f32> = labels.iter().flat_map(|label| [0, 1, 2].map(|i| (label * 3 + i) as f32)).collect();
    store.write_rows(key, Split::Train, &[ColumnData::Float32(&x), ColumnData::Int64(&labels)]).unwrap();
}

fn serve(store: &ShardStore, run: &str, encrypted: bool) -> Endpoint {
    store.serve(ServeSpec { run: run.into(), secret: secret(), host: "127.0.0.1".into(), encrypted }).unwrap()
}

fn piece(endpoint: &Endpoint, report: &ShardReport, first: u64, rows: u64) -> Piece {
    let (endpoint, key) = (endpoint.clone(), report.key);
    Piece { endpoint, partition: 6, key, split: Split::Train, first, rows }
}

fn spec(pieces: Vec<Piece>) -> FetchSpec {
    FetchSpec {
        run: "r".into(),
        held_for: None,
        secret: secret(),
        live_runs: vec!["s".into()],
        columns: columns(),
        budget: Budget::default(),
        pieces,
        timeout_ms: 30_000,
        tries: 3,
    }
}

fn fetch(store: &ShardStore, spec: &FetchSpec) -> Result<Vec<ShardReport>> {
    store.fetch(spec, &Canceller::default())
}

fn labels(shard: &Shard) -> Vec<i64> {
    shard.values::<i64>(Split::Train, 1).unwrap().flatten().copied().collect()
}

fn here(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port, certificate: None }
}

#[test]
fn rows_of_another_process_become_a_shard_of_this_one_whatever_the_batches() {
    for encrypted in [false, true] {
        let (theirs, ours) = (ShardStore::new(), ShardStore::new());
        let report = fill(&theirs, "r", Budget::default(), &[70_000, 5, 120_000, 1]);
        let endpoint = serve(&theirs, "r", encrypted);
        assert_eq!(endpoint.certificate.is_some(), encrypted);
        let pieces = vec![
            piece(&endpoint, &report, 69_990, 100_000),
            piece(&endpoint, &report, 0, 190_006),
            piece(&endpoint, &report, 190_005, 1),
            piece(&endpoint, &report, 7, 0),
        ];
        let reports = fetch(&ours, &spec(pieces)).unwrap();
        assert_eq!(reports.iter().map(|report| report.rows).collect::<Vec<_>>(), [100_000, 190_006, 1, 0]);
        let shards: Vec<_> = reports.iter().map(|report| ours.shard(report.key).unwrap()).collect();
        assert!(labels(&shards[0]).into_iter().eq(69_990..169_990));
        let x: Vec<f32> = (209_970..509_970).map(|n| n as f32).collect();
        assert!(shards[0].values::<f32>(Split::Train, 0).unwrap().flatten().eq(&x));
        // The hash is that of the rows: what came is what was sent.
        assert_eq!((&*reports[1].hash, reports[1].partition), (&*report.hash, 6));
        assert_eq!(labels(&shards[2]), [190_005]);
        drop(shards);
        assert_eq!(ours.release("r"), 4);
        assert_eq!(ours.bytes(), 0);
    }
}

#[test]
fn rows_held_for_one_run_are_fetched_by_others_and_stay_when_those_end() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    let endpoint = serve(&theirs, "r", false);
    for run in ["s", "t"] {
        let of_other = FetchSpec {
            run: run.into(),
            held_for: Some("r".into()),
            live_runs: vec!["s".into(), "t".into()],
            ..spec(vec![piece(&endpoint, &report, 2, 5)])
        };
        let fetched = fetch(&ours, &of_other).unwrap();
        assert_eq!(labels(&ours.shard(fetched[0].key).unwrap()), [2, 3, 4, 5, 6]);
    }
    assert_eq!((ours.release("r"), ours.release("s"), ours.release("t"), ours.bytes()), (0, 1, 1, 0));
    assert_eq!(theirs.release("r"), 1);
}

#[test]
fn rows_that_lie_in_files_are_served_and_rows_that_come_go_to_files_where_there_is_no_memory() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let disk = || Budget { memory: 0, directories: vec![std::env::temp_dir()] };
    let report = fill(&theirs, "r", disk(), &[3000, 200_000]);
    let request = FetchSpec { budget: disk(), ..spec(vec![piece(&serve(&theirs, "r", false), &report, 0, 203_000)]) };
    let reports = fetch(&ours, &request).unwrap();
    assert_eq!((&*reports[0].hash, ours.bytes(), theirs.bytes()), (&*report.hash, 0, 0));
    assert!(reports[0].spilled_bytes >= reports[0].bytes);
}

#[test]
fn a_run_is_served_once_and_until_its_last_shard_is_gone() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let spec_of =
        |run: &str| ServeSpec { run: run.into(), secret: secret(), host: "127.0.0.1".into(), encrypted: false };
    let none = theirs.serve(spec_of("r")).unwrap_err();
    assert_eq!((none.kind(), none.to_string().contains("no shard")), (ErrorKind::State, true));
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    let endpoint = serve(&theirs, "r", false);
    assert_eq!(serve(&theirs, "r", false), endpoint);
    theirs.release("r");
    let request = FetchSpec { tries: 1, ..spec(vec![piece(&endpoint, &report, 0, 10)]) };
    assert_eq!(fetch(&ours, &request).unwrap_err().kind(), ErrorKind::Peer);
    // A run of the same name begins anew.
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    assert!(fetch(&ours, &spec(vec![piece(&serve(&theirs, "r", false), &report, 0, 10)])).is_ok());
}

#[test]
fn who_has_not_the_token_of_the_run_gets_nothing_and_is_not_asked_again() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    let endpoint = serve(&theirs, "r", false);
    let wrong = Secret::from_hex(&SECRET.replace("00", "01")).unwrap();
    let refused = |request: &FetchSpec| match fetch(&ours, request).unwrap_err() {
        Error::Peer { tries: 1, row: 0, partition: 6, reason, .. } => reason,
        other => panic!("{other}"),
    };
    let pieces = vec![piece(&endpoint, &report, 0, 10)];
    let reason = refused(&FetchSpec { secret: wrong, ..spec(pieces.clone()) });
    assert!(reason.contains("token"), "{reason}");
    // The token of another run, though of the same secret.
    assert!(refused(&FetchSpec { run: "s".into(), ..spec(pieces) }).contains("token"));
    assert_eq!(ours.bytes(), 0);
    assert_eq!(ours.release("r") + ours.release("s"), 0);
}

#[test]
fn a_token_opens_no_shard_of_another_run_and_no_row_that_is_not_there() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    let other = fill(&theirs, "s", Budget::default(), &[10]);
    let endpoint = serve(&theirs, "r", false);
    let reason = |piece: Piece| fetch(&ours, &FetchSpec { tries: 1, ..spec(vec![piece]) }).unwrap_err().to_string();
    assert!(reason(piece(&endpoint, &other, 0, 10)).contains("not in this store"));
    assert!(reason(piece(&endpoint, &report, 1, 10)).contains("partition 6 has 10 training rows"));
    assert!(reason(piece(&endpoint, &report, u64::MAX, 2)).contains("10 training rows"));
    assert!(reason(Piece { partition: 7, ..piece(&endpoint, &report, 0, 1) }).contains("is of partition 6, not 7"));
    let open = theirs.open(ShardSpec {
        run: "r".into(),
        partition: 6,
        attempt: 2,
        live_runs: vec!["s".into()],
        columns: columns(),
        budget: Budget::default(),
    });
    let filling = ShardReport { key: open.unwrap(), ..report };
    assert!(reason(piece(&endpoint, &filling, 0, 1)).contains("still being filled"));
}

#[test]
fn a_server_with_another_certificate_or_none_is_not_believed() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    fill(&theirs, "s", Budget::default(), &[10]);
    let (tls, plain) = (serve(&theirs, "r", true), serve(&theirs, "s", false));
    let other = ShardStore::new();
    fill(&other, "r", Budget::default(), &[1]);
    let stranger = serve(&other, "r", true);
    for endpoint in [
        Endpoint { certificate: stranger.certificate, ..tls.clone() },
        Endpoint { certificate: tls.certificate.clone(), ..plain },
        Endpoint { certificate: None, ..tls.clone() },
    ] {
        let request = FetchSpec { tries: 1, ..spec(vec![piece(&endpoint, &report, 0, 10)]) };
        assert_eq!(fetch(&ours, &request).unwrap_err().kind(), ErrorKind::Peer);
    }
    let broken = Endpoint { certificate: Some("-----BEGIN".into()), ..tls };
    let error = fetch(&ours, &spec(vec![piece(&broken, &report, 0, 10)])).unwrap_err();
    assert!(error.to_string().contains("certificate cannot be read"), "{error}");
}

/// Passes bytes on, and cuts the n-th connection after so many bytes of the server's, those after these at `rest`. Says where
/// it listens.
fn proxy(server: &Endpoint, cuts: Vec<usize>, rest: usize) -> Endpoint {
    let (listener, target) = (TcpListener::bind("127.0.0.1:0").unwrap(), server.port);
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", target)).unwrap());
            let mut left = cuts.get(number).copied().unwrap_or(rest);
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                // To the end of what the client sends: a socket closed before would take back what was passed to it.
                let _ = std::io::copy(&mut from, &mut std::io::sink());
            });
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read) = server.read(&mut buffer) {
                    let passed = read.min(left);
                    left -= passed;
                    if passed == 0 || client.write_all(&buffer[..passed]).is_err() {
                        break;
                    }
                }
                let _ = (client.shutdown(Shutdown::Write), server.shutdown(Shutdown::Both));
            });
        }
    });
    here(port)
}

#[test]
fn a_stream_that_is_cut_goes_on_behind_the_last_row_that_came() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[150_000, 300_000]);
    // 9 MB in all: cut in the middle of the second message, in the first, before the first, and once more.
    let cuts = vec![3_000_000, 1_000_000, 100, 4_500_000];
    let endpoint = proxy(&serve(&theirs, "r", false), cuts, usize::MAX);
    let reports = fetch(&ours, &spec(vec![piece(&endpoint, &report, 0, 450_000)])).unwrap();
    assert_eq!((reports[0].rows, &*reports[0].hash), (450_000, &*report.hash));
}

#[test]
fn a_peer_that_stays_away_is_named_with_the_row_it_owes() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[150_000, 300_000]);
    let endpoint = proxy(&serve(&theirs, "r", false), vec![3_000_000], 100);
    let error = fetch(&ours, &spec(vec![piece(&endpoint, &report, 10, 440_000)])).unwrap_err();
    let Error::Peer { peer, partition, row, tries, .. } = &error else { panic!("{error}") };
    assert_eq!((peer, *partition, *tries), (&endpoint.to_string(), 6, 3));
    // One message of 2 MB was whole.
    assert_eq!(*row, 10 + (2 << 20) / 20);
    assert_eq!((error.kind(), ours.bytes()), (ErrorKind::Peer, 0));
}

#[test]
fn a_damaged_message_is_asked_for_again_and_the_rows_are_right() {
    let twist: Twist = Box::new(|stream, mut messages| {
        if stream == 0 {
            flip(&mut messages[3]);
        }
        send(messages)
    });
    let (fetched, asked) = from_bad(twist, 30_000);
    assert!(fetched.unwrap().into_iter().eq(0..450));
    assert_eq!(asked, [0, 200]);
}

#[test]
fn a_stream_that_fails_after_every_message_still_brings_all_rows() {
    let twist: Twist = Box::new(|_, mut messages| {
        messages.truncate(2);
        let mut steps = send(messages);
        steps.push(Step::Fail(Status::unavailable("gone")));
        steps
    });
    let (fetched, asked) = from_bad(twist, 30_000);
    assert!(fetched.unwrap().into_iter().eq(0..450));
    assert_eq!(asked, [0, 100, 200, 300, 400]);
}

#[test]
fn what_a_message_claims_is_checked_before_it_is_believed() {
    let is = |found: String, part: &str| assert!(found.contains(part), "{found:?} does not say {part:?}");
    is(reason(|messages| flip(&mut messages[1])), "checksum of the message with row 0 does not fit");
    is(reason(|messages| messages[1].app_metadata = "short".into()), "no row number and checksum");
    is(reason(|messages| reseal(&mut messages[1], 50)), "begins with row 50 where row 0 was due");
    is(reason(|messages| drop(messages.remove(1))), "begins with row 100 where row 0 was due");
    is(reason(|messages| messages.truncate(1)), "ended 450 rows early");
    is(reason(Vec::clear), "the stream is empty");
    is(
        reason(|messages| {
            let short = messages[1].data_body.slice(..messages[1].data_body.len() / 2);
            messages[1].data_body = short;
            reseal(&mut messages[1], 0);
        }),
        "lies about its length",
    );
    // The header of a message with fewer rows: its buffers are shorter than those of a hundred rows would be.
    is(
        reason(|messages| {
            messages[1].data_header = messages[5].data_header.clone();
            messages[1].data_body = messages[1].data_body.slice(..8);
            reseal(&mut messages[1], 0);
        }),
        "lies about its length",
    );
    is(
        reason(|messages| {
            messages[1].data_header = messages[0].data_header.clone();
            reseal(&mut messages[1], 0);
        }),
        "holds no rows",
    );
    is(
        reason(|messages| {
            messages[1].data_header = "nonsense".into();
            reseal(&mut messages[1], 0);
        }),
        "no header",
    );
}

#[test]
fn more_rows_than_were_asked_for_are_not_taken() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[450]);
    let shard = theirs.shard(report.key).unwrap();
    let long = chunk::encode(&shard.piece(Split::Train, 0, 450).unwrap(), 0, true).unwrap();
    let twist: Twist = Box::new(move |_, messages| send(vec![messages[0].clone(), long.clone()]));
    let (endpoint, _, _shared) = Bad::serve(shard, twist);
    let error = fetch(&ours, &spec(vec![piece(&endpoint, &report, 0, 449)])).unwrap_err();
    assert!(error.to_string().contains("lies about its number of rows"), "{error}");
}

#[test]
fn a_message_longer_than_its_rows_can_be_is_not_read() {
    let found = reason(|messages| {
        messages[1].data_body = vec![0; chunk::longest_message(&columns()) + 1].into();
        reseal(&mut messages[1], 0);
    });
    assert!(found.contains("too large"), "{found}");
}

#[test]
fn other_columns_than_those_of_the_run_are_refused_with_both() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    let mut request = spec(vec![piece(&serve(&theirs, "r", false), &report, 0, 10)]);
    request.columns.pop();
    let error = fetch(&ours, &request).unwrap_err().to_string();
    assert!(error.contains("after 1 attempts") && error.contains("instead of"), "{error}");
}

#[test]
fn a_server_that_falls_silent_is_given_up_at_the_deadline_and_asked_again() {
    let twist: Twist = Box::new(|stream, mut messages| {
        messages.truncate(if stream == 0 { 3 } else { 6 });
        let mut steps = send(messages);
        steps.push(Step::Hang);
        steps
    });
    // Long enough for a good answer on a busy machine; the silent one takes all of it, once.
    let (fetched, asked) = from_bad(twist, 2_000);
    assert!(fetched.unwrap().into_iter().eq(0..450));
    assert_eq!(asked, [0, 200]);
}

#[test]
fn a_port_that_answers_nobody_is_given_up_at_the_deadline() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[10]);
    // The system accepts for it, and nobody ever reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = here(listener.local_addr().unwrap().port());
    let request = FetchSpec { timeout_ms: 100, tries: 2, ..spec(vec![piece(&endpoint, &report, 0, 10)]) };
    let error = fetch(&ours, &request).unwrap_err().to_string();
    assert!(error.contains("within 100 ms") && error.contains("after 2 attempts"), "{error}");
}

#[test]
fn a_fetch_that_waits_is_ended_from_another_thread_with_the_first_reason() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[450]);
    let canceller = Canceller::default();
    let cancel = canceller.clone();
    let twist: Twist = Box::new(move |_, _| {
        cancel.cancel("the task was killed");
        cancel.cancel("again");
        vec![Step::Hang]
    });
    let (endpoint, _, _shared) = Bad::serve(theirs.shard(report.key).unwrap(), twist);
    let error = ours.fetch(&spec(vec![piece(&endpoint, &report, 0, 450)]), &canceller).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("the task was killed")), (ErrorKind::Peer, true));
    assert_eq!(ours.release("r"), 0);
    // Whoever comes later with the same canceller is ended, too.
    assert!(matches!(ours.fetch(&spec(vec![]), &canceller), Err(Error::Cancelled { .. })));
}

#[test]
fn a_secret_is_64_digits_is_not_printed_and_makes_a_token_per_run() {
    for text in ["", "ab", &SECRET[1..], &format!("{SECRET}00"), &SECRET.replace('f', "g")] {
        assert!(matches!(Secret::from_hex(text), Err(Error::Secret)), "{text}");
    }
    assert_eq!(format!("{:?}", secret()), "Secret(…)");
    assert_eq!(secret().token("r").len(), 64);
    assert_ne!(secret().token("r"), secret().token("s"));
    assert!(!secret().token("r").contains(&SECRET[..8]));
}

#[test]
fn requests_are_read_from_camel_case_json_and_unknown_keys_are_refused() {
    let json = format!(
        r#"{{"run":"r","secret":"{SECRET}","liveRuns":[],"columns":[],"pieces":[{{"endpoint":{{"host":"h","port":1}},
        "partition":2,"key":3,"split":"validation","first":4,"rows":5}}]}}"#
    );
    let read: FetchSpec = serde_json::from_str(&json).unwrap();
    assert_eq!((read.timeout_ms, read.tries, read.pieces[0].split), (30_000, 3, Split::Validation));
    let error = serde_json::from_str::<FetchSpec>(&json.replace("liveRuns", "live")).unwrap_err();
    assert!(error.to_string().contains("`live`"), "{error}");
    assert_eq!(serde_json::to_string(&here(7)).unwrap(), r#"{"host":"127.0.0.1","port":7}"#);
    assert_eq!(Endpoint { host: "::1".into(), ..here(7) }.to_string(), "[::1]:7");
}
