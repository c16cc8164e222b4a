//! Many more rows than the budget, and rows over loopback: kept out of the ordinary suite, as they take gigabytes.
//!
//! `cargo test --release -p kindling-shards --test scale -- --ignored --nocapture`, with `KINDLING_SCALE_MB` of rows (20480
//! if unset) through a tenth of that as the budget, in `KINDLING_SCALE_FOLDER` (the temporary folder if unset).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop where something fails")]

use std::path::PathBuf;
use std::time::Instant;

use kindling_shards::{
    Budget, Canceller, Column, ColumnData, DType, FetchSpec, Piece, Role, Secret, ServeSpec, Shard, ShardSpec,
    ShardStore, Split,
};

const WIDTH: usize = 256;
const BLOCK: usize = 4096;
/// Rows that are read together, as a loader does that keeps to a window of the file.
const WINDOW: usize = 64 * BLOCK;

/// Anonymous and shared memory that is resident, in bytes: what the system cannot drop.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kb = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (kb("RssAnon:") + kb("RssShmem:")) << 10
}

/// Every row once, shuffled within windows: rows per second, and a sum that no row may be missing from.
fn read(shards: &[std::sync::Arc<Shard>], most: &mut u64) -> (f64, u64) {
    let (began, mut rows, mut sum) = (Instant::now(), 0, 0_u64);
    let mut out = vec![0_u8; BLOCK * WIDTH * 4];
    for shard in shards {
        let count = shard.rows(Split::Train);
        for window in (0..count).step_by(WINDOW) {
            let size = WINDOW.min(count - window);
            // A step that has no divisor in common with the size visits each row of the window once.
            let step = (1..).map(|n| size / 2 + n).find(|step| coprime(*step, size)).unwrap();
            let order: Vec<u32> = (0..size).map(|i| (window + i * step % size) as u32).collect();
            for batch in order.chunks(BLOCK) {
                let out = &mut out[..batch.len() * WIDTH * 4];
                shard.gather(Split::Train, 0, batch, out).unwrap();
                sum += out
                    .chunks_exact(WIDTH * 4)
                    .map(|row| u64::from(u32::from_ne_bytes(row[..4].try_into().unwrap())))
                    .sum::<u64>();
            }
            *most = (*most).max(resident());
        }
        rows += count;
    }
    (rows as f64 / began.elapsed().as_secs_f64(), sum)
}

fn coprime(mut a: usize, mut b: usize) -> bool {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

fn columns() -> Vec<Column> {
    vec![Column { name: "x".into(), role: Role::Input, dtype: DType::Int32, width: WIDTH as u32 }]
}

fn run(megabytes: usize, memory: u64, folder: PathBuf) -> (f64, f64, u64) {
    let (store, baseline, mut most) = (ShardStore::new(), resident(), 0);
    let rows = megabytes * (1 << 20) / (WIDTH * 4);
    let began = Instant::now();
    let mut keys = Vec::new();
    let (mut next, mut expected) = (0_u32, 0_u64);
    for partition in 0..16 {
        let budget = Budget { memory, directories: vec![folder.clone()] };
        let (run, live_runs) = ("scale".to_owned(), vec![]);
        let key = store.open(ShardSpec { run, partition, attempt: 0, live_runs, columns: columns(), budget }).unwrap();
        let mut block = vec![0_i32; BLOCK * WIDTH];
        for _ in 0..rows / 16 / BLOCK {
            for row in block.chunks_exact_mut(WIDTH) {
                row.fill(next as i32);
                expected += u64::from(next);
                next += 1;
            }
            store.write_rows(key, Split::Train, &[ColumnData::Int32(&block)]).unwrap();
            most = most.max(resident());
        }
        store.close(key).unwrap();
        keys.push(key);
    }
    let written = f64::from(next) / began.elapsed().as_secs_f64();
    let shards: Vec<_> = keys.iter().map(|key| store.shard(*key).unwrap()).collect();
    let mut speed = 0.0;
    for _ in 0..2 {
        let (rate, sum) = read(&shards, &mut most);
        assert_eq!(sum, expected, "a row is missing");
        speed = rate;
    }
    (written, speed, most.saturating_sub(baseline))
}

#[test]
#[ignore = "writes gigabytes"]
fn ten_times_the_budget_is_written_and_read_and_what_is_resident_stays_within_a_third_above_it() {
    let megabytes = std::env::var("KINDLING_SCALE_MB").map_or(20 << 10, |text| text.parse().unwrap());
    let folder = std::env::var_os("KINDLING_SCALE_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let budget = ((megabytes as u64) << 20) / 10;
    let small = megabytes * 3 / 40;
    let (written, read, _) = run(small, u64::MAX, folder.clone());
    println!("scale in_memory_mb={small} write_rows_per_s={written:.0} read_rows_per_s={read:.0}");
    let memory = read;
    let (written, read, resident) = run(megabytes, budget, folder);
    let ratio = resident as f64 / budget as f64;
    println!(
        "scale rows_mb={megabytes} budget_mb={} write_rows_per_s={written:.0} read_rows_per_s={read:.0} \
         resident_ratio={ratio:.3} read_ratio={:.2}",
        budget >> 20,
        read / memory
    );
    assert!(ratio <= 1.3, "{resident} bytes are resident");
}

#[test]
#[ignore = "takes a gigabyte of memory"]
fn half_a_gigabyte_is_fetched_over_loopback_plain_and_encrypted() {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let run = || "scale".to_owned();
    let secret = Secret::from_hex(&"5a".repeat(32)).unwrap();
    let rows = 512 << 20 >> 10;
    for encrypted in [false, true] {
        let (live_runs, budget) = (vec![], Budget::default());
        let key = theirs
            .open(ShardSpec { run: run(), partition: 0, attempt: 0, live_runs, columns: columns(), budget })
            .unwrap();
        let block: Vec<i32> = (0..(BLOCK * WIDTH) as i32).collect();
        for _ in 0..rows / BLOCK {
            theirs.write_rows(key, Split::Train, &[ColumnData::Int32(&block)]).unwrap();
        }
        let report = theirs.close(key).unwrap();
        let (host, secret) = ("127.0.0.1".to_owned(), secret.clone());
        let endpoint = theirs.serve(ServeSpec { run: run(), secret: secret.clone(), host, encrypted }).unwrap();
        let piece = Piece { endpoint, partition: 0, key: report.key, split: Split::Train, first: 0, rows: rows as u64 };
        let request = FetchSpec {
            held_for: None,
            run: run(),
            secret,
            live_runs: vec![],
            columns: columns(),
            budget: Budget::default(),
            pieces: vec![piece],
            timeout_ms: 30_000,
            tries: 1,
        };
        let began = Instant::now();
        let fetched = ours.fetch(&request, &Canceller::default()).unwrap();
        println!("fetch encrypted={encrypted} MBps={:.0}", 512.0 / began.elapsed().as_secs_f64());
        assert_eq!(fetched[0].hash, report.hash);
        ours.release("scale");
        theirs.release("scale");
    }
}
