//! One operation on its way round the ring: which bytes come next from the previous rank and what becomes of them, and
//! which bytes may go to the next rank. No sockets here.
//!
//! # Blocks
//! An operation's bytes form one stream per link, cut into blocks. Block j of the stream that rank r sends carries item
//! (r - j) mod n; so block j of the stream that it receives carries item (r - 1 - j) mod n, and block j + 1 that it
//! sends is the item it received as block j. Whatever the operation, a rank may send of block j + 1 what it has
//! received of block j: that is the only dependency, hence the send window.
//!
//! - **Large all-reduce** (2n - 2 blocks): items are the chunks of the buffer. In the first n - 1 blocks what comes is
//!   folded into the own chunk, so that chunk c becomes x_c + x_(c+1) + …; the last n - 1 blocks carry finished chunks
//!   and overwrite. A byte is overwritten only after it was sent: what overwrites it was computed from it.
//! - **Small all-reduce** (n - 1 blocks): items are whole contributions, every rank adds them up itself, in the same
//!   order. n - 1 hops instead of 2n - 2.
//! - **Gather** (n - 1 blocks): items are the ranks' bytes, each preceded by its length (u64).
//! - **Barrier** (n - 1 blocks): items are one byte; who has received all knows that all have come.
//! - **Broadcast** (1 block): from the root around, the last rank sends nothing.

use crate::buffer::{Buffer, DType};
use crate::operation::{Kind, Operation, chunk_range};
use crate::reduce::{ReduceOp, fold};
use crate::tcp::frame::SEGMENT;
use crate::tcp::promise::Promise;
use std::time::Instant;

/// All-reduces of up to so many bytes over all ranks go as whole contributions. Measured on loopback: with 2 ranks that
/// is faster up to 128 KiB each, with 4 ranks up to 64 KiB.
const SMALL: usize = 256 * 1024;

/// The window is allowed to gather so many bytes before a frame is cut from it, unless the block ends.
const FRAME: usize = 32 * 1024;

/// Length prefix of a gathered item.
const PREFIX: usize = 8;

pub(super) struct Flow {
    pub(super) operation: Operation,
    pub(super) sequence: u64,
    pub(super) started: Instant,
    /// The operation frame was queued for the next rank.
    pub(super) announced: bool,
    /// The previous rank's operation frame has come and agrees.
    pub(super) confirmed: bool,
    rank: usize,
    size: usize,
    body: Body,
    sending: Cursor,
    receiving: Cursor,
}

/// A position in a stream.
#[derive(Clone, Copy, Default)]
struct Cursor {
    block: usize,
    offset: usize,
}

enum Body {
    Ring { buffer: Buffer, op: ReduceOp, promise: Promise<Buffer> },
    Small { buffer: Buffer, op: ReduceOp, items: Vec<u8>, each: usize, promise: Promise<Buffer> },
    Barrier { items: Vec<u8>, promise: Promise<Buffer> },
    Broadcast { buffer: Buffer, root: usize, promise: Promise<Buffer> },
    Gather { items: Vec<Item>, promise: Promise<Vec<Vec<u8>>> },
}

#[derive(Default)]
struct Item {
    prefix: [u8; PREFIX],
    bytes: Vec<u8>,
}

