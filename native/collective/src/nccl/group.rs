//! One rank's side of an NCCL group: starting, waiting, failing.
//!
//! # Who may touch what
//! - `state` is behind one mutex: the lanes with their communicators, streams, events and jobs, and the ledger. NCCL
//!   and CUDA are called with it held, so a communicator is never used by two threads. None of these calls waits for
//!   another rank; should one hang all the same, waiters notice that the lock does not come ([`Group::enter`]).
//! - `failure` is set once. Whoever sets it starts the ending: the lanes are taken out of `state` and aborted on a
//!   thread that may hang, and only after that are the buffers dropped. If an abort hangs, its thread keeps them for
//!   good: the GPU may still write into them.
//! - `ended` is raised when all aborts have returned. `told` is raised when the [watch](super::watch) has told the
//!   other ranks why, or has given up doing so; then, or after [`TELL`], the aborter ends whatever waits in the
//!   bootstrap group, here and on the peers.

use super::api::{Api, Fault};
use super::lane::{Job, Lane, Phase, Remains, Slot};
use super::ledger::{self, Ledger};
use super::table::UniqueId;
use crate::abort::{Abort, Aborter};
use crate::buffer::Buffer;
use crate::cause::{Cause, Moment};
use crate::communicator::Communicator;
use crate::error::Error;
use crate::lock;
use crate::operation::Operation;
use crate::record::{RecordState, Recorder};
use crate::transport::Place;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long the other ranks are given to learn the cause before the aborter ends their waits without it.
const TELL: Duration = Duration::from_secs(1);

/// How long an error of NCCL's own waits for a better one: a rank that died shows as an unnamed remote error first.
const GRACE: Duration = Duration::from_millis(500);

/// The longest sleep between two looks at the GPU.
const NAP: Duration = Duration::from_micros(200);

/// A flag that is raised once and can be waited for.
#[derive(Default)]
pub(super) struct Flag {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    pub(super) fn raise(&self) {
        *lock(&self.raised) = true;
        self.changed.notify_all();
    }

    pub(super) fn raised(&self) -> bool {
        *lock(&self.raised)
    }

    /// Whether it was raised within `atmost`.
    pub(super) fn wait(&self, atmost: Duration) -> bool {
        let raised = self.changed.wait_timeout_while(lock(&self.raised), atmost, |raised| !*raised);
        *raised.unwrap_or_else(PoisonError::into_inner).0
    }
}

pub(super) struct Group {
    me: Weak<Group>,
    pub(super) api: Arc<Api>,
    pub(super) place: Place,
    pub(super) device: i32,
    /// The ranks as messages name them.
    endpoints: Vec<String>,
    pub(super) timeout: Duration,
    /// How long an abort may take before the executor is given up.
    patience: Duration,
    /// The group on CPUs that this one was made from.
    pub(super) bootstrap: Arc<dyn Communicator>,
    aborter: Aborter,
    state: Mutex<State>,
    failure: OnceLock<Cause>,
    pub(super) recorder: Mutex<Recorder>,
    pub(super) ended: Flag,
    pub(super) told: Flag,
    /// Raised when the rank has left the group.
    pub(super) leaving: Flag,
    pub(super) watch: Watched,
}

/// How the watch is woken.
#[derive(Default)]
pub(super) struct Watched {
    poked: Mutex<bool>,
    changed: Condvar,
}

impl Watched {
    pub(super) fn poke(&self) {
        *lock(&self.poked) = true;
        self.changed.notify_all();
    }

