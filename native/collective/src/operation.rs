//! What a rank says it is doing: the part of an operation that every rank must agree on, and how a buffer is cut.

use crate::buffer::DType;
use crate::reduce::ReduceOp;
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// The kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The ranks of a new group telling each other that it is complete.
    Rendezvous,
    /// Reduce over all ranks, the result on every rank.
    AllReduce(ReduceOp),
    /// Reduce over all ranks, chunk r of the result on rank r.
    ReduceScatter(ReduceOp),
    /// Chunk r of rank r on every rank.
    AllGather,
    /// Every rank's bytes on every rank; their lengths may differ.
    AllGatherBytes,
    /// One rank's buffer on every rank.
    Broadcast {
        /// The rank that gives.
        root: u32,
    },
    /// Chunk r of every rank on rank r.
    AllToAll,
    /// One rank's buffer on one other rank; no other rank takes part.
    Transfer {
        /// The rank that sends.
        from: u32,
        /// The rank that receives.
        to: u32,
    },
    /// Nobody goes on before everybody has come.
    Barrier,
}

/// In what form the elements of an all-reduce of f32 travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As they are.
    #[default]
    Full,
    /// Rounded to f16 wherever they travel, summed in f32. The result is rounded to f16 on every rank. What is rounded on
    /// the way depends on the length and the transport, so the bits do too.
    F16,
    /// The same with bf16.
    BF16,
}

impl Wire {
    /// The type that travels in place of f32.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Wire::Full => DType::F32,
            Wire::F16 => DType::F16,
            Wire::BF16 => DType::BF16,
        }
    }
}

/// An operation as all ranks must have started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What is done.
    pub kind: Kind,
    /// The type of the elements; bytes where it does not matter.
    pub dtype: DType,
    /// In what form the elements travel.
    pub wire: Wire,
    /// How many elements each rank has; 0 where the ranks may differ.
    pub elements: u64,
}

impl Operation {
    /// Whether it concerns two ranks only.
    pub(crate) fn is_transfer(&self) -> bool {
        matches!(self.kind, Kind::Transfer { .. })
    }

    pub(crate) fn plain(kind: Kind) -> Operation {
        Operation { kind, dtype: DType::U8, wire: Wire::Full, elements: 0 }
    }

    /// Bytes of each rank's buffer; 0 where the ranks may differ.
    pub fn bytes(&self) -> u64 {
        self.elements.saturating_mul(self.dtype.size() as u64)
    }

    /// 20 bytes: kind, reduction, type, wire, two ranks (u32 each), elements (u64), all little endian.
    pub(crate) fn encode(&self) -> [u8; Self::ENCODED] {
        let (kind, reduce, first, second) = match self.kind {
            Kind::Rendezvous => (0, 0, 0, 0),
            Kind::AllReduce(op) => (1, op as u8, 0, 0),
            Kind::Broadcast { root } => (2, 0, root, 0),
            Kind::AllGatherBytes => (3, 0, 0, 0),
            Kind::Barrier => (4, 0, 0, 0),
            Kind::ReduceScatter(op) => (5, op as u8, 0, 0),
            Kind::AllGather => (6, 0, 0, 0),
            Kind::AllToAll => (7, 0, 0, 0),
            Kind::Transfer { from, to } => (8, 0, from, to),
        };
        let dtype = match self.dtype {
            DType::F32 => 0,
            DType::F64 => 1,
            DType::I64 => 2,
            DType::U8 => 3,
            DType::F16 => 4,
            DType::BF16 => 5,
            DType::I32 => 6,
        };
        let wire = match self.wire {
            Wire::Full => 0,
            Wire::F16 => 1,
            Wire::BF16 => 2,
        };
        let [a0, a1, a2, a3] = first.to_le_bytes();
        let [b0, b1, b2, b3] = second.to_le_bytes();
        let [e0, e1, e2, e3, e4, e5, e6, e7] = self.elements.to_le_bytes();
        [kind, reduce, dtype, wire, a0, a1, a2, a3, b0, b1, b2, b3, e0, e1, e2, e3, e4, e5, e6, e7]
    }

    pub(crate) const ENCODED: usize = 20;

