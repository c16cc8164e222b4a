//! A disk that is full in the middle of a batch, played by the limit on the size of a file.
//!
//! A process of its own, as the limit is the process's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop where something fails")]
#![allow(unsafe_code, reason = "the standard library has no limits of the process")]

use kindling_shards::{Budget, Column, ColumnData, DType, Role, ShardSpec, ShardStore, Split};

const LIMIT: u64 = 100_000;
const ROWS: i64 = 4000;

#[test]
fn a_batch_that_a_full_disk_cut_short_is_written_to_the_next_directory_and_no_row_is_lost() {
    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
    // SAFETY: ignoring the signal makes a write beyond the limit an error, and the limit itself touches no memory.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
    let folders = [1, 2].map(|n| std::env::temp_dir().join(format!("kindling-full-{}-{n}", std::process::id())));
    folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());

    let store = ShardStore::new();
    let open = || {
        let columns = vec![Column { name: "y".into(), role: Role::Label, dtype: DType::Int64, width: 1 }];
        let budget = Budget { memory: 0, directories: folders.to_vec() };
        let (run, live_runs) = ("r".to_owned(), vec![]);
        store.open(ShardSpec { run, partition: 0, attempt: 0, live_runs, columns, budget }).unwrap()
    };
    let key = open();
    // 32 kB each: three fit into a file.
    for batch in 0..8 {
        let labels: Vec<i64> = (batch * ROWS..(batch + 1) * ROWS).collect();
        store.write_rows(key, Split::Train, &[ColumnData::Int64(&labels)]).unwrap();
    }
    store.close(key).unwrap();
    let shard = store.shard(key).unwrap();
    assert!(shard.values::<i64>(Split::Train, 0).unwrap().flatten().copied().eq(0..8 * ROWS));

    // One that fits into no file: both directories say so, and the shard takes others as before.
    let key = open();
    store.write_rows(key, Split::Train, &[ColumnData::Int64(&[1, 2])]).unwrap();
    let error = store.write_rows(key, Split::Train, &[ColumnData::Int64(&[0; 20_000])]).unwrap_err();
    assert_eq!(error.to_string().matches("File too large").count(), 2, "{error}");
    store.write_rows(key, Split::Train, &[ColumnData::Int64(&[3])]).unwrap();
    store.close(key).unwrap();
    assert!(store.shard(key).unwrap().values::<i64>(Split::Train, 0).unwrap().flatten().eq(&[1, 2, 3]));
    folders.iter().for_each(|folder| std::fs::remove_dir(folder).unwrap());
}
