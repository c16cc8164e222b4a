//! Shards with rows that are mostly zeros, compared with the slices they came from and with shards that keep them dense.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;

use super::*;
use crate::batch::{self, Values};
use crate::error::{Error, ErrorKind};
use crate::rows::ColumnData;
use crate::shard::Shard;
use crate::spec::{Budget, DType, Schema, ShardReport, ShardSpec, Split, Splits};
use crate::store::ShardStore;

const X: usize = 100;
const D: usize = 64;

/// Numbers of two types that may be compressed, and two columns that may not.
fn columns() -> Vec<Column> {
    let column = |name: &str, role, dtype, width| Column { name: name.into(), role, dtype, width };
    vec![
        column("x", Role::Input, DType::Float32, X as u32),
        column("d", Role::Input, DType::Float64, D as u32),
        column("short", Role::Input, DType::Float32, 63),
        column("y", Role::Label, DType::Float32, X as u32),
    ]
}

fn spec(columns: Vec<Column>, budget: Budget) -> ShardSpec {
    ShardSpec { run: "r".into(), partition: 3, attempt: 0, live_runs: vec![], columns, budget }
}

/// The high bits of a linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

/// Values of which so many of a hundred are not zero: numbers, the zero that has a sign, and two kinds of NaN.
fn values(random: &mut Random, count: usize, percent: usize) -> Vec<f64> {
    let value = |random: &mut Random| match random.below(10) {
        0 => -0.0,
        1 => f64::NAN,
        2 => f64::from_bits(0xfff8_0000_2000_0000),
        _ => random.below(1000) as f64 - 500.0,
    };
    (0..count).map(|_| if random.below(100) < percent { value(random) } else { 0.0 }).collect()
}

/// Batches of (rows, percent that is not zero in `x`, and in `d`).
type Layout = [(usize, usize, usize)];

/// The rows as bytes, by column.
#[derive(Default)]
struct Written {
    rows: usize,
    bytes: [Vec<u8>; 2],
}

fn fill(store: &ShardStore, columns: Vec<Column>, budget: Budget, layout: &Layout) -> (ShardReport, Written) {
    let key = store.open(spec(columns, budget)).unwrap();
    let (mut random, mut written) = (Random(9), Written::default());
    for (rows, x, d) in layout {
        let x: Vec<f32> = values(&mut random, rows * X, *x).into_iter().map(|value| value as f32).collect();
        let d = values(&mut random, rows * D, *d);
        let (short, y) = (vec![0.0; rows * 63], vec![0.0; rows * X]);
        let data =
            [ColumnData::Float32(&x), ColumnData::Float64(&d), ColumnData::Float32(&short), ColumnData::Float32(&y)];
        store.write_rows(key, Split::Train, &data).unwrap();
        written.rows += rows;
        written.bytes[0].extend(data[0].bytes());
        written.bytes[1].extend(data[1].bytes());
    }
    (store.close(key).unwrap(), written)
}

/// Per batch, whether `x` and `d` are compressed; the others never are.
fn forms(shard: &Shard) -> Vec<(bool, bool)> {
    let forms = |batch: &RecordBatch| {
        let [x, d, false, false] = batch::compressed(batch).collect::<Vec<_>>()[..] else {
            panic!("{:?}", batch.schema())
        };
        (x, d)
    };
    shard.batches(Split::Train).iter().map(forms).collect()
}

