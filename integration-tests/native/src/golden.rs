//! Programs trained here against what Python recorded of the same training: what `make_golden.py` and `zoo.py` write.
//!
//! A recording holds batches, the loss of every step and the state at the end (`integration-tests/golden/README.md`).
//! Losses agree to 1e-5 (float32) and 1e-10 (float64) of their value at every step; parameters and buffers to the same,
//! of their value or absolute below 1. In float32, what PyTorch's own plain and fused optimizers differ comes on top
//! (times 8, as rounding is random): a bias before batch norm or a key bias of attention has a true gradient of zero,
//! and Adam makes steps of what rounding leaves of it. In float64 epsilon drowns that. A file may say a `tolerance` of
//! its own, with the reason in its generator.
//!
//! `KINDLING_DEVICE=cuda:0` replays on a GPU, ten times as tolerantly: what PyTorch recorded was computed on a processor, and a
//! GPU's kernels sum in other orders, in every layer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "assertions of tests, shared by two test files"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kindling_program::Program;
use kindling_train::{Device, Model, Replica, TrainingConfig};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tch::{Kind, Tensor};

use crate::read_program;

/// The device to replay on.
pub fn device() -> Device {
    std::env::var("KINDLING_DEVICE").map_or(Device::Cpu, |device| device.parse().unwrap())
}

/// A recording, and the program it belongs to.
pub struct Golden {
    bytes: Vec<u8>,
    about: BTreeMap<String, String>,
    folder: PathBuf,
    dtype: &'static str,
}

impl Golden {
    /// Reads `<case>_<dtype>.safetensors` of `folder`; `dtype` is `f32` or `f64`.
    pub fn open(folder: impl Into<PathBuf>, case: &str, dtype: &'static str) -> Golden {
        let folder = folder.into();
        let path = folder.join(format!("{case}_{dtype}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = metadata.metadata().clone().unwrap().into_iter().collect();
        Golden { bytes, about, folder, dtype }
    }

    /// The first program, as exported.
    pub fn program(&self) -> Program {
        read_program(&self.folder.join(&self.about["program"])).unwrap()
    }

    /// How the recording was trained.
    pub fn config(&self) -> TrainingConfig {
        let optimizer: serde_json::Value = serde_json::from_str(&self.about["optimizer"]).unwrap();
        let mut config = json!({
            "loss": {"name": self.about["loss"]}, "optimizer": optimizer, "batchSize": 1, "maxEpochs": 1, "seed": 0,
            "shuffle": false, "progressIntervalMs": 1000, "recordRows": false
        });
        let further = self.about.get("settings").map_or("{}", String::as_str);
        let further: BTreeMap<String, serde_json::Value> = serde_json::from_str(further).unwrap();
        for (name, value) in further {
            config[name] = value;
        }
        serde_json::from_value(config).unwrap()
    }

    /// The batch of the evaluation, with labels from 0 to 4 in turn: something to train on.
    pub fn example(&self) -> (Vec<Tensor>, Tensor) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let inputs: Vec<Tensor> = (0..).map_while(|i| tensor(&file, &format!("x{i}.eval"))).collect();
        let labels: Vec<i64> = (0..inputs[0].size()[0]).map(|row| row % 5).collect();
        (inputs, Tensor::from_slice(&labels))
    }

    /// What the net computes in, which may be less than the type of its weights.
    fn precision(&self) -> &str {
        self.about.get("precision").map_or(self.dtype, String::as_str)
    }

    fn tolerance(&self) -> f64 {
        let usual = if self.precision() == "f32" { 1e-5 } else { 1e-10 };
        let own = self.about.get("tolerance").map_or(usual, |tolerance| tolerance.parse().unwrap());
        if device() == Device::Cpu { own } else { 10.0 * own }
    }

    /// Trains on the recorded batches and compares losses, parameters and buffers, and the output in evaluation.
    pub fn replay(&self) -> Differences {
        // As the generator did: more threads sum in another order.
        tch::set_num_threads(1);
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let mut replica = Replica::on(device(), self.program(), None, &self.config(), 0).unwrap();
        let expected = values(&file, "loss");
        let noise = tensor(&file, "noise.loss").map(|_| values(&file, "noise.loss"));
        let mut differences = Differences::default();
        for (step, expected) in expected.iter().enumerate() {
            let inputs = (0..).map_while(|i| tensor(&file, &format!("x{i}.{step}"))).collect();
            let labels = tensor(&file, &format!("y.{step}")).unwrap();
            let loss = replica.train(inputs, labels).unwrap();
            let difference = (loss - expected).abs();
            let noise = noise.as_ref().map_or(0.0, |noise| noise[step]);
            let allowed = self.tolerance() * expected.abs() + self.noise(noise);
            assert!(difference <= allowed, "step {step}: loss {loss}, PyTorch {expected}, allowed {allowed:e}");
            differences.loss = differences.loss.max(difference / expected.abs());
        }
        let weights = replica.weights().unwrap();
        self.evaluate(&file);
        self.compare_state(&file, &replica.save_state().unwrap());
        let weights = SafeTensors::deserialize(&weights).unwrap();
        let mut finals: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_prefix("final.")).collect();
        let mut names = weights.names();
        names.sort_unstable();
        finals.sort_unstable();
        assert_eq!(names, finals, "the state dict has other names than PyTorch's");
        for name in finals {
            let noise = tensor(&file, &format!("noise.{name}")).map_or(0.0, |noise| noise.double_value(&[]));
            let (ours, theirs) = (values(&weights, name), values(&file, &format!("final.{name}")));
            differences.state = differences.state.max(self.compare(name, &ours, &theirs, noise));
        }
        differences
    }

