//! Every optimizer, schedule, group and bound against Python PyTorch over 50 steps of one small net
//! (`integration-tests/golden/make_optimizers.py`).
//!
//! Losses agree to 1e-5 (float32) and 1e-10 (float64) of their value. In float64, parameters agree to 1e-10 of their value, or absolutely below 1, and learning rates to 1e-12:
//! the same formulas in another order of operations. In float32 both are roundings of the same float64 run; how far
//! rounding carries 50 steps is measured per tensor as the distance of PyTorch's own float32 run from its float64 run
//! (`noise`). Two such runs are apart by twice that, if they round alike; 4 leaves room for luck.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::path::PathBuf;

use kindling_integration_tests::read_program;
use kindling_train::{Replica, TrainingConfig};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// Of the plateau: every fifth step counts as an epoch.
const EPOCH: usize = 5;

struct Golden {
    bytes: Vec<u8>,
    dtype: &'static str,
    program: PathBuf,
}

impl Golden {
    fn open(dtype: &'static str) -> Golden {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden");
        let bytes = std::fs::read(folder.join(format!("optimizers_{dtype}.safetensors"))).unwrap();
        Golden { bytes, dtype, program: folder.join(format!("optimizers_{dtype}.pt2")) }
    }

    /// Every case, with its configuration.
    fn cases(&self) -> serde_json::Map<String, Value> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        serde_json::from_str(&metadata.metadata().clone().unwrap()["cases"]).unwrap()
    }

    fn replica(&self, case: &Value) -> kindling_train::Result<Replica> {
        let mut config = json!({
            "loss": {"name": "crossEntropy"}, "batchSize": 8, "maxEpochs": 1, "seed": 0, "shuffle": false,
            "progressIntervalMs": 1000, "recordRows": false
        });
        for (key, value) in case.as_object().unwrap() {
            config[key] = value.clone();
        }
        let config: TrainingConfig = serde_json::from_value(config).unwrap();
        Replica::new(read_program(&self.program).unwrap(), None, &config, 0)
    }

    fn tolerance(&self) -> f64 {
        if self.dtype == "f32" { 1e-6 } else { 1e-10 }
    }

    /// Trains the case as PyTorch did and compares.
    fn replay(&self, file: &SafeTensors<'_>, case: &str, config: &Value) {
        let mut replica = self.replica(config).unwrap();
        let (losses, rates) = (values(file, &format!("{case}.loss")), values(file, &format!("{case}.rate")));
        let mut epoch = 0.0;
        for (step, (expected, rate)) in losses.iter().zip(&rates).enumerate() {
            let ours = replica.learning_rate();
            assert!((ours - rate).abs() <= 1e-12 * rate.abs(), "{case}, step {step}: rate {ours}, PyTorch {rate}");
            let (x, y) = (tensor(file, &format!("x.{step}")), tensor(file, &format!("y.{step}")));
            let loss = replica.train(vec![x], y).unwrap();
            let allowed = if self.dtype == "f32" { 1e-5 } else { 1e-10 } * expected;
            assert!((loss - expected).abs() <= allowed, "{case}, step {step}: loss {loss}, PyTorch {expected}");
            epoch += loss / EPOCH as f64;
            if (step + 1) % EPOCH == 0 {
                replica.end_epoch(std::mem::take(&mut epoch));
            }
        }
        let weights = replica.weights().unwrap();
        let weights = SafeTensors::deserialize(&weights).unwrap();
        for name in weights.names() {
            let (ours, theirs) = (values(&weights, name), values(file, &format!("{case}.final.{name}")));
            let noise = if self.dtype == "f32" { values(file, &format!("{case}.noise.{name}"))[0] } else { 0.0 };
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let allowed = self.tolerance() * theirs.abs().max(1.0) + 4.0 * noise;
                assert!((ours - theirs).abs() <= allowed, "{case}, {name}: {ours}, PyTorch {theirs}, noise {noise}");
            }
        }
    }

    fn replay_all(&self) {
        // As the generator did: more threads sum in another order.
        tch::set_num_threads(1);
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let cases = self.cases();
        assert!(cases.len() > 30, "the golden file lost its cases");
        for (case, config) in &cases {
            self.replay(&file, case, config);
        }
    }
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Tensor {
    let view = file.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::I64 => Kind::Int64,
        other => panic!("{name} is {other:?}"),
    };
    let sizes: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
    Tensor::from_data_size(view.data(), &sizes, kind)
}

fn values(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    Vec::try_from(tensor(file, name).to_kind(Kind::Double).reshape([-1])).unwrap()
}

#[test]
fn every_case_trains_as_pytorch_does_in_float64() {
    Golden::open("f64").replay_all();
}

#[test]
fn every_case_trains_as_pytorch_does_in_float32() {
    Golden::open("f32").replay_all();
}

#[test]
fn a_schedule_of_unknown_length_asks_for_its_steps() {
    let config = json!({"optimizer": {"name": "sgd", "learningRate": 0.1}, "schedule": {"name": "cosine"}});
    let error = Golden::open("f32").replica(&config).err().unwrap();
    assert!(error.to_string().contains("needs steps"), "{error}");
}
