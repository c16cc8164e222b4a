//! Training on a GPU against the same training on the processor. Where there is no GPU, each test prints `skipped` and why.
//!
//! The same numbers are summed in other orders, in float32: losses may differ by 1e-4 of their value after a few steps, and
//! weights by 1e-4. Adam and its kin make a whole step of a gradient that is all rounding, so the nets here have none such.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::sync::Arc;

use kindling_program::Program;
use kindling_shards::{ColumnData, ShardReport, ShardSpec, ShardStore, Split};
use kindling_train::{Device, FitReport, Metric, Model, Replica, Session, TrainingConfig};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

const DENSE: &str = r#"{"type":"dense","units":8,"activation":"tanh"},{"type":"dense","units":3}"#;
const CONV: &str = r#"{"type":"reshape","targetShape":[4,4,1]},{"type":"conv2D","filters":4,"kernelSize":3},
    {"type":"batchNorm"},{"type":"flatten"},{"type":"dense","units":3}"#;

/// The GPU, or none with the reason printed. A machine that has one must not skip.
fn gpu() -> Option<Device> {
    kindling_train::gpus().map_err(|error| println!("skipped: {error}")).ok().map(|_| Device::Cuda(0))
}

fn program(layers: &str) -> Program {
    Program::read(format!(r#"{{"inputShape":[16],"seed":1,"layers":[{layers}]}}"#).into_bytes()).unwrap()
}

fn config(settings: Value) -> TrainingConfig {
    let mut config = json!({
        "loss": {"name": "crossEntropy"}, "optimizer": {"name": "sgd", "learningRate": 0.1}, "batchSize": 12,
        "maxEpochs": 2, "seed": 3, "shuffle": true, "progressIntervalMs": 100_000, "recordRows": true
    });
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn inputs(step: i64) -> Tensor {
    ((Tensor::arange(12 * 16, (Kind::Float, tch::Device::Cpu)) + 7 * step) * 0.37).sin().reshape([12, 16])
}

fn classes(step: i64) -> Tensor {
    Tensor::arange_start(step, step + 12, (Kind::Int64, tch::Device::Cpu)).remainder(3)
}

fn replica(device: Device, layers: &str, settings: &Value) -> Replica {
    Replica::on(device, program(layers), None, &config(settings.clone()), 0).unwrap()
}

fn losses(replica: &mut Replica, steps: i64, label: impl Fn(i64) -> Tensor) -> Vec<f64> {
    (0..steps).map(|step| replica.train(vec![inputs(step)], label(step)).unwrap()).collect()
}

fn close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (ours, expected) in ours.iter().zip(expected) {
        assert!(
            (ours - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{what}: {ours}, on the CPU {expected}"
        );
    }
}

/// All floats of a safetensors file, by name.
fn numbers(bytes: &[u8]) -> Vec<f64> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let float = |name: &&str| file.tensor(name).unwrap().dtype() == safetensors::Dtype::F32;
    let values = |name: &str| -> Vec<f64> {
        let view = file.tensor(name).unwrap();
        view.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
    };
    names.into_iter().filter(float).flat_map(values).collect()
}

fn trains_alike(gpu: Device, what: &str, layers: &str, settings: &Value, tolerance: f64, label: fn(i64) -> Tensor) {
    let (mut on_gpu, mut on_cpu) = (replica(gpu, layers, settings), replica(Device::Cpu, layers, settings));
    close(what, &losses(&mut on_gpu, 10, label), &losses(&mut on_cpu, 10, label), tolerance);
    close(what, &numbers(&on_gpu.weights().unwrap()), &numbers(&on_cpu.weights().unwrap()), tolerance);
    close(what, &numbers(&on_gpu.save_state().unwrap()), &numbers(&on_cpu.save_state().unwrap()), tolerance);
}

#[test]
fn every_optimizer_steps_as_on_the_processor() {
    let Some(gpu) = gpu() else { return };
    for name in ["sgd", "adam", "adamw", "adagrad", "rmsprop", "lamb", "lars", "lion", "adafactor"] {
        let rate = if name == "lion" { 1e-4 } else { 1e-2 };
        let settings = json!({"optimizer": {"name": name, "learningRate": rate}});
        trains_alike(gpu, name, DENSE, &settings, 1e-4, classes);
    }
    let settings = json!({"optimizer": {"name": "sgd", "learningRate": 0.1, "momentum": 0.9, "nesterov": true}});
    trains_alike(gpu, "sgd with momentum", CONV, &settings, 1e-4, classes);
}

#[test]
fn settings_of_the_step_mean_the_same() {
    let Some(gpu) = gpu() else { return };
    for settings in [
        json!({"clipNorm": 0.1, "clipValue": 0.05}),
        json!({"accumulationSteps": 3, "emaDecay": 0.9}),
        json!({"activationCheckpointing": ["*"]}),
        json!({"groups": [{"pattern": "*", "maxDimensions": 1, "learningRate": 0.01}]}),
    ] {
        trains_alike(gpu, &settings.to_string(), DENSE, &settings, 1e-4, classes);
    }
}

#[test]
fn every_loss_judges_the_same() {
    let Some(gpu) = gpu() else { return };
    let three = |step: i64| inputs(step).narrow(1, 0, 3).contiguous();
    let shares = |step: i64| inputs(step).narrow(1, 0, 3).softmax(1, Kind::Float);
    let signs = |step: i64| inputs(step).narrow(1, 0, 3).sign();
    let class =
        json!({"name": "crossEntropy", "classWeights": [1.0, 2.0, 0.5], "ignoreIndex": 2, "labelSmoothing": 0.1});
    for loss in [class, json!({"name": "crossEntropy"}), json!({"name": "categoricalHinge"})] {
        trains_alike(gpu, &loss.to_string(), DENSE, &json!({"loss": loss}), 1e-4, classes);
    }
    for name in ["mse", "mae", "huber", "smoothL1", "cosineSimilarity"] {
        trains_alike(gpu, name, DENSE, &json!({"loss": {"name": name}}), 1e-4, three);
    }
    for loss in [
        json!({"name": "binaryCrossEntropyWithLogits", "posWeight": [1.0, 2.0, 3.0]}),
        json!({"name": "poisson"}),
        json!({"name": "crossEntropy"}),
    ] {
        trains_alike(gpu, &loss.to_string(), DENSE, &json!({"loss": loss}), 1e-4, shares);
    }
    for name in ["hinge", "squaredHinge"] {
        trains_alike(gpu, name, DENSE, &json!({"loss": {"name": name}}), 1e-4, signs);
    }
    let time = r#"{"type":"dense","units":24},{"type":"reshape","targetShape":[6,4]}"#;
    let sequence = |step: i64| (classes(step) + 1).reshape([12, 1]);
    trains_alike(gpu, "ctc", time, &json!({"loss": {"name": "ctc"}}), 1e-4, sequence);
}

#[test]
fn lower_precision_learns_and_overflow_skips_the_step() {
    let Some(gpu) = gpu() else { return };
    for precision in ["bf16", "fp16"] {
        // 8 bits of precision on both sides.
        trains_alike(gpu, precision, DENSE, &json!({"precision": precision}), 5e-2, classes);
    }
    let mut overflowing = replica(gpu, DENSE, &json!({"precision": "fp16"}));
    let before = overflowing.weights().unwrap();
    overflowing.train(vec![inputs(0) * 1e6], classes(0)).unwrap();
    assert!(overflowing.weights().unwrap() == before);
}

#[test]
fn random_numbers_repeat_are_the_ranks_own_and_are_gone_on_from() {
    let Some(gpu) = gpu() else { return };
    let layers = format!(r#"{{"type":"dropout","rate":0.5}},{DENSE}"#);
    let new = |rank| Replica::on(gpu, program(&layers), None, &config(json!({})), rank).unwrap();
    let (mut one, mut same, mut other) = (new(0), new(0), new(1));
    let first = losses(&mut one, 3, classes);
    // What others draw from the GPU meanwhile makes no difference.
    assert_ne!(losses(&mut other, 3, classes), first);
    let _ = Tensor::rand([100], (Kind::Float, tch::Device::Cuda(0)));
    assert_eq!(losses(&mut same, 3, classes), first);
    assert_eq!(one.random_state().unwrap().len(), 16);
    let mut resumed = new(0);
    resumed.load_state(&one.save_state().unwrap()).unwrap();
    assert_eq!(losses(&mut resumed, 3, classes), losses(&mut one, 3, classes));
}

#[test]
fn a_state_goes_from_the_processor_to_the_gpu_and_back() {
    let Some(gpu) = gpu() else { return };
    let settings = json!({"optimizer": {"name": "adamw", "learningRate": 0.01}});
    let (mut on_cpu, mut on_gpu) = (replica(Device::Cpu, DENSE, &settings), replica(gpu, DENSE, &settings));
    losses(&mut on_cpu, 5, classes);
    on_gpu.load_state(&on_cpu.save_state().unwrap()).unwrap();
    assert_eq!(numbers(&on_gpu.save_state().unwrap()), numbers(&on_cpu.save_state().unwrap()));
    close("going on", &losses(&mut on_gpu, 5, classes), &losses(&mut on_cpu, 5, classes), 1e-4);
    let mut back = replica(Device::Cpu, DENSE, &settings);
    back.load_state(&on_gpu.save_state().unwrap()).unwrap();
    assert_eq!(numbers(&back.weights().unwrap()), numbers(&on_gpu.weights().unwrap()));
}

#[test]
fn predictions_are_the_same() {
    let Some(gpu) = gpu() else { return };
    let program = program(CONV);
    let name = &program.value(program.inputs[0].value).unwrap().name;
    let predicted = |device: Device| {
        let config = json!({"threads": 1, "device": device.to_string(), "loss": {"name": "crossEntropy"},
            "columns": [{"name": name, "role": "input", "dtype": "float32", "width": 16}]});
        let model = Arc::new(Model::open(serde_json::from_value(config).unwrap(), &program, None).unwrap());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let mut predictor = model.predictor().unwrap();
                std::thread::spawn(move || predictor.run(&[inputs(0)]).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    };
    let expected = predicted(Device::Cpu).remove(0);
    for found in predicted(gpu) {
        assert_eq!(found.device(), tch::Device::Cpu);
        let apart = (found - &expected).abs().max().double_value(&[]);
        assert!(apart < 1e-5, "{apart}");
    }
}

fn store() -> (Arc<ShardStore>, ShardReport) {
    let store = ShardStore::new();
    let spec: ShardSpec = serde_json::from_value(json!({
        "run": "gpu", "partition": 0, "attempt": 0, "liveRuns": [],
        "columns": [{"name": "x", "role": "input", "dtype": "float32", "width": 16},
                    {"name": "y", "role": "label", "dtype": "int64", "width": 1},
                    {"name": "w", "role": "weight", "dtype": "float32", "width": 1}]
    }))
    .unwrap();
    let key = store.open(spec).unwrap();
    for (split, rows) in [(Split::Train, 100), (Split::Validation, 30)] {
        let x: Vec<f32> = (0..rows * 16).map(|i| (i as f32 * 0.7).sin()).collect();
        let y: Vec<i64> = (0..rows as i64).map(|row| row % 3).collect();
        let w: Vec<f32> = (0..rows).map(|row| 0.5 + (row % 4) as f32).collect();
        store
            .write_rows(key, split, &[ColumnData::Float32(&x), ColumnData::Int64(&y), ColumnData::Float32(&w)])
            .unwrap();
    }
    let report = store.close(key).unwrap();
    (store, report)
}

/// Fits in sessions that are threads of this process; the reports, and the weights.
fn fit(device: Device, world: usize) -> (Vec<FitReport>, Vec<u8>) {
    let (store, report) = store();
    let open = |rank| {
        let config = json!({
            "run": report.process, "attempt": 0, "rank": rank, "world": world, "secret": "0a".repeat(32),
            "host": "127.0.0.1", "threads": 1, "device": device.to_string(), "rendezvousTimeoutMs": 20_000,
            "collectiveTimeoutMs": 20_000, "heartbeatMs": 5000, "stallWarningMs": 60_000, "encrypted": false,
            "shards": [{"partition": report.partition, "process": report.process, "key": report.key, "rows": report.rows,
                        "validationRows": report.validation_rows}],
            "training": {
                "loss": {"name": "crossEntropy"}, "optimizer": {"name": "adam", "learningRate": 0.01}, "batchSize": 16,
                "maxEpochs": 3, "seed": 1, "shuffle": true, "progressIntervalMs": 100_000, "recordRows": true,
                "bucketBytes": 256, "metrics": ["accuracy", "topK", "precision", "recall", "f1"], "topK": 2
            }
        });
        Session::open(serde_json::from_value(config).unwrap(), program(DENSE), None, Arc::clone(&store)).unwrap()
    };
    let sessions: Vec<Arc<Session>> = (0..world).map(|rank| Arc::new(open(rank))).collect();
    let roster: Vec<_> = sessions.iter().map(|session| session.endpoint().unwrap()).collect();
    let ranks: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (session, roster) = (Arc::clone(session), roster.clone());
            std::thread::spawn(move || {
                session.connect(&roster).unwrap();
                session.fit(&mut |_| Ok(())).unwrap()
            })
        })
        .collect();
    let reports = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    let weights = sessions[0].weights().unwrap();
    (reports, weights)
}

#[test]
fn a_fit_reads_uploads_trains_and_validates_as_on_the_processor() {
    let Some(gpu) = gpu() else { return };
    let (expected, weights) = fit(Device::Cpu, 1);
    // Two ranks on one GPU: their gradients go through the host's memory.
    for world in [1, 2] {
        let (found, own) = fit(gpu, world);
        let losses = |reports: &[FitReport]| reports[0].losses.clone().unwrap();
        close("losses", &losses(&found), &losses(&expected), 1e-4);
        close("weights", &numbers(&own), &numbers(&weights), 1e-3);
        for (found, expected) in found[0].epochs.iter().zip(&expected[0].epochs) {
            for metric in [Metric::Loss, Metric::Accuracy, Metric::TopK, Metric::Precision, Metric::Recall, Metric::F1]
            {
                let of = |epoch: &kindling_train::EpochReport| epoch.validation.get(metric).unwrap();
                close(metric.name(), &[of(found)], &[of(expected)], 1e-3);
            }
        }
    }
}

#[test]
fn a_gpu_that_is_not_there_is_refused_before_anything_is_laid_out() {
    let error = Replica::on(Device::Cuda(127), program(DENSE), None, &config(json!({})), 0).err().unwrap();
    let text = error.to_string();
    assert_eq!(error.kind(), kindling_train::ErrorKind::Config);
    assert!(text.starts_with("device is cuda:127, but ") && text.ends_with(", or set device to cpu"), "{text}");
}
