//! Arrow batches at rest in an executor: the part of Kindling that holds a DataFrame's rows while ranks train on them.
//!
//! A task opens a shard for its partition, reserves rows, writes them straight into the column buffers it is lent the
//! addresses of, commits them, and closes the shard. From then on any number of ranks in the process read it at once.
//! Nothing is copied on the way from the writer to the batches (but the rest of a partition that does not fill its last
//! reservation, and rows that are mostly zeros, which are compressed); a rank's [`Shard::gather`] is the only copy. Rows that a
//! [`Budget`] has no room for go to files on local disks and are read where the files are mapped.
//!
//! - [`ShardStore`]: shards by key, their states, and the terms of the loan (see [`ShardStore::reserve`]).
//! - [`Shard`]: the rows of one partition, in a training and a validation [`Split`], as lists of Arrow batches.
//! - [`ShardStore::serve`] and [`ShardStore::fetch`]: rows from process to process, over Arrow Flight.
//! - [`ShardSpec`], [`Column`], [`ShardReport`]: what crosses the border, as JSON in camel case.
//! - [`Error`]: matched by [`ErrorKind`].
//!
//! The crate knows no JVM and no libtorch, and trusts its writers: a row's values are not validated here.
//!
//! ```
//! use kindling_shards::{Budget, Column, ColumnData, DType, Role, ShardSpec, ShardStore, Split};
//!
//! let store = ShardStore::new();
//! let column = |name: &str, role, dtype, width| Column { name: name.into(), role, dtype, width };
//! let key = store.open(ShardSpec {
//!     run: "run-1".into(),
//!     partition: 0,
//!     attempt: 0,
//!     live_runs: vec!["run-1".into()],
//!     columns: vec![
//!         column("x", Role::Input, DType::Float32, 2),
//!         column("label", Role::Label, DType::Int64, 1),
//!     ],
//!     budget: Budget::default(),
//! })?;
//! let (x, labels) = ([0.0, 0.5, 1.0, 1.5, 2.0, 2.5], [7, 8, 9]);
//! store.write_rows(key, Split::Train, &[ColumnData::Float32(&x), ColumnData::Int64(&labels)])?;
//! let report = store.close(key)?;
//! assert_eq!((report.rows, report.validation_rows, report.bytes), (3, 0, 48));
//!
//! let shard = store.shard(key)?;
//! let mut batch = [0_u8; 2 * 8];
//! shard.gather(Split::Train, 0, &[2, 0], &mut batch)?;
//! let values: Vec<f32> = batch.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
//! assert_eq!(values, [2.0, 2.5, 0.0, 0.5]);
//!
//! let label = shard.column_index(Role::Label, "label").unwrap();
//! assert_eq!(shard.values::<i64>(Split::Train, label)?.flatten().max(), Some(&9));
//!
//! assert_eq!(store.release("run-1"), 1);
//! drop(shard);
//! assert_eq!(store.bytes(), 0);
//! # Ok::<(), kindling_shards::Error>(())
//! ```

mod batch;
mod csr;
mod digest;
mod error;
mod filling;
mod flight;
mod memory;
mod rows;
mod shard;
mod spare;
mod spec;
mod spill;
mod store;

pub use batch::Element;
pub use error::{Error, ErrorKind, Result, Tried};
pub use flight::{Canceller, Endpoint, FetchSpec, Piece, Secret, ServeSpec, Ticket};
pub use rows::ColumnData;
pub use shard::Shard;
pub use spec::{Budget, Column, DType, Role, ShardReport, ShardSpec, Split};
pub use store::ShardStore;
