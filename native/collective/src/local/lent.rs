#![allow(unsafe_code, reason = "ranks lend their buffers to each other and work on disjoint pieces at the same time")]
//! Buffers of all ranks of an operation, lent so that every rank's thread may work on any of them.
//!
//! # The protocol
//! 1. [`Lent::new`] takes all buffers and cuts the work into pieces. Two pieces never share a byte range.
//! 2. Any thread calls [`Lent::help`] any number of times. It claims pieces from a counter, so each piece is worked on
//!    by exactly one thread, and counts every finished piece down in `left`.
//! 3. When `left` is 0 no thread will touch a buffer again, and [`Lent::take`] gives the buffers back, each once.
//!
//! A `Lent` that never gets that far (the group failed) frees what was not taken when its last owner drops it; helpers
//! are owners, so none is at work by then.

use crate::buffer::{Buffer, DType, Region};
use crate::lock;
use crate::operation::chunk_range;
use crate::reduce::{ReduceOp, fold};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes per piece: a piece of every rank's buffer should fit a core's cache together.
const PIECE: usize = 64 * 1024;

/// What is to be done with the buffers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Reduce(ReduceOp),
    Broadcast { root: usize },
}

pub(super) struct Lent {
    views: Vec<View>,
    pieces: Vec<Piece>,
    action: Action,
    dtype: DType,
    /// The next piece to claim.
    next: AtomicUsize,
    /// Pieces not yet finished.
    left: AtomicUsize,
    loans: Mutex<Vec<Option<Loan>>>,
}

/// A byte range, and the rank with which its order of summation begins.
struct Piece {
    first: usize,
    range: Range<usize>,
}

/// Where a lent buffer's bytes are.
struct View {
    bytes: NonNull<u8>,
    length: usize,
}

// SAFETY: a view is only an address; `Lent` decides who may use it when, see the module's protocol.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

/// Owns a region whose bytes are exposed by a view. Kept as a pointer, because a `Box` that moves would claim that
/// nobody else uses its contents.
struct Loan {
    region: NonNull<dyn Region>,
    dtype: DType,
}

// SAFETY: a region is Send, and the loan is its only owner.
unsafe impl Send for Loan {}

impl Loan {
    fn new(buffer: Buffer) -> (Loan, View) {
        let dtype = buffer.dtype();
        let region = Box::into_raw(buffer.into_region());
        // SAFETY: the pointer comes from a box and nobody else has it. The borrow of the region ends only with the
        // loan, which does not touch the region before; so the bytes stay valid and unaliased for as long as the loan
        // lives.
        let bytes = unsafe { (*region).bytes() };
        let view = View { length: bytes.len(), bytes: NonNull::from(bytes).cast() };
        // SAFETY: a box's pointer is not null.
        (Loan { region: unsafe { NonNull::new_unchecked(region) }, dtype }, view)
    }

    fn into_buffer(self) -> Buffer {
        let region = self.region;
        let dtype = self.dtype;
        std::mem::forget(self);
        // SAFETY: the pointer came from a box in `new`, and forgetting self made this its only use.
        Buffer::new(unsafe { Box::from_raw(region.as_ptr()) }, dtype)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box in `new`; `into_buffer` forgets the loans it empties.
        drop(unsafe { Box::from_raw(self.region.as_ptr()) });
    }
}

impl Lent {
    /// Lends `buffers`, one per rank in rank order. They have equal types and lengths; the caller has checked that,
    /// and bytes beyond the shortest are left alone.
    pub(super) fn new(buffers: Vec<Buffer>, action: Action) -> Lent {
        let world = buffers.len();
        let dtype = buffers.first().map_or(DType::U8, Buffer::dtype);
        let (loans, views): (Vec<_>, Vec<_>) = buffers.into_iter().map(Loan::new).unzip();
        let length = views.iter().map(|view| view.length).min().unwrap_or(0);
        let pieces: Vec<Piece> = match action {
            // Chunks only decide the order of summation; a broadcast has none.
            Action::Reduce(_) if world > 1 => (0..world)
                .flat_map(|first| {
                    let range = chunk_range(length / dtype.size(), dtype.size(), world, first);
                    cut(range).map(move |range| Piece { first, range })
                })
                .collect(),
            Action::Broadcast { root } if world > 1 => {
                cut(0..length).map(|range| Piece { first: root, range }).collect()
            }
            Action::Reduce(_) | Action::Broadcast { .. } => Vec::new(),
        };
        Lent {
            views,
            action,
            dtype,
            next: AtomicUsize::new(0),
            left: AtomicUsize::new(pieces.len()),
            pieces,
            loans: Mutex::new(loans.into_iter().map(Some).collect()),
        }
    }

