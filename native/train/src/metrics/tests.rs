#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use kindling_program::{DType, Dim, TensorMeta};
use tch::Tensor;

use super::*;
use crate::loss::{Loss, Rows};
use crate::sync::Sync;

fn loss(name: &str) -> Loss {
    serde_json::from_str(&format!(r#"{{"name": "{name}"}}"#)).unwrap()
}

fn measures(name: &str, width: i64, asked: &[Metric], top_k: u32) -> crate::Result<Measures> {
    let output = TensorMeta { dtype: DType::Float32, shape: vec![Dim::Static(1), Dim::Static(width)] };
    Measures::new(&loss(name), Some(&output), asked, &[], top_k)
}

/// One batch of outputs, of `width` numbers a row, and labels.
fn measured(name: &str, width: i64, asked: &[Metric], outputs: &[f32], labels: &Tensor) -> Measured {
    let output = Tensor::from_slice(outputs).reshape([-1, width]);
    let measures = measures(name, width, asked, 1).unwrap();
    let mut epoch = measures.begin();
    epoch.add(&output, &Rows { count: output.size()[0], labels: Some(labels), weights: None }).unwrap();
    epoch.add_loss(1.0, 1.0);
    epoch.finish(&mut Sync::alone()).unwrap().unwrap()
}

fn one(value: f64) -> Measured {
    Measured(vec![(Metric::Loss, Some(value)), (Metric::Auc, Some(value))])
}

#[test]
fn what_makes_no_sense_is_refused_with_what_does() {
    for (name, width, metric, named) in [
        (
            "mse",
            1,
            Metric::Accuracy,
            "accuracy makes no sense for the loss mse: leave it out, there are loss, mae, rmse, r2",
        ),
        ("crossEntropy", 3, Metric::Auc, "auc compares two classes, and the program has 3"),
        ("crossEntropy", 3, Metric::Mae, "mae makes no sense for the loss crossEntropy"),
        ("binaryCrossEntropy", 1, Metric::TopK, "topK makes no sense"),
        ("ctc", 3, Metric::Accuracy, "there are loss"),
    ] {
        let error = measures(name, width, &[metric], 1).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let error = measures("crossEntropy", 3, &[Metric::TopK], 5).unwrap_err().to_string();
    assert!(error.contains("set topK to 3 or less"), "{error}");
}

#[test]
fn without_a_choice_there_are_the_loss_and_what_was_right() {
    let found = |name, width| {
        let labels = if name == "mse" { Tensor::from_slice(&[1f32]) } else { Tensor::from_slice(&[0i64]) };
        measured(name, width, &[], &vec![0.5; width as usize], &labels)
            .iter()
            .map(|(metric, _)| metric)
            .collect::<Vec<_>>()
    };
    assert_eq!(found("crossEntropy", 2), [Metric::Loss, Metric::Accuracy]);
    assert_eq!(found("mse", 1), [Metric::Loss]);
}

#[test]
fn the_area_is_not_defined_by_one_class_and_not_a_number_where_a_score_is_none() {
    let labels = Tensor::from_slice(&[1f32, 1.0, 1.0]);
    let found = measured("binaryCrossEntropyWithLogits", 1, &[Metric::Auc], &[0.1, 0.2, 0.3], &labels);
    assert_eq!(found.get(Metric::Auc), None);
    let labels = Tensor::from_slice(&[1f32, 0.0, 1.0]);
    let found = measured("binaryCrossEntropyWithLogits", 1, &[Metric::Auc], &[0.1, f32::NAN, 0.3], &labels);
    assert!(found.get(Metric::Auc).unwrap().is_nan());
    assert_eq!(serde_json::to_string(&found).unwrap(), r#"{"validationLoss":1.0,"validationAuc":null}"#);
}

#[test]
fn an_output_that_is_not_a_number_is_not_among_the_largest() {
    let outputs = [f32::NAN, 1.0, 0.0, 2.0, f32::NAN, 0.0];
    let labels = Tensor::from_slice(&[0i64, 0]);
    let found = measured("crossEntropy", 3, &[Metric::TopK], &outputs, &labels);
    assert_eq!(found.get(Metric::TopK), Some(0.0));
}

fn watch(json: &str) -> EarlyStopping {
    let stopping: EarlyStopping = serde_json::from_str(json).unwrap();
    stopping.check().unwrap();
    stopping
}

fn verdicts(config: &EarlyStopping, values: &[f64]) -> Vec<(bool, bool)> {
    let mut watch = Watch::new(config);
    let judged = values.iter().enumerate().map(|(epoch, &value)| watch.judge(epoch as u64, Some(&one(value))).unwrap());
    judged.map(|verdict| (verdict.best, verdict.stop)).collect()
}

#[test]
fn a_run_ends_after_as_many_epochs_in_a_row_as_it_is_patient() {
    let stopping = watch(r#"{"patience": 2}"#);
    let found = verdicts(&stopping, &[3.0, 2.0, 2.5, 1.0, 1.0, 1.5]);
    let best = [true, true, false, true, false, false];
    assert_eq!(found.iter().map(|(best, _)| *best).collect::<Vec<_>>(), best);
    assert_eq!(found.iter().position(|(_, stop)| *stop), Some(5));
    // Of a metric that rises, more is better; and by how much, the setting says.
    let stopping = watch(r#"{"patience": 1, "metric": "auc", "minDelta": 0.125}"#);
    assert_eq!(verdicts(&stopping, &[0.5, 0.75, 0.875]), [(true, false), (true, false), (false, true)]);
}

#[test]
fn a_run_that_diverges_is_no_better_and_ends_too() {
    let stopping = watch(r#"{"patience": 2, "restoreBestWeights": true}"#);
    assert_eq!(verdicts(&stopping, &[1.0, f64::NAN, f64::NAN]), [(true, false), (false, false), (false, true)]);
    assert_eq!(verdicts(&stopping, &[f64::NAN, 1.0]), [(false, false), (true, false)]);
    // Without patience only the best is remembered.
    assert_eq!(verdicts(&watch("{}"), &[1.0, 2.0, 3.0, 4.0]).iter().filter(|(_, stop)| *stop).count(), 0);
}

#[test]
fn what_the_rows_do_not_define_cannot_be_watched() {
    let stopping = watch(r#"{"metric": "auc"}"#);
    let undefined = Measured(vec![(Metric::Auc, None)]);
    let error = Watch::new(&stopping).judge(0, Some(&undefined)).unwrap_err().to_string();
    assert!(error.contains("earlyStoppingMetric is auc") && error.contains("both classes"), "{error}");
    let error = Watch::new(&stopping).judge(0, None).unwrap_err().to_string();
    assert!(error.contains("no validation row weighs anything"), "{error}");
    let none: EarlyStopping = serde_json::from_str(r#"{"patience": 0}"#).unwrap();
    assert!(none.check().unwrap_err().to_string().contains("earlyStoppingPatience"));
}
