//! A run that is interrupted and goes on equals one that is not, bit for bit.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test file: clippy only spares #[test] functions")]

use std::sync::Arc;

use kindling_program::Program;
use kindling_shards::{Column, ColumnData, DType, Role, ShardSpec, ShardStore, Split};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use super::*;
use crate::data::{self, RankData};
use crate::fit::{self, TrainingConfig};
use crate::plan::ShardRef;
use crate::report::Event;
use crate::sync::Sync;

const LAYERS: &str = r#"{"inputShape":[6],"seed":1,"layers":[
    {"type":"dense","units":8},{"type":"batchNorm"},{"type":"dropout","rate":0.5},{"type":"dense","units":3}]}"#;

fn program() -> Program {
    Program::read(LAYERS.as_bytes().to_vec()).unwrap()
}

/// A run with everything that has a state.
fn config(changes: Value) -> TrainingConfig {
    let mut config = json!({
        "loss": {"name": "crossEntropy"}, "optimizer": {"name": "adamw", "learningRate": 0.01, "amsgrad": true},
        "groups": [{"pattern": "*", "maxDimensions": 1, "weightDecay": 0}],
        "schedule": {"name": "cosine", "steps": 18, "warmupSteps": 3}, "clipNorm": 0.5, "emaDecay": 0.9,
        "accumulationSteps": 2, "batchSize": 10, "maxEpochs": 4, "seed": 3, "shuffle": true,
        "progressIntervalMs": 0, "recordRows": true
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn replica(config: &TrainingConfig) -> Replica {
    Replica::new(program(), None, config, 0).unwrap()
}

fn batch(step: i64) -> (Tensor, Tensor) {
    let numbers = |count: i64, factor: f64| {
        (Tensor::arange(count, (Kind::Double, tch::Device::Cpu)) + step as f64).g_mul_scalar(factor).sin()
    };
    let x = numbers(60, 1.7).to_kind(Kind::Float).reshape([10, 6]);
    let y = (numbers(10, 2.9).abs() * 2.999).to_kind(Kind::Int64);
    (x, y)
}

fn train(replica: &mut Replica, steps: std::ops::Range<i64>) -> Vec<u64> {
    let step = |step| {
        let (x, y) = batch(step);
        replica.train(vec![x], y).unwrap().to_bits()
    };
    steps.map(step).collect()
}

/// What the state holds, in an order of its own: that of the metadata in the file is random.
fn contents(replica: &Replica) -> (BTreeMap<String, String>, BTreeMap<String, Vec<u8>>) {
    let bytes = replica.save_state().unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
    (metadata.metadata().clone().unwrap().into_iter().collect(), tensors)
}

#[test]
fn a_replica_goes_on_from_its_state_as_if_it_had_not_stopped() {
    let optimizers = crate::optimizer::every_config();
    assert!(optimizers.len() > 10);
    for optimizer in optimizers {
        let config = config(json!({"optimizer": optimizer}));
        let mut whole = replica(&config);
        let losses = train(&mut whole, 0..20);
        let mut first = replica(&config);
        let mut resumed = replica(&config);
        let mut both = train(&mut first, 0..11);
        resumed.load_state(&first.save_state().unwrap()).unwrap();
        both.extend(train(&mut resumed, 11..20));
        assert_eq!(losses, both, "{optimizer}");
        // The states are the same files: weights, buffers, optimizer, averages, and random numbers.
        assert!(contents(&whole) == contents(&resumed), "{optimizer}");
        assert!(whole.weights().unwrap() == resumed.weights().unwrap(), "{optimizer}");
    }
}

#[test]
fn loss_scaling_goes_on_too() {
    let config = config(json!({"precision": "fp16"}));
    let mut first = replica(&config);
    train(&mut first, 0..3);
    first.scaler.as_mut().unwrap().scale = 512.0;
    let mut resumed = replica(&config);
    resumed.load_state(&first.save_state().unwrap()).unwrap();
    assert_eq!((resumed.scaler.as_ref().unwrap().scale, resumed.scaler.as_ref().unwrap().steady), (512.0, 3));
    assert_eq!(train(&mut first, 3..9), train(&mut resumed, 3..9));
}

fn rows(store: &ShardStore) -> ShardRef {
    let column = |name: &str, role, dtype, width| Column { name: name.to_owned(), role, dtype, width };
    let spec = ShardSpec {
        run: "state".to_owned(),
        partition: 0,
        attempt: 0,
        live_runs: Vec::new(),
        columns: vec![column("x", Role::Input, DType::Float32, 6), column("label", Role::Label, DType::Int64, 1)],
        budget: kindling_shards::Budget::default(),
    };
    let key = store.open(spec).unwrap();
    for (split, steps) in [(Split::Train, 0..5), (Split::Validation, 5..6)] {
        for step in steps {
            let (x, y) = batch(step);
            let (x, y) = (Vec::<f32>::try_from(x.reshape([-1])).unwrap(), Vec::<i64>::try_from(y).unwrap());
            store.write_rows(key, split, &[ColumnData::Float32(&x), ColumnData::Int64(&y)]).unwrap();
        }
    }
    let report = store.close(key).unwrap();
    ShardRef {
        partition: 0,
        process: report.process,
        key: report.key,
        rows: report.rows,
        validation_rows: report.validation_rows,
        endpoint: None,
    }
}

/// Fits until `stop` steps are done in all, or to the end.
fn fit(replica: &mut Replica, config: &TrainingConfig, stop: Option<u64>) -> Option<crate::FitReport> {
    let store = Arc::new(ShardStore::new());
    let shard = rows(&store);
    let process = shard.process.clone();
    let data =
        RankData::open(&store, &[shard], &[&process], 0, &replica.program, &replica.judge, &data::all_here).unwrap();
    let mut steps = 0;
    let mut events = |event: &Event| {
        steps += u64::from(matches!(event, Event::Progress { .. }));
        if stop == Some(steps) { Err(Error::Listener("enough".to_owned())) } else { Ok(()) }
    };
    fit::fit(replica, &data, &mut Sync::alone(), config, 50, &|| Ok(()), &mut events).ok()
}

#[test]
fn a_fit_goes_on_within_an_epoch_and_keeps_its_figures() {
    for (schedule, precision) in [
        (json!({"name": "cosine", "steps": 18, "warmupSteps": 3}), "fp32"),
        (json!({"name": "cosine", "steps": 18, "warmupSteps": 3}), "fp16"),
        (json!({"name": "reduceOnPlateau", "patience": 0, "threshold": 0.5, "gamma": 0.5}), "bf16"),
    ] {
        let config = config(json!({"schedule": schedule, "precision": precision}));
        let mut whole = replica(&config);
        let report = fit(&mut whole, &config, None).unwrap();
        assert_eq!((report.steps, report.epochs.len()), (20, 4));
        // In the second epoch, after 2 of its 5 batches.
        let mut first = replica(&config);
        assert!(fit(&mut first, &config, Some(7)).is_none());
        assert_eq!((first.position.epoch, first.position.step), (1, 2));
        let mut resumed = replica(&config);
        resumed.load_state(&first.save_state().unwrap()).unwrap();
        let rest = fit(&mut resumed, &config, None).unwrap();
        assert_eq!(rest.losses.unwrap(), report.losses.unwrap()[7..]);
        let figures = |epochs: &[crate::EpochReport]| -> Vec<Value> {
            let figures = epochs.iter().map(|epoch| {
                let mut value = serde_json::to_value(epoch).unwrap();
                let object = value.as_object_mut().unwrap();
                object.remove("seconds");
                object.remove("rowsPerSecond");
                value
            });
            figures.collect()
        };
        assert_eq!(figures(&rest.epochs), figures(&report.epochs[1..]), "{schedule}");
        assert!(contents(&whole) == contents(&resumed), "{schedule}");
        assert!(whole.weights().unwrap() == resumed.weights().unwrap(), "{schedule}");
    }
}

/// A rank's losses, and the tensors of its state.
type Ended = (Vec<u64>, BTreeMap<String, Vec<u8>>);

/// What each of two ranks has after 12 steps on halves of the same batches, if all stop after `stop` of them and go on from
/// their states.
fn two_ranks(stop: Option<i64>) -> Vec<Ended> {
    let config = config(json!({"precision": "fp16"}));
    crate::sync::tests::ranks(2, |rank, mut sync| {
        let new = || Replica::new(program(), None, &config, rank).unwrap();
        let mut replica = new();
        let mut losses = Vec::new();
        for step in 0..12 {
            if stop == Some(step) {
                let state = replica.save_state().unwrap();
                replica = new();
                replica.load_state(&state).unwrap();
            }
            let (x, y) = batch(step);
            let whole = crate::data::Batch { inputs: vec![x], labels: Some(y), weights: None, rows: 10 };
            let sums = Sums { rows: 10, weight: 10.0, answers: 10.0 };
            let (first, last) = if rank == 0 { (0..3, 3..5) } else { (5..8, 8..10) };
            replica.begin().unwrap();
            replica.accumulate(Some(&whole.part(&first).unwrap()), &sums).unwrap();
            replica.backward(Some(&whole.part(&last).unwrap()), &sums, &sync).unwrap();
            let tail = replica.step(&mut sync).unwrap();
            replica.position.add(&tail, &sums, 5);
            losses.push(tail.loss.to_bits());
        }
        (losses, contents(&replica).1)
    })
}

#[test]
fn ranks_of_one_process_go_on_each_from_its_own_state() {
    let whole = two_ranks(None);
    assert!(whole[0].1["random.0"] != whole[1].1["random.1"], "ranks drop out differently");
    assert!(whole[0].1["average.0.weight"] == whole[1].1["average.0.weight"]);
    assert!(whole == two_ranks(Some(7)));
}

#[test]
fn a_rank_that_goes_on_from_another_s_state_has_trained_none_of_its_rows() {
    let config = config(json!({}));
    let of_rank = |rank| Replica::new(program(), None, &config, rank).unwrap();
    let mut first = of_rank(0);
    first.position = Position { epoch: 1, step: 2, rows: 40, rows_here: 20, ..Position::default() };
    let state = first.save_state().unwrap();
    let load = |rank| {
        let mut replica = of_rank(rank);
        replica.load_state(&state).unwrap();
        (replica.position.step, replica.position.rows, replica.position.rows_here)
    };
    assert_eq!((load(0), load(1)), ((2, 40, 20), (2, 40, 0)));
}

#[test]
fn skipped_steps_and_batches_that_weigh_nothing_are_left_out_of_the_figures() {
    let batch = Sums { rows: 4, weight: 4.0, answers: 4.0 };
    let tail = |loss, correct, skipped| Tail { used: Vec::new(), loss, correct, skipped };
    let mut position = Position::default();
    position.add(&tail(0.5, 3.0, false), &batch, 2);
    position.add(&tail(f64::INFINITY, 0.0, true), &batch, 2);
    position.add(&tail(0.0, 0.0, false), &Sums { weight: 0.0, ..batch }, 2);
    assert_eq!(position.sums, [2.0, 4.0, 3.0, 4.0]);
    assert_eq!((position.step, position.rows, position.rows_here), (3, 12, 6));
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name() {
    let state = replica(&config(json!({}))).save_state().unwrap();
    for (changes, said) in [
        (json!({"optimizer": {"name": "sgd", "learningRate": 0.1}}), "is adamw's and the optimizer is sgd"),
        (json!({"optimizer": {"name": "adamw", "learningRate": 0.1}}), "holds optimizer.max_exp_avg_sq.0.bias"),
        (json!({"emaDecay": null}), "holds average.0.bias"),
        (json!({"precision": "fp16"}), "lacks scale"),
        (json!({"groups": [{"pattern": "0.*", "frozen": true}]}), "0.bias"),
    ] {
        let error = replica(&config(changes)).load_state(&state).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let error = replica(&config(json!({}))).load_state(&state[..state.len() / 2]).unwrap_err().to_string();
    assert!(error.contains("no safetensors file"), "{error}");
}

#[test]
fn a_rank_without_random_numbers_in_the_state_starts_its_own() {
    let config = config(json!({}));
    let mut first = replica(&config);
    train(&mut first, 0..2);
    let state = first.save_state().unwrap();
    let of_rank = |rank| {
        let mut replica = Replica::new(program(), None, &config, rank).unwrap();
        replica.load_state(&state).unwrap();
        replica.random_state().unwrap()
    };
    assert_eq!(of_rank(0), first.random_state().unwrap());
    assert_ne!(of_rank(1), of_rank(0));
    assert_eq!(of_rank(1), of_rank(1));
    assert_ne!(of_rank(1), of_rank(2));
}

#[test]
fn a_rank_that_has_moved_from_a_gpu_starts_its_random_numbers_anew() {
    let config = config(json!({}));
    let mut first = replica(&config);
    train(&mut first, 0..2);
    let saved = first.save_state().unwrap();
    let file = SafeTensors::deserialize(&saved).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&saved).unwrap();
    let drawn = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![16], &[0; 16]).unwrap();
    // Seed and offset, as a GPU's generator has them.
    let views = file.iter().map(|(name, view)| (name, if name == "random.0" { drawn.clone() } else { view }));
    let moved = safetensors::serialize(views, metadata.metadata().clone()).unwrap();
    let mut replica = replica(&config);
    replica.load_state(&moved).unwrap();
    let mut expected = self::replica(&config);
    expected.steps = 2;
    expected.restart_random().unwrap();
    assert_eq!(replica.random_state().unwrap(), expected.random_state().unwrap());
    assert_eq!(replica.steps, 2);
}
