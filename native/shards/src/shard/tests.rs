//! Shards are built through the store, as everybody builds them, and compared with the plain slices they came from.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;

use super::*;
use crate::error::ErrorKind;
use crate::rows::ColumnData;
use crate::spec::{Budget, DType, ShardSpec};
use crate::store::ShardStore;

const WIDTH: u32 = 3;

fn columns() -> Vec<Column> {
    let column = |name: &str, role, dtype, width| Column { name: name.into(), role, dtype, width };
    vec![
        column("x", Role::Input, DType::Float32, WIDTH),
        column("ids", Role::Input, DType::Int32, 1),
        column("w", Role::Input, DType::Float64, 2),
        column("label", Role::Label, DType::Int64, 1),
    ]
}

/// Row r holds r*10.. in `x`, r in `ids`, -r twice in `w`, 1000+r in `label`; batches of the sizes given.
fn shard(batches: &[usize]) -> Arc<Shard> {
    let store = ShardStore::new();
    let spec = ShardSpec {
        run: "r".into(),
        partition: 5,
        attempt: 0,
        live_runs: vec![],
        columns: columns(),
        budget: Budget::default(),
    };
    let key = store.open(spec).unwrap();
    let mut next = 0;
    for rows in batches {
        let range = next..next + rows;
        let x: Vec<f32> = range.clone().flat_map(|r| (0..3).map(move |i| (r * 10 + i) as f32)).collect();
        let ids: Vec<i32> = range.clone().map(|r| r as i32).collect();
        let w: Vec<f64> = range.clone().flat_map(|r| [-(r as f64); 2]).collect();
        let label: Vec<i64> = range.clone().map(|r| 1000 + r as i64).collect();
        let data =
            [ColumnData::Float32(&x), ColumnData::Int32(&ids), ColumnData::Float64(&w), ColumnData::Int64(&label)];
        store.write_rows(key, Split::Train, &data).unwrap();
        next = range.end;
    }
    store.close(key).unwrap();
    store.shard(key).unwrap()
}

/// The layouts that take different ways through `gather`: one batch, even, even with a short end, ragged, none.
const LAYOUTS: [&[usize]; 7] = [&[11], &[4, 4, 4], &[4, 4, 1], &[3, 5, 1, 8], &[1, 5], &[5, 6], &[]];

/// Every number below `end` about twice, in an order that jumps: a linear congruential generator's high bits.
fn shuffled(end: usize, mut seed: u64) -> Vec<u32> {
    let mut numbers = Vec::new();
    for _ in 0..2 * end {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        numbers.push(((seed >> 33) % end as u64) as u32);
    }
    numbers
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|chunk| f32::from_ne_bytes(*chunk)).collect()
}

fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|chunk| i64::from_ne_bytes(*chunk)).collect()
}

#[test]
fn rows_gathered_in_any_order_are_the_rows_written_whatever_the_batches() {
    for layout in LAYOUTS {
        let shard = shard(layout);
        let rows = shuffled(shard.rows(Split::Train), 7);
        let mut x = vec![0; rows.len() * 12];
        shard.gather(Split::Train, 0, &rows, &mut x).unwrap();
        let expected: Vec<f32> = rows.iter().flat_map(|r| (0..3).map(move |i| (r * 10 + i) as f32)).collect();
        assert_eq!(f32s(&x), expected, "{layout:?}");
        let mut label = vec![0; rows.len() * 8];
        shard.gather(Split::Train, 3, &rows, &mut label).unwrap();
        let expected: Vec<i64> = rows.iter().map(|r| 1000 + i64::from(*r)).collect();
        assert_eq!(i64s(&label), expected, "{layout:?}");
    }
}

