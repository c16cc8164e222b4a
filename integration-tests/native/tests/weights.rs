//! Rows and labels that weigh differently, trained by one, two and three ranks: the objective is one mean over the global
//! batch, so the losses of every step and the trained weights agree.
//!
//! Float32 gradients are summed in another order by another world; 1e-5 is some hundred units in the last place, and a
//! denominator taken per rank would be off by tenths.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::sync::Arc;

use kindling_program::Program;
use kindling_shards::{ColumnData, ShardReport, ShardStore, Split};
use kindling_train::{FitReport, Metric, Session};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const ROWS: usize = 41;
const SKEWED: &str = r#"{"name":"crossEntropy","ignoreIndex":-1,"classWeights":[0.2,1.0,5.0],"labelSmoothing":0.1}"#;

struct Data {
    labels: Vec<i64>,
    weights: Option<Vec<f64>>,
}

impl Data {
    /// Labels that come in runs, so that ranks get unlike ones, and weights likewise.
    fn skewed() -> Data {
        let labels = (0..ROWS).map(|row| if row % 5 == 4 { -1 } else { (row / 15) as i64 }).collect();
        let weights = (0..ROWS).map(|row| if row < 12 { 0.0 } else { row as f64 / 7.0 }).collect();
        Data { labels, weights: Some(weights) }
    }

    fn store(&self) -> (Arc<ShardStore>, ShardReport) {
        let store = ShardStore::new();
        let mut columns = vec![
            json!({"name": "x", "role": "input", "dtype": "float32", "width": 4}),
            json!({"name": "y", "role": "label", "dtype": "int64", "width": 1}),
        ];
        let features: Vec<f32> = (0..ROWS * 4).map(|i| (i * 7 % 11) as f32 / 11.0).collect();
        let mut values = vec![ColumnData::Float32(&features), ColumnData::Int64(&self.labels)];
        if let Some(weights) = &self.weights {
            columns.push(json!({"name": "w", "role": "weight", "dtype": "float64", "width": 1}));
            values.push(ColumnData::Float64(weights));
        }
        let spec = json!({"run": store.process(), "partition": 0, "attempt": 0, "liveRuns": [], "columns": columns});
        let key = store.open(serde_json::from_value(spec).unwrap()).unwrap();
        store.write_rows(key, Split::Train, &values).unwrap();
        let held: Vec<ColumnData<'_>> =
            vec![ColumnData::Float32(&features[..40]), ColumnData::Int64(&self.labels[..10])]
                .into_iter()
                .chain(self.weights.as_ref().map(|weights| ColumnData::Float64(&weights[10..20])))
                .collect();
        store.write_rows(key, Split::Validation, &held).unwrap();
        let report = store.close(key).unwrap();
        (store, report)
    }

    /// Fits with `world` ranks: their reports, and the trained weights of the first.
    fn fit(&self, loss: &str, world: usize, batch: u64) -> Vec<kindling_train::Result<(FitReport, Vec<u8>)>> {
        let (store, report) = self.store();
        let loss: Value = serde_json::from_str(loss).unwrap();
        let layers = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"dense","units":6,"activation":"tanh"},{"type":"dense","units":3}]}"#;
        let open = |rank: usize| {
            let config = json!({
                "run": report.process, "attempt": 0, "rank": rank, "world": world, "secret": "0a".repeat(32),
                "host": "127.0.0.1", "threads": 1, "device": "cpu", "rendezvousTimeoutMs": 10_000,
                "collectiveTimeoutMs": 10_000, "heartbeatMs": 5000, "stallWarningMs": 60_000, "encrypted": false,
                "shards": [{"partition": report.partition, "process": report.process, "key": report.key,
                            "rows": report.rows, "validationRows": report.validation_rows}],
                "training": {"loss": loss, "optimizer": {"name": "sgd", "learningRate": 0.5, "weightDecay": 0.01,
                             "momentum": 0.0}, "batchSize": batch, "maxEpochs": 3, "seed": 1, "shuffle": false,
                             "progressIntervalMs": 0, "recordRows": true}
            });
            let program = Program::read(layers.as_bytes().to_vec()).unwrap();
            Arc::new(Session::open(serde_json::from_value(config).unwrap(), program, None, Arc::clone(&store)).unwrap())
        };
        let sessions: Vec<_> = (0..world).map(open).collect();
        let roster: Vec<_> = sessions.iter().map(|session| session.endpoint().unwrap()).collect();
        let run = |session: Arc<Session>| {
            let roster = roster.clone();
            std::thread::spawn(move || {
                session.connect(&roster)?;
                let report = session.fit(&mut |_| Ok(()))?;
                Ok((report, session.weights()?))
            })
        };
        let ranks: Vec<_> = sessions.into_iter().map(run).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    }
}

