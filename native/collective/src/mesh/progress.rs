//! The progress thread, and what it shares with callers and the control thread.
//!
//! # Who moves the bytes
//! The [`Engine`] is behind a mutex. A thread of the communicator's own, the progress thread, turns it while operations
//! are in flight that must go on although nobody waits for them. A caller that starts an operation puts it into the
//! mailbox and, if the engine is free, turns it a little itself. A short operation is then sent before `start_*` returns;
//! nobody depends on this rank any more, so it wakes nobody: whoever waits for it turns the engine for a moment itself,
//! and leaves it to the progress thread only when that moment has passed. So a short operation costs no hand-over
//! between threads where the ranks keep step.
//!
//! Whoever gives the engine back looks into the mailbox afterwards; so mail put in while the engine was held is not
//! forgotten, and nobody waits for the engine for long.
//!
//! The [control thread](super::control) listens for bad news all the time, whoever turns the engine.

use super::census::Purpose;
use super::control::Desk;
use super::engine::{Engine, Overdue, Watch};
use super::flow::Flow;
use super::socket;
use super::stream::Handle;
use super::waker::Waker;
use crate::abort::Abort;
use crate::cause::Cause;
use crate::error::Error;
use crate::lock;
use crate::operation::{Kind, Operation};
use crate::record::{Record, Report};
use rustix::event::{PollFd, PollFlags};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// How much a caller moves itself before it leaves the rest to the progress thread.
const INLINE: usize = 64 * 1024;

/// How much the progress thread moves between two looks into the mailbox.
const TURN: usize = 1024 * 1024;

/// How long a thread goes on looking before it sleeps: about what falling asleep and being woken cost.
pub(super) const LOOKING: Duration = Duration::from_micros(50);

/// How long leaving waits until the peers have taken the farewell.
const FAREWELL: Duration = Duration::from_secs(1);

/// What callers, the progress thread and the control thread share.
pub(super) struct Core {
    pub(super) rank: usize,
    engine: Mutex<Engine>,
    mail: Mutex<Mail>,
    waker: Arc<Waker>,
    handles: Vec<Option<Handle>>,
    pub(super) desk: Desk,
    /// The first failure; set by the engine.
    failure: Arc<OnceLock<Error>>,
    /// The control thread has been woken for it.
    alarmed: AtomicBool,
    /// How many threads want the engine for a moment. The progress thread, which could keep it for as long as bytes flow,
    /// makes way for them.
    wanted: AtomicUsize,
    /// How many collective operations this rank has started, the rendezvous among them.
    pub(super) started: AtomicU64,
    /// The rendezvous of the whole group is over.
    pub(super) complete: AtomicBool,
    report: Report,
}

/// What waits for a turn to take it in: all of it at once, as a wish for attention is about a flow that was posted before.
#[derive(Default)]
struct Mail {
    flows: Vec<Flow>,
    /// What is in flight must go on although nobody turns the engine.
    attend: bool,
    abort: Option<String>,
    leave: bool,
}

impl Core {
    pub(super) fn new(
        rank: usize,
        engine: Engine,
        waker: Arc<Waker>,
        failure: Arc<OnceLock<Error>>,
        report: Report,
    ) -> Result<Core, Error> {
        Ok(Core {
            rank,
            handles: engine.handles(),
            engine: Mutex::new(engine),
            mail: Mutex::default(),
            waker,
            desk: Desk::new().map_err(|error| Error::io("making the control thread's waker", error))?,
            failure,
            alarmed: AtomicBool::new(false),
            wanted: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            report,
        })
    }

    /// Starts an operation and begins to move it.
    pub(super) fn start(&self, flow: Flow) -> Result<(), Error> {
        if let Some(error) = self.failure.get() {
            return Err(error.clone());
        }
        {
            let mut mail = lock(&self.mail);
            if let Some(reason) = &mail.abort {
                // The engine has not looked yet; nothing starts after an abort all the same.
                return Err(Error::Aborted { rank: self.rank, reason: reason.clone() });
            }
            mail.flows.push(flow);
        }
        self.serve();
        Ok(())
    }

