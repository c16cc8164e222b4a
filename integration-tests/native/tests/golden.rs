//! Programs trained here against what Python PyTorch computed on the same batches (`integration-tests/golden`).
//!
//! Losses agree to 1e-5 (float32) and 1e-10 (float64) of their value at every step; parameters and buffers to the same,
//! of their value or absolute below 1. In float32, what PyTorch's own plain and fused optimizers
//! differ in a tensor comes on top (times 8, as rounding is random): a bias before batch norm or a key bias of attention
//! has a true gradient of zero, and Adam makes steps of what rounding leaves of it. In float64 epsilon drowns that.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use kindling_integration_tests::read_program;
use kindling_train::{Predictor, Replica, TrainingConfig};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tch::{Kind, Tensor};

struct Golden {
    bytes: Vec<u8>,
    about: BTreeMap<String, String>,
    folder: PathBuf,
    dtype: &'static str,
}

impl Golden {
    fn open(case: &str, dtype: &'static str) -> Golden {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden");
        let bytes = std::fs::read(folder.join(format!("{case}_{dtype}.safetensors"))).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = metadata.metadata().clone().unwrap().into_iter().collect();
        Golden { bytes, about, folder, dtype }
    }

    fn config(&self) -> TrainingConfig {
        let optimizer: serde_json::Value = serde_json::from_str(&self.about["optimizer"]).unwrap();
        serde_json::from_value(json!({
            "loss": self.about["loss"], "optimizer": optimizer, "batchSize": 1, "maxEpochs": 1, "seed": 0,
            "shuffle": false, "progressIntervalMs": 1000, "recordRows": false
        }))
        .unwrap()
    }

    fn tolerance(&self) -> f64 {
        if self.dtype == "f32" { 1e-5 } else { 1e-10 }
    }

    /// Trains on the recorded batches and compares losses, parameters and buffers.
    fn replay(&self) {
        // As the generator did: more threads sum in another order.
        tch::set_num_threads(1);
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let program = read_program(&self.folder.join(&self.about["program"])).unwrap();
        let mut replica = Replica::new(program, None, &self.config(), 0).unwrap();
        let expected = values(&file, "loss");
        for (step, expected) in expected.iter().enumerate() {
            let inputs = (0..).map_while(|i| tensor(&file, &format!("x{i}.{step}"))).collect();
            let labels = tensor(&file, &format!("y.{step}")).unwrap();
            let loss = replica.train(inputs, labels).unwrap();
            let difference = ((loss - expected) / expected).abs();
            assert!(difference <= self.tolerance(), "step {step}: loss {loss}, PyTorch {expected}");
        }
        let weights = replica.weights().unwrap();
        self.evaluate(&file);
        let weights = SafeTensors::deserialize(&weights).unwrap();
        let finals: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_prefix("final.")).collect();
        let mut names = weights.names();
        names.sort_unstable();
        let mut sorted = finals.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted, "the state dict has other names than PyTorch's");
        for name in finals {
            let noise = if self.dtype == "f32" { values(&file, &format!("noise.{name}"))[0] } else { 0.0 };
            self.compare(name, &values(&weights, name), &values(&file, &format!("final.{name}")), noise);
        }
    }

    /// Predicts with PyTorch's last weights and compares with its module in evaluation.
    fn evaluate(&self, file: &SafeTensors<'_>) {
        let finals = file.iter().filter_map(|(name, view)| Some((name.strip_prefix("final.")?.to_owned(), view)));
        let weights = safetensors::serialize(finals, None).unwrap();
        let inputs: Vec<Tensor> = (0..).map_while(|i| tensor(file, &format!("x{i}.eval"))).collect();
        let program = read_program(&self.folder.join(&self.about["program"])).unwrap();
        let columns: Vec<_> = inputs
            .iter()
            .zip(&program.inputs)
            .map(|(x, input)| {
                let width = x.numel() / x.size()[0] as usize;
                json!({"name": input.name, "role": "input", "dtype": input.dtype.name(), "width": width})
            })
            .collect();
        let config = json!({"threads": 1, "device": "cpu", "loss": self.about["loss"], "columns": columns});
        let config = serde_json::from_value(config).unwrap();
        let output = Predictor::open(config, &program, Some(&weights)).unwrap().run(&inputs).unwrap();
        let ours = Vec::<f64>::try_from(output.to_kind(Kind::Double).reshape([-1])).unwrap();
        self.compare("the output in evaluation", &ours, &values(file, "eval"), 0.0);
    }

    fn compare(&self, name: &str, ours: &[f64], theirs: &[f64], noise: f64) {
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            let allowed = self.tolerance() * theirs.abs().max(1.0) + 8.0 * noise;
            assert!((ours - theirs).abs() <= allowed, "{name}: {ours}, PyTorch {theirs}");
        }
    }
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Option<Tensor> {
    let view = file.tensor(name).ok()?;
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        other => panic!("{name} is {other:?}"),
    };
    let sizes: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Some(Tensor::from_data_size(view.data(), &sizes, kind))
}

fn values(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    Vec::try_from(tensor(file, name).unwrap().to_kind(Kind::Double).reshape([-1])).unwrap()
}

macro_rules! golden {
    ($($case:ident)*) => {$(
        mod $case {
            #[test]
            fn trains_as_pytorch_does_in_float32() {
                super::Golden::open(stringify!($case), "f32").replay();
            }
            #[test]
            fn trains_as_pytorch_does_in_float64() {
                super::Golden::open(stringify!($case), "f64").replay();
            }
        }
    )*};
}

golden! { mlp mlp_sgd convtransformer regression unused tied lstm modes }
