//! The small nets of `integration-tests/golden`, trained here against what Python PyTorch computed on the same batches,
//! and one net as each version of torch that is supported exported and trained it.

#![allow(clippy::unwrap_used, reason = "a test file: clippy only spares #[test] functions")]

use std::path::PathBuf;
use std::sync::Arc;

use kindling_integration_tests::golden::{Golden, device};
use kindling_program::Program;
use kindling_train::{Device, Replica};

fn replay(case: &str, dtype: &'static str) {
    let folder = if case.starts_with("torch_") { "../golden/versions" } else { "../golden" };
    Golden::open(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder), case, dtype).replay();
}

macro_rules! golden {
    ($($case:ident)*) => {$(
        mod $case {
            #[test]
            fn trains_as_pytorch_does_in_float32() {
                super::replay(stringify!($case), "f32");
            }
            #[test]
            fn trains_as_pytorch_does_in_float64() {
                super::replay(stringify!($case), "f64");
            }
        }
    )*};
}

golden! { mlp mlp_sgd convtransformer regression unused tied lstm modes regions branches sizes kept }

golden! { torch_2_9 torch_2_10 torch_2_11 torch_2_12 torch_2_13 }

/// Nets that compute in bfloat16 have no float64 twin.
#[test]
fn autocast_regions_train_as_in_pytorch() {
    if device() != Device::Cpu {
        println!(
            "skipped: autocast on a GPU has another list of operators than the recording's, which was made on a processor"
        );
        return;
    }
    replay("autocast", "f32");
}

#[test]
fn checkpointed_parts_train_as_in_pytorch() {
    replay("checkpointed", "f64");
}

/// The bytes of an archive, and who holds them.
struct Archive(Arc<Vec<u8>>);

impl AsRef<[u8]> for Archive {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn a_replica_lets_the_archive_go_once_its_weights_are_laid_out() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden/convtransformer_f32.pt2");
    let bytes = Arc::new(std::fs::read(path).unwrap());
    let program = Program::read(Archive(Arc::clone(&bytes))).unwrap();
    assert!(Arc::strong_count(&bytes) > 1);
    let config = serde_json::json!({
        "loss": {"name": "crossEntropy"}, "optimizer": {"name": "sgd", "learningRate": 0.1}, "batchSize": 8,
        "maxEpochs": 1, "seed": 0, "shuffle": false, "progressIntervalMs": 1000, "recordRows": false
    });
    let replica = Replica::new(program, None, &serde_json::from_value(config).unwrap(), 0).unwrap();
    assert_eq!(Arc::strong_count(&bytes), 1);
    assert!(!replica.weights().unwrap().is_empty());
}
