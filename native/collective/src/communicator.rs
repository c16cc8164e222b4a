//! What a group of ranks can do, whatever carries the bytes.

use crate::abort::Aborter;
use crate::buffer::{Buffer, DType};
use crate::error::Error;
use crate::operation::{Kind, Operation};
use crate::reduce::ReduceOp;

/// One rank's place in a group.
///
/// Every rank starts the same operations in the same order; see the [crate's promises](crate). A start fails at once
/// when the group has failed before or the arguments cannot be right; everything else shows in the wait.
pub trait Communicator: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Replaces `buffer` on every rank by the reduction over all ranks. Same length and type everywhere.
    fn start_all_reduce(&self, buffer: Buffer, op: ReduceOp) -> Result<Work, Error>;

    /// Replaces `buffer` on every rank by that of `root`. Same length and type everywhere.
    fn start_broadcast(&self, buffer: Buffer, root: usize) -> Result<Work, Error>;

    /// Collects every rank's bytes, in rank order. The lengths may differ.
    fn start_all_gather(&self, bytes: Vec<u8>) -> Result<Gather, Error>;

    /// Ends when every rank has started it. The work gives an empty buffer back.
    fn start_barrier(&self) -> Result<Work, Error>;

    /// The aborter given to [`connect`](crate::connect()).
    fn aborter(&self) -> Aborter;
}

/// An operation in flight that gives a buffer back. Dropping it lets the operation go on and frees the buffer after.
#[must_use = "an operation is known to have succeeded only when it was waited for"]
pub struct Work(Box<dyn Pending<Buffer>>);

/// An all-gather in flight.
#[must_use = "an operation is known to have succeeded only when it was waited for"]
pub struct Gather(Box<dyn Pending<Vec<Vec<u8>>>>);

/// A transport's side of a wait. It ends by itself: the transport keeps the deadline.
pub(crate) trait Pending<T>: Send {
    fn wait(self: Box<Self>) -> Result<T, Error>;
}

impl Work {
    pub(crate) fn new(pending: impl Pending<Buffer> + 'static) -> Work {
        Work(Box::new(pending))
    }

    /// Waits for the end and gives the buffer back. Ends with an error after the operation timeout at the latest.
    pub fn wait(self) -> Result<Buffer, Error> {
        self.0.wait()
    }
}

impl Gather {
    pub(crate) fn new(pending: impl Pending<Vec<Vec<u8>>> + 'static) -> Gather {
        Gather(Box::new(pending))
    }

    /// Waits for the end and gives the bytes of all ranks. Ends with an error after the operation timeout at the latest.
    pub fn wait(self) -> Result<Vec<Vec<u8>>, Error> {
        self.0.wait()
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gather")
    }
}

/// The all-reduce that `buffer` asks for, or why it cannot be one.
pub(crate) fn all_reduce(buffer: &mut Buffer, op: ReduceOp) -> Result<Operation, Error> {
    let (dtype, elements) = elements(buffer)?;
    Ok(Operation { kind: Kind::AllReduce(op), dtype, elements })
}

/// The broadcast that `buffer` asks for in a group of `size`, or why it cannot be one.
pub(crate) fn broadcast(buffer: &mut Buffer, root: usize, size: usize) -> Result<Operation, Error> {
    let (dtype, elements) = elements(buffer)?;
    match u32::try_from(root) {
        Ok(root) if (root as usize) < size => Ok(Operation { kind: Kind::Broadcast { root }, dtype, elements }),
        _ => Err(Error::invalid(format!("the root of a broadcast must be a rank below {size}, not {root}"))),
    }
}

fn elements(buffer: &mut Buffer) -> Result<(DType, u64), Error> {
    let (dtype, bytes) = (buffer.dtype(), buffer.bytes().len());
    if !bytes.is_multiple_of(dtype.size()) {
        return Err(Error::invalid(format!(
            "a buffer of {} must hold a multiple of {} bytes, not {bytes}",
            dtype.name(),
            dtype.size()
        )));
    }
    Ok((dtype, (bytes / dtype.size()) as u64))
}
