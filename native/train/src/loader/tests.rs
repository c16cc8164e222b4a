//! Parts in the loop's order, a bounded number ahead, and what arrives when the thread fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test file: clippy only spares #[test] functions")]

use std::cell::Cell;

use kindling_program::Program;
use kindling_shards::{Column, ColumnData, DType, Role, ShardSpec, ShardStore};
use serde_json::json;
use tch::Tensor;

use super::*;
use crate::plan::ShardRef;
use crate::replica::Replica;
use crate::sync::Sync;
use crate::{data, fit};

const WIDTH: usize = 3;

fn config(batch: u64, accumulation: u64) -> TrainingConfig {
    serde_json::from_value(json!({
        "loss": {"name": "mse"}, "optimizer": {"name": "adam", "learningRate": 0.01}, "batchSize": batch, "maxEpochs": 2,
        "accumulationSteps": accumulation, "seed": 5, "shuffle": true, "progressIntervalMs": 100_000, "recordRows": true
    }))
    .unwrap()
}

fn replica(config: &TrainingConfig) -> Replica {
    let layers = r#"{"inputShape":[3],"seed":1,"layers":[{"type":"dense","units":4},{"type":"dense","units":1}]}"#;
    Replica::new(Program::read(layers.as_bytes().to_vec()).unwrap(), None, config, 0).unwrap()
}

/// Partitions with so many training and validation rows; row r of all holds r, r + 0.25 and r + 0.5, is labelled -r and
/// weighs 1 + r.
fn data(replica: &Replica, partitions: &[(usize, usize)]) -> RankData {
    let store = ShardStore::new();
    let column = |name: &str, role, width| Column { name: name.to_owned(), role, dtype: DType::Float32, width };
    let columns = vec![
        column("x", Role::Input, WIDTH as u32),
        column("label", Role::Label, 1),
        column("weight", Role::Weight, 1),
    ];
    let mut numbers = [0u16; 2];
    let plan: Vec<ShardRef> = partitions
        .iter()
        .zip(0..)
        .map(|(&(train, validation), partition)| {
            let columns = columns.clone();
            let spec = ShardSpec {
                run: "load".to_owned(),
                partition,
                attempt: 0,
                live_runs: Vec::new(),
                columns,
                budget: kindling_shards::Budget::default(),
            };
            let key = store.open(spec).unwrap();
            for ((split, count), number) in
                [(Split::Train, train), (Split::Validation, validation)].into_iter().zip(&mut numbers)
            {
                for _ in 0..count {
                    let row = f32::from(*number);
                    let (x, label, weight) = ([row, row + 0.25, row + 0.5], [-row], [1.0 + row]);
                    let columns = [&x[..], &label, &weight].map(ColumnData::Float32);
                    store.write_rows(key, split, &columns).unwrap();
                    *number += 1;
                }
            }
            let report = store.close(key).unwrap();
            let (rows, validation_rows) = (report.rows, report.validation_rows);
            ShardRef { partition, process: report.process, key: report.key, rows, validation_rows, endpoint: None }
        })
        .collect();
    let process = store.process().to_owned();
    RankData::open(&store, &plan, &[&process], 0, &replica.program, &replica.judge, &data::all_here).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(tch::Kind::Double).reshape([-1])).unwrap()
}

fn fine() -> Result<()> {
    Ok(())
}

#[test]
fn every_part_holds_the_rows_of_the_order_with_their_labels_and_weights() {
    for accumulation in [1, 3] {
        let config = config(7, accumulation);
        let replica = replica(&config);
        let data = data(&replica, &[(11, 2), (0, 0), (1, 5), (25, 3)]);
        let order = fit::order(&config, 37, data.row_bytes());
        let source = Source { data: &data, order: &order, config: &config, world: 1, start: (0, 2) };
        std::thread::scope(|scope| {
            let mut loader = Loader::start(scope, 0, source, None).unwrap();
            let mut next = || {
                let part = loader.next(&fine).unwrap();
                let batch = part.batch.as_ref().unwrap();
                let rows: Vec<f64> = part.rows.iter().map(|&row| row as f64).collect();
                assert_eq!(batch.inputs.first().unwrap().size(), [rows.len() as i64, WIDTH as i64]);
                let expected: Vec<f64> = rows.iter().flat_map(|row| [*row, row + 0.25, row + 0.5]).collect();
                assert_eq!(values(batch.inputs.first().unwrap()), expected);
                assert_eq!(values(batch.labels.as_ref().unwrap()), rows.iter().map(|row| -row).collect::<Vec<_>>());
                assert_eq!(
                    values(batch.weights.as_ref().unwrap()),
                    rows.iter().map(|row| 1.0 + row).collect::<Vec<_>>()
                );
                let (rows, last) = (part.rows.clone(), part.last);
                loader.give_back(part).unwrap();
                (rows, last)
            };
            for (epoch, steps) in [(0, 2..6), (1, 0..6)] {
                for step in steps {
                    let mut rows = Vec::new();
                    let expected: Vec<u64> = order.epoch(epoch).batch(step).collect();
                    for _ in 0..parts(expected.len(), accumulation).len() {
                        let (part, last) = next();
                        rows.extend(part);
                        assert_eq!(last, rows.len() == expected.len());
                    }
                    assert_eq!(rows, expected);
                }
                let validation: Vec<u64> = (0..source.validation_parts()).flat_map(|_| next().0).collect();
                assert_eq!(validation, (0..10).collect::<Vec<_>>());
            }
        });
    }
}

