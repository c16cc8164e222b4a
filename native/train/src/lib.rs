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
//! | `totals` | what every global batch weighs |
//! | `data`, `loader` | a rank's rows as tensors, and the thread that gathers them ahead of the loop |
//! | `device`, `devices` | the processor or a GPU, what is missing for one, and what all ranks have |
//! | `upload`, `staging` | batches on their way to a GPU, gradients on their way off it |
//! | `compile`, `runner`, `step`, `slots`, `modes` | a program, op by op, through libtorch's dispatcher |
//! | `within`, `segment`, `norms`, `shared_norm` | what surrounds its nodes; segments that run again; batch norms over ranks |
//! | `parameters`, `optimizer` | flat buffers, and fused kernels over them |
//! | `schedule`, `clip` | the learning rate of every step; bounds on gradients |
//! | `ema`, `precision`, `state` | averaged weights; autocast and loss scaling; all that a run needs to go on |
//! | `gradients`, `buckets` | from backward to the other ranks, while it runs |
//! | `sync` | what ranks tell each other |
//! | `metrics/`, `kept` | what validation says of the weights, and those of the best epoch |
//! | `loss/`, `weights`, `predict` | judging, saving, predicting |
//! | `shim*`, `tensors`, `heap` | the only files with `unsafe`: the C++ shim's border, tensor memory as bytes, the C heap |

mod buckets;
mod check;
mod clip;
mod compile;
mod data;
mod device;
mod devices;
mod ema;
mod error;
mod fit;
mod gradients;
mod guards;
mod heap;
mod kept;
#[cfg(test)]
mod layer_tests;
mod loader;
mod loss;
mod metrics;
mod modes;
mod norms;
mod optimizer;
mod order;
mod outline;
mod parameters;
mod plan;
mod precision;
mod predict;
mod replica;
mod report;
mod runner;
mod schedule;
mod segment;
mod session;
mod shared_norm;
mod shim;
mod shim_checkpoint;
mod shim_cuda;
mod shim_gradients;
mod shim_modes;
mod shim_norm;
mod slots;
mod staging;
mod standing;
mod state;
mod step;
mod sync;
mod tensors;
mod totals;
mod upload;
mod weights;
mod within;

pub use device::{Device, gpus};
pub use error::{Error, ErrorKind, Result, Torch};
pub use fit::TrainingConfig;
pub use loss::Loss;
pub use metrics::{EarlyStopping, Measured, Metric};
pub use optimizer::{GroupConfig, OptimizerConfig};
pub use order::{Epoch, Order};
pub use outline::Outline;
pub use plan::{ShardRef, moves};
pub use precision::Precision;
pub use predict::{Model, ModelConfig, Predictor};
pub use replica::Replica;
pub use report::{EpochReport, Event, FitReport};
pub use schedule::{Anneal, ScheduleConfig, ScheduleName, ThresholdMode};
pub use session::{HeldFor, Session, SessionConfig};
pub use shim::libtorch_version;