#[test]
fn the_row_behind_the_last_one_is_an_error_naming_partition_split_and_row() {
    for layout in LAYOUTS {
        let shard = shard(layout);
        let rows = shard.rows(Split::Train) as u32;
        for row in [rows, rows + 1, u32::MAX] {
            let error = shard.gather(Split::Train, 3, &[row], &mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
            let expected = format!("training row {row} was asked for, but partition 5 has {rows} of them");
            assert_eq!(error.to_string(), expected, "{layout:?}");
        }
    }
}

#[test]
fn an_output_of_another_size_than_the_rows_is_refused() {
    let shard = shard(&[4]);
    for size in [0, 11, 13, 24] {
        let error = shard.gather(Split::Train, 0, &[1], &mut vec![0; size]).unwrap_err();
        assert!(matches!(error, Error::OutputSize { rows: 1, row_bytes: 12, found, .. } if found == size));
    }
}

#[test]
fn rows_gathered_to_places_are_there_and_other_places_are_left_alone() {
    for layout in LAYOUTS {
        let shard = shard(layout);
        let rows = shuffled(shard.rows(Split::Train), 5);
        // Every other place, from the back.
        let count = rows.len() as u32;
        let places: Vec<(u32, u32)> = rows.iter().zip(0..).map(|(&row, at)| (row, 2 * (count - 1 - at))).collect();
        let mut label = vec![0xff; 2 * rows.len() * 8];
        shard.gather_to(Split::Train, 3, &places, &mut label).unwrap();
        let expected: Vec<i64> = rows.iter().rev().flat_map(|r| [1000 + i64::from(*r), -1]).collect();
        assert_eq!(i64s(&label), expected, "{layout:?}");
    }
}

#[test]
fn a_place_beyond_the_output_is_refused_and_so_is_a_row_that_is_not_there() {
    let shard = shard(&[4]);
    let error = shard.gather_to(Split::Train, 0, &[(1, 0), (2, 2)], &mut [0; 24]).unwrap_err();
    assert!(matches!(error, Error::OutputSize { rows: 3, row_bytes: 12, found: 24, .. }), "{error}");
    assert!(matches!(shard.gather_to(Split::Train, 0, &[(4, 0)], &mut [0; 24]), Err(Error::NoRow { row: 4, .. })));
    assert!(matches!(shard.gather_to(Split::Train, 9, &[], &mut []), Err(Error::NoColumn { .. })));
}

#[test]
fn a_column_that_is_not_there_is_refused() {
    let shard = shard(&[4]);
    assert!(matches!(shard.gather(Split::Train, 4, &[], &mut []), Err(Error::NoColumn { column: 4, columns: 4 })));
    assert!(matches!(shard.values::<i64>(Split::Train, 4).map(drop), Err(Error::NoColumn { .. })));
}

#[test]
fn an_empty_split_has_no_batches_and_gathers_nothing() {
    let shard = shard(&[4]);
    assert_eq!((shard.rows(Split::Validation), shard.batches(Split::Validation).len()), (0, 0));
    shard.gather(Split::Validation, 0, &[], &mut []).unwrap();
    assert_eq!(shard.values::<i64>(Split::Validation, 3).unwrap().count(), 0);
    assert!(matches!(shard.gather(Split::Validation, 0, &[0], &mut [0; 12]), Err(Error::NoRow { rows: 0, .. })));
}

#[test]
fn values_come_per_batch_in_row_order_and_only_in_the_columns_type() {
    let shard = shard(&[3, 1, 2]);
    let labels: Vec<&[i64]> = shard.values(Split::Train, 3).unwrap().collect();
    assert_eq!(labels, [&[1000, 1001, 1002][..], &[1003], &[1004, 1005]]);
    assert_eq!(shard.values::<f32>(Split::Train, 0).unwrap().map(<[f32]>::len).sum::<usize>(), 18);
    assert_eq!(shard.values::<f64>(Split::Train, 2).unwrap().flatten().last(), Some(&-5.0));
    assert_eq!(shard.values::<i32>(Split::Train, 1).unwrap().flatten().last(), Some(&5));
    let error = shard.values::<f32>(Split::Train, 3).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "column \"label\" holds int64 values, not float32");
}

#[test]
fn columns_are_found_by_role_and_name() {
    let shard = shard(&[1]);
    assert_eq!(shard.column_index(Role::Input, "w"), Some(2));
    assert_eq!(shard.column_index(Role::Label, "w"), None);
    assert_eq!(shard.columns_of(Role::Input).map(|(index, _)| index).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(shard.columns_of(Role::Label).map(|(index, _)| index).collect::<Vec<_>>(), [3]);
}

#[test]
fn batches_are_fixed_size_lists_over_the_memory_that_gather_reads() {
    let shard = shard(&[4, 2]);
    let batches = shard.batches(Split::Train);
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [4, 2]);
    let x = batches[1].column(0).as_fixed_size_list();
    assert_eq!((x.value_length(), x.values().as_primitive::<Float32Type>().value(0)), (3, 40.0));
    let read = shard.values::<f32>(Split::Train, 0).unwrap().nth(1).unwrap();
    assert_eq!(read.as_ptr(), x.values().as_primitive::<Float32Type>().values().as_ptr());
    assert_eq!(batches[0].schema().field(3).name(), "label");
}

#[test]
fn the_report_counts_rows_and_bytes_without_padding() {
    let shard = shard(&[4, 2]);
    let report = shard.report();
    assert_eq!((report.partition, report.rows, report.validation_rows, report.bytes), (5, 6, 0, 6 * (12 + 4 + 16 + 8)));
}