/// The rows of both columns, in any order and one by one, are those that were written, bit for bit.
fn assert_reads(shard: &Shard, written: &Written) {
    assert_eq!(shard.rows(Split::Train), written.rows);
    let mut random = Random(5);
    let order: Vec<u32> = (0..2 * written.rows).map(|_| random.below(written.rows) as u32).collect();
    for (column, bytes) in written.bytes.iter().enumerate() {
        let size = shard.columns()[column].row_bytes();
        let row = |row: u32| &bytes[row as usize * size..][..size];
        let mut out = vec![0xa5; order.len() * size];
        shard.gather(Split::Train, column, &order, &mut out).unwrap();
        assert!(order.iter().zip(out.chunks_exact(size)).all(|(at, found)| found == row(*at)));
        // To every other place, from the back; what lies between is left alone.
        let places: Vec<(u32, u32)> = order.iter().zip((0..).step_by(2)).map(|(row, place)| (*row, place)).collect();
        let mut out = vec![0xa5; 2 * order.len() * size];
        shard.gather_to(Split::Train, column, &places, &mut out).unwrap();
        for (pair, at) in out.chunks_exact(2 * size).zip(&order) {
            assert_eq!(pair[..size], *row(*at));
            assert!(pair[size..].iter().all(|byte| *byte == 0xa5));
        }
    }
}

/// The columns as labels, which stay dense.
fn as_labels() -> Vec<Column> {
    columns().into_iter().map(|column| Column { role: Role::Label, ..column }).collect()
}

const MIXED: &Layout = &[(40, 2, 1), (40, 90, 3), (40, 3, 60), (17, 100, 100), (5, 0, 0), (1, 10, 1)];

#[test]
fn each_block_keeps_the_form_that_is_smaller_by_half_and_reads_the_same() {
    for layout in [MIXED, &[(60, 5, 5)], &[(60, 70, 80)], &[(8, 1, 1), (8, 99, 1), (3, 1, 99)]] {
        let (store, dense) = (ShardStore::new(), ShardStore::new());
        let (report, written) = fill(&store, columns(), Budget::default(), layout);
        let shard = store.shard(report.key).unwrap();
        let expected: Vec<_> = layout.iter().map(|(_, x, d)| (*x < 20, *d < 20)).collect();
        assert_eq!(forms(&shard), expected, "{layout:?}");
        assert_reads(&shard, &written);
        // The hash is that of the rows, in whatever form they are.
        let (same, _) = fill(&dense, as_labels(), Budget::default(), layout);
        assert_eq!((report.rows, &report.hash), (same.rows, &same.hash));
        assert_eq!(same.bytes, (written.rows * (2 * 4 * X + 8 * D + 4 * 63)) as u64);
    }
}

#[test]
fn a_block_is_compressed_up_to_exactly_half_of_its_bytes_and_only_where_rows_are_long() {
    let counted = |column: &Column, rows: usize, kept: usize| {
        let mut dense = vec![0; rows * column.row_bytes()];
        dense.chunks_exact_mut(column.dtype.size()).take(kept).for_each(|value| value[0] = 1);
        count(column, rows, &dense)
    };
    let [x, d, short, label] = &columns()[..] else { panic!("four columns") };
    // Of 400 bytes an offset and 24 values of 8 bytes take half, with the offset that ends the last row.
    assert_eq!([24, 25].map(|kept| counted(x, 1, kept)), [Some(24), None]);
    // Of 512 bytes, 20 values of 12 bytes.
    assert_eq!([20, 21].map(|kept| counted(d, 1, kept)), [Some(20), None]);
    assert_eq!([counted(short, 9, 0), counted(label, 9, 0), counted(x, 0, 0)], [None; 3]);
    let byte = Column { dtype: DType::UInt8, width: 1000, ..x.clone() };
    assert_eq!(counted(&byte, 9, 0), None);
    // Rows that the sample does not meet are counted as well.
    assert_eq!([counted(x, 800, 20_000 - 404), counted(x, 800, 20_000)], [Some(20_000 - 404), None]);
}

#[test]
fn the_report_and_the_store_count_what_is_kept() {
    let store = ShardStore::new();
    let key = store.open(spec(columns()[..1].to_vec(), Budget::default())).unwrap();
    let mut x = vec![0_f32; 1000 * X];
    x.iter_mut().step_by(X).for_each(|value| *value = 1.0);
    store.write_rows(key, Split::Train, &[ColumnData::Float32(&x)]).unwrap();
    assert_eq!(store.close(key).unwrap().bytes, 1001 * 4 + 1000 * 4 + 1000 * 4);
    assert!(store.bytes() < 20_000, "{}", store.bytes());
}

