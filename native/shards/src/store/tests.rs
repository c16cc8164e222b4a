//! The store's states, its clean-up, and writers and readers side by side.
#![allow(unsafe_code, reason = "plays the writer outside Rust, which has nothing but an address")]

use std::sync::Barrier;
use std::thread;

use super::*;
use crate::error::ErrorKind;
use crate::spec::{Budget, Column, DType, Role};

fn columns() -> Vec<Column> {
    vec![
        Column { name: "x".into(), role: Role::Input, dtype: DType::Float32, width: 2 },
        Column { name: "y".into(), role: Role::Label, dtype: DType::Int64, width: 1 },
    ]
}

fn spec(run: &str, live: &[&str]) -> ShardSpec {
    let live_runs = live.iter().map(|run| run.to_string()).collect();
    ShardSpec { run: run.into(), partition: 4, attempt: 1, live_runs, columns: columns(), budget: Budget::default() }
}

/// A shard of run `run` that is still being filled and holds one row.
fn begun(store: &ShardStore, run: &str, live: &[&str]) -> u64 {
    let key = store.open(spec(run, live)).unwrap();
    write(store, key, &[1]);
    key
}

fn sealed(store: &ShardStore, run: &str, live: &[&str]) -> u64 {
    let key = begun(store, run, live);
    store.close(key).unwrap();
    key
}

fn write(store: &ShardStore, key: u64, labels: &[i64]) {
    let x = vec![0.5; labels.len() * 2];
    store.write_rows(key, Split::Train, &[ColumnData::Float32(&x), ColumnData::Int64(labels)]).unwrap();
}

/// What a JVM task does: row r gets (r, -r) and 100+r, through addresses alone.
fn write_outside(addresses: &[u64], rows: usize) {
    let [x, y] = addresses else { panic!("two columns, two addresses") };
    let x = std::ptr::with_exposed_provenance_mut::<f32>(*x as usize);
    let y = std::ptr::with_exposed_provenance_mut::<i64>(*y as usize);
    for row in 0..rows {
        // SAFETY: the caller reserved at least `rows` rows, of two f32 and one i64 each, and has not committed them.
        unsafe {
            x.add(2 * row).write(row as f32);
            x.add(2 * row + 1).write(-(row as f32));
            y.add(row).write(100 + row as i64);
        }
    }
}

fn labels(store: &ShardStore, key: u64, split: Split) -> Vec<i64> {
    store.shard(key).unwrap().values::<i64>(split, 1).unwrap().flatten().copied().collect()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn rows_written_through_lent_addresses_are_read_without_a_copy() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &["r"])).unwrap();
    let addresses = store.reserve(key, Split::Train, 1000).unwrap();
    assert!(addresses.iter().all(|address| address % 64 == 0));
    write_outside(&addresses, 1000);
    store.commit(key, Split::Train, 1000).unwrap();
    let validation = store.reserve(key, Split::Validation, 8).unwrap();
    write_outside(&validation, 8);
    store.commit(key, Split::Validation, 8).unwrap();
    let report = store.close(key).unwrap();
    assert_eq!((report.rows, report.validation_rows, report.bytes), (1000, 8, 1008 * 16));
    assert_eq!((report.key, report.partition, &*report.process), (key, 4, store.process()));

    let shard = store.shard(key).unwrap();
    let x = shard.values::<f32>(Split::Train, 0).unwrap().next().unwrap();
    let y = shard.values::<i64>(Split::Train, 1).unwrap().next().unwrap();
    assert_eq!([x.as_ptr() as u64, y.as_ptr() as u64], addresses[..]);
    assert_eq!(x[2 * 999..], [999.0, -999.0]);
    assert_eq!(labels(&store, key, Split::Train), (100..1100).collect::<Vec<_>>());
    assert_eq!(labels(&store, key, Split::Validation), (100..108).collect::<Vec<_>>());
}

#[test]
fn reserving_far_more_than_is_committed_keeps_only_what_is_committed() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    let addresses = store.reserve(key, Split::Train, 1 << 22).unwrap();
    assert!(store.bytes() >= (1 << 22) * 16);
    write_outside(&addresses, 10);
    store.commit(key, Split::Train, 10).unwrap();
    // One page, whatever that is here.
    assert!(store.bytes() <= 1 << 16, "{}", store.bytes());
    store.close(key).unwrap();
    let shard = store.shard(key).unwrap();
    assert_eq!(shard.values::<f32>(Split::Train, 0).unwrap().next().unwrap()[18..], [9.0, -9.0]);
    assert_eq!(labels(&store, key, Split::Train), (100..110).collect::<Vec<_>>());
}

