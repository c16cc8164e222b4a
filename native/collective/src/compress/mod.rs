//! All-reduce of f32 with a quarter or a thirty-second of the bytes: each number travels as 8 bits or as 1, and what
//! that loses is kept and added to the next step's numbers ("error feedback").
//!
//! The scheme is that of 1-bit Adam (Tang et al. 2021, <https://arxiv.org/abs/2102.02888>, algorithm 1 with its figure
//! 3); the quantiser of 1-bit SGD goes back to Seide et al. 2014. n elements, w ranks, chunk r as
//! [`chunk(n, w, r)`](crate::chunk()) cuts it:
//!
//! 1. Every rank adds its residual to its numbers, compresses the sum chunk by chunk and keeps what that lost as its
//!    new residual.
//! 2. All-to-all: rank r gets chunk r of every rank.
//! 3. Rank r decompresses and adds in rank order in f32, divides if a mean is asked, adds the residual it keeps for its
//!    chunk, and compresses again.
//! 4. All-gather: everyone decompresses the same bytes, so all ranks end with the same bits.
//!
//! The numbers' codes are in `codec.rs`, what they lose in `residual.rs`, one compression in `block.rs`, and what
//! travels in `packet.rs`.
//!
//! # What is refused
//! A NaN or an infinity, or numbers that overflow with their residual or in the sum. The rank that finds it says so in
//! its packets, so that *every* rank fails, in this operation, with the same error naming the rank and the element;
//! nothing changes anywhere and the group stays usable.

mod block;
mod codec;
mod packet;
mod residual;

#[cfg(test)]
mod tests;

pub use codec::Codec;
pub use residual::{Residual, Residuals};

use crate::buffer::{Buffer, DType, Region};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::operation::chunk;
use crate::reduce::ReduceOp;
use block::Scratch;
use codec::{BLOCK, Fill};
use packet::{Fault, Layout, part, part_mut};
use std::fmt;

/// The state of a compressed all-reduce of one buffer on one rank: what was not sent yet.
///
/// It belongs to that buffer, that rank and that group; two buffers need two. It takes 16 bytes per element, and 16 per
/// element of this rank's chunk: the residuals before and after a step, so that a step that fails changes nothing.
///
/// The scheme is that of 1-bit Adam (Tang et al. 2021, <https://arxiv.org/abs/2102.02888>, algorithm 1): each rank adds
/// its residual, compresses blocks of 2048 elements that share a scale, and keeps what that lost; the ranks exchange
/// their chunks, add them, and compress the sums with a residual of their own. One all-reduce is off by one compression
/// from each rank and one of the sum: with 8 bits at most 1/254 of a block's largest number. Over many steps these
/// errors do not add up.
///
/// # Example
/// ```no_run
/// use kindling_collective::{Codec, ErrorFeedback, ReduceOp};
/// # use kindling_collective::{Communicator, Error};
/// # fn step(group: &dyn Communicator, gradient: &mut [f32]) -> Result<(), Error> {
/// let mut feedback = ErrorFeedback::new(gradient.len(), Codec::OneBit);
/// // … and in every step:
/// feedback.all_reduce(group, gradient, ReduceOp::Mean)?;
/// # Ok(())
/// # }
/// ```
pub struct ErrorFeedback {
    codec: Codec,
    kept: Residuals,
    /// The residuals after the step under way. They are swapped in when the step has succeeded.
    next: Residuals,
    /// The packets' memory, while no operation has it.
    packets: Option<Box<dyn Region>>,
}

impl ErrorFeedback {
    /// A state for buffers of `elements`, with nothing kept yet.
    pub fn new(elements: usize, codec: Codec) -> ErrorFeedback {
        let zero = Residuals { worker: Residual::zero(elements), ..Residuals::default() };
        ErrorFeedback { codec, kept: zero.clone(), next: zero, packets: None }
    }

    /// The state that [`ErrorFeedback::residuals`] was taken from.
    pub fn resume(residuals: Residuals, codec: Codec) -> Result<ErrorFeedback, Error> {
        let elements = residuals.worker.high.len();
        residuals.worker.check("worker's", elements)?;
        let place = residuals.place;
        if let Some((rank, size)) = place.filter(|(rank, size)| rank >= size) {
            return Err(Error::invalid(format!("a residual cannot belong to rank {rank} of {size}")));
        }
        let served = place.map_or(0, |(rank, size)| chunk(elements, size, rank).len());
        residuals.server.check("server's", served)?;
        Ok(ErrorFeedback { codec, next: residuals.clone(), kept: residuals, packets: None })
    }

    /// What is kept for the next step, to be saved with a checkpoint.
    pub fn residuals(&self) -> &Residuals {
        &self.kept
    }

