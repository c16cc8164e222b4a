//! The generator of the process, which libtorch's operators draw from unless they are given one, and the ranks' own.
//!
//! Whoever seeds the process's generator while a rank has its turn at it would disturb that rank, so this test has a
//! process of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use kindling_program::Program;
use kindling_train::{Replica, TrainingConfig};
use serde_json::json;
use tch::{Device, Kind, Tensor};

fn replica(seed: i64) -> Replica {
    let layers = r#"{"inputShape": [4], "layers": [{"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 2}]}"#;
    let program = Program::read(layers.as_bytes().to_vec()).unwrap();
    let config: TrainingConfig = serde_json::from_value(json!({
        "loss": {"name": "mse"}, "optimizer": {"name": "sgd", "learningRate": 0.1, "weightDecay": 0.0, "momentum": 0.0},
        "batchSize": 8, "maxEpochs": 1, "seed": seed, "shuffle": false, "progressIntervalMs": 1000, "recordRows": false
    }))
    .unwrap();
    Replica::new(program, None, &config, 0).unwrap()
}

fn loss(replica: &mut Replica) -> f64 {
    let inputs = Tensor::ones([8, 4], (Kind::Float, Device::Cpu));
    replica.train(vec![inputs], Tensor::ones([8, 2], (Kind::Float, Device::Cpu))).unwrap()
}

fn drawn() -> Vec<f32> {
    Vec::try_from(Tensor::rand([4], (Kind::Float, Device::Cpu))).unwrap()
}

#[test]
fn training_and_the_process_generator_leave_each_other_alone() {
    let (mut one, mut same) = (replica(5), replica(5));
    tch::manual_seed(7);
    let expected = drawn();

    tch::manual_seed(7);
    let first = loss(&mut one);
    assert_eq!(drawn(), expected, "training drew from the process's generator");

    tch::manual_seed(99);
    assert_eq!(loss(&mut same), first, "training depends on the process's generator");
    assert_ne!(loss(&mut replica(6)), first, "every seed gives the same dropout");
}
