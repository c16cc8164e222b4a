//! Training in lower precision: as PyTorch's autocast does it, and of programs whose own parameters are bfloat16 or float16.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test file: clippy only spares #[test] functions")]

use std::path::PathBuf;

use kindling_integration_tests::golden::{Differences, Golden};
use kindling_train::Replica;
use safetensors::SafeTensors;
use tch::Tensor;

fn golden(case: &str, dtype: &'static str) -> Golden {
    Golden::open(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden"), case, dtype)
}

fn replay(case: &str, dtype: &'static str) {
    let Differences { loss, state } = golden(case, dtype).replay();
    println!("precision case={case}_{dtype} loss_diff={loss:.1e} state_diff={state:.1e}");
}

#[test]
fn bfloat16_by_autocast_trains_as_in_pytorch() {
    replay("amp", "bf16");
}

#[test]
fn float16_by_autocast_with_loss_scaling_trains_as_in_pytorch_and_skips_the_same_step() {
    replay("amp", "f16");
}

#[test]
fn bfloat16_parameters_are_trained_through_float32_masters_as_an_optimizer_in_pytorch_would() {
    replay("half", "bf16");
}

#[test]
fn float16_parameters_are_trained_through_float32_masters_with_loss_scaling() {
    replay("half", "f16");
}

/// Five steps on the batch of the evaluation.
fn train(replica: &mut Replica, golden: &Golden) -> Vec<u64> {
    let (inputs, labels) = golden.example();
    let step = |_| {
        let inputs = inputs.iter().map(Tensor::shallow_clone).collect();
        replica.train(inputs, labels.shallow_clone()).unwrap().to_bits()
    };
    (0..5).map(step).collect()
}

#[test]
fn masters_go_on_from_a_training_state_bit_for_bit() {
    tch::set_num_threads(1);
    for dtype in ["bf16", "f16"] {
        let golden = golden("half", dtype);
        let new = || Replica::new(golden.program(), None, &golden.config(), 0).unwrap();
        let (mut whole, mut resumed) = (new(), new());
        train(&mut whole, &golden);
        resumed.load_state(&whole.save_state().unwrap()).unwrap();
        assert_eq!(train(&mut whole, &golden), train(&mut resumed, &golden), "{dtype}");
        let sorted = |replica: &Replica| {
            let state = replica.save_state().unwrap();
            let file = SafeTensors::deserialize(&state).unwrap();
            let mut tensors: Vec<(String, Vec<u8>)> =
                file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
            tensors.sort();
            tensors
        };
        assert!(sorted(&whole) == sorted(&resumed), "{dtype}");
        // Weights given to a new run become its masters.
        let weights = whole.weights().unwrap();
        let given = Replica::new(golden.program(), Some(&weights), &golden.config(), 0).unwrap();
        assert!(given.weights().unwrap() == weights, "{dtype}");
        let state = given.save_state().unwrap();
        let file = SafeTensors::deserialize(&state).unwrap();
        let master = file.tensor("parameter.classes.weight").unwrap();
        let lowest = master.data().as_chunks::<4>().0.iter().all(|value| value[0] == 0 && value[1] & 0x1f == 0);
        assert!(lowest, "{dtype}: masters that start as what the program has");
    }
}