    /// The bytes that all ranks have to move, to judge whether it is worth sharing the work.
    pub(super) fn weight(&self) -> usize {
        self.pieces.iter().map(|piece| piece.range.len()).sum::<usize>() * self.views.len()
    }

    /// Works on pieces until none is left to claim. True when this call finished the last one.
    pub(super) fn help(&self) -> bool {
        loop {
            let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return false };
            self.perform(piece);
            // Release: whoever reads 0 sees the bytes. Acquire: the last one passes on what the others wrote.
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                return true;
            }
        }
    }

    /// True when nobody will touch a buffer again.
    pub(super) fn finished(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// Gives `rank`'s buffer back, once, and only when all is finished.
    pub(super) fn take(&self, rank: usize) -> Option<Buffer> {
        if !self.finished() {
            return None;
        }
        lock(&self.loans).get_mut(rank)?.take().map(Loan::into_buffer)
    }

    fn perform(&self, piece: &Piece) {
        let world = self.views.len();
        let rank = |step: usize| (piece.first + step) % world;
        let mut holder = piece.first;
        if let Action::Reduce(op) = self.action {
            for step in 1..world {
                let Some((left, right)) = self.pair(piece, holder, rank(step)) else { return };
                fold(op, self.dtype, left, right);
                holder = rank(step);
            }
        }
        for receiver in (0..world).filter(|receiver| *receiver != holder) {
            let Some((from, to)) = self.pair(piece, holder, receiver) else { return };
            to.copy_from_slice(from);
        }
    }

    /// The piece's bytes in the buffers of two different ranks. Private, and called for a claimed piece only.
    #[allow(clippy::mut_from_ref, reason = "the claim on the piece is the exclusive right to its bytes")]
    fn pair(&self, piece: &Piece, from: usize, to: usize) -> Option<(&[u8], &mut [u8])> {
        let (source, target) = (self.views.get(from)?, self.views.get(to)?);
        if from == to || piece.range.end > source.length || piece.range.end > target.length {
            return None;
        }
        // SAFETY: both ranges lie inside their buffers (just checked) and the buffers are alive: a loan leaves `loans`
        // only when `left` is 0, but this piece is claimed and not finished. No other thread touches these ranges:
        // pieces are disjoint and claimed once. The two buffers do not overlap: both were borrowed mutably from
        // distinct regions that are still lent. `perform` drops each pair before it makes the next.
        unsafe {
            let source = source.bytes.add(piece.range.start);
            let target = target.bytes.add(piece.range.start);
            Some((
                std::slice::from_raw_parts(source.as_ptr(), piece.range.len()),
                std::slice::from_raw_parts_mut(target.as_ptr(), piece.range.len()),
            ))
        }
    }
}

fn cut(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(PIECE).map(move |start| start..end.min(start + PIECE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_given_back_only_when_all_is_finished_and_only_once() {
        let buffers = (0..3).map(|rank| Buffer::new(Box::new(vec![rank; 200_000]), DType::U8)).collect();
        let lent = Lent::new(buffers, Action::Reduce(ReduceOp::Sum));
        assert!(lent.take(0).is_none());
        assert!(lent.help());
        let mut buffer = lent.take(0).unwrap();
        assert!(buffer.bytes().iter().all(|byte| *byte == 3));
        assert!(lent.take(0).is_none());
        assert!(lent.take(3).is_none());
    }

    #[test]
    fn many_helpers_do_every_piece_once() {
        let buffers = (0..4).map(|_| Buffer::new(Box::new(vec![1; 1_000_003]), DType::U8)).collect();
        let lent = Lent::new(buffers, Action::Reduce(ReduceOp::Sum));
        let finishers: usize = std::thread::scope(|scope| {
            let helpers: Vec<_> = (0..4).map(|_| scope.spawn(|| usize::from(lent.help()))).collect();
            helpers.into_iter().map(|helper| helper.join().unwrap()).sum()
        });
        assert_eq!(finishers, 1);
        for rank in 0..4 {
            assert!(lent.take(rank).unwrap().bytes().iter().all(|byte| *byte == 4));
        }
    }
}
