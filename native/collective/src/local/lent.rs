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

use crate::buffer::{Buffer, DType};
use crate::lock;
use crate::operation::{Wire, chunk_range};
use crate::reduce::{self, Into, ReduceOp, fold};
use crate::wire;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes per piece: a piece of every rank's buffer should fit a core's cache together.
const PIECE: usize = 64 * 1024;

/// What is to be done with the buffers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// The reduction into every buffer.
    Reduce { op: ReduceOp, wire: Wire },
    /// Chunk r of the reduction into buffer r.
    Scatter { op: ReduceOp },
    /// Chunk r of buffer r into every buffer.
    Gather,
    /// Chunk s of buffer r and chunk r of buffer s change places.
    Exchange,
    /// Buffer `root` into every buffer.
    Broadcast { root: usize },
}

pub(super) struct Lent {
    views: Vec<View>,
    pieces: Vec<Piece>,
    dtype: DType,
    /// The next piece to claim.
    next: AtomicUsize,
    /// Pieces not yet finished.
    left: AtomicUsize,
    loans: Mutex<Vec<Option<Loan>>>,
}

/// Work on bytes that no other piece has.
enum Piece {
    /// Reduce the range, beginning with that buffer and going around; then into buffer `to`, or into all.
    Reduce { op: ReduceOp, wire: Wire, first: usize, to: Option<usize>, range: Range<usize> },
    /// The range of one buffer into all others.
    Spread { from: usize, range: Range<usize> },
    /// A range of one buffer and a range of equal length of another change places.
    Swap { buffers: [usize; 2], starts: [usize; 2], length: usize },
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

/// Owns a buffer whose bytes are exposed by a view. Kept as a pointer, because a `Box` that moves would claim that nobody
/// else uses its contents.
struct Loan(NonNull<Buffer>);

// SAFETY: a buffer is Send, and the loan is its only owner.
unsafe impl Send for Loan {}

impl Loan {
    fn new(buffer: Buffer) -> (Loan, View) {
        let buffer = NonNull::from(Box::leak(Box::new(buffer)));
        // SAFETY: the pointer comes from a box and nobody else has it. The borrow of the buffer ends only with the loan,
        // which does not touch the buffer before; so the bytes stay valid and unaliased for as long as the loan lives.
        let bytes = unsafe { (*buffer.as_ptr()).bytes() };
        let view = View { length: bytes.len(), bytes: NonNull::from(bytes).cast() };
        (Loan(buffer), view)
    }

