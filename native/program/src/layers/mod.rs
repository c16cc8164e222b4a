//! Models without Python: a list of layers in JSON, in the vocabulary and with the defaults of Keras.
//!
//! ```json
//! {"inputShape": [64], "seed": 7, "layers": [
//!     {"type": "dense", "units": 256, "activation": "relu"},
//!     {"type": "dropout", "rate": 0.1},
//!     {"type": "dense", "units": 10}]}
//! ```
//!
//! `inputShape` is the shape of one row, without the batch. Images are channels first: `[C, H, W]`. The result is the
//! program that exporting the same `torch.nn.Sequential` would give, with its names (`0.weight`), so its trained
//! weights load into one. First weights are Keras' (Glorot uniform, zero biases, embeddings uniform in ±0.05) and
//! depend on `seed` and the weight's name only ([`initial`]).
//!
//! Where Keras and PyTorch differ: batch norm keeps PyTorch's unbiased running variance and runs over the channels
//! (dimension 1); softmax runs over the channels of a `[C, H, W]` row and over the last dimension of any other.

mod build;
mod initial;
mod spec;
#[cfg(test)]
mod tests;

pub(crate) use build::read;