#[test]
fn compressed_rows_beyond_the_budget_are_read_from_files_with_dense_ones_between() {
    let store = ShardStore::new();
    let budget = Budget { memory: 0, directories: vec![std::env::temp_dir()] };
    let (report, written) = fill(&store, columns(), budget, MIXED);
    assert_eq!(store.bytes(), 0);
    let (free, _) = fill(&store, columns(), Budget::default(), MIXED);
    assert_eq!((&report.hash, report.bytes), (&free.hash, free.bytes));
    let (tight, free) = (store.shard(report.key).unwrap(), store.shard(free.key).unwrap());
    assert_eq!(forms(&tight), forms(&free));
    assert_reads(&tight, &written);
    tight.read_ahead(Split::Train, 30..140);
}

#[test]
fn rows_that_fit_the_budget_only_compressed_are_not_spilled() {
    let (store, layout) = (ShardStore::new(), [(1000, 1, 1); 8]);
    let budget = Budget { memory: 8 << 20, directories: vec![] };
    let column = vec![Column { width: 10_000, ..columns().swap_remove(0) }];
    // 320 MB of zeros, a block of 40 MB at a time.
    let key = store.open(spec(column, budget)).unwrap();
    let x = vec![0_f32; 10_000 * 1000];
    for _ in layout {
        store.write_rows(key, Split::Train, &[ColumnData::Float32(&x)]).unwrap();
    }
    let report = store.close(key).unwrap();
    assert_eq!((report.rows, report.spilled_bytes, report.bytes), (8000, 0, 8 * 1001 * 4));
}

#[test]
fn all_values_of_a_compressed_column_are_refused_by_name_and_those_of_a_label_are_there() {
    let store = ShardStore::new();
    let (report, _) = fill(&store, columns(), Budget::default(), MIXED);
    let shard = store.shard(report.key).unwrap();
    let error = shard.values::<f32>(Split::Train, 0).map(drop).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("\"x\" is kept compressed")), (ErrorKind::State, true));
    assert_eq!(shard.values::<f32>(Split::Train, 3).unwrap().flatten().count(), shard.rows(Split::Train) * X);
}

#[test]
fn a_batch_is_spread_out_for_who_knows_no_other_form() {
    let store = ShardStore::new();
    let (report, written) = fill(&store, columns(), Budget::default(), MIXED);
    let shard = store.shard(report.key).unwrap();
    let piece = shard.piece(Split::Train, 3, 30).unwrap();
    assert!(matches!(piece.column(0).data_type(), DataType::List(_)));
    let spread = batch::spread(report.key, shard.schema(), &piece).unwrap();
    assert_eq!(spread.schema(), shard.schema().arrow);
    let Values::Dense(x) = batch::column(report.key, &spread, 0, &columns()[0]).unwrap() else { panic!("compressed") };
    assert!(*x == written.bytes[0][3 * 4 * X..33 * 4 * X]);
}

fn csr(offsets: &[i32], positions: &[u32], values: &[f32]) -> Csr {
    let values = ScalarBuffer::from(values.to_vec()).inner().clone();
    Csr { offsets: offsets.to_vec().into(), positions: positions.to_vec().into(), values, size: 4 }
}

/// What may stand in a damaged file: places beyond the row, twice the same, out of order; offsets beyond the values.
fn damaged() -> Vec<Csr> {
    let values = [1.0, 2.0];
    let mut all: Vec<Csr> = [[5, 100], [5, u32::MAX], [u32::MAX, 5], [5, 5], [6, 5]]
        .iter()
        .map(|positions| csr(&[0, 2], positions, &values))
        .collect();
    all.push(csr(&[0, 3], &[5, 6], &values));
    all.push(csr(&[2, 1], &[5, 6], &values));
    all.push(csr(&[-1, 1], &[5, 6], &values));
    all
}

