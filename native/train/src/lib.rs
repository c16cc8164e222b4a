//! Everything of Kindling that touches libtorch.
//!
//! A [`Session`] is one rank of a run: it holds a replica of the program, reads its rows from the shards of its executor
//! process, and trains in step with the other ranks of its group. A [`Predictor`] runs a trained program.
//!
//! | file | what it is |
//! |---|---|
//! | `session` | a rank from configuration to weights; abort from any thread |
//! | `fit`, `report` | the training loop, and what it tells |
//! | `replica` | a program with its parameters and optimizer, laid out to train |
//! | `order` | which rows make up a batch: a function of seed and epoch, not of ranks |
//! | `plan` | which of those rows a rank owns |
//! | `data` | a rank's rows as tensors |
//! | `compile`, `runner` | a program, op by op, through libtorch's dispatcher |
//! | `parameters`, `optimizer` | flat buffers, and fused kernels over them |
//! | `sync` | what ranks tell each other |
//! | `loss`, `weights`, `predict` | judging, saving, predicting |
//! | `shim`, `tensors` | the only files with `unsafe`: the C++ shim's border, and tensor memory as bytes |

mod compile;
mod data;
mod error;
mod fit;
mod loss;
mod optimizer;
mod order;
mod parameters;
mod plan;
mod predict;
mod replica;
mod report;
mod runner;
mod session;
mod shim;
mod sync;
mod tensors;
mod weights;

pub use error::{Error, ErrorKind, Result, Torch};
pub use fit::TrainingConfig;
pub use loss::Loss;
pub use optimizer::OptimizerConfig;
pub use order::{Epoch, Order};
pub use plan::ShardRef;
pub use predict::{ModelConfig, Predictor};
pub use replica::Replica;
pub use report::{EpochReport, Event, FitReport};
pub use session::{Device, Session, SessionConfig};
pub use shim::libtorch_version;
