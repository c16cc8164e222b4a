//! Groups of ranks that reduce together: `world` ranks call the same operations in the same order and each gets the
//! same bytes back. Behind one trait, [`Communicator`], stand:
//!
//! - **local**: ranks are threads of one process. They lend each other their buffers and work on them in place.
//! - **mesh**: ranks are processes. Each two have a link of their own: through shared memory where they are on one
//!   machine, over TCP where not, with TLS where asked for. A progress thread per communicator moves the bytes, so that an
//!   operation runs while the caller computes.
//! - **[`nccl`]**: ranks are GPUs.
//!
//! [`connect()`] picks local or mesh from the roster, waits until every rank is there, and returns the communicator;
//! [`split`](Communicator::split) makes smaller groups out of it. On top, [`Hierarchy`] reduces inside each machine first
//! and then between the machines, and [`ErrorFeedback`] reduces with 8 or 1 bits per element.
//!
//! # What is promised
//! 1. **Started operations.** `start_*` returns at once; [`Work::wait`] gives the buffer back. Operations run in the
//!    order in which they were started, and that order must be the same on every rank: a rank that starts something
//!    else, or another length or type, is an [`Error::Mismatch`] naming both sides. Between each two ranks that also holds
//!    for sends and receives among the other operations.
//! 2. **One order of summation.** A buffer is cut into `world` chunks, and chunk c is computed as
//!    x_c + x_(c+1) + … + x_(c-1), indices modulo the world. Local and mesh do so, whatever the links and the length,
//!    hence their results are the same bits, on every rank. Integers wrap. Max and min hand NaN on. (Which NaN bits
//!    survive is not promised.) [`Wire`], [`Hierarchy`], [`ErrorFeedback`] and NCCL say what they promise instead.
//! 3. **Exclusive buffers.** An operation owns its buffer until nobody can touch it any more: only then does `wait`
//!    return it, and only then is it dropped when the operation failed. See [`Region`]. No other process ever maps it:
//!    shared memory holds bytes on their way only.
//! 4. **Every wait ends.** A peer whose process ends is [`Error::PeerLost`] on every survivor within a second. One that is
//!    stopped, or cut off, is [`Error::Deadline`] when it has missed its heartbeats, also while no operation waits for it.
//!    A rank that is alive but does not come is waited for as long as the operation timeout says, and named then.
//!    [`Aborter::abort`] wakes any wait, also the rendezvous, within 100 ms.
//! 5. **The first failure stays.** A failed communicator returns its first error from every later call.
//! 6. **Strangers cost nothing.** Both ends of every connection prove, before any payload, that they know the run's secret
//!    (HMAC-SHA256 over both nonces, the run, the attempt, the world, the ranks and the channel). Whoever cannot is
//!    refused, which costs that connection only: the listener goes on until the right peer has come or the deadline has
//!    passed.
//!
//! # Ending
//! Dropping the communicator and its works leaves the group in order: a farewell tells the neighbours, so that ranks
//! still busy with the last operation finish it. Dropping both while operations are still running aborts the group between
//! processes; inside one the other ranks finish what was started. The last operations of a rank are kept as
//! [`Record`]s, and written to [`Options::record_folder`] when it fails.
//!
//! # Example
//! Two ranks as threads of one process:
//! ```
//! use kindling_collective::*;
//!
//! let secret = Secret::generate()?;
//! let listeners = [Listener::bind("127.0.0.1")?, Listener::bind("127.0.0.1")?];
//! let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("this process")).collect();
//! let ranks: Vec<_> = listeners.into_iter().enumerate().map(|(rank, listener)| {
//!     let (roster, secret) = (roster.clone(), secret.clone());
//!     std::thread::spawn(move || -> Result<Vec<u8>, Error> {
//!         let options = Options::new("example", 0, rank, secret);
//!         let group = connect(listener, &roster, options, &Aborter::new())?;
//!         let buffer = Buffer::new(Box::new(vec![rank as u8 + 1; 3]), DType::U8);
//!         let mut summed = group.start_all_reduce(buffer, ReduceOp::Sum)?.wait()?;
//!         Ok(summed.bytes().to_vec())
//!     })
//! }).collect();
//! for rank in ranks {
//!     assert_eq!(rank.join().expect("a rank does not panic")?, [3, 3, 3]);
//! }
//! # Ok::<(), Error>(())
//! ```

#[cfg(target_endian = "big")]
compile_error!("elements travel as they lie in memory, and every rank must agree on that: little endian only");

mod abort;
mod buffer;
mod cause;
mod communicator;
mod compress;
mod connect;
mod error;
mod hierarchy;
mod local;
mod mesh;
pub mod nccl;
mod operation;
mod record;
mod reduce;
mod secret;
mod split;
mod transport;
mod wire;

pub use abort::Aborter;
pub use buffer::{Buffer, DType, DeviceRegion, Region};
pub use communicator::{Communicator, Gather, Work};
pub use compress::{Codec, ErrorFeedback, Residual, Residuals};
pub use connect::{Endpoint, Listener, Options, connect};
pub use error::{Error, ErrorKind};
pub use hierarchy::Hierarchy;
pub use mesh::SHARED_BYTES_PER_PEER;
pub use operation::{Kind, Operation, Wire, chunk};
pub use record::{Record, RecordState};
pub use reduce::ReduceOp;
pub use secret::Secret;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// For the fuzz targets in `fuzz/` and the test of their corpus; no part of what is promised.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::mesh::fuzzing::{frame, handshake};
}

/// Locks, also after a panic of another holder: every state behind our locks is valid between any two statements.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