    fn into_buffer(self) -> Buffer {
        let buffer = self.0;
        std::mem::forget(self);
        // SAFETY: the pointer came from a box in `new`, and forgetting self made this its only use.
        *unsafe { Box::from_raw(buffer.as_ptr()) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a box in `new`; `into_buffer` forgets the loans it empties.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
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
        let chunk = |number: usize| chunk_range(length / dtype.size(), dtype.size(), world, number);
        let pieces: Vec<Piece> = match action {
            // Chunks only decide the order of summation. A rank that is alone has nothing to add, but to round.
            Action::Reduce { op, wire } if world > 1 || wire != Wire::Full => (0..world)
                .flat_map(|first| {
                    cut(chunk(first)).map(move |range| Piece::Reduce { op, wire, first, to: None, range })
                })
                .collect(),
            Action::Scatter { op } if world > 1 => (0..world)
                .flat_map(|first| {
                    let piece = move |range| Piece::Reduce { op, wire: Wire::Full, first, to: Some(first), range };
                    cut(chunk(first)).map(piece)
                })
                .collect(),
            Action::Gather if world > 1 => {
                (0..world).flat_map(|from| cut(chunk(from)).map(move |range| Piece::Spread { from, range })).collect()
            }
            Action::Exchange => (0..world)
                .flat_map(|low| (low + 1..world).map(move |high| (low, high)))
                .flat_map(|(low, high)| {
                    let (there, back) = (chunk(high), chunk(low));
                    cut(0..there.len()).map(move |part| Piece::Swap {
                        buffers: [low, high],
                        starts: [there.start + part.start, back.start + part.start],
                        length: part.len(),
                    })
                })
                .collect(),
            Action::Broadcast { root } if world > 1 => {
                cut(0..length).map(|range| Piece::Spread { from: root, range }).collect()
            }
            _ => Vec::new(),
        };
        Lent {
            views,
            dtype,
            next: AtomicUsize::new(0),
            left: AtomicUsize::new(pieces.len()),
            pieces,
            loans: Mutex::new(loans.into_iter().map(Some).collect()),
        }
    }

    /// The bytes that all ranks have to move, to judge whether it is worth sharing the work.
    pub(super) fn weight(&self) -> usize {
        self.pieces.iter().map(Piece::length).sum::<usize>() * self.views.len()
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
        match piece {
            Piece::Reduce { op, wire, first, to, range } => {
                let mut holder = *first;
                for step in 1..world {
                    let next = (first + step) % world;
                    let Some((left, right)) = self.pair([holder, next], [range.start; 2], range.len()) else { return };
                    fold(*op, self.dtype, right, left, Into::Right);
                    holder = next;
                }
                if let Some(sum) = self.one(holder, range) {
                    reduce::finish(*op, self.dtype, sum, world);
                    if *wire != Wire::Full {
                        wire::round(*wire, sum);
                    }
                }
                match to {
                    Some(to) => self.copy(holder, *to, range),
                    None => (0..world).for_each(|to| self.copy(holder, to, range)),
                }
            }
            Piece::Spread { from, range } => (0..world).for_each(|to| self.copy(*from, to, range)),
            Piece::Swap { buffers, starts, length } => {
                if let Some((left, right)) = self.pair(*buffers, *starts, *length) {
                    left.swap_with_slice(right);
                }
            }
        }
    }

    fn copy(&self, from: usize, to: usize, range: &Range<usize>) {
        // A buffer is no pair with itself.
        if let Some((from, to)) = self.pair([from, to], [range.start; 2], range.len()) {
            to.copy_from_slice(from);
        }
    }

    /// A piece's bytes in one buffer. Private, and called for a claimed piece only.
    #[allow(clippy::mut_from_ref, reason = "the claim on the piece is the exclusive right to its bytes")]
    fn one(&self, buffer: usize, range: &Range<usize>) -> Option<&mut [u8]> {
        let view = self.views.get(buffer).filter(|view| range.end <= view.length)?;
        // SAFETY: as in `pair`.
        unsafe { Some(std::slice::from_raw_parts_mut(view.bytes.add(range.start).as_ptr(), range.len())) }
    }

    /// A piece's bytes in two different buffers. Private, and called for a claimed piece only.
    #[allow(clippy::mut_from_ref, reason = "the claim on the piece is the exclusive right to its bytes")]
    fn pair(&self, buffers: [usize; 2], starts: [usize; 2], length: usize) -> Option<(&mut [u8], &mut [u8])> {
        let [left, right] = buffers;
        if left == right {
            return None;
        }
        let inside = |buffer: usize, start: usize| {
            let view = self.views.get(buffer)?;
            (start.checked_add(length)? <= view.length).then_some(view)
        };
        let [left_start, right_start] = starts;
        let (left, right) = (inside(left, left_start)?, inside(right, right_start)?);
        // SAFETY: both ranges lie inside their buffers (just checked) and the buffers are alive: a loan leaves `loans`
        // only when `left` is 0, but this piece is claimed and not finished. No other thread touches these ranges:
        // pieces are disjoint and claimed once. The two buffers do not overlap: both were borrowed mutably from
        // distinct regions that are still lent. `perform` drops each slice before it makes the next.
        unsafe {
            Some((
                std::slice::from_raw_parts_mut(left.bytes.add(left_start).as_ptr(), length),
                std::slice::from_raw_parts_mut(right.bytes.add(right_start).as_ptr(), length),
            ))
        }
    }
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Piece::Reduce { range, .. } | Piece::Spread { range, .. } => range.len(),
            Piece::Swap { length, .. } => *length,
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
        let lent = Lent::new(buffers, Action::Reduce { op: ReduceOp::Sum, wire: Wire::Full });
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
        let lent = Lent::new(buffers, Action::Reduce { op: ReduceOp::Sum, wire: Wire::Full });
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
