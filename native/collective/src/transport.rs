//! What a transport has to provide. What an operation asks for is checked here, once for all of them.

use crate::abort::Aborter;
use crate::buffer::{Buffer, DType};
use crate::communicator::{Communicator, Gather, Work};
use crate::error::Error;
use crate::operation::{Kind, Operation, Wire};
use crate::record::Record;
use crate::reduce::ReduceOp;
use std::sync::Arc;

/// One rank's place in a group, as a transport sees it: every [`Communicator`] of this crate is one.
pub(crate) trait Transport: Send + Sync {
    fn place(&self) -> Place;

    /// Starts a checked operation of any kind that gives a buffer back: the barrier's is empty.
    fn start(&self, operation: Operation, buffer: Buffer) -> Result<Work, Error>;

    /// Starts a checked gathering of bytes.
    fn start_gather(&self, operation: Operation, bytes: Vec<u8>) -> Result<Gather, Error>;

    fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Arc<dyn Communicator>>, Error>;

    fn aborter(&self) -> Aborter;

    fn records(&self) -> Vec<Record>;
}

impl<T: Transport> Communicator for T {
    fn rank(&self) -> usize {
        self.place().rank
    }

    fn size(&self) -> usize {
        self.place().size
    }

    fn start_all_reduce_as(&self, mut buffer: Buffer, op: ReduceOp, wire: Wire) -> Result<Work, Error> {
        self.start(self.place().all_reduce(&mut buffer, op, wire)?, buffer)
    }

    fn start_reduce_scatter(&self, mut buffer: Buffer, op: ReduceOp) -> Result<Work, Error> {
        self.start(self.place().reduce_scatter(&mut buffer, op)?, buffer)
    }

    fn start_all_gather(&self, mut buffer: Buffer) -> Result<Work, Error> {
        self.start(self.place().all_gather(&mut buffer)?, buffer)
    }

    fn start_all_gather_bytes(&self, bytes: Vec<u8>) -> Result<Gather, Error> {
        self.start_gather(self.place().all_gather_bytes(&bytes)?, bytes)
    }

    fn start_broadcast(&self, mut buffer: Buffer, root: usize) -> Result<Work, Error> {
        self.start(self.place().broadcast(&mut buffer, root)?, buffer)
    }

    fn start_all_to_all(&self, mut buffer: Buffer) -> Result<Work, Error> {
        self.start(self.place().all_to_all(&mut buffer)?, buffer)
    }

    fn start_send(&self, mut buffer: Buffer, to: usize) -> Result<Work, Error> {
        self.start(self.place().send(&mut buffer, to)?, buffer)
    }

    fn start_receive(&self, mut buffer: Buffer, from: usize) -> Result<Work, Error> {
        self.start(self.place().receive(&mut buffer, from)?, buffer)
    }

    fn start_barrier(&self) -> Result<Work, Error> {
        self.start(Operation::plain(Kind::Barrier), Buffer::empty())
    }

    fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Arc<dyn Communicator>>, Error> {
        Transport::split(self, color, key)
    }

    fn aborter(&self) -> Aborter {
        Transport::aborter(self)
    }

    fn records(&self) -> Vec<Record> {
        Transport::records(self)
    }
}

/// The most that a rank can give to be gathered. The others learn the length from it, and believe it only up to here.
pub(crate) const LONGEST_PART: usize = 1 << 30;

/// Which memory a transport works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Host,
    Device,
}

/// A group's place in the world, as the checks of a start need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) reach: Reach,
}

impl Place {
    /// The all-reduce that `buffer` asks for, or why it cannot be one.
    pub(crate) fn all_reduce(self, buffer: &mut Buffer, op: ReduceOp, wire: Wire) -> Result<Operation, Error> {
        if wire != Wire::Full && (buffer.dtype() != DType::F32 || !matches!(op, ReduceOp::Sum | ReduceOp::Mean)) {
            let (op, dtype, wire) = (op.name(), buffer.dtype().name(), wire.dtype().name());
            return Err(Error::invalid(format!("only a sum or mean of f32 can travel as {wire}, not {op} of {dtype}")));
        }
        Ok(Operation { wire, ..self.reduction(buffer, op, Kind::AllReduce(op))? })
    }

