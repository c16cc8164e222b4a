//! Models without Python: layers in JSON, in the vocabulary and with the defaults of Keras 3.
//!
//! A sequence gives each layer what the one before it gave:
//!
//! ```json
//! {"inputShape": [64], "seed": 7, "layers": [
//!     {"type": "dense", "units": 256, "activation": "relu"},
//!     {"type": "dropout", "rate": 0.1},
//!     {"type": "dense", "units": 10}]}
//! ```
//!
//! A graph names its inputs, its layers and what each of them is given:
//!
//! ```json
//! {"inputs": [{"name": "user", "shape": [], "dtype": "int64"}, {"name": "context", "shape": [8]}],
//!  "layers": [
//!     {"name": "embed", "type": "embedding", "inputDim": 1000, "outputDim": 16, "inputs": ["user"]},
//!     {"name": "join", "type": "concatenate", "inputs": ["embed", "context"]},
//!     {"name": "score", "type": "dense", "units": 1, "inputs": ["join"]}],
//!  "outputs": ["score"]}
//! ```
//!
//! Shapes are those of one row, without the batch; an axis in a setting counts the batch as 0, as in Keras. Images have
//! their channels last unless a layer's `dataFormat`, or the document's, says `channels_first`. Every layer may have a
//! `name` and `trainable`. A layer of type `shared` calls an earlier one again, with the same weights.
//!
//! The program is what a person would write in PyTorch, with weights in ATen's shapes under PyTorch's names: `0.weight`
//! is the weight of the first layer of a sequence. `docs/layers.md` lists the types, and the names of their weights.
//!
//! Where Keras and PyTorch differ, one thing is PyTorch's: batch norm's running variance is the unbiased one, larger than
//! Keras' by n / (n - 1) for n values per channel. What a batch is normalised by is the same.

mod activation;
mod attention;
mod basic;
mod build;
mod convolution;
mod document;
#[cfg(test)]
mod graph_tests;
mod initial;
mod kinds;
mod merge;
mod normal;
mod normalization;
mod pooling;
mod recurrent;
mod reshaping;
mod settings;
#[cfg(test)]
mod tests;
mod transposed;

pub(crate) use document::read;