    /// The operation of these bytes, which must be exactly what it is encoded as.
    pub(crate) fn decode(bytes: [u8; Self::ENCODED]) -> Option<Operation> {
        let [kind, reduce, dtype, wire, a0, a1, a2, a3, b0, b1, b2, b3, elements @ ..] = bytes;
        let reduce = match reduce {
            0 => ReduceOp::Sum,
            1 => ReduceOp::Max,
            2 => ReduceOp::Min,
            3 => ReduceOp::Mean,
            _ => return None,
        };
        let (first, second) = (u32::from_le_bytes([a0, a1, a2, a3]), u32::from_le_bytes([b0, b1, b2, b3]));
        let kind = match kind {
            0 => Kind::Rendezvous,
            1 => Kind::AllReduce(reduce),
            2 => Kind::Broadcast { root: first },
            3 => Kind::AllGatherBytes,
            4 => Kind::Barrier,
            5 => Kind::ReduceScatter(reduce),
            6 => Kind::AllGather,
            7 => Kind::AllToAll,
            8 => Kind::Transfer { from: first, to: second },
            _ => return None,
        };
        let dtype = match dtype {
            0 => DType::F32,
            1 => DType::F64,
            2 => DType::I64,
            3 => DType::U8,
            4 => DType::F16,
            5 => DType::BF16,
            6 => DType::I32,
            _ => return None,
        };
        let wire = match wire {
            0 => Wire::Full,
            1 => Wire::F16,
            2 => Wire::BF16,
            _ => return None,
        };
        let operation = Operation { kind, dtype, wire, elements: u64::from_le_bytes(elements) };
        // Nothing may stand where the kind has no meaning for it: a flip there would pass unseen.
        (operation.encode() == bytes).then_some(operation)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dtype, elements) = (self.dtype.name(), self.elements);
        match self.kind {
            Kind::Rendezvous => write!(f, "rendezvous"),
            Kind::AllReduce(op) => write!(f, "all-reduce ({}) of {elements} {dtype}", op.name()),
            Kind::ReduceScatter(op) => write!(f, "reduce-scatter ({}) of {elements} {dtype}", op.name()),
            Kind::AllGather => write!(f, "all-gather of {elements} {dtype}"),
            Kind::AllGatherBytes => write!(f, "all-gather of bytes"),
            Kind::Broadcast { root } => write!(f, "broadcast from rank {root} of {elements} {dtype}"),
            Kind::AllToAll => write!(f, "all-to-all of {elements} {dtype}"),
            Kind::Transfer { from, to } => write!(f, "transfer from rank {from} to rank {to} of {elements} {dtype}"),
            Kind::Barrier => write!(f, "barrier"),
        }?;
        match self.wire {
            Wire::Full => Ok(()),
            other => write!(f, " (as {} on the wire)", other.dtype().name()),
        }
    }
}

/// The elements of chunk `chunk` when `elements` are cut into `world` nearly equal chunks: the first ones have one more.
///
/// This is how reduce-scatter, all-gather and all-to-all cut a buffer.
pub fn chunk(elements: usize, world: usize, chunk: usize) -> Range<usize> {
    let world = world.max(1);
    let (each, more) = (elements / world, elements % world);
    let start = |chunk: usize| chunk * each + chunk.min(more);
    start(chunk)..start(chunk + 1)
}

/// The same in bytes, for elements of `size` bytes.
pub(crate) fn chunk_range(elements: usize, size: usize, world: usize, number: usize) -> Range<usize> {
    let range = chunk(elements, world, number);
    range.start * size..range.end * size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once_and_differ_by_at_most_one() {
        for world in 1..=9 {
            for elements in [0, 1, 2, 7, 8, 9, 1000, 100_003] {
                let chunks: Vec<_> = (0..world).map(|chunk| chunk_range(elements, 4, world, chunk)).collect();
                assert_eq!(chunks[0].start, 0);
                assert_eq!(chunks[world - 1].end, elements * 4);
                assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
                let longest = chunks.iter().map(|chunk| chunk.len()).max().unwrap();
                let shortest = chunks.iter().map(|chunk| chunk.len()).min().unwrap();
                assert!(longest - shortest <= 4);
            }
        }
    }

    #[test]
    fn an_operation_survives_the_wire() {
        let reductions = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min];
        let mut kinds = vec![
            Kind::Rendezvous,
            Kind::Broadcast { root: 70_000 },
            Kind::AllGather,
            Kind::AllGatherBytes,
            Kind::AllToAll,
            Kind::Transfer { from: 3, to: 70_000 },
            Kind::Barrier,
        ];
        kinds.extend(reductions.map(Kind::AllReduce));
        kinds.extend(reductions.map(Kind::ReduceScatter));
        for kind in kinds {
            for dtype in DType::ALL {
                for wire in [Wire::Full, Wire::F16, Wire::BF16] {
                    let operation = Operation { kind, dtype, wire, elements: 1 << 40 };
                    assert_eq!(Operation::decode(operation.encode()), Some(operation));
                }
            }
        }
        assert_eq!(Operation::decode([9; Operation::ENCODED]), None);
        let mut odd = Operation::plain(Kind::Barrier).encode();
        odd[1] = 1;
        assert_eq!(Operation::decode(odd), None, "a barrier has no reduction");
    }
}
