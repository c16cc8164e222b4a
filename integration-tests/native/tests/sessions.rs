//! What a session refuses, and that refusing leaves nobody waiting.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test file: clippy only spares #[test] functions")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kindling_program::Program;
use kindling_shards::{ColumnData, ShardReport, ShardSpec, ShardStore, Split};
use kindling_train::{ErrorKind, FitReport, Metric, Session};
use serde_json::{Value, json};

const DENSE: &str = r#"{"type":"dense","units":3}"#;

/// A store with one partition of four features and a label per row; `validation` of the rows validate.
fn store(labels: &[i64], validation: usize) -> (Arc<ShardStore>, ShardReport) {
    let store = ShardStore::new();
    let spec: ShardSpec = serde_json::from_value(json!({
        "run": "test", "partition": 0, "attempt": 0, "liveRuns": [],
        "columns": [{"name": "x", "role": "input", "dtype": "float32", "width": 4},
                    {"name": "y", "role": "label", "dtype": "int64", "width": 1}]
    }))
    .unwrap();
    let key = store.open(spec).unwrap();
    let features: Vec<f32> = (0..labels.len() * 4).map(|i| (i % 7) as f32).collect();
    let (held, trained) = labels.split_at(validation);
    let (held_x, trained_x) = features.split_at(validation * 4);
    store.write_rows(key, Split::Validation, &[ColumnData::Float32(held_x), ColumnData::Int64(held)]).unwrap();
    store.write_rows(key, Split::Train, &[ColumnData::Float32(trained_x), ColumnData::Int64(trained)]).unwrap();
    let report = store.close(key).unwrap();
    (store, report)
}

fn config(report: &ShardReport, rank: usize, world: usize, batch_size: u64) -> Value {
    json!({
        // Ranks of one process meet by run, and tests share a process: each store is a run of its own.
        "run": report.process, "attempt": 0, "rank": rank, "world": world, "secret": "0a".repeat(32), "host": "127.0.0.1",
        "threads": 1, "device": "cpu", "rendezvousTimeoutMs": 10_000, "collectiveTimeoutMs": 10_000,
        "heartbeatMs": 5000, "stallWarningMs": 60_000, "encrypted": false,
        "shards": [{"partition": report.partition, "process": report.process, "key": report.key, "rows": report.rows,
                    "validationRows": report.validation_rows}],
        "training": {"loss": {"name": "crossEntropy"}, "optimizer": {"name": "sgd", "learningRate": 0.1, "weightDecay": 0.0,
                     "momentum": 0.0}, "batchSize": batch_size, "maxEpochs": 2, "seed": 1, "shuffle": true,
                     "progressIntervalMs": 0, "recordRows": true}
    })
}

