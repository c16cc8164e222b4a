//! All-reduce in two levels: inside each machine first, then between the machines.
//!
//! # Algorithm
//! S is the buffer's length, m the number of machines, l the ranks of each.
//! - **Machines with equally many ranks**: the ranks of a machine reduce-scatter; the ranks with the same place on their
//!   machines all-reduce their chunk; the ranks of a machine all-gather. Each machine sends 2 (m - 1) / m · S, however many
//!   ranks it has; a flat ring sends 2 (m l - 1) / (m l) · S, and takes m l steps where this takes m.
//! - **Else** the ranks of a machine all-reduce, the first of each machine all-reduce, and pass the result on.
//!
//! # Bits
//! All ranks end with the same bits, but the order of summation is another than the flat one and depends on where the
//! ranks are. Each of the n - 1 additions rounds once, in either order: both results lie within (n - 1) units in the last
//! place of the sum of the absolute values, so they differ by no more than twice that. That is why it is asked for by
//! name: training that should not depend on the placement uses the flat group.
//!
//! # Failing
//! An error comes from one of the levels, and its ranks are counted there. A rank that fails leaves both levels, so that the
//! failure reaches all ranks.
//!
//! A thread carries the operations out one after another, so that they go on while the caller computes.

use crate::buffer::Buffer;
use crate::communicator::{Communicator, Pending, Work};
use crate::error::Error;
use crate::operation::{Operation, Wire, chunk_range};
use crate::reduce::{self, ReduceOp};
use crate::transport::{Place, Reach};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// All-reduce in two levels: inside each machine first, then between the machines.
///
/// All ranks end with the same bits, but not those of the flat group: additions associate otherwise, and results differ by
/// up to 2 (n - 1) units in the last place of the sum of the absolute values. Each machine sends 2 (m - 1) / m times the
/// buffer's length where m machines have equally many ranks.
pub struct Hierarchy {
    rank: usize,
    size: usize,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Levels {
    size: usize,
    /// The ranks of this machine.
    machine: Arc<dyn Communicator>,
    /// Ranks with the same place on every machine; or, where machines differ, the first of each, and none elsewhere.
    across: Option<Arc<dyn Communicator>>,
    even: bool,
}

struct Job {
    buffer: Buffer,
    operation: Operation,
    op: ReduceOp,
    answer: Sender<Result<Buffer, Error>>,
}

impl Hierarchy {
    /// Makes the two levels out of `group`, whose ranks all call this; `machine` names the machine that this rank is on
    /// (see [`Endpoint::machine`](crate::Endpoint)). Blocks until they are complete. The group's aborter ends both.
    pub fn new(group: &dyn Communicator, machine: &str) -> Result<Hierarchy, Error> {
        let names = group.start_all_gather_bytes(machine.as_bytes().to_vec())?.wait()?;
        let mut machines: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        for (rank, name) in names.iter().enumerate() {
            machines.entry(name).or_default().push(rank);
        }
        let own = machines.get(machine.as_bytes()).cloned().unwrap_or_default();
        let place = own.iter().position(|rank| *rank == group.rank()).unwrap_or(0);
        let even = machines.values().all(|ranks| ranks.len() == own.len());
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        // A machine's first rank names it; keys keep the order of the ranks.
        let color = number(own.first().copied().unwrap_or(0));
        let nobody = || Error::invalid("a split left this rank out");
        let inside = group.split(Some(color), 0)?.ok_or_else(nobody)?;
        let across = group.split((even || place == 0).then_some(number(place)), 0)?;
        let levels = Levels { size: group.size(), machine: inside, across, even };
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name(format!("kindling-hierarchy-{}", group.rank()))
            .spawn(move || levels.run(&queue))
            .map_err(|error| Error::io("starting the thread of a hierarchy", error))?;
        Ok(Hierarchy { rank: group.rank(), size: group.size(), jobs: Some(jobs), thread: Some(thread) })
    }

    /// As [`Communicator::start_all_reduce`], for buffers in the host's memory.
    pub fn start_all_reduce(&self, mut buffer: Buffer, op: ReduceOp) -> Result<Work, Error> {
        let place = Place { rank: self.rank, size: self.size, reach: Reach::Host };
        let operation = place.all_reduce(&mut buffer, op, Wire::Full)?;
        let (answer, awaited) = channel();
        let job = Job { buffer, operation, op, answer };
        match self.jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => Ok(Work::new(Awaited(awaited))),
            _ => Err(ended()),
        }
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        // The thread finishes what was started: every wait in it ends by itself.
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("rank {}: the thread of a hierarchy panicked", self.rank);
        }
    }
}

impl std::fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hierarchy").field("rank", &self.rank).finish_non_exhaustive()
    }
}

fn ended() -> Error {
    Error::io("reducing in two levels", std::io::Error::other("the hierarchy's thread has ended"))
}

struct Awaited(Receiver<Result<Buffer, Error>>);

impl Pending<Buffer> for Awaited {
    fn wait(self: Box<Self>) -> Result<Buffer, Error> {
        // The thread's own waits have deadlines, and it answers every job or ends.
        self.0.recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl Levels {
    fn run(self, queue: &Receiver<Job>) {
        let mut levels = Ok(self);
        for Job { buffer, operation, op, answer } in queue {
            let result = match &levels {
                Ok(levels) => levels.all_reduce(buffer, operation, op),
                Err(error) => Err(Error::clone(error)),
            };
            if let Err(error) = &result
                && levels.is_ok()
            {
                // Leaving both levels tells their ranks, of which some are in neither with the one that failed.
                levels = Err(error.clone());
            }
            // Whoever dropped the work does not wait for the answer.
            let _ = answer.send(result);
        }
    }

    fn all_reduce(&self, buffer: Buffer, operation: Operation, op: ReduceOp) -> Result<Buffer, Error> {
        // A mean is one division of the whole sum.
        let level = if op == ReduceOp::Mean { ReduceOp::Sum } else { op };
        let finish = |buffer: &mut Buffer| reduce::finish(op, operation.dtype, buffer.bytes(), self.size);
        if !self.even {
            let mut buffer = self.machine.start_all_reduce(buffer, level)?.wait()?;
            if let Some(across) = &self.across {
                buffer = across.start_all_reduce(buffer, level)?.wait()?;
                finish(&mut buffer);
            }
            return self.machine.start_broadcast(buffer, 0)?.wait();
        }
        let buffer = self.machine.start_reduce_scatter(buffer, level)?.wait()?;
        let elements = usize::try_from(operation.elements).unwrap_or(0);
        let own = chunk_range(elements, operation.dtype.size(), self.machine.size(), self.machine.rank());
        let mut buffer = buffer.windowed(Some(own));
        if let Some(across) = &self.across {
            buffer = across.start_all_reduce(buffer, level)?.wait()?;
        }
        finish(&mut buffer);
        self.machine.start_all_gather(buffer.windowed(None))?.wait()
    }
}