    /// Turns the engine a little, unless somebody else is at it and will see the mail. True when something moved.
    pub(super) fn serve(&self) -> bool {
        let mut moved = false;
        loop {
            let mut engine = match self.engine.try_lock() {
                Ok(engine) => engine,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    // Whoever has it may only look at something, and not into the mailbox.
                    if self.has_mail() {
                        self.waker.wake();
                    }
                    return moved;
                }
            };
            moved |= self.turn(&mut engine, INLINE) > 0;
            let attended = engine.attended;
            drop(engine);
            if attended {
                self.waker.wake();
                return moved;
            }
            if !self.has_mail() {
                return moved;
            }
        }
    }

    /// Takes the engine for a moment.
    pub(super) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let engine = lock(&self.engine);
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        engine
    }

    /// Whether nobody but the callers turns the engine.
    pub(super) fn is_free(&self) -> bool {
        self.engine.try_lock().is_ok_and(|engine| !engine.attended)
    }

    /// Empties the mailbox into the engine and turns it. Returns what was moved.
    fn turn(&self, engine: &mut Engine, budget: usize) -> usize {
        let (flows, attend, abort) = {
            let mut mail = lock(&self.mail);
            let abort = mail.abort.clone().filter(|_| self.failure.get().is_none());
            (std::mem::take(&mut mail.flows), std::mem::take(&mut mail.attend), abort)
        };
        for flow in flows {
            engine.start(flow);
        }
        engine.attended |= attend;
        self.started.store(engine.started().wrapping_add(1), Ordering::SeqCst);
        if let Some(reason) = abort {
            engine.fail(Cause::Aborted { rank: self.rank, reason });
        }
        let moved = engine.turn(budget);
        self.alarm();
        moved
    }

    /// Wakes the control thread when there is a failure to tell.
    fn alarm(&self) {
        if self.failure.get().is_some() && !self.alarmed.swap(true, Ordering::Relaxed) {
            self.desk.waker.wake();
        }
    }

    /// Whether there is something for a turn to take in.
    fn has_mail(&self) -> bool {
        let mail = lock(&self.mail);
        !mail.flows.is_empty() || mail.attend || (mail.abort.is_some() && self.failure.get().is_none())
    }

    /// Tells the progress thread to leave the group and end.
    pub(super) fn dismiss(&self) {
        lock(&self.mail).leave = true;
        self.waker.wake();
    }

    /// The rendezvous is over: from now on operations may take `timeout`.
    pub(super) fn stand(&self, timeout: Duration) {
        self.engine().set_timeout(timeout);
        self.complete.store(true, Ordering::SeqCst);
        self.desk.waker.wake();
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.engine().records()
    }

    /// Leaves what is in flight to the progress thread.
    pub(super) fn attend(&self) {
        lock(&self.mail).attend = true;
        self.waker.wake();
    }

    /// Fails the group, unless it has failed.
    pub(super) fn fail(&self, cause: Cause) {
        self.engine().fail(cause);
        self.alarm();
        self.waker.wake();
    }

    /// Why the group has failed.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.failure.get()?;
        self.engine().cause.clone()
    }

    /// What this rank waits in, if it still waits in the collective operation `sequence`, and for whom.
    pub(super) fn waiting(&self, sequence: u64) -> Option<(Operation, Option<usize>)> {
        let (found, operation, awaited) = self.engine().waiting()?;
        (found == sequence && !operation.is_transfer()).then_some((operation, awaited))
    }

    pub(super) fn write_records(&self) {
        if let Some(error) = self.failure.get() {
            let records = self.records();
            self.report.write(&records, error);
        }
    }

    /// The progress thread.
    pub(super) fn run(&self) {
        loop {
            while self.wanted.load(Ordering::SeqCst) > 0 {
                std::thread::yield_now();
            }
            let plan = {
                let mut engine = lock(&self.engine);
                self.go_on(&mut engine);
                if self.wanted.load(Ordering::SeqCst) > 0 {
                    continue;
                }
                match engine.overdue() {
                    Some(overdue) => {
                        self.inquire(&mut engine, overdue);
                        None
                    }
                    None => engine.doze(),
                }
            };
            if lock(&self.mail).leave {
                return self.leave();
            }
            if let Some((watches, until)) = plan
                && !self.has_mail()
            {
                self.sleep(&watches, until);
            }
        }
    }

    /// Turns the engine until nothing has moved for a moment.
    fn go_on(&self, engine: &mut Engine) {
        let mut since = Instant::now();
        loop {
            if self.turn(engine, TURN) > 0 {
                since = Instant::now();
            } else if !engine.attended || self.failure.get().is_some() || since.elapsed() >= LOOKING {
                return;
            } else {
                std::thread::yield_now();
            }
            if self.wanted.load(Ordering::SeqCst) > 0 || lock(&self.mail).leave {
                return;
            }
        }
    }

    /// Finds out, or says, whom a long wait is for.
    fn inquire(&self, engine: &mut Engine, overdue: Overdue) {
        let (purpose, sequence) = match overdue {
            Overdue::Stalled { sequence } => (Purpose::Stall, sequence),
            Overdue::Deadline { sequence } => (Purpose::Deadline, sequence),
        };
        match engine.waiting() {
            Some((_, operation @ Operation { kind: Kind::Transfer { from, .. }, .. }, Some(peer))) => {
                let does = if from as usize == peer { "does not send" } else { "does not receive" };
                let detail = format!("it {does}, but its process answers");
                if purpose == Purpose::Deadline {
                    engine.fail(Cause::Silent { rank: peer, detail });
                    self.alarm();
                } else {
                    log::warn!("rank {} waits for rank {peer} in {operation}: {detail}", self.rank);
                }
            }
            _ => self.desk.ask(purpose, sequence),
        }
    }

    /// Waits for what the engine wants, for mail, or for the next look at the clock; tells the engine what came.
    fn sleep(&self, watches: &[Watch], until: Instant) {
        let mut fds = vec![self.waker.poll_fd()];
        fds.extend(watches.iter().filter_map(|watch| {
            let handle = self.handles.get(watch.port)?.as_ref()?;
            Some(PollFd::from_borrowed_fd(handle.as_fd(), watch.flags))
        }));
        if let Err(error) = socket::wait(&mut fds, until.saturating_duration_since(Instant::now())) {
            // Nothing but a lack of kernel memory; without a wait the group cannot go on.
            return self.fail(Cause::Broken { rank: self.rank, detail: format!("waiting for its peers: {error}") });
        }
        let mut events = fds.iter().map(PollFd::revents);
        if events.next().is_some_and(|events| !events.is_empty()) {
            self.waker.clear();
        }
        let come: Vec<(usize, PollFlags)> =
            watches.iter().map(|watch| watch.port).zip(events).filter(|(_, events)| !events.is_empty()).collect();
        if !come.is_empty() {
            let mut engine = self.engine();
            come.into_iter().for_each(|(port, events)| engine.ready(port, events));
        }
    }

    /// Leaves the group: in order when nothing is in flight, else by failing it. Bounded.
    fn leave(&self) {
        let until = Instant::now() + FAREWELL;
        let in_order = {
            let mut engine = self.engine();
            // An abort that has just come is the reason to leave, and not what follows.
            self.turn(&mut engine, TURN);
            engine.leave()
        };
        self.alarm();
        if !in_order {
            return;
        }
        loop {
            let watches = {
                let mut engine = self.engine();
                if engine.say_farewell() || Instant::now() >= until {
                    return;
                }
                engine.doze().map(|(watches, _)| watches)
            };
            if let Some(watches) = watches {
                self.sleep(&watches, until);
            }
        }
    }
}

impl Abort for Core {
    fn abort(&self, reason: &str) {
        lock(&self.mail).abort.get_or_insert_with(|| reason.to_owned());
        self.serve();
        // Whoever holds the engine now will see the mail; a progress thread that sleeps must be told.
        self.waker.wake();
    }
}

/// Fails what is in flight when a thread ends for any reason: nobody else would.
pub(super) struct LastWord<'a>(pub(super) &'a Core);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        self.0.fail(Cause::Broken { rank: self.0.rank, detail: "one of its threads has ended".into() });
        let flows = std::mem::take(&mut lock(&self.0.mail).flows);
        let mut engine = self.0.engine();
        flows.into_iter().for_each(|flow| engine.start(flow));
    }
}