#[test]
fn a_fit_computes_bit_for_bit_what_batches_gathered_one_by_one_give() {
    let config = config(8, 2);
    let mut loaded = replica(&config);
    let data = data(&loaded, &[(30, 0), (3, 4), (16, 1)]);
    let report = fit::fit(&mut loaded, &data, &mut Sync::alone(), &config, 49, &fine, &mut |_| Ok(())).unwrap();
    assert!(report.data_wait_seconds <= report.seconds);
    let mut by_hand = replica(&config);
    let mut losses = Vec::new();
    for rows in report.rows.unwrap() {
        let batch = |rows: &[u64]| data.batch(Split::Train, rows, &mut Room::default()).unwrap();
        let sums = by_hand.judge.sums(&batch(&rows).judged()).unwrap();
        let (first, second) = rows.split_at(rows.len().div_ceil(2));
        let mut alone = Sync::alone();
        by_hand.begin().unwrap();
        if !second.is_empty() {
            by_hand.accumulate(Some(&batch(first)), &sums).unwrap();
        }
        let last = if second.is_empty() { first } else { second };
        by_hand.backward(Some(&batch(last)), &sums, &alone).unwrap();
        losses.push(by_hand.step(&mut alone).unwrap().loss);
    }
    assert_eq!(losses.len(), 14);
    assert_eq!(report.losses.unwrap(), losses);
    assert_eq!(loaded.weights().unwrap(), by_hand.weights().unwrap());
}

#[test]
fn the_thread_is_at_most_two_parts_ahead_and_fills_the_same_memory_again() {
    let config = config(4, 1);
    let replica = replica(&config);
    let data = data(&replica, &[(40, 0)]);
    let order = fit::order(&config, 40, data.row_bytes());
    let source = Source { data: &data, order: &order, config: &config, world: 1, start: (0, 0) };
    std::thread::scope(|scope| {
        let mut loader = Loader::start(scope, 0, source, None).unwrap();
        let address = |part: &Part| part.batch.as_ref().unwrap().inputs.first().unwrap().data_ptr() as usize;
        let mut held: Vec<Part> = (0..ROOMS).map(|_| loader.next(&fine).unwrap()).collect();
        // No room is left, so the thread waits, and the loop learns of an abort though nothing comes.
        let asked = Cell::new(false);
        let aborted = || {
            asked.set(true);
            Err(Error::Aborted("enough".to_owned()))
        };
        assert!(matches!(loader.next(&aborted).map(drop), Err(Error::Aborted(_))));
        assert!(asked.get());
        let first = held.remove(0);
        let memory = address(&first);
        loader.give_back(first).unwrap();
        assert_eq!(address(&loader.next(&fine).unwrap()), memory);
        // Dropped with parts in the loop's hands and a run that is not over: ends all the same.
    });
}

#[test]
fn an_error_of_the_thread_comes_after_the_parts_before_it_and_is_its_last_word() {
    std::thread::scope(|scope| {
        let load = |ends: Ends| {
            let room = ends.free.recv().unwrap();
            ends.ready.send(Ok(Part { rows: vec![1], batch: None, last: true, room })).unwrap();
            ends.ready.send(Err(Error::Data("row 2 is gone".to_owned()))).unwrap();
        };
        let mut loader = Loader::spawn(scope, 0, None, load).unwrap();
        assert_eq!(loader.next(&fine).unwrap().rows, [1]);
        assert_eq!(loader.next(&fine).map(drop).unwrap_err().to_string(), "row 2 is gone");
        let error = loader.next(&fine).map(drop).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    });
}

#[test]
fn a_panic_of_the_thread_is_an_error_of_the_loop() {
    std::thread::scope(|scope| {
        let mut loader = Loader::spawn(scope, 0, None, |_: Ends| panic!("a bug")).unwrap();
        let error = loader.next(&fine).map(drop).unwrap_err().to_string();
        assert_eq!(error, "the thread that gathers batches panicked: a bug");
    });
}

#[test]
fn rows_that_cannot_be_gathered_fail_the_step_that_needs_them() {
    let config = config(4, 1);
    let replica = replica(&config);
    let mut data = data(&replica, &[(40, 0)]);
    let order = fit::order(&config, 40, data.row_bytes());
    data.lose_shards();
    let source = Source { data: &data, order: &order, config: &config, world: 1, start: (0, 0) };
    std::thread::scope(|scope| {
        let mut loader = Loader::start(scope, 0, source, None).unwrap();
        let error = loader.next(&fine).map(drop).unwrap_err();
        assert!(error.to_string().contains("a row that this rank does not hold"), "{error}");
    });
}