#[test]
fn a_row_the_writer_left_out_reads_as_zeros() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    store.reserve(key, Split::Train, 3).unwrap();
    store.commit(key, Split::Train, 3).unwrap();
    store.close(key).unwrap();
    assert_eq!(labels(&store, key, Split::Train), [0, 0, 0]);
}

#[test]
fn committing_no_rows_gives_the_reservation_back() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    store.reserve(key, Split::Validation, 100).unwrap();
    store.commit(key, Split::Validation, 0).unwrap();
    assert_eq!(store.bytes(), 0);
    let report = store.close(key).unwrap();
    assert_eq!((report.rows, report.validation_rows, report.bytes), (0, 0, 0));
    assert!(store.shard(key).unwrap().batches(Split::Validation).is_empty());
}

#[test]
fn a_split_has_one_reservation_at_a_time_and_the_other_split_its_own() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    store.reserve(key, Split::Train, 5).unwrap();
    let error = store.reserve(key, Split::Train, 6).unwrap_err();
    assert!(matches!(error, Error::Reserved { rows: 5, split: Split::Train, .. }), "{error}");
    store.reserve(key, Split::Validation, 6).unwrap();
    let x = ColumnData::Float32(&[0.0; 2]);
    assert_eq!(kind(store.write_rows(key, Split::Train, &[x, ColumnData::Int64(&[1])])), ErrorKind::State);
}

#[test]
fn more_rows_than_reserved_are_refused_and_the_reservation_stays() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    let not_reserved = store.commit(key, Split::Train, 1).unwrap_err();
    assert!(matches!(not_reserved, Error::NotReserved { rows: 1, .. }));
    store.reserve(key, Split::Train, 5).unwrap();
    let too_many = store.commit(key, Split::Train, 6).unwrap_err();
    assert!(matches!(too_many, Error::Overcommit { rows: 6, reserved: 5, .. }));
    store.commit(key, Split::Train, 5).unwrap();
    assert_eq!(store.close(key).unwrap().rows, 5);
}

#[test]
fn closing_with_rows_reserved_is_refused_because_they_would_be_lost() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    store.reserve(key, Split::Validation, 5).unwrap();
    let error = store.close(key).unwrap_err();
    assert!(matches!(error, Error::Reserved { split: Split::Validation, rows: 5, .. }));
    store.commit(key, Split::Validation, 2).unwrap();
    assert_eq!(store.close(key).unwrap().validation_rows, 2);
}

#[test]
fn a_shard_is_read_only_once_it_is_sealed_and_written_only_before() {
    let store = ShardStore::new();
    let key = begun(&store, "r", &[]);
    assert!(matches!(store.shard(key), Err(Error::Filling { partition: 4, .. })));
    let report = store.close(key).unwrap();
    assert_eq!(store.close(key).unwrap(), report);
    assert!(matches!(store.reserve(key, Split::Train, 1), Err(Error::Sealed { partition: 4, .. })));
    assert_eq!(kind(store.commit(key, Split::Train, 0)), ErrorKind::State);
    assert_eq!(kind(store.write_rows(key, Split::Train, &[])), ErrorKind::State);
}

#[test]
fn a_key_that_is_not_there_is_an_error_of_its_own_kind_in_every_call() {
    let store = ShardStore::new();
    let discarded = begun(&store, "r", &[]);
    store.discard(discarded);
    store.discard(discarded);
    for key in [0, 99, u64::MAX, discarded] {
        assert_eq!(kind(store.reserve(key, Split::Train, 1)), ErrorKind::UnknownShard);
        assert_eq!(kind(store.commit(key, Split::Train, 1)), ErrorKind::UnknownShard);
        assert_eq!(kind(store.close(key)), ErrorKind::UnknownShard);
        assert_eq!(kind(store.shard(key)), ErrorKind::UnknownShard);
    }
    assert_eq!(store.bytes(), 0);
}