    pub(super) fn sleep(&self, atmost: Duration) {
        let poked = self.changed.wait_timeout_while(lock(&self.poked), atmost, |poked| !*poked);
        *poked.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

pub(super) struct State {
    /// The first is the group's own.
    pub(super) lanes: Vec<Lane>,
    pub(super) ledger: Ledger,
    /// Names of new transfer communicators, to be told in the next round.
    pub(super) offers: Vec<(u32, UniqueId)>,
    /// What NCCL complained about, while the watch may still learn who is to blame.
    suspicion: Option<(Instant, Fault)>,
}

/// What a group is made of.
pub(super) struct Parts {
    pub(super) api: Arc<Api>,
    pub(super) place: Place,
    pub(super) device: i32,
    pub(super) endpoints: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) patience: Duration,
    pub(super) bootstrap: Arc<dyn Communicator>,
    pub(super) aborter: Aborter,
    /// The group's own.
    pub(super) lane: Lane,
}

impl Group {
    pub(super) fn new(parts: Parts) -> Arc<Group> {
        let Parts { api, place, device, endpoints, timeout, patience, bootstrap, aborter, lane } = parts;
        let ledger = Ledger::new(place.rank, place.size);
        Arc::new_cyclic(|me| Group {
            me: me.clone(),
            api,
            place,
            device,
            endpoints,
            timeout,
            patience,
            bootstrap,
            aborter,
            state: Mutex::new(State { lanes: vec![lane], ledger, offers: Vec::new(), suspicion: None }),
            failure: OnceLock::new(),
            recorder: Mutex::new(Recorder::new()),
            ended: Flag::default(),
            told: Flag::default(),
            leaving: Flag::default(),
            watch: Watched::default(),
        })
    }

    pub(super) fn aborter(&self) -> &Aborter {
        &self.aborter
    }

    pub(super) fn failure(&self) -> Option<&Cause> {
        self.failure.get()
    }

    /// The state, unless a call of NCCL holds it for longer than an abort may take.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, State>, Cause> {
        let began = Instant::now();
        loop {
            match self.state.try_lock() {
                Ok(state) => return Ok(state),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if began.elapsed() < self.patience => thread::sleep(NAP / 10),
                Err(TryLockError::WouldBlock) => {
                    let detail = "a call of NCCL or CUDA does not return".into();
                    return Err(Cause::Broken { rank: self.place.rank, detail });
                }
            }
        }
    }

    /// Numbers and notes an operation, and does `start` with it under the group's lock.
    pub(super) fn note<T>(
        &self,
        operation: Operation,
        bytes: u64,
        start: impl FnOnce(&mut State, u64, u64) -> Result<T, Cause>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let mut sequence = 0;
        let noted = || {
            let mut state = self.enter()?;
            sequence = state.ledger.latest(ledger::Lane::of(&operation)) + 1;
            // Asked under the lock: what is put into a state that the ending has emptied would stay there.
            if let Some(cause) = self.failure.get() {
                return Err(cause.clone());
            }
            let ticket = lock(&self.recorder).begin(sequence, operation, bytes);
            let started = state.ledger.start(operation).and_then(|sequence| start(&mut state, sequence, ticket));
            if started.is_err() {
                lock(&self.recorder).end(ticket, RecordState::Failed);
            }
            started
        };
        noted().map_err(|cause| {
            let moment = Moment { operation: operation.to_string(), sequence, elapsed: began.elapsed() };
            self.failed(cause, &moment)
        })
    }

    /// Puts an operation on its lane. The buffer was checked to lie on this group's device.
    pub(super) fn start(&self, mut buffer: Buffer, operation: Operation) -> Result<Started, Error> {
        let bytes = buffer.length() as u64;
        self.note(operation, bytes, |state, sequence, ticket| {
            let job = self.on_device(|| {
                let event = self.api.event()?;
                let stream = buffer.device().map_or(0, |region| region.stream());
                self.api.record(&event, &super::api::Stream::of(stream))?;
                let job = Job::new(operation, sequence, ticket, buffer, event);
                self.lane(state, ledger::Lane::of(&operation)).map(|lane| (lane, job))
            });
            let (lane, job) = job?;
            let started = Started { operation, sequence, began: job.began, slot: Arc::clone(&job.slot) };
            lane.push(job);
            self.pump(state)?;
            Ok(started)
        })
    }