#[test]
fn a_damaged_row_is_not_spread_out() {
    assert_eq!(csr(&[0, 2], &[5, 99], &[1.0, 2.0]).put(0, &mut [1; 4 * X]), Some(()));
    assert_eq!(csr(&[0, 2], &[5, 99], &[1.0, 2.0]).put(1, &mut [1; 4 * X]), None);
    for csr in damaged() {
        assert_eq!(csr.put(0, &mut [1; 4 * X]), None, "{csr:?}");
    }
}

#[test]
fn a_damaged_row_of_a_shard_is_refused_with_its_place() {
    let columns = columns()[..1].to_vec();
    let schema = Schema::check(&spec(columns, Budget::default())).unwrap();
    let report = || ShardReport {
        partition: 3,
        attempt: 0,
        process: String::new(),
        key: 1,
        rows: 0,
        validation_rows: 0,
        bytes: 0,
        spilled_bytes: 0,
        hash: String::new(),
    };
    let mut refused = 0;
    for damaged in damaged() {
        // Arrow takes no offsets that are damaged.
        let Ok(bad) = batch::assemble(1, &schema, 1, vec![Values::Csr(damaged)]) else { continue };
        let good = batch::assemble(1, &schema, 1, vec![Values::Csr(csr(&[0, 1], &[7], &[3.0]))]).unwrap();
        let batches = Splits { train: vec![good, bad], validation: vec![] };
        let shard = Arc::new(Shard::new(schema.clone(), report(), batches).unwrap());
        shard.gather(Split::Train, 0, &[0], &mut [1; 4 * X]).unwrap();
        let error = shard.gather(Split::Train, 0, &[0, 1], &mut [1; 8 * X]).unwrap_err();
        assert!(matches!(&error, Error::Damaged { column, partition: 3, row: 1, .. } if column == "x"), "{error}");
        assert!(matches!(shard.gather(Split::Train, 0, &[2], &mut [1; 4 * X]), Err(Error::NoRow { rows: 2, .. })));
        refused += 1;
    }
    assert_eq!(refused, 5);
}

#[test]
fn parts_that_are_no_rows_of_the_column_are_not_valid() {
    let column = &columns()[0];
    let valid = |offsets: &[i32], positions: &[u32], values: usize, rows: usize| {
        let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
        let positions: Vec<u8> = positions.iter().flat_map(|position| position.to_ne_bytes()).collect();
        Parts { offsets: &offsets, positions: &positions, values: &vec![1; values] }.valid(column, rows)
    };
    assert!(valid(&[0, 2, 2, 3], &[0, 99, 0], 12, 3));
    assert!(valid(&[0, 0], &[], 0, 1));
    for (offsets, positions, values, rows) in [
        // Places beyond the row, twice the same, out of order.
        (&[0, 2, 2, 3][..], &[0, 100, 0][..], 12, 3),
        (&[0, 2, 2, 3], &[9, 9, 0], 12, 3),
        (&[0, 2, 2, 3], &[9, 8, 0], 12, 3),
        // Offsets that do not begin at 0, descend, end early or beyond.
        (&[1, 2, 2, 3], &[0, 99, 0], 12, 3),
        (&[0, 2, 1, 3], &[0, 99, 0], 12, 3),
        (&[0, 2, 2, 2], &[0, 99, 0], 12, 3),
        (&[0, 2, 2, 4], &[0, 99, 0], 12, 3),
        (&[0, -1, 2, 3], &[0, 99, 0], 12, 3),
        // Other lengths.
        (&[0, 2, 3], &[0, 99, 0], 12, 3),
        (&[0, 2, 2, 3], &[0, 99, 0], 8, 3),
        (&[], &[], 0, 0),
    ] {
        assert!(!valid(offsets, positions, values, rows), "{offsets:?} {positions:?} {values} {rows}");
    }
}
