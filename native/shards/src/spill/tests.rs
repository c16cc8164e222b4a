//! Stores with a budget, compared with one that has none; what they leave in the directories, and what becomes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind};
use crate::rows::ColumnData;
use crate::spec::{Budget, Column, DType, Role, ShardReport, ShardSpec, Split};
use crate::store::ShardStore;

/// A directory that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("kindling-spill-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }

    /// Files of this directory that the process has open or mapped, named or not.
    fn held(&self) -> usize {
        let name = self.0.to_str().unwrap();
        let open =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        open.filter(|path| path.starts_with(name)).count() + maps.lines().filter(|line| line.contains(name)).count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn budget(memory: u64, directories: &[&Path]) -> Budget {
    Budget { memory, directories: directories.iter().map(|path| path.to_path_buf()).collect() }
}

fn open(store: &ShardStore, run: &str, budget: Budget) -> u64 {
    let column = |name: &str, role, dtype, width| Column { name: name.into(), role, dtype, width };
    let columns = vec![column("x", Role::Input, DType::Float32, 5), column("y", Role::Label, DType::Int64, 1)];
    let live_runs = vec!["r".to_owned(), "s".to_owned()];
    store.open(ShardSpec { run: run.into(), partition: 2, attempt: 9, live_runs, columns, budget }).unwrap()
}

fn write(store: &ShardStore, key: u64, split: Split, labels: &[i64]) -> crate::Result<()> {
    let x: Vec<f32> = labels.iter().flat_map(|label| [*label as f32; 5]).collect();
    store.write_rows(key, split, &[ColumnData::Float32(&x), ColumnData::Int64(labels)])
}

/// Batches of a thousand and some rows, in both splits.
fn fill(store: &ShardStore, budget: Budget, batches: i64) -> ShardReport {
    let key = open(store, "r", budget);
    for batch in 0..batches {
        let split = if batch % 3 == 2 { Split::Validation } else { Split::Train };
        write(store, key, split, &(batch * 2000..batch * 2000 + 1000 + batch).collect::<Vec<_>>()).unwrap();
    }
    store.close(key).unwrap()
}

fn labels(store: &ShardStore, key: u64, split: Split) -> Vec<i64> {
    store.shard(key).unwrap().values::<i64>(split, 1).unwrap().flatten().copied().collect()
}

#[test]
fn rows_beyond_the_budget_are_read_from_files_as_if_they_were_in_memory() {
    let (folder, store) = (Folder::new(), ShardStore::new());
    let free = fill(&store, Budget::default(), 9);
    let memory = store.bytes() as u64;
    let tight = fill(&store, budget(memory + 100_000, &[&folder.0]), 9);
    assert_eq!((free.spilled_bytes, free.hash.len()), (0, 16));
    // Some of its nine batches of about 28 kB and two mappings each found room, most did not.
    assert!(store.bytes() as u64 <= memory + 100_000, "{}", store.bytes());
    assert!((100_000..300_000).contains(&tight.spilled_bytes), "{}", tight.spilled_bytes);
    assert_eq!(store.spilled_bytes() as u64, tight.spilled_bytes);
    let same = ShardReport { key: tight.key, spilled_bytes: tight.spilled_bytes, ..free.clone() };
    assert_eq!(tight, same);

    let (free, tight) = (store.shard(free.key).unwrap(), store.shard(tight.key).unwrap());
    for split in [Split::Train, Split::Validation] {
        let rows: Vec<u32> = (0..free.rows(split) as u32).rev().collect();
        for (column, bytes) in [(0, 20), (1, 8)] {
            let (mut expected, mut found) = (vec![0; rows.len() * bytes], vec![1; rows.len() * bytes]);
            free.gather(split, column, &rows, &mut expected).unwrap();
            tight.gather(split, column, &rows, &mut found).unwrap();
            assert!(expected == found, "{split} column {column}");
        }
        assert_eq!(tight.batches(split).len(), free.batches(split).len());
        assert!(tight.batches(split).iter().all(|batch| batch.schema() == free.batches(split)[0].schema()));
        // Where they lie in the file: aligned as in memory.
        assert!(tight.values::<f32>(split, 0).unwrap().all(|values| values.as_ptr().addr() % 64 == 0));
    }
}

#[test]
fn a_budget_of_nothing_keeps_no_row_in_memory() {
    let (folder, store) = (Folder::new(), ShardStore::new());
    let report = fill(&store, budget(0, &[&folder.0]), 4);
    assert_eq!(store.bytes(), 0);
    assert!(report.spilled_bytes > report.bytes);
    assert_eq!(labels(&store, report.key, Split::Validation), (4000..5002).collect::<Vec<_>>());
}

#[test]
fn spilled_files_have_no_name_and_end_with_their_last_reader() {
    let (folder, store) = (Folder::new(), ShardStore::new());
    let key = open(&store, "r", budget(0, &[&folder.0]));
    write(&store, key, Split::Train, &[1, 2, 3]).unwrap();
    // While it is written, too: nothing is left behind by a process that is killed.
    assert_eq!((folder.entries(), folder.held()), (0, 1));
    store.close(key).unwrap();
    assert_eq!((folder.entries(), folder.held()), (0, 1));
    let reader = store.shard(key).unwrap();
    assert_eq!(store.release("r"), 1);
    assert_eq!(reader.values::<i64>(Split::Train, 1).unwrap().next(), Some(&[1, 2, 3][..]));
    drop(reader);
    assert_eq!((folder.held(), store.spilled_bytes()), (0, 0));
}

#[test]
fn discarding_a_shard_that_is_being_filled_ends_its_files_and_so_does_releasing_its_run() {
    let (folder, store) = (Folder::new(), ShardStore::new());
    let [a, b, c] = ["r", "s", "s"].map(|run| open(&store, run, budget(0, &[&folder.0])));
    for key in [a, b, c] {
        write(&store, key, Split::Train, &[1, 2, 3]).unwrap();
    }
    // Lent memory keeps a released shard, but not its files.
    store.reserve(c, Split::Train, 10).unwrap();
    assert_eq!(folder.held(), 3);
    store.discard(a);
    assert_eq!(folder.held(), 2);
    store.release("s");
    assert_eq!((folder.held(), store.spilled_bytes()), (0, 0));
    store.discard(c);
    assert_eq!(store.bytes(), 0);
}

#[test]
fn a_directory_that_is_lost_is_passed_over_for_the_next_one() {
    let (lost, kept, store) = (Folder::new(), Folder::new(), ShardStore::new());
    let key = open(&store, "r", budget(0, &[&lost.0, &kept.0]));
    write(&store, key, Split::Train, &[1, 2]).unwrap();
    // Shards begin at different directories: whichever it was, rows that lie in it survive the loss of its name.
    std::fs::remove_dir(&lost.0).unwrap();
    for label in 3..6 {
        let other = open(&store, "r", budget(0, &[&lost.0, &kept.0]));
        write(&store, other, Split::Train, &[label]).unwrap();
        store.close(other).unwrap();
        assert_eq!(labels(&store, other, Split::Train), [label]);
    }
    store.close(key).unwrap();
    assert_eq!(labels(&store, key, Split::Train), [1, 2]);
}

#[test]
fn where_no_directory_takes_rows_the_error_names_each_and_says_what_to_do() {
    let (a, b, store) = (Folder::new(), Folder::new(), ShardStore::new());
    let key = open(&store, "r", budget(0, &[&a.0, &b.0]));
    std::fs::remove_dir(&a.0).unwrap();
    std::fs::remove_dir(&b.0).unwrap();
    let error = write(&store, key, Split::Train, &[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    let Error::Spill { tried, .. } = &error else { panic!("{error}") };
    assert_eq!(tried.len(), 2);
    for part in [a.0.to_str().unwrap(), b.0.to_str().unwrap(), "No such file", "spark.local.dir", "shardMemory"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let nowhere = open(&store, "r", budget(0, &[]));
    assert!(write(&store, nowhere, Split::Train, &[1]).unwrap_err().to_string().contains("none was given"));
}

#[test]
fn the_budget_is_for_all_runs_of_the_process_together() {
    let (folder, store) = (Folder::new(), ShardStore::new());
    let first = fill(&store, budget(1 << 20, &[&folder.0]), 3);
    assert_eq!(first.spilled_bytes, 0);
    let key = open(&store, "s", budget(store.bytes() as u64, &[&folder.0]));
    write(&store, key, Split::Train, &[1, 2, 3]).unwrap();
    assert!(store.close(key).unwrap().spilled_bytes > 0);
    store.release("r");
    let key = open(&store, "s", budget(1 << 20, &[&folder.0]));
    write(&store, key, Split::Train, &[1, 2, 3]).unwrap();
    assert_eq!(store.close(key).unwrap().spilled_bytes, 0);
}

#[test]
fn the_hash_depends_on_rows_and_their_order_and_not_on_batches() {
    let store = ShardStore::new();
    let hash = |batches: &[(Split, &[i64])]| {
        let key = open(&store, "r", Budget::default());
        for (split, labels) in batches {
            write(&store, key, *split, labels).unwrap();
        }
        store.close(key).unwrap().hash
    };
    use Split::{Train, Validation};
    let whole = hash(&[(Train, &[1, 2, 3, 4]), (Validation, &[5])]);
    assert_eq!(hash(&[(Train, &[1]), (Train, &[2, 3]), (Validation, &[5]), (Train, &[4])]), whole);
    for other in [
        hash(&[(Train, &[1, 2, 4, 3]), (Validation, &[5])]),
        hash(&[(Train, &[1, 2, 3]), (Validation, &[4, 5])]),
        hash(&[(Train, &[1, 2, 3, 4])]),
        hash(&[(Train, &[1, 2, 3, 4, 5])]),
    ] {
        assert_ne!(other, whole);
    }
    // The value itself is stable: a partition may be hashed by executors of different machines.
    assert_eq!(hash(&[]), hash(&[]));
}

#[test]
fn of_shards_that_were_made_twice_those_the_driver_did_not_choose_are_dropped() {
    let store = ShardStore::new();
    let [a, b] = [fill(&store, Budget::default(), 1), fill(&store, Budget::default(), 1)];
    let writing = open(&store, "r", Budget::default());
    let other = open(&store, "s", Budget::default());
    store.close(other).unwrap();
    assert_eq!(store.retain("r", &[b.key]), 1);
    assert_eq!(store.shard(a.key).unwrap_err().kind(), ErrorKind::UnknownShard);
    assert!(store.shard(b.key).is_ok() && store.shard(other).is_ok() && store.close(writing).is_ok());
    let _: Arc<_> = store.shard(writing).unwrap();
}