    pub(crate) fn reduce_scatter(self, buffer: &mut Buffer, op: ReduceOp) -> Result<Operation, Error> {
        self.reduction(buffer, op, Kind::ReduceScatter(op))
    }

    fn reduction(self, buffer: &mut Buffer, op: ReduceOp, kind: Kind) -> Result<Operation, Error> {
        if op == ReduceOp::Mean && !buffer.dtype().is_float() {
            let dtype = buffer.dtype().name();
            return Err(Error::invalid(format!("a mean of {dtype} would be cut off: sum, and divide the sum")));
        }
        self.of(buffer, kind)
    }

    pub(crate) fn all_gather(self, buffer: &mut Buffer) -> Result<Operation, Error> {
        self.of(buffer, Kind::AllGather)
    }

    /// The gathering of bytes, or why there are too many.
    pub(crate) fn all_gather_bytes(self, bytes: &[u8]) -> Result<Operation, Error> {
        if bytes.len() > LONGEST_PART {
            let length = bytes.len();
            return Err(Error::invalid(format!("a rank can give {LONGEST_PART} bytes to be gathered, not {length}")));
        }
        Ok(Operation::plain(Kind::AllGatherBytes))
    }

    /// The broadcast that `buffer` asks for, or why it cannot be one.
    pub(crate) fn broadcast(self, buffer: &mut Buffer, root: usize) -> Result<Operation, Error> {
        let root = self.peer(root, "the root of a broadcast")?;
        self.of(buffer, Kind::Broadcast { root })
    }

    pub(crate) fn all_to_all(self, buffer: &mut Buffer) -> Result<Operation, Error> {
        let operation = self.of(buffer, Kind::AllToAll)?;
        if !operation.elements.is_multiple_of(self.size as u64) {
            let (elements, size) = (operation.elements, self.size);
            return Err(Error::invalid(format!("an all-to-all of {elements} elements has no {size} equal chunks")));
        }
        Ok(operation)
    }

    pub(crate) fn send(self, buffer: &mut Buffer, to: usize) -> Result<Operation, Error> {
        let kind = Kind::Transfer { from: self.number(), to: self.other(to, "the rank to send to")? };
        self.of(buffer, kind)
    }

    pub(crate) fn receive(self, buffer: &mut Buffer, from: usize) -> Result<Operation, Error> {
        let kind = Kind::Transfer { from: self.other(from, "the rank to receive from")?, to: self.number() };
        self.of(buffer, kind)
    }

    fn number(self) -> u32 {
        // A roster's length was checked to fit.
        u32::try_from(self.rank).unwrap_or(u32::MAX)
    }

    fn peer(self, rank: usize, what: &str) -> Result<u32, Error> {
        match u32::try_from(rank) {
            Ok(number) if rank < self.size => Ok(number),
            _ => Err(Error::invalid(format!("{what} must be a rank below {}, not {rank}", self.size))),
        }
    }

    fn other(self, rank: usize, what: &str) -> Result<u32, Error> {
        if rank == self.rank {
            return Err(Error::invalid(format!("{what} must be another rank than this one, {rank}")));
        }
        self.peer(rank, what)
    }

    fn of(self, buffer: &mut Buffer, kind: Kind) -> Result<Operation, Error> {
        let (dtype, bytes) = (buffer.dtype(), buffer.length());
        match (self.reach, buffer.device().is_some()) {
            (Reach::Host, true) => {
                return Err(Error::invalid("this group's transport cannot reach a buffer on a GPU: use NCCL"));
            }
            (Reach::Device, false) => {
                return Err(Error::invalid("NCCL cannot reach a buffer in the host's memory: use another transport"));
            }
            _ => {}
        }
        if !bytes.is_multiple_of(dtype.size()) {
            let (name, size) = (dtype.name(), dtype.size());
            return Err(Error::invalid(format!(
                "a buffer of {name} must hold a multiple of {size} bytes, not {bytes}"
            )));
        }
        Ok(Operation { kind, dtype, wire: Wire::Full, elements: (bytes / dtype.size()) as u64 })
    }
}