    /// The codec given at the start.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Replaces `values` on every rank by their sum or mean over all ranks, compressed. All ranks get the same bits.
    ///
    /// Blocks: an all-to-all and an all-gather, which all ranks start in the same order as their other operations. In
    /// each, a rank has w packets of 20 + 4 ⌈c / 2048⌉ + c bytes (8-bit) or 20 + 4 ⌈c / 2048⌉ + ⌈c / 8⌉ bytes (1-bit)
    /// with c = ⌈n / w⌉: together 2 n (w - 1) / w or n (w - 1) / (4 w) bytes to other ranks, and a few for the scales,
    /// where an all-reduce of f32 sends 8 n (w - 1) / w.
    ///
    /// # Errors
    /// [`Error::Invalid`] on every rank alike, naming the rank and the element, when some rank's numbers are not finite
    /// or overflow with their residual or in the sum: nothing has changed and the group stays usable.
    /// [`Error::Invalid`] on this rank when the length, the reduction or the group is not what the state is for; and
    /// whatever the group's operations fail with. `values` and the residuals are then as before.
    pub fn all_reduce(&mut self, group: &dyn Communicator, values: &mut [f32], op: ReduceOp) -> Result<(), Error> {
        let divisor = self.divisor(group, op)?;
        let layout = self.layout(group, values.len())?;
        let mut packets = self.take_packets(layout);
        self.send(layout, values, packets.bytes());
        let mut received = group.start_all_to_all(Buffer::new(packets, DType::U8))?.wait()?;
        self.serve(layout, divisor, received.bytes());
        let mut results = group.start_all_gather(received)?.wait()?;
        let outcome = layout.packets(results.bytes()).find_map(Fault::decode);
        if outcome.is_none() {
            layout.unpack(results.bytes(), values);
            std::mem::swap(&mut self.kept, &mut self.next);
        }
        self.packets = Some(results.into_region());
        outcome.map_or(Ok(()), |fault| Err(Error::invalid(fault.to_string())))
    }

    /// What the sum is divided by.
    fn divisor(&self, group: &dyn Communicator, op: ReduceOp) -> Result<Option<f32>, Error> {
        match op {
            ReduceOp::Sum => Ok(None),
            ReduceOp::Mean => Ok(Some(group.size() as f32)),
            other => Err(Error::invalid(format!("only a sum or mean can be compressed, not {}", other.name()))),
        }
    }

    /// Checks that the state is for this buffer and this group.
    fn layout(&mut self, group: &dyn Communicator, elements: usize) -> Result<Layout, Error> {
        let (rank, size) = (group.rank(), group.size());
        let expected = self.kept.worker.high.len();
        if elements != expected {
            return Err(Error::invalid(format!("the error feedback is for {expected} elements, not {elements}")));
        }
        match self.kept.place {
            Some((known, world)) if (known, world) != (rank, size) => {
                return Err(Error::invalid(format!(
                    "the error feedback is of rank {known} of {world}, and this is rank {rank} of {size}: begin anew"
                )));
            }
            Some(_) => {}
            None => {
                for residuals in [&mut self.kept, &mut self.next] {
                    residuals.server = Residual::zero(chunk(elements, size, rank).len());
                    residuals.place = Some((rank, size));
                }
            }
        }
        Ok(Layout { codec: self.codec, elements, rank, size })
    }

    fn take_packets(&mut self, layout: Layout) -> Box<dyn Region> {
        let length = layout.packet() * layout.size;
        let kept = self.packets.take().and_then(|mut region| (region.bytes().len() == length).then_some(region));
        kept.unwrap_or_else(|| Box::new(vec![0; length]))
    }

    /// Step 1: fills the packets for all ranks.
    fn send(&mut self, layout: Layout, values: &[f32], packets: &mut [u8]) {
        let mut fault = None;
        let (old, new) = (&self.kept.worker, &mut self.next.worker);
        let mut scratch = Scratch::new();
        for (number, packet) in layout.packets_mut(packets).enumerate() {
            let range = chunk(layout.elements, layout.size, number);
            for (at, code) in layout.blocks(range.len()) {
                let place = range.start + at.start..range.start + at.end;
                let input = part(values, &place);
                let (scale, bits) = code.of_mut(packet);
                let (high, low) = (part(&old.high, &place), part(&old.low, &place));
                let residual = (part_mut(&mut new.high, &place), part_mut(&mut new.low, &place));
                if !scratch.compress(layout.codec, input, (high, low), scale, bits, residual) && fault.is_none() {
                    fault = Fault::find(input, high, low, place.start, Some(layout.rank));
                }
            }
        }
        for packet in layout.packets_mut(packets) {
            Fault::encode(fault, packet);
        }
    }

    /// Step 3: adds this rank's chunk of all ranks, and leaves the result where this rank's own packet was.
    ///
    /// In place: a block of the own packet is read before the result's block, which is as long, takes its place.
    fn serve(&mut self, layout: Layout, divisor: Option<f32>, packets: &mut [u8]) {
        let mut fault = layout.packets(packets).find_map(Fault::decode);
        let range = chunk(layout.elements, layout.size, layout.rank);
        let (old, new) = (&self.kept.server, &mut self.next.server);
        let (mut scratch, mut sum) = (Scratch::new(), [0.0; BLOCK]);
        for (at, code) in layout.blocks(range.len()) {
            if fault.is_some() {
                break;
            }
            let sum = part_mut(&mut sum, &(0..at.len()));
            for (number, packet) in layout.packets(packets).enumerate() {
                let (scale, bits) = code.of(packet);
                let fill = if number == 0 { Fill::Set } else { Fill::Add };
                layout.codec.expand(scale, bits, sum, fill);
            }
            if let Some(divisor) = divisor {
                sum.iter_mut().for_each(|value| *value /= divisor);
            }
            let own = part_mut(packets, &layout.place(layout.rank));
            let (scale, bits) = code.of_mut(own);
            let (high, low) = (part(&old.high, &at), part(&old.low, &at));
            let residual = (part_mut(&mut new.high, &at), part_mut(&mut new.low, &at));
            if !scratch.compress(layout.codec, sum, (high, low), scale, bits, residual) {
                fault = Fault::find(sum, high, low, range.start + at.start, None);
            }
        }
        Fault::encode(fault, part_mut(packets, &layout.place(layout.rank)));
    }
}

impl fmt::Debug for ErrorFeedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorFeedback")
            .field("codec", &self.codec)
            .field("elements", &self.kept.worker.high.len())
            .field("place", &self.kept.place)
            .finish_non_exhaustive()
    }
}
