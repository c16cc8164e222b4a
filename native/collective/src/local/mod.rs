//! The local transport: the ranks of a group are threads of one process.

mod group;
mod lent;

use crate::abort::{Abort, Aborter};
use crate::buffer::Buffer;
use crate::cause::Cause;
use crate::communicator::{self, Communicator, Gather, Pending, Work};
use crate::connect::{Endpoint, Options};
use crate::error::Error;
use crate::lock;
use crate::operation::{Kind, Operation};
use crate::reduce::ReduceOp;
use crate::secret::Secret;
use group::{Deposit, Group, Meeting};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Groups that are assembling, by run and attempt.
///
/// Process-wide because that is what it is for: ranks are opened one by one, by threads that share nothing but the
/// process, and must find each other in it. An entry lives from the first rank's arrival until the group is complete
/// or abandoned, so nothing of a finished run stays.
static ASSEMBLING: Mutex<BTreeMap<(String, u32), Entry>> = Mutex::new(BTreeMap::new());

struct Entry {
    group: Arc<Group>,
    secret: Secret,
}

/// A rank's place: leaving the group is dropping it.
struct Seat {
    group: Arc<Group>,
    rank: usize,
    timeout: Duration,
    /// The rank's first failure: its answer to every later call.
    failure: OnceLock<Error>,
}

impl Seat {
    fn kept<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| self.failure.get_or_init(|| error).clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.group.leave(self.rank);
    }
}

impl Abort for Seat {
    fn abort(&self, reason: &str) {
        self.group.fail(Cause::Aborted { rank: self.rank, reason: reason.to_owned() });
    }
}

struct Local {
    seat: Arc<Seat>,
    aborter: Aborter,
}

/// Joins the group of `options.run` and `options.attempt` in this process, and waits until it is complete.
pub(crate) fn connect(
    roster: &[Endpoint],
    options: Options,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let began = Instant::now();
    let rank = options.rank;
    let key = (options.run, options.attempt);
    let endpoints: Vec<String> = roster.iter().map(Endpoint::to_string).collect();
    let group = {
        let mut assembling = lock(&ASSEMBLING);
        let entry = assembling.entry(key.clone()).or_insert_with(|| Entry {
            group: Arc::new(Group::new(endpoints.clone())),
            secret: options.secret.clone(),
        });
        if entry.secret != options.secret {
            let reason = "and this rank were given different secrets".into();
            let endpoint = endpoints.get(rank).cloned().unwrap_or_default();
            return Err(Error::Refused { rank, endpoint, reason });
        }
        if entry.group.endpoints() != endpoints {
            return Err(Error::invalid(format!(
                "rank {rank} was given a roster that differs from the one of the ranks that came before"
            )));
        }
        if !entry.group.enter(rank) {
            return Err(Error::invalid(format!("rank {rank} of run {} attempt {} has connected before", key.0, key.1)));
        }
        let group = Arc::clone(&entry.group);
        if group.complete() {
            assembling.remove(&key);
        }
        group
    };
    let seat = Arc::new(Seat { group, rank, timeout: options.operation_timeout, failure: OnceLock::new() });
    aborter.notify(&seat);
    let assembled = seat.group.assemble(began, options.rendezvous_timeout);
    if assembled.is_err() {
        let mut assembling = lock(&ASSEMBLING);
        if assembling.get(&key).is_some_and(|entry| Arc::ptr_eq(&entry.group, &seat.group)) {
            assembling.remove(&key);
        }
    }
    assembled.map(|()| Arc::new(Local { seat, aborter: aborter.clone() }) as Arc<dyn Communicator>)
}

impl Local {
    fn start(&self, operation: Operation, deposit: Deposit) -> Result<LocalPending, Error> {
        let began = Instant::now();
        let meeting = self.seat.kept(self.seat.group.start(self.seat.rank, operation, deposit))?;
        Ok(LocalPending { seat: Arc::clone(&self.seat), meeting, began })
    }
}

impl Communicator for Local {
    fn rank(&self) -> usize {
        self.seat.rank
    }

    fn size(&self) -> usize {
        self.seat.group.size()
    }

    fn start_all_reduce(&self, mut buffer: Buffer, op: ReduceOp) -> Result<Work, Error> {
        let operation = communicator::all_reduce(&mut buffer, op)?;
        self.start(operation, Deposit::Buffer(buffer)).map(Work::new)
    }

    fn start_broadcast(&self, mut buffer: Buffer, root: usize) -> Result<Work, Error> {
        let operation = communicator::broadcast(&mut buffer, root, self.size())?;
        self.start(operation, Deposit::Buffer(buffer)).map(Work::new)
    }

    fn start_all_gather(&self, bytes: Vec<u8>) -> Result<Gather, Error> {
        self.start(Operation::plain(Kind::AllGather), Deposit::Bytes(bytes)).map(Gather::new)
    }

    fn start_barrier(&self) -> Result<Work, Error> {
        self.start(Operation::plain(Kind::Barrier), Deposit::Nothing).map(Work::new)
    }

    fn aborter(&self) -> Aborter {
        self.aborter.clone()
    }
}

/// A started operation; it keeps the rank's seat, so that the rank has not left while a work is held.
struct LocalPending {
    seat: Arc<Seat>,
    meeting: Arc<Meeting>,
    began: Instant,
}

impl Pending<Buffer> for LocalPending {
    fn wait(self: Box<Self>) -> Result<Buffer, Error> {
        let seat = &self.seat;
        seat.kept(seat.group.finish_buffer(seat.rank, &self.meeting, self.began, seat.timeout))
    }
}

impl Pending<Vec<Vec<u8>>> for LocalPending {
    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, Error> {
        let seat = &self.seat;
        seat.kept(seat.group.finish_parts(&self.meeting, self.began, seat.timeout))
    }
}