#[test]
fn sizes_that_cannot_be_are_errors_and_leave_the_shard_usable() {
    let store = ShardStore::new();
    let mut wide = spec("r", &[]);
    wide.columns[1].width = i32::MAX as u32;
    let key = store.open(wide).unwrap();
    assert!(matches!(store.reserve(key, Split::Train, 0), Err(Error::NoRows { .. })));
    assert!(matches!(store.reserve(key, Split::Train, usize::MAX), Err(Error::TooManyRows { .. })));
    assert!(matches!(store.reserve(key, Split::Train, u32::MAX as usize), Err(Error::TooLarge { .. })));
    let error = store.reserve(key, Split::Train, 100_000_000).unwrap_err();
    assert!(matches!(error, Error::NoMemory { rows: 100_000_000, .. }), "{error}");
    assert_eq!((error.kind(), store.bytes()), (ErrorKind::Memory, 0));
    store.reserve(key, Split::Train, 1).unwrap();
}

#[test]
fn typed_rows_that_do_not_fit_the_columns_are_refused() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    let write = |data: &[ColumnData<'_>]| store.write_rows(key, Split::Train, data).unwrap_err();
    let (x, y) = (ColumnData::Float32(&[0.0; 4]), ColumnData::Int64(&[1, 2]));
    assert!(matches!(write(&[x]), Error::ColumnCount { expected: 2, found: 1 }));
    assert!(matches!(write(&[y, x]), Error::ValueType { expected: DType::Float32, found: DType::Int64, .. }));
    assert!(matches!(write(&[ColumnData::Float32(&[0.0; 3]), y]), Error::ValueCount { values: 3, rows: 1, .. }));
    assert!(matches!(write(&[x, ColumnData::Int64(&[1])]), Error::ValueCount { values: 1, rows: 2, .. }));
    assert_eq!(store.bytes(), 0);
    store.write_rows(key, Split::Train, &[ColumnData::Float32(&[]), ColumnData::Int64(&[])]).unwrap();
    assert_eq!(store.close(key).unwrap().rows, 0);
}

#[test]
fn releasing_a_run_drops_its_shards_and_no_others() {
    let store = ShardStore::new();
    let (a, b, other) = (sealed(&store, "a", &["a"]), begun(&store, "a", &["a"]), sealed(&store, "b", &["a", "b"]));
    assert_eq!(store.release("a"), 2);
    assert_eq!(store.release("a"), 0);
    assert_eq!((kind(store.shard(a)), kind(store.close(b))), (ErrorKind::UnknownShard, ErrorKind::UnknownShard));
    assert_eq!(labels(&store, other, Split::Train), [1]);
    assert_eq!(store.release("b"), 1);
    assert_eq!(store.bytes(), 0);
}

#[test]
fn a_released_shard_stays_for_those_who_read_it_and_counts_until_they_let_go() {
    let store = ShardStore::new();
    let key = sealed(&store, "r", &[]);
    let shard = store.shard(key).unwrap();
    store.release("r");
    assert!(store.bytes() > 0);
    assert_eq!(shard.values::<i64>(Split::Train, 1).unwrap().next(), Some(&[1_i64][..]));
    drop(shard);
    assert_eq!(store.bytes(), 0);
}

#[test]
fn memory_lent_when_its_run_is_released_stays_until_the_writer_discards_it() {
    let store = ShardStore::new();
    let key = begun(&store, "r", &[]);
    let addresses = store.reserve(key, Split::Train, 50).unwrap();
    assert_eq!(store.release("r"), 1);
    // The writer does not know yet. Its memory must be there still.
    write_outside(&addresses, 50);
    for error in [
        store.commit(key, Split::Train, 50).unwrap_err(),
        store.reserve(key, Split::Validation, 1).unwrap_err(),
        store.close(key).unwrap_err(),
        store.shard(key).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Released { run, .. } if run == "r"), "{error}");
    }
    write_outside(&addresses, 50);
    assert_eq!(store.release("r"), 0);
    assert!(store.bytes() > 0);
    store.discard(key);
    assert_eq!(store.bytes(), 0);
    assert_eq!(kind(store.commit(key, Split::Train, 50)), ErrorKind::UnknownShard);
}

#[test]
fn opening_a_shard_releases_the_runs_that_are_no_longer_alive() {
    let store = ShardStore::new();
    let (lost, alive) = (sealed(&store, "lost", &["lost"]), sealed(&store, "alive", &["lost", "alive"]));
    let new = store.open(spec("new", &["alive", "new"])).unwrap();
    assert_eq!(kind(store.shard(lost)), ErrorKind::UnknownShard);
    assert_eq!(labels(&store, alive, Split::Train), [1]);
    // A run is alive to itself, listed or not.
    store.open(spec("new", &["alive"])).unwrap();
    write(&store, new, &[1]);
}

