//! What a rank says it is doing: the part of an operation that every rank must agree on, and how a buffer is cut.

use crate::buffer::DType;
use crate::reduce::ReduceOp;
use std::fmt;
use std::ops::Range;

/// The kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The ranks of a new ring telling each other that it is closed.
    Rendezvous,
    /// Reduce over all ranks, the result on every rank.
    AllReduce(ReduceOp),
    /// One rank's buffer on every rank.
    Broadcast {
        /// The rank that gives.
        root: u32,
    },
    /// Every rank's bytes on every rank; their lengths may differ.
    AllGather,
    /// Nobody goes on before everybody has come.
    Barrier,
}

/// An operation as all ranks must have started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What is done.
    pub kind: Kind,
    /// The type of the elements; bytes where it does not matter.
    pub dtype: DType,
    /// How many elements each rank has; 0 where the ranks may differ.
    pub elements: u64,
}

impl Operation {
    pub(crate) fn plain(kind: Kind) -> Operation {
        Operation { kind, dtype: DType::U8, elements: 0 }
    }

    /// 16 bytes: kind, reduction, type, a zero, root (u32), elements (u64), all little endian.
    pub(crate) fn encode(&self) -> [u8; Self::ENCODED] {
        let (kind, reduce, root) = match self.kind {
            Kind::Rendezvous => (0, 0, 0),
            Kind::AllReduce(op) => (1, op as u8, 0),
            Kind::Broadcast { root } => (2, 0, root),
            Kind::AllGather => (3, 0, 0),
            Kind::Barrier => (4, 0, 0),
        };
        let dtype = match self.dtype {
            DType::F32 => 0,
            DType::F64 => 1,
            DType::I64 => 2,
            DType::U8 => 3,
        };
        let [r0, r1, r2, r3] = root.to_le_bytes();
        let [e0, e1, e2, e3, e4, e5, e6, e7] = self.elements.to_le_bytes();
        [kind, reduce, dtype, 0, r0, r1, r2, r3, e0, e1, e2, e3, e4, e5, e6, e7]
    }

    pub(crate) const ENCODED: usize = 16;

    pub(crate) fn decode(bytes: [u8; Self::ENCODED]) -> Option<Operation> {
        let [kind, reduce, dtype, _, r0, r1, r2, r3, elements @ ..] = bytes;
        let reduce = match reduce {
            0 => ReduceOp::Sum,
            1 => ReduceOp::Max,
            2 => ReduceOp::Min,
            _ => return None,
        };
        let kind = match kind {
            0 => Kind::Rendezvous,
            1 => Kind::AllReduce(reduce),
            2 => Kind::Broadcast { root: u32::from_le_bytes([r0, r1, r2, r3]) },
            3 => Kind::AllGather,
            4 => Kind::Barrier,
            _ => return None,
        };
        let dtype = match dtype {
            0 => DType::F32,
            1 => DType::F64,
            2 => DType::I64,
            3 => DType::U8,
            _ => return None,
        };
        Some(Operation { kind, dtype, elements: u64::from_le_bytes(elements) })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dtype, elements) = (self.dtype.name(), self.elements);
        match self.kind {
            Kind::Rendezvous => write!(f, "rendezvous"),
            Kind::AllReduce(op) => write!(f, "all-reduce ({}) of {elements} {dtype}", op.name()),
            Kind::Broadcast { root } => write!(f, "broadcast from rank {root} of {elements} {dtype}"),
            Kind::AllGather => write!(f, "all-gather"),
            Kind::Barrier => write!(f, "barrier"),
        }
    }
}

/// The bytes of chunk `chunk` when `elements` elements of `size` bytes are cut into `world` nearly equal chunks.
pub(crate) fn chunk_range(elements: usize, size: usize, world: usize, chunk: usize) -> Range<usize> {
    let (each, more) = (elements / world, elements % world);
    let start = |chunk: usize| (chunk * each + chunk.min(more)) * size;
    start(chunk)..start(chunk + 1)
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
        for kind in [
            Kind::Rendezvous,
            Kind::AllReduce(ReduceOp::Sum),
            Kind::AllReduce(ReduceOp::Max),
            Kind::AllReduce(ReduceOp::Min),
            Kind::Broadcast { root: 70_000 },
            Kind::AllGather,
            Kind::Barrier,
        ] {
            for dtype in [DType::F32, DType::F64, DType::I64, DType::U8] {
                let operation = Operation { kind, dtype, elements: 1 << 40 };
                assert_eq!(Operation::decode(operation.encode()), Some(operation));
            }
        }
        assert_eq!(Operation::decode([9; 16]), None);
    }
}