fn open(layers: &str, store: &Arc<ShardStore>, config: Value) -> kindling_train::Result<Session> {
    let program = format!(r#"{{"inputShape":[4],"seed":1,"layers":[{layers}]}}"#);
    let program = Program::read(program.into_bytes()).unwrap();
    Session::open(serde_json::from_value(config).unwrap(), program, None, Arc::clone(store))
}

/// Fits with all ranks as threads; each rank's result.
fn fit(
    layers: &str,
    labels: &[i64],
    validation: usize,
    world: usize,
    batch: u64,
) -> Vec<kindling_train::Result<FitReport>> {
    let (store, report) = store(labels, validation);
    let open = |rank| Arc::new(open(layers, &store, config(&report, rank, world, batch)).unwrap());
    let sessions: Vec<_> = (0..world).map(open).collect();
    let roster: Vec<_> = sessions.iter().map(|session| session.endpoint().unwrap()).collect();
    let run = |session: Arc<Session>| {
        let roster = roster.clone();
        std::thread::spawn(move || session.connect(&roster).and_then(|()| session.fit(&mut |_| Ok(()))))
    };
    let ranks: Vec<_> = sessions.into_iter().map(run).collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

#[test]
fn validation_figures_count_every_validation_row_once_whatever_the_world() {
    let labels: Vec<i64> = (0..50).map(|row| row % 3).collect();
    let figures = |world| {
        let epochs = fit(DENSE, &labels, 13, world, 8).remove(0).unwrap().epochs;
        (
            epochs[1].validation.get(Metric::Loss).unwrap(),
            epochs[1].validation.get(Metric::Accuracy).unwrap(),
            epochs[1].rows,
        )
    };
    let (loss, accuracy, rows) = figures(1);
    assert_eq!(rows, 37);
    for world in [2, 3, 5] {
        let (other_loss, other_accuracy, other_rows) = figures(world);
        assert!((loss - other_loss).abs() < 1e-5 * loss, "{loss} {other_loss}");
        assert_eq!((accuracy, rows), (other_accuracy, other_rows));
    }
}

#[test]
fn more_ranks_than_rows_train_all_rows() {
    let reports = fit(DENSE, &[0, 1], 0, 4, 8);
    let rows: Vec<u64> =
        reports.iter().flat_map(|report| report.as_ref().unwrap().rows.clone().unwrap()).flatten().collect();
    assert_eq!(rows.len(), 4, "two rows, two epochs: {rows:?}");
}

#[test]
fn a_label_that_is_no_class_is_named_on_the_rank_that_holds_it_and_ends_the_others() {
    let begun = Instant::now();
    let mut labels = vec![0; 20];
    labels[15] = 3;
    let errors: Vec<_> = fit(DENSE, &labels, 0, 2, 8).into_iter().map(|result| result.err().unwrap()).collect();
    assert_eq!((errors[0].kind(), errors[1].kind()), (ErrorKind::PeerLost, ErrorKind::Config));
    let (peer, own) = (errors[0].to_string(), errors[1].to_string());
    assert!(own.contains("label 3 in partition 0") && own.contains("3 classes"), "{own}");
    assert!(peer.contains("rank 1") && peer.contains("label 3"), "the peer says why: {peer}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_single_row_through_batch_norm_is_an_error_and_not_nan() {
    let error = fit(r#"{"type":"dense","units":3},{"type":"batchNorm"}"#, &[0, 1, 2], 0, 1, 2).remove(0).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("batch norm") && error.to_string().contains("batchSize"), "{error}");
}

#[test]
fn probabilities_are_refused_for_cross_entropy_with_a_hint() {
    let (store, report) = store(&[0, 1], 0);
    let layers = r#"{"type":"dense","units":3,"activation":"softmax"}"#;
    let error = open(layers, &store, config(&report, 0, 1, 2)).err().unwrap();
    assert!(error.to_string().contains("takes logits"), "{error}");
}

#[test]
fn a_negative_seed_is_a_seed() {
    let (store, report) = store(&[0, 1, 2], 0);
    let mut config = config(&report, 0, 1, 2);
    config["training"]["seed"] = json!(-7);
    assert!(open(DENSE, &store, config).is_ok());
}

#[test]
fn a_rank_with_one_row_of_a_later_batch_is_told_before_the_first_step() {
    // 33 rows in batches of 16: the last has one row.
    let labels = vec![0; 33];
    let error = fit(r#"{"type":"dense","units":3},{"type":"batchNorm"}"#, &labels, 0, 1, 16).remove(0).err().unwrap();
    assert!(error.to_string().contains("step 2 of epoch 0"), "{error}");
}

#[test]
fn an_unknown_setting_is_refused_by_name() {
    let (_, report) = store(&[0], 0);
    let mut config = config(&report, 0, 1, 1);
    config["training"]["warmup"] = json!(3);
    let error = serde_json::from_value::<kindling_train::SessionConfig>(config).err().unwrap();
    assert!(error.to_string().contains("warmup"), "{error}");
}

#[test]
fn calls_out_of_order_say_what_they_need_and_end_nothing() {
    let (store, report) = store(&[0, 1, 2], 0);
    let session = open(DENSE, &store, config(&report, 0, 1, 2)).unwrap();
    assert_eq!(session.fit(&mut |_| Ok(())).err().unwrap().kind(), ErrorKind::State);
    assert_eq!(session.weights().err().unwrap().kind(), ErrorKind::State);
    session.connect(&[session.endpoint().unwrap()]).unwrap();
    session.fit(&mut |_| Ok(())).unwrap();
    assert!(session.weights().unwrap().len() > 15 * 4);
}

#[test]
fn a_listener_that_fails_ends_the_fit_with_its_reason() {
    let (store, report) = store(&[0, 1, 2], 0);
    let session = open(DENSE, &store, config(&report, 0, 1, 2)).unwrap();
    session.connect(&[session.endpoint().unwrap()]).unwrap();
    let error = session.fit(&mut |_| Err("enough".to_owned())).err().unwrap();
    assert!(error.to_string().contains("enough"), "{error}");
}