fn numbers(weights: &[u8]) -> Vec<f32> {
    let file = SafeTensors::deserialize(weights).unwrap();
    let mut named: Vec<_> = file.iter().collect();
    named.sort_by_key(|(name, _)| name.to_string());
    named.iter().flat_map(|(_, view)| view.data().as_chunks().0.iter().map(|v| f32::from_le_bytes(*v))).collect()
}

fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-5 * theirs.abs().max(1.0)
}

#[test]
fn the_mean_is_the_global_batch_s_whatever_the_world() {
    let data = Data::skewed();
    let plain = Data { weights: None, ..Data::skewed() };
    for (data, batch) in [(&data, 16), (&data, 7), (&plain, 16)] {
        let (one, weights) = data.fit(SKEWED, 1, batch).remove(0).unwrap();
        for world in [2, 3] {
            let (many, others) = data.fit(SKEWED, world, batch).remove(0).unwrap();
            for (ours, theirs) in many.losses.as_ref().unwrap().iter().zip(one.losses.as_ref().unwrap()) {
                assert!(close(*ours, *theirs), "world {world}: {ours} {theirs}");
            }
            for (ours, theirs) in numbers(&others).iter().zip(numbers(&weights)) {
                assert!(close(f64::from(*ours), f64::from(theirs)), "world {world}: {ours} {theirs}");
            }
            for (ours, theirs) in many.epochs.iter().zip(&one.epochs) {
                assert!(close(ours.loss, theirs.loss), "world {world}");
                assert_eq!(ours.accuracy, theirs.accuracy);
                let losses = [ours, theirs].map(|epoch| epoch.validation.get(Metric::Loss).unwrap());
                assert!(close(losses[0], losses[1]));
                assert_eq!(ours.validation.get(Metric::Accuracy), theirs.validation.get(Metric::Accuracy));
            }
        }
    }
}

#[test]
fn a_batch_that_weighs_nothing_moves_nothing_and_is_no_nan() {
    let data = Data { weights: Some(vec![0.0; ROWS]), ..Data::skewed() };
    for world in [1, 2] {
        let (report, weights) = data.fit(SKEWED, world, 16).remove(0).unwrap();
        assert!(report.losses.unwrap().iter().all(|&loss| loss == 0.0));
        assert!(report.epochs.iter().all(|epoch| epoch.loss == 0.0 && epoch.validation.get(Metric::Loss).is_none()));
        // Not even weight decay: what was trained is what the layers began with, as other batches say too.
        assert_eq!(numbers(&weights), numbers(&data.fit(SKEWED, 1, 41).remove(0).unwrap().1));
    }
}

#[test]
fn a_weight_that_no_mean_can_have_is_named() {
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        let mut weights = vec![1.0; ROWS];
        weights[ROWS - 1] = wrong;
        let data = Data { weights: Some(weights), ..Data::skewed() };
        let error = data.fit(SKEWED, 1, 16).remove(0).unwrap_err().to_string();
        assert!(error.contains(&format!("weight {wrong} of column w in partition 0")), "{error}");
    }
}

#[test]
fn a_label_that_is_ignored_is_no_class_and_another_loss_takes_no_such_label() {
    let error = Data::skewed().fit(r#"{"name":"crossEntropy"}"#, 1, 16).remove(0).unwrap_err().to_string();
    assert!(error.contains("label -1 in partition 0") && error.contains("0 to 2"), "{error}");
}
