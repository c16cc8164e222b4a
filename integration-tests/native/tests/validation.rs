//! What follows from validation: the metrics of a run in every world, early stopping, and the best epoch's weights.
//!
//! Labels are noise, so a net that learns them does worse on the validation rows: the best epoch is not the last one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::sync::Arc;

use kindling_program::Program;
use kindling_shards::{ColumnData, ShardReport, ShardSpec, ShardStore, Split};
use kindling_train::{FitReport, Metric, Session};
use serde_json::{Value, json};

const ROWS: usize = 48;
const HELD: usize = 30;
/// Trained statistics among what is to be restored; the same in every world, as it is one rank's.
const NET: &str = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"dense","units":24,"activation":"tanh"},
    {"type":"batchNormalization"},{"type":"dense","units":2}]}"#;
const PLAIN: &str = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"dense","units":24,"activation":"tanh"},{"type":"dense","units":2}]}"#;

/// Some number that looks random and is the same every time.
fn noise(at: usize) -> f32 {
    let mixed = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u32 << 24) as f32
}

fn store(held: usize) -> (Arc<ShardStore>, ShardReport) {
    let store = ShardStore::new();
    let spec: ShardSpec = serde_json::from_value(json!({
        "run": store.process(), "partition": 0, "attempt": 0, "liveRuns": [],
        "columns": [{"name": "x", "role": "input", "dtype": "float32", "width": 4},
                    {"name": "y", "role": "label", "dtype": "int64", "width": 1},
                    {"name": "w", "role": "weight", "dtype": "float64", "width": 1}]
    }))
    .unwrap();
    let key = store.open(spec).unwrap();
    let features: Vec<f32> = (0..(ROWS + held) * 4).map(noise).collect();
    let labels: Vec<i64> = (0..ROWS + held).map(|row| i64::from(noise(row + 7000) > 0.5)).collect();
    let weights: Vec<f64> = (0..ROWS + held).map(|row| (row % 4) as f64).collect();
    let columns = |from: usize, to: usize| {
        [
            ColumnData::Float32(&features[from * 4..to * 4]),
            ColumnData::Int64(&labels[from..to]),
            ColumnData::Float64(&weights[from..to]),
        ]
    };
    store.write_rows(key, Split::Train, &columns(0, ROWS)).unwrap();
    if held > 0 {
        store.write_rows(key, Split::Validation, &columns(ROWS, ROWS + held)).unwrap();
    }
    let report = store.close(key).unwrap();
    (store, report)
}

fn open(held: usize, net: &str, world: usize, more: &Value) -> kindling_train::Result<Vec<Arc<Session>>> {
    let (store, report) = store(held);
    let mut training = json!({
        "loss": {"name": "crossEntropy"}, "optimizer": {"name": "adam", "learningRate": 0.05}, "batchSize": 16,
        "maxEpochs": 12, "seed": 1, "shuffle": true, "progressIntervalMs": 0, "recordRows": false
    });
    training.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let open = |rank: usize| {
        let config = json!({
            "run": report.process, "attempt": 0, "rank": rank, "world": world, "secret": "0a".repeat(32),
            "host": "127.0.0.1", "threads": 1, "device": "cpu", "rendezvousTimeoutMs": 20_000,
            "collectiveTimeoutMs": 20_000, "heartbeatMs": 5000, "stallWarningMs": 60_000, "encrypted": false,
            "shards": [{"partition": report.partition, "process": report.process, "key": report.key,
                        "rows": report.rows, "validationRows": report.validation_rows}],
            "training": training
        });
        let program = Program::read(net.as_bytes().to_vec()).unwrap();
        Session::open(serde_json::from_value(config).unwrap(), program, None, Arc::clone(&store)).map(Arc::new)
    };
    (0..world).map(open).collect()
}