#[test]
fn a_run_that_began_while_an_older_one_was_alive_survives_the_older_ones_late_tasks() {
    let store = ShardStore::new();
    sealed(&store, "old", &["old"]);
    let young = sealed(&store, "young", &["old", "young"]);
    // A task of "old" starts late: its list was written before "young" existed.
    store.open(spec("old", &["old"])).unwrap();
    assert_eq!(labels(&store, young, Split::Train), [1]);
}

#[test]
fn a_spec_that_is_refused_releases_nothing() {
    let store = ShardStore::new();
    let key = sealed(&store, "a", &["a"]);
    assert_eq!(kind(store.open(ShardSpec { columns: vec![], ..spec("b", &["b"]) })), ErrorKind::Spec);
    assert_eq!(labels(&store, key, Split::Train), [1]);
}

#[test]
fn stores_have_identities_of_128_bits_and_keys_from_1() {
    let (one, two) = (ShardStore::new(), ShardStore::new());
    assert_ne!(one.process(), two.process());
    assert!(one.process().len() == 32 && one.process().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!((begun(&one, "r", &[]), begun(&one, "r", &[]), begun(&two, "r", &[])), (1, 2, 1));
}

#[test]
fn tasks_fill_their_shards_side_by_side_while_others_are_read_and_released() {
    const TASKS: usize = 8;
    let store = ShardStore::new();
    let read = sealed(&store, "read", &["read", "fill", "doomed"]);
    let start = Barrier::new(TASKS + 2);
    let keys = thread::scope(|scope| {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (store, start) = (&store, &start);
                scope.spawn(move || {
                    start.wait();
                    let key = store.open(spec("fill", &["read", "fill", "doomed"])).unwrap();
                    for batch in 0..20 {
                        let rows = 1 + (task * 7 + batch * 3) % 50;
                        let addresses = store.reserve(key, Split::Train, 64).unwrap();
                        write_outside(&addresses, rows);
                        store.commit(key, Split::Train, rows).unwrap();
                    }
                    store.close(key).unwrap();
                    key
                })
            })
            .collect();
        scope.spawn(|| {
            start.wait();
            for _ in 0..200 {
                assert_eq!(labels(&store, read, Split::Train), [1]);
            }
        });
        scope.spawn(|| {
            start.wait();
            for _ in 0..50 {
                let key = begun(&store, "doomed", &["read", "fill", "doomed"]);
                let _addresses = store.reserve(key, Split::Validation, 4).unwrap();
                assert_eq!(store.release("doomed"), 1);
                store.discard(key);
            }
        });
        tasks.into_iter().map(|task| task.join().unwrap()).collect::<Vec<_>>()
    });
    for (task, key) in keys.iter().enumerate() {
        let expected: Vec<i64> =
            (0..20).flat_map(|batch| (0..1 + (task * 7 + batch * 3) % 50).map(|row| 100 + row as i64)).collect();
        assert_eq!(labels(&store, *key, Split::Train), expected);
    }
    assert_eq!((store.release("fill"), store.release("read"), store.release("doomed")), (TASKS, 1, 0));
    assert_eq!(store.bytes(), 0);
}

#[test]
fn many_ranks_gather_from_one_shard_at_once() {
    let store = ShardStore::new();
    let key = store.open(spec("r", &[])).unwrap();
    for batch in 0..4 {
        write(&store, key, &(batch * 100..batch * 100 + 100).collect::<Vec<_>>());
    }
    store.close(key).unwrap();
    thread::scope(|scope| {
        for rank in 0..4_u32 {
            let shard = store.shard(key).unwrap();
            scope.spawn(move || {
                let rows: Vec<u32> = (0..400).rev().filter(|row| row % 4 == rank).collect();
                let mut out = vec![0; rows.len() * 8];
                shard.gather(Split::Train, 1, &rows, &mut out).unwrap();
                let found: Vec<u32> = out.as_chunks().0.iter().map(|bytes| i64::from_ne_bytes(*bytes) as u32).collect();
                assert_eq!(found, rows);
            });
        }
    });
}
