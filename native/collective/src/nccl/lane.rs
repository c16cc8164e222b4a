//! One NCCL communicator with the operations that go over it, in their order.
//!
//! # States
//! ```text
//! Nameless ──(the other rank's id comes)──▶ Named ──(join)──▶ Joining ──(complete)──▶ Ready
//! ```
//! A job waits in `queue` until the lane is ready and NCCL has finished taking in the job before; while NCCL takes it
//! in (it may have to connect to a peer first) it is in `settling`; then an event is put behind it on the lane's stream
//! and it is in `running` until the event has come. [`Lane::pump`] moves everything on as far as it goes. It never
//! blocks; whoever waits calls it again, and so does the watch, for works that nobody waits for.
//!
//! # Streams
//! A lane has a stream of its own. At the start an event is recorded on the region's stream and the lane's stream
//! waits for it: so NCCL reads after what the caller had put there, and the caller's stream is free to compute while
//! NCCL works. Nothing has to be ordered afterwards on the region's stream, because the region is given back only when
//! the operation is over.
//!
//! One lane carries the group's operations. Each direction between two ranks has another, with a communicator of two:
//! on one communicator a send that waits for its receiver would hold up the receive behind it, and two ranks that send
//! to each other first would wait for ever.

use super::api::{Api, Comm, Event, Fault, Progress, Span, Stream};
use super::ledger;
use super::table::UniqueId;
use crate::buffer::Buffer;
use crate::lock;
use crate::operation::{Kind, Operation, chunk};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Where a finished job's buffer waits for the work's owner. If there is none any more it is dropped.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Buffer>>);

impl Slot {
    pub(super) fn take(&self) -> Option<Buffer> {
        lock(&self.0).take()
    }
}

/// An operation on its way.
pub(super) struct Job {
    pub(super) operation: Operation,
    pub(super) sequence: u64,
    pub(super) began: Instant,
    /// The recorder's.
    pub(super) ticket: u64,
    pub(super) buffer: Buffer,
    pub(super) slot: Arc<Slot>,
    /// First what the region's stream had to do before, then what the lane's stream has to do.
    pub(super) event: Event,
    /// What an all-to-all sends from.
    pub(super) copy: Option<Span>,
}

impl Job {
    pub(super) fn new(operation: Operation, sequence: u64, ticket: u64, buffer: Buffer, event: Event) -> Job {
        let (began, slot) = (Instant::now(), Arc::default());
        Job { operation, sequence, began, ticket, buffer, slot, event, copy: None }
    }

    fn span(&self) -> Span {
        let address = self.buffer.device().map_or(0, |region| region.address());
        // A region's length is a usize, and the elements are fewer than its bytes.
        let elements = usize::try_from(self.operation.elements).unwrap_or(0);
        Span { address, elements, dtype: self.operation.dtype }
    }
}

pub(super) enum Phase {
    Nameless,
    Named(UniqueId),
    Joining(Comm),
    Ready(Comm),
}

pub(super) struct Lane {
    pub(super) name: ledger::Lane,
    rank: usize,
    world: usize,
    pub(super) phase: Phase,
    stream: Stream,
    queue: VecDeque<Job>,
    settling: Option<Job>,
    running: VecDeque<Job>,
}

/// What is left of a lane when its group ends.
pub(super) struct Remains {
    pub(super) comm: Option<Comm>,
    /// Whether the communicator was complete.
    pub(super) complete: bool,
    pub(super) stream: Stream,
    pub(super) jobs: Vec<Job>,
}

impl Lane {
    /// A lane on the current device, where this rank is `rank` of `world`.
    pub(super) fn new(api: &Api, name: ledger::Lane, rank: usize, world: usize, phase: Phase) -> Result<Lane, Fault> {
        let stream = api.stream()?;
        Ok(Lane { name, rank, world, phase, stream, queue: VecDeque::new(), settling: None, running: VecDeque::new() })
    }

    pub(super) fn push(&mut self, job: Job) {
        self.queue.push_back(job);
    }

    /// The communicator, if it is complete.
    pub(super) fn comm(&self) -> Option<&Comm> {
        match &self.phase {
            Phase::Ready(comm) => Some(comm),
            Phase::Nameless | Phase::Named(_) | Phase::Joining(_) => None,
        }
    }

    /// The job that has waited longest.
    pub(super) fn oldest(&self) -> Option<&Job> {
        self.running.front().or(self.settling.as_ref()).or(self.queue.front())
    }

    pub(super) fn idle(&self) -> bool {
        self.oldest().is_none()
    }

