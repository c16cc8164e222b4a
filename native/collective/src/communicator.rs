//! What a group of ranks can do, whatever carries the bytes.

use crate::abort::Aborter;
use crate::buffer::Buffer;
use crate::error::Error;
use crate::operation::Wire;
use crate::record::Record;
use crate::reduce::ReduceOp;
use std::sync::Arc;

/// One rank's place in a group.
///
/// Every rank starts the same operations in the same order. A send or receive concerns two ranks only: both start it at
/// the same place among the operations that they have in common, which is checked between processes. See the [crate's promises](crate). A start fails at
/// once when the group has failed before or the arguments cannot be right; everything else shows in the wait.
///
/// Where a buffer is cut into chunks, chunk r is [`chunk(elements, size, r)`](crate::chunk()) of its elements.
pub trait Communicator: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Replaces `buffer` on every rank by the reduction over all ranks. Same length and type everywhere.
    fn start_all_reduce(&self, buffer: Buffer, op: ReduceOp) -> Result<Work, Error> {
        self.start_all_reduce_as(buffer, op, Wire::Full)
    }

    /// The same, with f32 elements rounded for the journey: see [`Wire`].
    fn start_all_reduce_as(&self, buffer: Buffer, op: ReduceOp, wire: Wire) -> Result<Work, Error>;

    /// Replaces chunk r of `buffer` on rank r by the reduction over all ranks; what the other chunks hold afterwards is
    /// not promised. Same length and type everywhere. The bits are those that an all-reduce gives.
    fn start_reduce_scatter(&self, buffer: Buffer, op: ReduceOp) -> Result<Work, Error>;

    /// Replaces chunk r of `buffer` on every rank by that of rank r. Same length and type everywhere.
    fn start_all_gather(&self, buffer: Buffer) -> Result<Work, Error>;

    /// Collects every rank's bytes, in rank order. The lengths may differ, up to 1 GiB.
    fn start_all_gather_bytes(&self, bytes: Vec<u8>) -> Result<Gather, Error>;

    /// Replaces `buffer` on every rank by that of `root`. Same length and type everywhere.
    fn start_broadcast(&self, buffer: Buffer, root: usize) -> Result<Work, Error>;

    /// Replaces chunk r of `buffer` on every rank by the chunk that rank r had for this rank. Same length and type
    /// everywhere, and as many elements that all chunks are equal.
    fn start_all_to_all(&self, buffer: Buffer) -> Result<Work, Error>;

    /// Sends `buffer` to rank `to`, which must receive as many elements of the same type. The buffer comes back as it
    /// was, possibly before the other rank has received it.
    fn start_send(&self, buffer: Buffer, to: usize) -> Result<Work, Error>;

    /// Replaces `buffer` by what rank `from` sends.
    fn start_receive(&self, buffer: Buffer, from: usize) -> Result<Work, Error>;

    /// Ends when every rank has started it. The work gives an empty buffer back.
    fn start_barrier(&self) -> Result<Work, Error>;

    /// Makes new groups: the ranks that give the same `color` form one, ordered by `key`, then by their rank here.
    /// A rank without color joins none. All ranks of this group take part, in the order of its operations.
    ///
    /// Blocks until the new group is complete. It fails and is aborted on its own; the aborter is shared.
    fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Arc<dyn Communicator>>, Error>;

    /// The aborter given to [`connect`](crate::connect()).
    fn aborter(&self) -> Aborter;

    /// The last operations of this rank, oldest first: see [`Record`].
    fn records(&self) -> Vec<Record>;
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

    /// Waits for the end and gives the buffer back. It ends by itself: see the [promises](crate).
    pub fn wait(self) -> Result<Buffer, Error> {
        self.0.wait()
    }
}

impl Gather {
    pub(crate) fn new(pending: impl Pending<Vec<Vec<u8>>> + 'static) -> Gather {
        Gather(Box::new(pending))
    }

    /// Waits for the end and gives the bytes of all ranks. It ends by itself: see the [promises](crate).
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
