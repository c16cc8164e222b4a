//! The local transport: the ranks of a group are threads of one process.

mod group;
mod lent;

use crate::abort::{Abort, Aborter};
use crate::buffer::Buffer;
use crate::cause::Cause;
use crate::communicator::{Communicator, Gather, Pending, Work};
use crate::connect::{Endpoint, Listener, Options};
use crate::error::Error;
use crate::lock;
use crate::operation::{Kind, Operation};
use crate::record::{Record, RecordState, Recorder, Report};
use crate::secret::Secret;
use crate::split::{self, Origin};
use crate::transport::{Place, Reach, Transport};
use group::{Deposit, Group, Meeting, Patience};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

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
    patience: Patience,
    /// The rank's first failure: its answer to every later call.
    failure: OnceLock<Error>,
    recorder: Mutex<Recorder>,
    report: Report,
}

impl Seat {
    /// The result, or the first failure. Notes what became of the operation.
    fn kept<T>(&self, result: Result<T, Error>, ticket: u64) -> Result<T, Error> {
        let error = match result {
            Ok(result) => {
                lock(&self.recorder).end(ticket, RecordState::Finished);
                return Ok(result);
            }
            Err(error) => error,
        };
        let mut recorder = lock(&self.recorder);
        recorder.end(ticket, RecordState::Failed);
        let first = self.failure.get().is_none();
        let error = self.failure.get_or_init(|| error).clone();
        if first {
            self.report.write(&recorder.records(), &error);
        }
        Err(error)
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
    origin: Origin,
}

/// Joins the group of `options.run` and `options.attempt` in this process, and waits until it is complete.
pub(crate) fn connect(
    listener: &Listener,
    roster: &[Endpoint],
    options: Options,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let began = Instant::now();
    let rank = options.rank;
    let origin = Origin::of(listener, roster, &options);
    let report = Report::of(&options, roster.len());
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
    let patience = Patience { timeout: options.operation_timeout, stall_warning: options.stall_warning };
    let (failure, recorder) = (OnceLock::new(), Mutex::new(Recorder::new()));
    let seat = Arc::new(Seat { group, rank, patience, failure, recorder, report });
    aborter.notify(&seat);
    let assembled = seat.group.assemble(began, options.rendezvous_timeout);
    if assembled.is_err() {
        let mut assembling = lock(&ASSEMBLING);
        if assembling.get(&key).is_some_and(|entry| Arc::ptr_eq(&entry.group, &seat.group)) {
            assembling.remove(&key);
        }
    }
    assembled.map(|()| Arc::new(Local { seat, aborter: aborter.clone(), origin }) as Arc<dyn Communicator>)
}

impl Local {
    fn arrive(&self, operation: Operation, deposit: Deposit) -> Result<LocalPending, Error> {
        let (seat, began) = (&self.seat, Instant::now());
        let started = seat.group.start(seat.rank, operation, deposit);
        let sequence = started.as_ref().map_or(0, |meeting| meeting.sequence);
        let ticket = lock(&seat.recorder).begin(sequence, operation, operation.bytes());
        match started {
            Ok(meeting) => Ok(LocalPending { seat: Arc::clone(seat), meeting, began, ticket }),
            Err(error) => seat.kept(Err(error), ticket),
        }
    }
}

impl Transport for Local {
    fn place(&self) -> Place {
        Place { rank: self.seat.rank, size: self.seat.group.size(), reach: Reach::Host }
    }

    fn start(&self, operation: Operation, buffer: Buffer) -> Result<Work, Error> {
        let deposit = if operation.kind == Kind::Barrier { Deposit::Nothing } else { Deposit::Buffer(buffer) };
        self.arrive(operation, deposit).map(Work::new)
    }

    fn start_gather(&self, operation: Operation, bytes: Vec<u8>) -> Result<Gather, Error> {
        self.arrive(operation, Deposit::Bytes(bytes)).map(Gather::new)
    }

    fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Arc<dyn Communicator>>, Error> {
        split::split(self, &self.origin, color, key)
    }

    fn aborter(&self) -> Aborter {
        self.aborter.clone()
    }

    fn records(&self) -> Vec<Record> {
        lock(&self.seat.recorder).records()
    }
}

/// A started operation; it keeps the rank's seat, so that the rank has not left while a work is held.
struct LocalPending {
    seat: Arc<Seat>,
    meeting: Arc<Meeting>,
    began: Instant,
    ticket: u64,
}

impl Pending<Buffer> for LocalPending {
    fn wait(self: Box<Self>) -> Result<Buffer, Error> {
        let seat = &self.seat;
        let result = seat.group.finish_buffer(seat.rank, &self.meeting, self.began, seat.patience);
        seat.kept(result, self.ticket)
    }
}

impl Pending<Vec<Vec<u8>>> for LocalPending {
    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, Error> {
        let seat = &self.seat;
        let result = seat.group.finish_parts(seat.rank, &self.meeting, self.began, seat.patience);
        seat.kept(result, self.ticket)
    }
}
