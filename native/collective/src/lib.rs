//! Groups of ranks that reduce together: `world` ranks call the same operations in the same order and each gets the
//! same bytes back. Two transports stand behind one trait, [`Communicator`]:
//!
//! - **local**: ranks are threads of one process. They lend each other their buffers and sum in place, without a copy.
//! - **tcp**: ranks are processes. Rank r connects to rank r + 1 and the links form a ring; a progress thread per
//!   communicator moves the bytes, so that an operation runs while the caller computes.
//!
//! [`connect()`] picks the transport from the roster, waits until every rank is there, and returns the communicator.
//!
//! # What is promised
//! 1. **Started operations.** `start_*` returns at once; [`Work::wait`] gives the buffer back. Operations run in the
//!    order in which they were started, and that order must be the same on every rank: a rank that starts something
//!    else, or another length or type, is an [`Error::Mismatch`] naming both sides.
//! 2. **One order of summation.** A buffer is cut into `world` chunks, and chunk c is computed as
//!    x_c + x_(c+1) + … + x_(c-1), indices modulo the world. Both transports do so, hence their results are the same
//!    bits, on every rank. Integers wrap. Max and min hand NaN on. (Which NaN bits survive is not promised.)
//! 3. **Exclusive buffers.** An operation owns its buffer until nobody can touch it any more: only then does `wait`
//!    return it, and only then is it dropped when the operation failed. See [`Region`].
//! 4. **Every wait ends.** A peer whose socket closes is [`Error::PeerLost`] on every survivor within a second. A peer
//!    that stays silent for the operation timeout is [`Error::Deadline`], naming the rank that does not answer or that
//!    has not started. [`Aborter::abort`] wakes any wait, also the rendezvous, within 100 ms.
//! 5. **The first failure stays.** A failed communicator returns its first error from every later call.
//! 6. **Strangers cost nothing.** On TCP both ends prove, before any payload, that they know the run's secret
//!    (HMAC-SHA256 over both nonces, the run, the attempt, the world and the ranks). Whoever cannot is refused, which
//!    costs that connection only: the listener goes on until the right peer has come or the deadline has passed.
//!
//! # Ending
//! Dropping the communicator and its works leaves the group in order: a farewell tells the neighbours, so that ranks
//! still busy with the last operation finish it. Dropping both while operations are still running aborts the group on TCP;
//! inside a process the other ranks finish what was started.
//!
//! # Example
//! Two ranks as threads of one process:
//! ```
//! use kindling_collective::*;
//! use std::time::Duration;
//!
//! let secret = Secret::generate()?;
//! let listeners = [Listener::bind("127.0.0.1")?, Listener::bind("127.0.0.1")?];
//! let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("this process")).collect();
//! let ranks: Vec<_> = listeners.into_iter().enumerate().map(|(rank, listener)| {
//!     let (roster, secret) = (roster.clone(), secret.clone());
//!     std::thread::spawn(move || -> Result<Vec<u8>, Error> {
//!         let options = Options {
//!             run: "example".into(), attempt: 0, rank, secret,
//!             rendezvous_timeout: Duration::from_secs(10), operation_timeout: Duration::from_secs(10),
//!         };
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
mod connect;
mod error;
mod local;
mod operation;
mod reduce;
mod secret;
mod tcp;

pub use abort::Aborter;
pub use buffer::{Buffer, DType, Region};
pub use communicator::{Communicator, Gather, Work};
pub use connect::{Endpoint, Listener, Options, connect};
pub use error::{Error, ErrorKind};
pub use operation::{Kind, Operation};
pub use reduce::ReduceOp;
pub use secret::Secret;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic of another holder: every state behind our locks is valid between any two statements.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