    /// The lane of that name; made at its first use.
    fn lane<'a>(&self, state: &'a mut State, name: ledger::Lane) -> Result<&'a mut Lane, Fault> {
        let known = state.lanes.iter().position(|lane| lane.name == name);
        if known.is_none() {
            let sends =
                matches!(name, ledger::Lane::Transfer { from, .. } if usize::try_from(from) == Ok(self.place.rank));
            let phase = match name {
                ledger::Lane::Transfer { to, .. } if sends => {
                    let id = self.api.unique_id()?;
                    state.offers.push((to, id));
                    self.watch.poke();
                    Phase::Named(id)
                }
                _ => Phase::Nameless,
            };
            state.lanes.push(Lane::new(&self.api, name, usize::from(!sends), 2, phase)?);
        }
        let index = known.unwrap_or(state.lanes.len().saturating_sub(1));
        state.lanes.get_mut(index).ok_or_else(|| Fault("the group has ended".into()))
    }

    /// Rank `from` has made a communicator for what it sends to this rank.
    pub(super) fn offered(&self, state: &mut State, from: u32, id: UniqueId) -> Result<(), Cause> {
        let to = u32::try_from(self.place.rank).unwrap_or(u32::MAX);
        self.on_device(|| {
            self.lane(state, ledger::Lane::Transfer { from, to }).map(|lane| lane.phase = Phase::Named(id))
        })
    }

    fn on_device<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Cause> {
        self.api.on_device(self.device, work).map_err(|fault| self.broken(&fault))
    }

    fn broken(&self, fault: &Fault) -> Cause {
        Cause::Broken { rank: self.place.rank, detail: fault.to_string() }
    }

    /// Moves all lanes on; the error is why the group must end.
    pub(super) fn pump(&self, state: &mut State) -> Result<(), Cause> {
        if self.failure.get().is_some() {
            return Ok(());
        }
        if let Some((since, fault)) = &state.suspicion {
            return if since.elapsed() < GRACE { Ok(()) } else { Err(self.broken(fault)) };
        }
        let State { lanes, suspicion, .. } = state;
        let mut recorder = lock(&self.recorder);
        let pumped = self.api.on_device(self.device, || {
            lanes
                .iter_mut()
                .try_for_each(|lane| lane.pump(&self.api, |ticket| recorder.end(ticket, RecordState::Finished)))
        });
        if let Err(fault) = pumped {
            log::warn!("rank {}: {fault}", self.place.rank);
            *suspicion = Some((Instant::now(), fault));
        }
        let hopeless = state.lanes.iter().find_map(|lane| {
            let job = lane.oldest()?;
            let late = || state.ledger.late(lane.name, job.sequence);
            let lost = state.ledger.lost(lane.name, job.sequence);
            lost.or_else(|| (job.began.elapsed() >= self.timeout).then(late))
        });
        hopeless.map_or(Ok(()), Err)
    }

    /// Moves all lanes on, for whoever waits.
    pub(super) fn try_pump(&self) {
        if let Err(cause) = self.enter().and_then(|mut state| self.pump(&mut state)) {
            self.fail(cause);
        }
    }

    /// Waits until `slot` is filled or the group has failed.
    pub(super) fn wait(&self, started: &Started) -> Result<Buffer, Error> {
        let mut looks = 0u32;
        loop {
            if let Some(buffer) = started.slot.take() {
                return Ok(buffer);
            }
            if let Some(cause) = self.failure.get() {
                return Err(self.failed(cause.clone(), &started.moment()));
            }
            self.try_pump();
            looks += 1;
            match looks {
                0..100 => std::hint::spin_loop(),
                100..200 => thread::yield_now(),
                _ => thread::sleep((NAP / 8).saturating_mul(looks / 200).min(NAP)),
            }
        }
    }

    /// Fails the group with `cause`, unless it has failed before, and gives this rank's error, after the aborts.
    pub(super) fn failed(&self, cause: Cause, moment: &Moment) -> Error {
        self.fail(cause.clone());
        let error = self.failure.get().unwrap_or(&cause).error(moment, &self.endpoints);
        if self.ended.wait(self.patience) {
            return error;
        }
        let patience = self.patience.as_secs_f64();
        let what = format!(
            "NCCL could not be aborted within {patience:.1} s, and the GPU may still write into the buffers in flight, \
             which are kept: this executor must be restarted"
        );
        Error::io(what, io::Error::other(error))
    }

    /// Fails the group; the first cause stays. Returns at once.
    pub(super) fn fail(&self, cause: Cause) {
        if self.failure.set(cause.clone()).is_err() {
            return;
        }
        log::warn!("rank {} ends its NCCL group: {cause}", self.place.rank);
        self.watch.poke();
        let Some(group) = self.me.upgrade() else { return };
        let teller = Arc::clone(&group);
        let reason = format!("its NCCL group failed: {cause}");
        let threads = [
            thread::Builder::new().name("kindling-nccl-abort".into()).spawn(move || group.end()),
            thread::Builder::new().name("kindling-nccl-tell".into()).spawn(move || {
                teller.told.wait(TELL);
                teller.aborter.abort(&reason);
            }),
        ];
        // Without the first, the waiters say that nothing was aborted; without the second, each rank finds out itself.
        for error in threads.into_iter().filter_map(Result::err) {
            log::error!("an NCCL group cannot end in order: {error}");
        }
    }

    /// Aborts every communicator and then lets the buffers go. May hang, on a thread that may.
    pub(super) fn end(&self) {
        let lanes = std::mem::take(&mut lock(&self.state).lanes);
        let remains: Vec<Remains> = lanes.into_iter().map(Lane::into_remains).collect();
        for job in remains.iter().flat_map(|remains| &remains.jobs) {
            lock(&self.recorder).end(job.ticket, RecordState::Failed);
        }
        let mut safe = true;
        for Remains { comm, stream, jobs, .. } in remains {
            if let Some(Err(fault)) = comm.map(|comm| self.api.abort(comm)) {
                log::error!("rank {} keeps its buffers in flight: {fault}", self.place.rank);
                std::mem::forget(jobs);
                safe = false;
                continue;
            }
            for Job { event, copy, buffer, .. } in jobs {
                if let Some(Err(fault)) = copy.map(|copy| self.api.free(copy, &stream)) {
                    log::warn!("{fault}");
                }
                self.api.destroy_event(event);
                drop(buffer);
            }
            self.api.destroy_stream(stream);
        }
        if safe {
            self.ended.raise();
        }
    }
}

/// The cause that an error of the bootstrap group stands for, as rank `rank` tells it.
pub(super) fn cause_of(error: &Error, rank: usize) -> Cause {
    match error {
        Error::PeerLost { rank, detail, .. } => Cause::Lost { rank: *rank, detail: detail.clone() },
        Error::Deadline { rank, detail, .. } => Cause::Silent { rank: *rank, detail: detail.clone() },
        Error::Aborted { rank, reason } => Cause::Aborted { rank: *rank, reason: reason.clone() },
        other => Cause::Broken { rank, detail: other.to_string() },
    }
}

impl Abort for Group {
    fn abort(&self, reason: &str) {
        self.fail(Cause::Aborted { rank: self.place.rank, reason: reason.to_owned() });
    }
}

/// An operation that was put on its way.
pub(super) struct Started {
    operation: Operation,
    sequence: u64,
    began: Instant,
    slot: Arc<Slot>,
}

impl Started {
    fn moment(&self) -> Moment {
        let Started { operation, sequence, began, .. } = self;
        Moment { operation: operation.to_string(), sequence: *sequence, elapsed: began.elapsed() }
    }
}
