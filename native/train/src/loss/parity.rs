//! Every loss and setting against PyTorch's (or Keras') values and gradients, `integration-tests/golden/losses.safetensors`.
//!
//! In float64 both sides run the same kernels on the same numbers and differ by how sums are divided: 1e-12 of a value
//! is some thousand units in the last place. In float32 inputs are rounded first, 6e-8 of a value, and logarithms and
//! exponentials enlarge that: 1e-5, as for whole trainings.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use super::{Judge, Loss, Rows, Sums};

struct Case<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
    kind: Kind,
    judge: Judge,
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Option<Tensor> {
    let view = file.tensor(name).ok()?;
    let kind = match view.dtype() {
        Dtype::I64 => Kind::Int64,
        Dtype::F64 => Kind::Double,
        other => panic!("{name} is {other:?}"),
    };
    let sizes: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Some(Tensor::from_data_size(view.data(), &sizes, kind))
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

impl Case<'_> {
    fn get(&self, what: &str) -> Option<Tensor> {
        let tensor = tensor(self.file, &format!("{}.{what}", self.name))?;
        Some(if tensor.kind() == Kind::Double { tensor.to_kind(self.kind) } else { tensor })
    }

    /// Judges the rows in shares of the given sizes, each with its own outputs, and compares what they sum to.
    fn check(&self, shares: &[i64], weighted: bool) {
        let outputs: Vec<Tensor> = (0..).map_while(|i| self.get(&format!("o{i}"))).collect();
        // Labels as rows of values, as they come from shards.
        let labels = self.get("y").map(|labels| labels.reshape([labels.size()[0], -1]));
        let weights = weighted.then(|| self.get("w").unwrap().to_kind(Kind::Double).reshape([-1, 1]));
        let cut =
            |tensor: &Option<Tensor>, start: i64, count: i64| tensor.as_ref().map(|all| all.narrow(0, start, count));
        let count = outputs[0].size()[0];
        let all = Rows { count, labels: labels.as_ref(), weights: weights.as_ref() };
        let mut totals = Sums::default();
        let mut parts = Vec::new();
        let mut start = 0;
        for &count in shares {
            let (labels, weights) = (cut(&labels, start, count), cut(&weights, start, count));
            let sums = self.judge.sums(&Rows { count, labels: labels.as_ref(), weights: weights.as_ref() }).unwrap();
            totals = Sums {
                rows: totals.rows + sums.rows,
                weight: totals.weight + sums.weight,
                answers: totals.answers + sums.answers,
            };
            parts.push((start, count, labels, weights));
            start += count;
        }
        assert_eq!(start, count, "shares cover the batch");
        assert_eq!(totals, self.judge.sums(&all).unwrap(), "{}: sums of shares are the batch's", self.name);

        let mut value = 0.0;
        let mut gradients: Vec<Vec<f64>> = vec![Vec::new(); outputs.len()];
        for (start, count, labels, weights) in &parts {
            let leaves: Vec<Tensor> =
                outputs.iter().map(|all| all.narrow(0, *start, *count).copy().set_requires_grad(true)).collect();
            let rows = Rows { count: *count, labels: labels.as_ref(), weights: weights.as_ref() };
            let judged = self.judge.judge(&leaves, &rows, &totals).unwrap();
            assert_eq!(judged.kind(), self.kind, "{}", self.name);
            value += judged.double_value(&[]);
            judged.backward();
            for (all, leaf) in gradients.iter_mut().zip(&leaves) {
                all.extend(numbers(&leaf.grad()));
            }
        }
        let prefix = if weighted { "w" } else { "" };
        let compare = |what: String, ours: &[f64], theirs: &[f64]| {
            assert_eq!(ours.len(), theirs.len(), "{} {what}", self.name);
            for (ours, theirs) in ours.iter().zip(theirs) {
                let allowed = if self.kind == Kind::Double { 1e-12 } else { 1e-5 } * theirs.abs().max(1.0);
                assert!((ours - theirs).abs() <= allowed, "{} {what} {shares:?}: {ours}, PyTorch {theirs}", self.name);
            }
        };
        let expected = |what: String| numbers(&tensor(self.file, &format!("{}.{what}", self.name)).unwrap());
        compare("value".to_owned(), &[value], &expected(format!("{prefix}value")));
        for (index, ours) in gradients.iter().enumerate() {
            compare(format!("gradient {index}"), ours, &expected(format!("{prefix}g{index}")));
        }
    }
}

#[test]
fn values_and_gradients_are_pytorch_s_however_rows_are_shared_and_weighted() {
    tch::set_num_threads(1);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../integration-tests/golden/losses.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut cases: Vec<_> =
        metadata.metadata().clone().unwrap().into_iter().filter(|(name, _)| name != "torch").collect();
    cases.sort();
    assert!(cases.len() > 30, "{}", cases.len());
    for (name, settings) in &cases {
        let loss: Loss = serde_json::from_str(settings).unwrap();
        let outputs: Vec<Tensor> = (0..).map_while(|i| tensor(&file, &format!("{name}.o{i}"))).collect();
        for kind in [Kind::Double, Kind::Float] {
            let case = Case { file: &file, name, kind, judge: Judge::over(&loss, &outputs) };
            for shares in [&[7][..], &[3, 4], &[1, 4, 2]] {
                case.check(shares, false);
                case.check(shares, true);
            }
        }
    }
}

#[test]
fn outputs_in_half_precision_are_judged_in_float32() {
    let judge = Judge::over(&Loss::Mse {}, &[Tensor::zeros([4, 1], (Kind::Float, tch::Device::Cpu))]);
    let output = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).reshape([4, 1]).to_kind(Kind::BFloat16);
    let output = output.set_requires_grad(true);
    let labels = Tensor::from_slice(&[1.001f32, 2.0, 3.0, 4.0]);
    let rows = Rows { count: 4, labels: Some(&labels), weights: None };
    let judged = judge.judge(&[output.shallow_clone()], &rows, &judge.sums(&rows).unwrap()).unwrap();
    assert_eq!(judged.kind(), Kind::Float);
    assert!(judged.double_value(&[]) > 0.0, "bfloat16 would not see the difference");
    judged.backward();
    assert_eq!(output.grad().kind(), Kind::BFloat16);
}

#[test]
fn a_program_s_own_loss_counts_by_rows_and_one_per_row_takes_weights() {
    let device = tch::Device::Cpu;
    let totals = Sums { rows: 4, weight: 4.0, answers: 0.0 };
    let scalar = Judge::over(&Loss::Model {}, &[Tensor::zeros([0i64; 0], (Kind::Float, device))]);
    let rows = Rows { count: 3, labels: None, weights: None };
    let judged = scalar.judge(&[Tensor::from(2.0f32)], &rows, &totals).unwrap();
    assert_eq!(judged.double_value(&[]), 1.5);
    let weights = Tensor::from_slice(&[1.0, 0.0, 3.0]);
    let weighted = Rows { count: 3, labels: None, weights: Some(&weights) };
    assert!(scalar.check_weights().unwrap_err().to_string().contains("one loss per row"));
    assert!(scalar.judge(&[Tensor::from(2.0f32)], &weighted, &totals).is_err());

    let each = Tensor::from_slice(&[1.0f32, 100.0, 3.0]);
    let per_row = Judge::over(&Loss::Model {}, &[each.shallow_clone()]);
    assert!(per_row.check_weights().is_ok());
    assert_eq!(per_row.judge(&[each.shallow_clone()], &weighted, &totals).unwrap().double_value(&[]), 2.5);
    assert_eq!(per_row.judge(&[each], &rows, &totals).unwrap().double_value(&[]), 26.0);
}
