//! The models that people bring (`integration-tests/golden/zoo.py`), trained here against PyTorch and Keras: the loss of
//! ten steps, every parameter and buffer after them, and the output in evaluation.
//!
//! `make zoo` writes the recordings. `docs/models.md` tells users the result: every net of the zoo has a row there, and
//! a row that states less than what is measured here fails the test.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file: clippy only spares #[test] functions"
)]

use std::path::PathBuf;

use kindling_integration_tests::golden::{Golden, device};
use kindling_train::{Device, Replica};
use tch::Tensor;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn recording(net: &str, dtype: &'static str) -> Golden {
    let folder = root().join("build/zoo");
    assert!(folder.join("complete").exists(), "the zoo is not written: run `make zoo`");
    Golden::open(folder, net, dtype)
}

fn replay(net: &str, dtype: &'static str) {
    let differences = recording(net, dtype).replay();
    println!("zoo net={net} dtype={dtype} loss={:.1e} state={:.1e}", differences.loss, differences.state);
    if device() != Device::Cpu {
        return; // what the documentation states is of processors
    }
    let stated = stated(net, dtype);
    assert!(differences.loss <= stated, "docs/models.md says {stated:e} of {net} in {dtype}: {:e}", differences.loss);
}

/// The bound that the documentation states for a net. One with noise is named in the notes of the net without.
fn stated(net: &str, dtype: &str) -> f64 {
    let docs = std::fs::read_to_string(root().join("docs/models.md")).unwrap();
    let name = format!("`{net}`");
    let row = docs.lines().find(|line| line.starts_with("| ") && line.contains(&name));
    let cells: Vec<&str> = row.unwrap_or_else(|| panic!("docs/models.md has no row for {net}")).split('|').collect();
    assert_eq!((cells[3].trim(), cells[4].trim()), ("yes", "yes"), "{net} exports and trains");
    cells[if dtype == "f32" { 5 } else { 6 }].trim().parse().unwrap()
}

/// Nets with dropout and stochastic depth on. Two generators never draw the same, so training cannot be compared with
/// Python's step by step: it must draw (ranks differ), draw the same again from the same seed, and learn.
fn draws(net: &str) {
    tch::set_num_threads(1);
    let recording = recording(net, "f32");
    let losses = |rank: usize, steps: usize| -> Vec<f64> {
        let mut replica = Replica::on(device(), recording.program(), None, &recording.config(), rank).unwrap();
        let (inputs, labels) = recording.example();
        (0..steps)
            .map(|_| replica.train(inputs.iter().map(Tensor::shallow_clone).collect(), labels.shallow_clone()).unwrap())
            .collect()
    };
    let (first, again, other) = (losses(0, 12), losses(0, 3), losses(1, 3));
    assert_eq!(first[..3], again, "one seed, two trainings");
    assert_ne!(again, other, "ranks draw alike, or nothing is drawn");
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&first[9..]) < mean(&first[..3]), "nothing is learnt: {first:?}");
}

macro_rules! zoo {
    ($($net:ident)*) => {
        const NETS: &[&str] = &[$(stringify!($net)),*];
        $(
        mod $net {
            #[test]
            fn trains_as_python_does_in_float32() {
                super::replay(stringify!($net), "f32");
            }
            #[test]
            fn trains_as_python_does_in_float64() {
                super::replay(stringify!($net), "f64");
            }
        }
        )*
    };
}

macro_rules! noisy {
    ($($net:ident)*) => {$(
        mod $net {
            #[test]
            fn evaluates_as_python_does_without_its_noise() {
                super::replay(stringify!($net), "f32");
                super::replay(stringify!($net), "f64");
            }
            #[test]
            fn trains_with_noise_of_its_own_rank() {
                super::draws(stringify!($net));
            }
        }
    )*};
}

zoo! {
    resnet18 mobilenet_v3 efficientnet_b0 vit swin
    bert distilbert gpt2 llama t5_encoder wav2vec2
    keras_dense keras_conv keras_recurrent keras_attention
    lstm dlrm autoencoder tabular_transformer
}

noisy! {
    mobilenet_v3_noisy efficientnet_b0_noisy vit_noisy swin_noisy bert_noisy gpt2_noisy keras_dense_noisy lstm_noisy
    tabular_transformer_noisy
}

#[test]
fn every_net_that_the_documentation_names_is_trained_here() {
    let docs = std::fs::read_to_string(root().join("docs/models.md")).unwrap();
    let table = docs.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut documented: Vec<&str> = table.filter_map(|row| row.split('|').nth(2)?.trim().strip_prefix('`')).collect();
    documented.sort_unstable();
    let mut tested: Vec<String> = NETS.iter().map(|net| format!("{net}`")).collect();
    tested.sort_unstable();
    assert_eq!(documented, tested);
}
