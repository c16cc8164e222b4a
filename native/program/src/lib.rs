//! The program a rank trains.
//!
//! A model reaches Kindling as bytes: a `.pt2` archive written by `torch.export.save`, or a layer list in JSON. Both
//! become one small graph of ATen operator calls over weights ([`Program`]), which is checked completely before anything
//! runs: versions, operators against a list of those that only compute, sizes and strides against the stored bytes.
//! Everything else is a rewrite of that graph, such as [`Program::evaluation`].
//!
//! This crate knows neither libtorch nor a JVM. It reads what strangers wrote: it never panics, never opens a pickle
//! and copies no weight of an archive.
//!
//! ```
//! use kindling_program::{DType, Program};
//!
//! let layers = r#"{
//!     "inputShape": [64],
//!     "seed": 7,
//!     "layers": [
//!         {"type": "dense", "units": 32, "activation": "relu"},
//!         {"type": "dropout", "rate": 0.1},
//!         {"type": "dense", "units": 10, "activation": "softmax"}
//!     ]
//! }"#;
//! let program = Program::read(layers.as_bytes().to_vec())?;
//!
//! let description = program.describe();
//! assert_eq!(description.inputs[0].dtype, DType::Float32);
//! assert_eq!(description.inputs[0].shape, [None, Some(64)]); // any number of rows
//! assert_eq!(description.outputs[0].shape, [None, Some(10)]);
//! assert_eq!(description.elements, 64 * 32 + 32 + 32 * 10 + 10);
//! assert_eq!(description.final_activation.as_deref(), Some("softmax"));
//!
//! let names: Vec<_> = program.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
//! assert_eq!(names, ["0.weight", "0.bias", "2.weight", "2.bias"]);
//! # Ok::<(), kindling_program::Error>(())
//! ```

mod activation;
mod allow;
mod checkpoint;
mod depth;
mod describe;
mod dtype;
mod error;
mod expression;
#[doc(hidden)]
pub mod fuzzing;
mod ir;
mod layers;
mod mutation;
mod outputs;
mod prune;
mod pt2;
mod rewrite;
mod scalar;
mod scope;
mod standing;
mod synchronise;
mod tensor;
mod walk;

pub use allow::is_allowed;
pub use checkpoint::{Checkpointing, Segments};
pub use describe::{Description, InputDescription, OutputDescription};
pub use error::Error;
pub use expression::Expression;
pub use ir::{
    Arg, AutocastMode, Block, Buffer, Bytes, Constant, DType, Dim, GradMode, Input, Layout, MemoryFormat, Node, Output,
    Parameter, Program, Scalar, ScalarOp, Scope, SizeRange, Source, SymFloat, SymInt, Target, TensorData, TensorMeta,
    Value, ValueId, ValueKind,
};
pub use pt2::{Mode, write_pt2};
pub use synchronise::SYNC_BATCH_NORM;

impl Program {
    /// Reads a model: a `.pt2` archive (a zip) or a layer list (JSON that begins with `{`).
    ///
    /// `bytes` may be anything that owns its bytes, such as `Arc<[u8]>` or `Vec<u8>`. The weights of an archive are
    /// ranges of them and keep them alive.
    ///
    /// # Errors
    /// Every [`Error`]: a program that is returned is sound in the sense of its own documentation.
    pub fn read(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self, Error> {
        Self::from_bytes(Bytes::new(bytes))
    }

    /// Lets the bytes of all weights go, for who has copied them: an archive's are all kept alive by any one of them. Names,
    /// sizes and strides stay; a tensor's elements cannot be read any more.
    pub fn release_bytes(&mut self) {
        let parameters = self.parameters.iter_mut().map(|parameter| &mut parameter.tensor);
        let buffers = self.buffers.iter_mut().map(|buffer| &mut buffer.tensor);
        let constants = self.constants.iter_mut().map(|constant| &mut constant.tensor);
        for tensor in parameters.chain(buffers).chain(constants) {
            tensor.bytes = Bytes::new([]);
        }
    }

    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        if bytes.starts_with(b"PK") {
            return pt2::read(bytes);
        }
        match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => layers::read(&bytes),
            _ => Err(Error::UnknownFormat { length: bytes.len() }),
        }
    }
}