/// What becomes of the next bytes received.
pub(super) enum Inlet<'a> {
    Store(&'a mut [u8]),
    Fold(&'a mut [u8], DType, ReduceOp),
}

impl Flow {
    fn new(operation: Operation, rank: usize, size: usize, body: Body) -> Flow {
        let mut flow = Flow {
            operation,
            sequence: 0,
            started: Instant::now(),
            announced: false,
            confirmed: false,
            rank,
            size,
            body,
            sending: Cursor::default(),
            receiving: Cursor::default(),
        };
        flow.sending = flow.settled(flow.sending, flow.blocks_to_send(), flow.rank);
        flow.receiving = flow.settled(flow.receiving, flow.blocks_to_receive(), flow.rank + flow.size - 1);
        flow
    }

    pub(super) fn all_reduce(
        operation: Operation,
        mut buffer: Buffer,
        op: ReduceOp,
        place: (usize, usize),
        promise: Promise<Buffer>,
    ) -> Flow {
        let (rank, size) = place;
        let bytes = buffer.bytes();
        let each = bytes.len();
        let body = if each.saturating_mul(size) <= SMALL {
            let mut items = vec![0; each * size];
            if let Some(own) = items.get_mut(rank * each..(rank + 1) * each) {
                own.copy_from_slice(bytes);
            }
            Body::Small { buffer, op, items, each, promise }
        } else {
            Body::Ring { buffer, op, promise }
        };
        Flow::new(operation, rank, size, body)
    }

    pub(super) fn broadcast(
        operation: Operation,
        buffer: Buffer,
        root: usize,
        (rank, size): (usize, usize),
        promise: Promise<Buffer>,
    ) -> Flow {
        Flow::new(operation, rank, size, Body::Broadcast { buffer, root, promise })
    }

    pub(super) fn gather(bytes: Vec<u8>, (rank, size): (usize, usize), promise: Promise<Vec<Vec<u8>>>) -> Flow {
        let mut items: Vec<Item> = (0..size).map(|_| Item::default()).collect();
        if let Some(own) = items.get_mut(rank) {
            *own = Item { prefix: (bytes.len() as u64).to_le_bytes(), bytes };
        }
        Flow::new(Operation::plain(Kind::AllGather), rank, size, Body::Gather { items, promise })
    }

    pub(super) fn barrier(kind: Kind, (rank, size): (usize, usize), promise: Promise<Buffer>) -> Flow {
        Flow::new(Operation::plain(kind), rank, size, Body::Barrier { items: vec![0; size], promise })
    }

    fn blocks_to_send(&self) -> usize {
        match &self.body {
            Body::Ring { .. } => 2 * self.size - 2,
            Body::Small { .. } | Body::Barrier { .. } | Body::Gather { .. } => self.size - 1,
            Body::Broadcast { root, .. } => usize::from((self.rank + 1) % self.size != *root),
        }
    }

    fn blocks_to_receive(&self) -> usize {
        match &self.body {
            Body::Broadcast { root, .. } => usize::from(self.rank != *root),
            _ => self.blocks_to_send(),
        }
    }

    /// The length of an item, as far as it is known: a gathered item that has not come has only its prefix.
    fn length(&self, item: usize) -> usize {
        match &self.body {
            Body::Ring { .. } | Body::Broadcast { .. } => self.range(item).len(),
            Body::Small { each, .. } => *each,
            Body::Barrier { .. } => 1,
            Body::Gather { items, .. } => items.get(item).map_or(PREFIX, |item| PREFIX + item.bytes.len()),
        }
    }

    /// Where an item lies in the buffer.
    fn range(&self, item: usize) -> std::ops::Range<usize> {
        // The operation was made from the buffer, so its number of elements fits.
        let elements = usize::try_from(self.operation.elements).unwrap_or(0);
        let size = self.operation.dtype.size();
        match &self.body {
            Body::Ring { .. } => chunk_range(elements, size, self.size, item),
            _ => 0..elements * size,
        }
    }

    fn item(&self, base: usize, block: usize) -> usize {
        (base + 2 * self.size - block) % self.size
    }

    /// Moves a cursor past blocks of which nothing is left.
    fn settled(&self, mut cursor: Cursor, blocks: usize, base: usize) -> Cursor {
        while cursor.block < blocks && cursor.offset >= self.length(self.item(base, cursor.block)) {
            cursor = Cursor { block: cursor.block + 1, offset: 0 };
        }
        cursor
    }

    pub(super) fn all_sent(&self) -> bool {
        self.announced && self.sending.block >= self.blocks_to_send()
    }

    pub(super) fn all_received(&self) -> bool {
        self.confirmed && self.receiving.block >= self.blocks_to_receive()
    }

    /// How many bytes the next data frame may have; 0 when there is nothing to send, or not yet.
    pub(super) fn sendable(&self) -> usize {
        if self.sending.block >= self.blocks_to_send() {
            return 0;
        }
        let length = self.length(self.item(self.rank, self.sending.block));
        let source = match &self.body {
            Body::Broadcast { root, .. } => (self.rank != *root).then_some(0),
            _ => self.sending.block.checked_sub(1),
        };
        let ready = match source {
            None => length,
            Some(block) if self.receiving.block > block => length,
            Some(block) if self.receiving.block == block => self.receiving.offset,
            Some(_) => 0,
        };
        let window = ready.saturating_sub(self.sending.offset);
        if window < FRAME && ready < length { 0 } else { window.min(SEGMENT) }
    }

    /// The next `length` bytes to send.
    pub(super) fn outlet(&mut self, length: usize) -> &[u8] {
        let item = self.item(self.rank, self.sending.block);
        let offset = self.sending.offset;
        let range = self.range(item);
        let bytes: &[u8] = match &mut self.body {
            Body::Ring { buffer, .. } | Body::Broadcast { buffer, .. } => buffer.bytes().get(range).unwrap_or(&[]),
            Body::Small { items, each, .. } => items.get(item * *each..(item + 1) * *each).unwrap_or(&[]),
            Body::Barrier { items, .. } => items.get(item..=item).unwrap_or(&[]),
            Body::Gather { items, .. } => {
                let Some(item) = items.get(item) else { return &[] };
                if offset < PREFIX {
                    let prefix = item.prefix.get(offset..).unwrap_or(&[]);
                    return prefix.get(..length).unwrap_or(prefix);
                }
                let bytes = item.bytes.get(offset - PREFIX..).unwrap_or(&[]);
                return bytes.get(..length).unwrap_or(bytes);
            }
        };
        let rest = bytes.get(offset..).unwrap_or(&[]);
        rest.get(..length).unwrap_or(rest)
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.sending.offset += count;
        self.sending = self.settled(self.sending, self.blocks_to_send(), self.rank);
    }

    /// What becomes of the next bytes; None when all have come.
    pub(super) fn inlet(&mut self) -> Option<Inlet<'_>> {
        let Cursor { block, offset } = self.receiving;
        if block >= self.blocks_to_receive() {
            return None;
        }
        let item = self.item(self.rank + self.size - 1, block);
        let range = self.range(item);
        let dtype = self.operation.dtype;
        let folding = block + 1 < self.size;
        match &mut self.body {
            Body::Ring { buffer, op, .. } => {
                let rest = buffer.bytes().get_mut(range)?.get_mut(offset..)?;
                Some(if folding { Inlet::Fold(rest, dtype, *op) } else { Inlet::Store(rest) })
            }
            Body::Broadcast { buffer, .. } => Some(Inlet::Store(buffer.bytes().get_mut(offset..)?)),
            Body::Small { items, each, .. } => {
                Some(Inlet::Store(items.get_mut(item * *each..(item + 1) * *each)?.get_mut(offset..)?))
            }
            Body::Barrier { items, .. } => Some(Inlet::Store(items.get_mut(item..=item)?)),
            Body::Gather { items, .. } => {
                let item = items.get_mut(item)?;
                if offset < PREFIX {
                    return Some(Inlet::Store(item.prefix.get_mut(offset..)?));
                }
                Some(Inlet::Store(item.bytes.get_mut(offset - PREFIX..)?))
            }
        }
    }

    /// Counts bytes that the inlet has taken. Fails when a gathered item is too long for this machine.
    pub(super) fn received(&mut self, count: usize) -> Result<(), String> {
        self.receiving.offset += count;
        let item = self.item(self.rank + self.size - 1, self.receiving.block);
        if let Body::Gather { items, .. } = &mut self.body
            && self.receiving.offset == PREFIX
            && let Some(item) = items.get_mut(item)
            && item.bytes.is_empty()
        {
            let length = u64::from_le_bytes(item.prefix);
            let usable = usize::try_from(length).ok().filter(|length| item.bytes.try_reserve_exact(*length).is_ok());
            item.bytes.resize(usable.ok_or_else(|| format!("no memory for {length} gathered bytes"))?, 0);
        }
        self.receiving = self.settled(self.receiving, self.blocks_to_receive(), self.rank + self.size - 1);
        Ok(())
    }

    /// Keeps the promise; everything was sent and received.
    pub(super) fn finish(self) {
        match self.body {
            Body::Ring { buffer, promise, .. } | Body::Broadcast { buffer, promise, .. } => promise.keep(Ok(buffer)),
            Body::Barrier { promise, .. } => promise.keep(Ok(Buffer::empty())),
            Body::Gather { items, promise } => promise.keep(Ok(items.into_iter().map(|item| item.bytes).collect())),
            Body::Small { mut buffer, op, mut items, each, promise } => {
                let dtype = self.operation.dtype;
                let elements = each / dtype.size();
                for first in 0..self.size {
                    let range = chunk_range(elements, dtype.size(), self.size, first);
                    add_up(&mut items, each, self.size, first, range.clone(), |left, right| {
                        fold(op, dtype, left, right);
                    });
                    let last = (first + self.size - 1) % self.size;
                    let sum = items.get(last * each + range.start..last * each + range.end);
                    if let (Some(sum), Some(own)) = (sum, buffer.bytes().get_mut(range)) {
                        own.copy_from_slice(sum);
                    }
                }
                promise.keep(Ok(buffer));
            }
        }
    }

    /// Breaks the promise. The buffer is dropped before the waiter wakes.
    pub(super) fn fail(self, error: crate::Error) {
        match self.body {
            Body::Ring { buffer, promise, .. }
            | Body::Broadcast { buffer, promise, .. }
            | Body::Small { buffer, promise, .. } => {
                drop(buffer);
                promise.keep(Err(error));
            }
            Body::Barrier { promise, .. } => promise.keep(Err(error)),
            Body::Gather { promise, .. } => promise.keep(Err(error)),
        }
    }
}

/// Folds the range of every item into that of the next, from `first` around to the one before it.
fn add_up(
    items: &mut [u8],
    each: usize,
    size: usize,
    first: usize,
    range: std::ops::Range<usize>,
    fold: impl Fn(&[u8], &mut [u8]),
) {
    for step in 1..size {
        let (from, to) = ((first + step - 1) % size, (first + step) % size);
        let (low, high) = (from.min(to), from.max(to));
        let Some((lower, upper)) = items.split_at_mut_checked(high * each) else { return };
        let lower = lower.get_mut(low * each + range.start..low * each + range.end);
        let upper = upper.get_mut(range.clone());
        match (lower, upper) {
            (Some(lower), Some(upper)) if from == low => fold(lower, upper),
            (Some(lower), Some(upper)) => fold(upper, lower),
            _ => return,
        }
    }
}