    /// Moves everything on as far as it goes, on the current device. Calls `finished` with each ticket that is over.
    pub(super) fn pump(&mut self, api: &Api, mut finished: impl FnMut(u64)) -> Result<(), Fault> {
        if let Phase::Named(id) = self.phase {
            self.phase = Phase::Joining(api.join(id, self.rank, self.world)?);
        }
        let comm = match std::mem::replace(&mut self.phase, Phase::Nameless) {
            Phase::Joining(comm) => match api.state(&comm) {
                Ok(Progress::Done) => comm,
                // Broken or not, it is kept: it must be aborted.
                other => {
                    self.phase = Phase::Joining(comm);
                    return other.map(|_| ());
                }
            },
            Phase::Ready(comm) => comm,
            unready => {
                self.phase = unready;
                return Ok(());
            }
        };
        let pumped = self.pump_ready(api, &comm, &mut finished);
        self.phase = Phase::Ready(comm);
        pumped
    }

    fn pump_ready(&mut self, api: &Api, comm: &Comm, finished: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        // Also tells whether NCCL's own threads have met an error, which concerns an idle lane too.
        let mut progress = api.state(comm)?;
        loop {
            if progress == Progress::Going {
                break;
            }
            if let Some(mut job) = self.settling.take() {
                let settled = self.settled(api, &mut job);
                self.running.push_back(job);
                settled?;
            }
            let Some(mut job) = self.queue.pop_front() else { break };
            let taken = self.enqueue(api, comm, &mut job);
            // Also a job that NCCL refused half-way may have begun to write: the abort comes first.
            self.settling = Some(job);
            progress = taken?;
        }
        while let Some(job) = self.running.front()
            && api.come(&job.event)?
            && let Some(job) = self.running.pop_front()
        {
            finished(job.ticket);
            *lock(&job.slot.0) = Some(job.buffer);
            api.destroy_event(job.event);
        }
        Ok(())
    }

    /// NCCL has put the job on the stream; what comes behind it follows.
    fn settled(&self, api: &Api, job: &mut Job) -> Result<(), Fault> {
        if let Some(copy) = job.copy.take() {
            api.free(copy, &self.stream)?;
        }
        api.record(&job.event, &self.stream)
    }

    fn enqueue(&self, api: &Api, comm: &Comm, job: &mut Job) -> Result<Progress, Fault> {
        let (stream, whole) = (&self.stream, job.span());
        api.follow(stream, &job.event)?;
        if whole.elements == 0 {
            return Ok(Progress::Done);
        }
        let part = |rank: usize| whole.part(chunk(whole.elements, self.world, rank));
        let parts = || (0..self.world).map(|rank| (rank, part(rank))).filter(|(_, part)| part.elements > 0);
        let equal = whole.elements.is_multiple_of(self.world.max(1));
        match job.operation.kind {
            Kind::AllReduce(op) => api.all_reduce(whole, op, comm, stream),
            Kind::ReduceScatter(op) if equal => api.reduce_scatter(whole, part(self.rank), op, comm, stream),
            // NCCL's own takes equal chunks only.
            Kind::ReduceScatter(op) => api.grouped(comm, || {
                parts().try_for_each(|(rank, part)| api.reduce(part, op, rank, comm, stream).map(drop))
            }),
            Kind::AllGather if equal => api.all_gather(whole, part(self.rank), comm, stream),
            Kind::AllGather => api.grouped(comm, || {
                parts().try_for_each(|(rank, part)| api.broadcast(part, rank, comm, stream).map(drop))
            }),
            Kind::Broadcast { root } => api.broadcast(whole, usize::try_from(root).unwrap_or(usize::MAX), comm, stream),
            Kind::AllToAll => {
                // What is received would overwrite what has not been sent yet.
                let copy = api.copied(whole, stream)?;
                job.copy = Some(copy);
                api.grouped(comm, || {
                    parts().filter(|(peer, _)| *peer != self.rank).try_for_each(|(peer, part)| {
                        api.send(copy.part(chunk(whole.elements, self.world, peer)), peer, comm, stream)?;
                        api.receive(part, peer, comm, stream).map(drop)
                    })
                })
            }
            Kind::Transfer { .. } if self.rank == 0 => api.send(whole, 1, comm, stream),
            Kind::Transfer { .. } => api.receive(whole, 0, comm, stream),
            // These go over the bootstrap group and never come here.
            Kind::Rendezvous | Kind::AllGatherBytes | Kind::Barrier => Ok(Progress::Done),
        }
    }

    pub(super) fn into_remains(self) -> Remains {
        let complete = self.comm().is_some();
        let comm = match self.phase {
            Phase::Joining(comm) | Phase::Ready(comm) => Some(comm),
            Phase::Nameless | Phase::Named(_) => None,
        };
        let jobs = self.running.into_iter().chain(self.settling).chain(self.queue).collect();
        Remains { comm, complete, stream: self.stream, jobs }
    }
}