    /// Compares masters and the scale of the loss, where they were recorded.
    fn compare_state(&self, file: &SafeTensors<'_>, state: &[u8]) {
        let state = SafeTensors::deserialize(state).unwrap();
        for master in file.names().into_iter().filter(|name| name.starts_with("master.")) {
            let name = master.replace("master.", "parameter.");
            assert_eq!(state.tensor(&name).unwrap().dtype(), Dtype::F32, "{name}");
            self.compare(master, &values(&state, &name), &values(file, master), 0.0);
        }
        if tensor(file, "scale").is_some() {
            assert_eq!(values(&state, "scale"), values(file, "scale"));
        }
    }

    /// Predicts with PyTorch's last weights and compares with its module in evaluation.
    fn evaluate(&self, file: &SafeTensors<'_>) {
        let finals = file.iter().filter_map(|(name, view)| Some((name.strip_prefix("final.")?.to_owned(), view)));
        let weights = safetensors::serialize(finals, None).unwrap();
        let inputs: Vec<Tensor> = (0..).map_while(|i| tensor(file, &format!("x{i}.eval"))).collect();
        let program = self.program();
        let columns: Vec<_> = inputs
            .iter()
            .zip(&program.inputs)
            .map(|(x, input)| {
                let width = x.numel() / x.size()[0] as usize;
                json!({"name": input.name, "role": "input", "dtype": input.dtype.name(), "width": width})
            })
            .collect();
        let config = json!({"threads": 1, "device": device().to_string(), "loss": {"name": self.about["loss"]}, "columns": columns});
        let config = serde_json::from_value(config).unwrap();
        let model = Arc::new(Model::open(config, &program, Some(&weights)).unwrap());
        let output = model.predictor().unwrap().run(&inputs).unwrap();
        let ours = Vec::<f64>::try_from(output.to_kind(Kind::Double).reshape([-1])).unwrap();
        self.compare("the output in evaluation", &ours, &values(file, "eval"), 0.0);
    }

    fn compare(&self, name: &str, ours: &[f64], theirs: &[f64], noise: f64) -> f64 {
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let mut worst = 0.0_f64;
        for (ours, theirs) in ours.iter().zip(theirs) {
            let size = theirs.abs().max(1.0);
            let allowed = self.tolerance() * size + self.noise(noise);
            let difference = (ours - theirs).abs();
            assert!(difference <= allowed, "{name}: {ours}, PyTorch {theirs}, allowed {allowed:e}");
            worst = worst.max(difference / size);
        }
        worst
    }

    fn noise(&self, measured: f64) -> f64 {
        if self.precision() == "f32" { 8.0 * measured } else { 0.0 }
    }
}

/// The largest differences that a replay met.
#[derive(Debug, Clone, Copy, Default)]
pub struct Differences {
    /// Of a step's loss, relative to it.
    pub loss: f64,
    /// Of an element of a parameter or buffer at the end, relative where it is above 1.
    pub state: f64,
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Option<Tensor> {
    let view = file.tensor(name).ok()?;
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::BOOL => Kind::Bool,
        other => panic!("{name} is {other:?}"),
    };
    let sizes: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Some(Tensor::from_data_size(view.data(), &sizes, kind))
}

fn values(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    Vec::try_from(tensor(file, name).unwrap().to_kind(Kind::Double).reshape([-1])).unwrap()
}
