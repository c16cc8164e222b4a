//! Every metric against scikit-learn's values, `integration-tests/golden/metrics.safetensors`: whole, in batches, and spread
//! over ranks.
//!
//! Both sides count in float64 what is the same by definition; sums in another order differ in the last of 16 digits, and
//! `r2` of labels around a million by what the labels lose to their distance from 0: 1e-9 in all.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use kindling_program::{DType, Dim, TensorMeta};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Measured, Measures, Metric};
use crate::loss::{Loss, Rows};
use crate::sync::Sync;
use crate::sync::tests::ranks;

#[derive(Deserialize)]
struct Expected {
    loss: Loss,
    plain: BTreeMap<String, f64>,
    weighted: BTreeMap<String, f64>,
}

/// A tensor as bytes, which threads can share.
struct Stored {
    kind: Kind,
    sizes: Vec<i64>,
    bytes: Vec<u8>,
}

impl Stored {
    fn rows(&self, at: i64, count: i64) -> Tensor {
        Tensor::from_data_size(&self.bytes, &self.sizes, self.kind).narrow(0, at, count)
    }
}

struct Case {
    expected: Expected,
    output: Stored,
    labels: Stored,
    weights: Stored,
}

fn cases() -> (BTreeMap<String, Case>, u32) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../integration-tests/golden/metrics.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let tensor = |name: String| {
        let view = file.tensor(&name).unwrap();
        let kind = match view.dtype() {
            Dtype::I64 => Kind::Int64,
            Dtype::F64 => Kind::Double,
            other => panic!("{name} is {other:?}"),
        };
        let sizes = view.shape().iter().map(|&size| size as i64).collect();
        Stored { kind, sizes, bytes: view.data().to_vec() }
    };
    let read = |(name, text): (&String, &String)| {
        let expected = serde_json::from_str(text).ok()?;
        let [output, labels, weights] = ["o", "y", "w"].map(|part| tensor(format!("{name}.{part}")));
        Some((name.clone(), Case { expected, output, labels, weights }))
    };
    (metadata.iter().filter_map(read).collect(), metadata["topK"].parse().unwrap())
}

impl Case {
    fn measures(&self, asked: &[Metric], top_k: u32) -> Measures {
        let shape = self
            .output
            .sizes
            .iter()
            .enumerate()
            .map(|(dim, &size)| Dim::Static(if dim == 0 { 1 } else { size }))
            .collect();
        let output = TensorMeta { dtype: DType::Float64, shape };
        Measures::new(&self.expected.loss, Some(&output), asked, &[], top_k).unwrap()
    }

    /// Measures the rows `from..to` in batches of at most `batch`, with the other ranks.
    fn measure(&self, measures: &Measures, rows: (i64, i64), batch: i64, weighted: bool, sync: &mut Sync) -> Measured {
        let mut epoch = measures.begin();
        let (mut at, end) = rows;
        while at < end {
            let count = batch.min(end - at);
            let (output, weights) = (self.output.rows(at, count), self.weights.rows(at, count));
            // As rows of values, which is how they come from shards.
            let labels = self.labels.rows(at, count).reshape([count, -1]);
            let rows = Rows { count, labels: Some(&labels), weights: weighted.then_some(&weights) };
            epoch.add(&output, &rows).unwrap();
            // What the loss is does not matter here; that something weighs does.
            epoch.add_loss(1.0, 1.0);
            at += count;
        }
        epoch.finish(sync).unwrap().unwrap()
    }
}

fn metric(name: &str) -> Metric {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).unwrap()
}

/// Where the ranks' rows begin and end: uneven, and the second of three has none.
fn shares(world: usize) -> Vec<(i64, i64)> {
    match world {
        1 => vec![(0, 60)],
        2 => vec![(0, 13), (13, 60)],
        _ => vec![(0, 31), (31, 31), (31, 60)],
    }
}

#[test]
fn every_metric_is_scikit_learn_s_whatever_the_batches_and_the_world() {
    let (cases, top_k) = cases();
    assert_eq!(cases.len(), 10);
    for (name, case) in &cases {
        for (values, weighted) in [(&case.expected.plain, false), (&case.expected.weighted, true)] {
            let asked: Vec<Metric> = values.keys().map(|name| metric(name)).collect();
            let measures = case.measures(&asked, top_k);
            for world in 1..=3 {
                for batch in [60, 7] {
                    let found = ranks(world, |rank, mut sync| {
                        case.measure(&measures, shares(world)[rank], batch, weighted, &mut sync)
                    });
                    assert!(found.iter().all(|other| *other == found[0]), "{name}: all ranks see the same bits");
                    for (asked, value) in values {
                        let ours = found[0].get(metric(asked)).unwrap();
                        let close = (ours - value).abs() <= 1e-9 * value.abs().max(1.0);
                        assert!(close, "{name} {asked}, world {world}, weighted {weighted}: {ours}, not {value}");
                    }
                }
            }
        }
    }
}

#[test]
fn counts_and_the_area_have_the_same_bits_in_every_world() {
    let (cases, top_k) = cases();
    let exact = [Metric::Accuracy, Metric::Precision, Metric::Recall, Metric::F1, Metric::Auc];
    for name in ["two", "yes", "several", "signs"] {
        let (case, measures) = (&cases[name], cases[name].measures(&exact, top_k));
        let of = |world: usize| {
            let all = ranks(world, |rank, mut sync| case.measure(&measures, shares(world)[rank], 7, true, &mut sync));
            exact.map(|metric| all[0].get(metric).unwrap().to_bits())
        };
        assert!(of(1) == of(2) && of(1) == of(3), "{name}");
    }
}