/// Every rank's report and weights.
fn fit(net: &str, world: usize, more: &Value) -> Vec<(FitReport, Vec<u8>)> {
    let sessions = open(HELD, net, world, more).unwrap();
    let roster: Vec<_> = sessions.iter().map(|session| session.endpoint().unwrap()).collect();
    let run = |session: Arc<Session>| {
        let roster = roster.clone();
        std::thread::spawn(move || {
            session.connect(&roster).unwrap();
            let report = session.fit(&mut |_| Ok(())).unwrap();
            (report, session.weights().unwrap())
        })
    };
    let ranks: Vec<_> = sessions.into_iter().map(run).collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

#[test]
fn the_best_epochs_weights_and_statistics_are_those_of_a_run_that_ends_there() {
    for more in [json!({}), json!({"emaDecay": 0.5}), json!({"earlyStopping": {"metric": "auc"}})] {
        for world in [1, 2] {
            let with = |setting: Value| {
                let mut all = more.clone();
                all.as_object_mut().unwrap().extend(setting.as_object().unwrap().clone());
                all
            };
            let metric = more.pointer("/earlyStopping/metric").cloned().unwrap_or_else(|| json!("loss"));
            let stopping = json!({"earlyStopping": {"metric": metric, "restoreBestWeights": true}});
            let restored = fit(NET, world, &with(stopping));
            let (report, weights) = &restored[0];
            let best = report.best_epoch.unwrap();
            assert!(best + 1 < report.epochs.len() as u64, "world {world}: the best epoch is {best}");
            assert_eq!((report.epochs.len(), report.stopped_early), (12, false));
            let short = fit(NET, world, &with(json!({"maxEpochs": best + 1, "earlyStopping": null})));
            assert!(*weights == short[0].1, "world {world}: to the bit");
            assert!(restored.iter().all(|(_, other)| other == weights), "on every rank");
            let last = fit(NET, world, &with(json!({"earlyStopping": null})));
            assert!(*weights != last[0].1, "which the last epoch's are not");
        }
    }
}

#[test]
fn a_run_ends_when_its_patience_does_on_all_ranks() {
    for world in [1, 3] {
        let reports = fit(PLAIN, world, &json!({"maxEpochs": 50, "earlyStopping": {"patience": 2}}));
        for (report, _) in &reports {
            let best = report.best_epoch.unwrap();
            assert_eq!((report.epochs.len() as u64, report.stopped_early), (best + 3, true), "world {world}");
            let losses: Vec<f64> =
                report.epochs.iter().map(|epoch| epoch.validation.get(Metric::Loss).unwrap()).collect();
            assert!(losses.iter().all(|&loss| loss >= losses[usize::try_from(best).unwrap()]));
        }
    }
}

#[test]
fn the_metrics_of_a_run_do_not_depend_on_the_world() {
    let asked = json!({"metrics": ["auc", "f1", "topK", "accuracy"], "topK": 1, "maxEpochs": 2});
    let one = fit(PLAIN, 1, &asked).remove(0).0;
    let epoch = &one.epochs[1].validation;
    let measured: Vec<Metric> = epoch.iter().map(|(metric, _)| metric).collect();
    assert_eq!(measured, [Metric::Loss, Metric::Accuracy, Metric::TopK, Metric::F1, Metric::Auc]);
    assert_eq!(epoch.get(Metric::TopK), epoch.get(Metric::Accuracy), "the largest output is the answer");
    for world in [2, 3] {
        let many = fit(PLAIN, world, &asked).remove(0).0;
        for (metric, value) in epoch.iter() {
            let other = many.epochs[1].validation.get(metric).unwrap();
            // Weights of two epochs that differ in the last bits of float32; no score lies so close to another.
            assert!((other - value.unwrap()).abs() < 1e-5, "world {world} {metric:?}: {other} {value:?}");
        }
    }
}

#[test]
fn a_plateau_is_one_of_the_metric_that_is_watched() {
    let schedule = json!({"schedule": {"name": "reduceOnPlateau", "metric": "accuracy", "patience": 0, "gamma": 0.5}});
    let report = fit(PLAIN, 1, &schedule).remove(0).0;
    let mut rate = 0.05;
    let mut best = f64::NEG_INFINITY;
    for epoch in &report.epochs {
        assert!((epoch.learning_rate - rate).abs() < 1e-12, "{} {rate}", epoch.learning_rate);
        let accuracy = epoch.validation.get(Metric::Accuracy).unwrap();
        if accuracy > best * (1.0 + 1e-4) { best = accuracy } else { rate /= 2.0 }
    }
    assert!(rate < 0.05);
}

#[test]
fn looking_at_validation_rows_that_are_not_there_is_refused() {
    for (more, named) in [
        (json!({"earlyStopping": {"patience": 1}}), "early stopping"),
        (json!({"metrics": ["f1"]}), "metrics"),
        (json!({"schedule": {"name": "reduceOnPlateau", "metric": "loss"}}), "reduceOnPlateau"),
    ] {
        let error = open(0, PLAIN, 1, &more).err().unwrap().to_string();
        assert!(error.contains("no validation row") && error.contains(named), "{error}");
    }
}
