//! Rows that are mostly zeros: how they travel, and what is believed of them.

use super::bad::*;
use super::*;

/// A shard of partition 6 with one wide column, a batch of each: mostly zeros, none, mostly zeros.
fn fill_wide(store: &ShardStore, rows: usize) -> ShardReport {
    let live_runs = vec!["s".to_owned()];
    let (run, columns, budget) = ("r".into(), wide(), Budget::default());
    let key = store.open(ShardSpec { run, partition: 6, attempt: 1, live_runs, columns, budget }).unwrap();
    for step in [97, 1, 5003] {
        let mut x = vec![0_f32; rows * WIDE];
        x.iter_mut().zip(1..).step_by(step).for_each(|(value, at)| *value = at as f32);
        store.write_rows(key, Split::Train, &[ColumnData::Float32(&x), ColumnData::Int64(&vec![7; rows])]).unwrap();
    }
    store.close(key).unwrap()
}

const WIDE: usize = 5000;

fn wide() -> Vec<Column> {
    let mut columns = columns();
    columns[0].width = WIDE as u32;
    columns
}

#[test]
fn compressed_rows_come_as_they_are_kept_and_dense_ones_between_them() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill_wide(&theirs, 700);
    let endpoint = serve(&theirs, "r", false);
    let pieces = vec![piece(&endpoint, &report, 0, 2100), piece(&endpoint, &report, 690, 1000)];
    let reports = fetch(&ours, &FetchSpec { columns: wide(), ..spec(pieces) }).unwrap();
    assert_eq!((&*reports[0].hash, reports[0].rows), (&*report.hash, 2100));
    // A batch more or less has an offset more or less.
    assert!(reports[0].bytes.abs_diff(report.bytes) < 1000, "{} {}", reports[0].bytes, report.bytes);
    let (theirs, ours) = (theirs.shard(report.key).unwrap(), ours.shard(reports[1].key).unwrap());
    let (mut sent, mut came) = (vec![0; 1000 * 4 * WIDE], vec![1; 1000 * 4 * WIDE]);
    theirs.gather(Split::Train, 0, &(690..1690).collect::<Vec<_>>(), &mut sent).unwrap();
    ours.gather(Split::Train, 0, &(0..1000).collect::<Vec<_>>(), &mut came).unwrap();
    assert!(sent == came);
    assert_eq!(labels(&ours), [7; 1000]);
}

/// Fetches wide rows that `twist` has changed the first message of.
fn wide_reason(twist: impl Fn(&mut FlightData) + Send + Sync + 'static) -> String {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill_wide(&theirs, 10);
    let twist: Twist = Box::new(move |_, mut messages| {
        twist(&mut messages[1]);
        reseal(&mut messages[1], 0);
        send(messages)
    });
    let (endpoint, _, _shared) = Bad::serve(theirs.shard(report.key).unwrap(), twist);
    let request = FetchSpec { columns: wide(), ..spec(vec![piece(&endpoint, &report, 0, 10)]) };
    let Err(Error::Peer { reason, tries: 3, .. }) = fetch(&ours, &request) else { panic!("it was taken") };
    assert_eq!((ours.bytes(), ours.release("r")), (0, 0));
    reason
}

/// Changes some bytes of a message's body.
fn patch(message: &mut FlightData, at: usize, bytes: [u8; 4]) {
    let mut body = message.data_body.to_vec();
    body[at..at + 4].copy_from_slice(&bytes);
    message.data_body = body.into();
}

#[test]
fn what_a_message_claims_of_compressed_rows_is_checked_before_it_is_believed() {
    // The body begins with the 11 offsets; the positions follow where the next 64 bytes begin.
    let reason = |at, bytes| wide_reason(move |message| patch(message, at, bytes));
    for (at, bytes) in [
        (64, u32::MAX.to_ne_bytes()),
        (64, (WIDE as u32).to_ne_bytes()),
        (68, 0_u32.to_ne_bytes()),
        (0, 1_i32.to_ne_bytes()),
        (4, (-1_i32).to_ne_bytes()),
        (40, 9999_i32.to_ne_bytes()),
    ] {
        assert_eq!(reason(at, bytes), "the message with row 0 lies about its positions", "{at}");
    }
    let forms = |forms: &'static [u8]| {
        wide_reason(move |message| {
            let seal = message.app_metadata.slice(..16);
            message.app_metadata = [&seal, forms].concat().into();
        })
    };
    for bad in [&[][..], &[0, 0], &[1], &[1, 1], &[2, 0], &[1, 0, 0]] {
        assert!(forms(bad).contains("lies about its columns"), "{bad:?}");
    }
}

#[test]
fn who_does_not_ask_for_compressed_rows_gets_them_dense_as_the_schema_says() {
    let theirs = ShardStore::new();
    let report = fill_wide(&theirs, 700);
    let text = format!(r#"{{"run":"r","partition":6,"key":{},"split":"train","first":695,"rows":1400}}"#, report.key);
    let ticket: Ticket = serde_json::from_str(&text).unwrap();
    assert!(!ticket.compressed);
    let messages = super::super::server::messages(&theirs, &ticket);
    let schema = Schema::check(&ShardSpec {
        run: "r".into(),
        partition: 6,
        attempt: 0,
        live_runs: vec![],
        columns: wide(),
        budget: Budget::default(),
    });
    chunk::check_schema(&messages[0], &schema.unwrap()).unwrap();
    let shard = theirs.shard(report.key).unwrap();
    let mut next = 695;
    for message in &messages[1..] {
        assert_eq!(message.app_metadata.len(), 16);
        let chunk = chunk::decode(message, &wide(), next, 2095 - next).unwrap();
        let [Given::Dense(x), Given::Dense(_)] = chunk.columns[..] else { panic!("{chunk:?}") };
        let mut expected = vec![1; chunk.rows * 4 * WIDE];
        let rows: Vec<u32> = (next as u32..).take(chunk.rows).collect();
        shard.gather(Split::Train, 0, &rows, &mut expected).unwrap();
        assert!(x == expected);
        next += chunk.rows as u64;
    }
    assert_eq!(next, 2095);
}
