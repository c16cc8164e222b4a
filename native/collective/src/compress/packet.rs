//! What travels: where a chunk's codes lie in a packet, and the fault that a packet can carry instead.

use super::codec::{BLOCK, Codec, Fill};
use super::residual::compensate;
use crate::operation::chunk;
use std::fmt;
use std::ops::Range;

/// Where things lie in the packets: one for each rank, all as long as the largest chunk needs.
///
/// A packet is a [`Fault`] (20 bytes), the blocks' scales (f32 each) and the blocks' codes, little endian.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) codec: Codec,
    pub(super) elements: usize,
    pub(super) rank: usize,
    pub(super) size: usize,
}

impl Layout {
    /// Elements of the largest chunk.
    fn largest(self) -> usize {
        chunk(self.elements, self.size, 0).len()
    }

    /// Bytes of a packet.
    pub(super) fn packet(self) -> usize {
        self.codes() + self.codec.bytes(self.largest())
    }

    /// Where the codes begin.
    fn codes(self) -> usize {
        Fault::ENCODED + 4 * self.largest().div_ceil(BLOCK)
    }

    pub(super) fn place(self, rank: usize) -> Range<usize> {
        self.packet() * rank..self.packet() * (rank + 1)
    }

    pub(super) fn packets(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.chunks_exact(self.packet())
    }

    pub(super) fn packets_mut(self, bytes: &mut [u8]) -> impl Iterator<Item = &mut [u8]> {
        bytes.chunks_exact_mut(self.packet())
    }

    /// The blocks of a chunk of `length` elements: which elements of the chunk, and where in the packet.
    pub(super) fn blocks(self, length: usize) -> impl Iterator<Item = (Range<usize>, Code)> {
        (0..length.div_ceil(BLOCK)).map(move |block| {
            let at = block * BLOCK..((block + 1) * BLOCK).min(length);
            let scale = Fault::ENCODED + 4 * block;
            let start = self.codes() + self.codec.bytes(at.start);
            (at.clone(), Code { scale: scale..scale + 4, bits: start..start + self.codec.bytes(at.len()) })
        })
    }

    /// Step 4: everyone's results.
    pub(super) fn unpack(self, packets: &[u8], values: &mut [f32]) {
        for (number, packet) in self.packets(packets).enumerate() {
            let range = chunk(self.elements, self.size, number);
            let values = part_mut(values, &range);
            for (at, code) in self.blocks(range.len()) {
                let (scale, bits) = code.of(packet);
                self.codec.expand(scale, bits, part_mut(values, &at), Fill::Set);
            }
        }
    }
}

/// Where a block's scale and codes lie in a packet.
pub(super) struct Code {
    pub(super) scale: Range<usize>,
    pub(super) bits: Range<usize>,
}

impl Code {
    pub(super) fn of<'a>(&self, packet: &'a [u8]) -> (f32, &'a [u8]) {
        let scale = part(packet, &self.scale).first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
        (scale, part(packet, &self.bits))
    }

    pub(super) fn of_mut<'a>(&self, packet: &'a mut [u8]) -> (&'a mut [u8], &'a mut [u8]) {
        let (front, back) = packet.split_at_mut_checked(self.bits.start).unwrap_or_default();
        (part_mut(front, &self.scale), part_mut(back, &(0..self.bits.len())))
    }
}

/// A slice that the layout says is there.
pub(super) fn part<'a, T>(slice: &'a [T], range: &Range<usize>) -> &'a [T] {
    debug_assert!(range.end <= slice.len(), "{range:?} of {}", slice.len());
    slice.get(range.clone()).unwrap_or_default()
}

pub(super) fn part_mut<'a, T>(slice: &'a mut [T], range: &Range<usize>) -> &'a mut [T] {
    debug_assert!(range.end <= slice.len(), "{range:?} of {}", slice.len());
    slice.get_mut(range.clone()).unwrap_or_default()
}

/// A number that cannot be compressed: the head of every packet says whether there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fault {
    /// The element, counted in the whole buffer.
    element: u64,
    /// Whose number it is; none for the sum of all ranks.
    rank: Option<u32>,
    value: f32,
}

impl Fault {
    /// u32: 0 for none, 1 for a rank's number, 2 for the sum; u32: the rank; u64: the element; f32: the value.
    const ENCODED: usize = 20;

    /// The first number of a block that is not finite with its residual.
    pub(super) fn find(values: &[f32], high: &[f32], low: &[f32], start: usize, rank: Option<usize>) -> Option<Fault> {
        let sums =
            values.iter().zip(high.iter().zip(low)).map(|(value, (high, low))| compensate(*value, *high, *low).0);
        let at = sums.zip(values).position(|(sum, value)| !sum.is_finite() || !value.is_finite())?;
        // A rank's number fits: a roster's length was checked.
        let rank = rank.map(|rank| u32::try_from(rank).unwrap_or(u32::MAX));
        Some(Fault { element: (start + at) as u64, rank, value: *values.get(at)? })
    }

    pub(super) fn encode(fault: Option<Fault>, packet: &mut [u8]) {
        let Some(head) = packet.first_chunk_mut::<{ Fault::ENCODED }>() else { return };
        *head = [0; Fault::ENCODED];
        let Some(fault) = fault else { return };
        let kind: u32 = if fault.rank.is_some() { 1 } else { 2 };
        let fields = [kind.to_le_bytes(), fault.rank.unwrap_or(0).to_le_bytes()].into_iter().flatten();
        let fields = fields.chain(fault.element.to_le_bytes()).chain(fault.value.to_le_bytes());
        head.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    }

    pub(super) fn decode(packet: &[u8]) -> Option<Fault> {
        let ([a, b, c, d, value], _) = packet.first_chunk::<{ Fault::ENCODED }>()?.as_chunks::<4>() else {
            return None;
        };
        let element = u64::from(u32::from_le_bytes(*c)) | u64::from(u32::from_le_bytes(*d)) << 32;
        let rank = match u32::from_le_bytes(*a) {
            0 => return None,
            1 => Some(u32::from_le_bytes(*b)),
            _ => None,
        };
        Some(Fault { element, rank, value: f32::from_le_bytes(*value) })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { element, rank, value } = self;
        match rank {
            Some(rank) if value.is_finite() => {
                write!(f, "element {element} of rank {rank}, {value}, overflows with what was kept of it")
            }
            Some(rank) => {
                write!(f, "element {element} of rank {rank} is {value}: only finite numbers can be compressed")
            }
            None => write!(f, "the sum of element {element} over the ranks overflows"),
        }
    }
}
