//! The TCP transport: a ring of processes.
//!
//! # Who moves the bytes
//! The [`Ring`] is behind a mutex. A thread of the communicator's own sleeps in `poll` on both links and turns the ring
//! when something can be moved. A caller that starts an operation puts it into the mailbox and, if the ring is free,
//! turns it a little itself: a small message is sent before `start_*` returns, without waking anybody, and the waiter
//! is woken by the progress thread when the answer is there. That is one hand-over per operation.
//!
//! Whoever gives the ring back looks into the mailbox afterwards; so mail put in while the ring was held is not
//! forgotten, and nobody waits for the ring but the progress thread.

mod dial;
mod door;
mod flow;
mod frame;
mod handshake;
mod link;
mod promise;
mod rendezvous;
mod ring;
pub(crate) mod socket;
mod talk;

use crate::abort::{Abort, Aborter};
use crate::buffer::Buffer;
use crate::cause::Cause;
use crate::communicator::{self, Communicator, Gather, Pending, Work};
use crate::connect::{Endpoint, Options};
use crate::error::Error;
use crate::lock;
use crate::operation::Kind;
use crate::reduce::ReduceOp;
use flow::Flow;
use promise::{Awaited, Promise, promise};
use ring::{Interest, Ring};
use rustix::event::{PollFd, PollFlags};
use socket::Waker;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much a caller moves itself before it leaves the rest to the progress thread.
const INLINE: usize = 64 * 1024;

/// How much the progress thread moves between two looks into the mailbox and for news.
const TURN: usize = 1024 * 1024;

/// How long the rendezvous of the whole ring may lag behind this rank's own: the ranks do not begin at the same moment,
/// and the one next to the missing rank knows best whom to blame.
const LAG: Duration = Duration::from_secs(2);

/// How long leaving waits until the neighbours have taken the farewell, or have heard of the failure.
const FAREWELL: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_millis(200);

/// What callers and the progress thread share.
struct Core {
    rank: usize,
    ring: Mutex<Ring>,
    mail: Mutex<Mail>,
    waker: Waker,
    previous: Arc<TcpStream>,
    next: Arc<TcpStream>,
    /// The first failure; set by the ring.
    failure: Arc<OnceLock<Error>>,
}

#[derive(Default)]
struct Mail {
    flows: Vec<Flow>,
    abort: Option<String>,
    leave: bool,
}

impl Core {
    /// Starts an operation and begins to move it.
    fn start(&self, flow: Flow) -> Result<(), Error> {
        if let Some(error) = self.failure.get() {
            return Err(error.clone());
        }
        {
            let mut mail = lock(&self.mail);
            if let Some(reason) = &mail.abort {
                // The ring has not looked yet; nothing starts after an abort all the same.
                return Err(Error::Aborted { rank: self.rank, reason: reason.clone() });
            }
            mail.flows.push(flow);
        }
        self.serve();
        Ok(())
    }

    /// Turns the ring a little, unless somebody else is at it and will see the mail.
    fn serve(&self) {
        loop {
            let mut ring = match self.ring.try_lock() {
                Ok(ring) => ring,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let more = self.turn(&mut ring, INLINE);
            let covered = ring.slept_on.is_some_and(|slept_on| slept_on.covers(&ring.interest()));
            drop(ring);
            if more || !covered {
                return self.waker.wake();
            }
            if self.mail_is_empty() {
                return;
            }
        }
    }

    /// Empties the mailbox into the ring and turns it. True when there is more to move at once.
    fn turn(&self, ring: &mut MutexGuard<'_, Ring>, budget: usize) -> bool {
        let (flows, abort) = {
            let mut mail = lock(&self.mail);
            (std::mem::take(&mut mail.flows), mail.abort.clone().filter(|_| self.failure.get().is_none()))
        };
        for flow in flows {
            ring.start(flow);
        }
        if let Some(reason) = abort {
            ring.fail(Cause::Aborted { rank: self.rank, reason });
        }
        ring.turn(budget)
    }

    fn mail_is_empty(&self) -> bool {
        let mail = lock(&self.mail);
        mail.flows.is_empty() && (mail.abort.is_none() || self.failure.get().is_some()) && !mail.leave
    }

    /// The progress thread.
    fn run(&self) {
        loop {
            let interest = {
                let mut ring = lock(&self.ring);
                while self.turn(&mut ring, TURN) {}
                let interest = ring.interest();
                ring.slept_on = Some(interest);
                interest
            };
            if lock(&self.mail).leave {
                return self.leave();
            }
            if self.mail_is_empty() {
                self.sleep(&interest);
            }
        }
    }

    /// Waits for what the ring wants, for mail, or for the next look at the clock; tells the ring what came.
    fn sleep(&self, interest: &Interest) {
        let mut fds = vec![self.waker.poll_fd()];
        fds.extend(interest.inbound.map(|flags| PollFd::from_borrowed_fd(self.previous.as_fd(), flags)));
        fds.extend(interest.outbound.map(|flags| PollFd::from_borrowed_fd(self.next.as_fd(), flags)));
        let atmost = interest.until.saturating_duration_since(Instant::now());
        if let Err(error) = socket::wait(&mut fds, atmost) {
            // Nothing but a lack of kernel memory; without a wait the ring cannot go on.
            lock(&self.ring).fail(Cause::Broken { rank: self.rank, detail: format!("waiting for its peers: {error}") });
            return;
        }
        let mut events = fds.iter().map(PollFd::revents);
        if events.next().is_some_and(|events| !events.is_empty()) {
            self.waker.clear();
        }
        let mut next = |wanted: bool| if wanted { events.next() } else { None }.unwrap_or(PollFlags::empty());
        let inbound = next(interest.inbound.is_some());
        let outbound = next(interest.outbound.is_some());
        if !inbound.is_empty() || !outbound.is_empty() {
            lock(&self.ring).ready(inbound, outbound);
        }
    }

    /// Leaves the group: in order when nothing is in flight, else by failing it. Bounded.
    fn leave(&self) {
        let failed = self.failure.get().is_some();
        let began = Instant::now();
        lock(&self.ring).leave();
        let failed = failed || !matches!(self.failure.get(), Some(Error::Invalid { .. }));
        let patience = if failed { LINGER } else { FAREWELL };
        loop {
            let interest = {
                let mut ring = lock(&self.ring);
                ring.turn(TURN);
                if if failed { ring.ended() } else { ring.spoken() } {
                    return;
                }
                ring.interest()
            };
            let Some(left) = patience.checked_sub(began.elapsed()) else { return };
            self.sleep(&Interest { until: Instant::now() + left, ..interest });
        }
    }
}

impl Abort for Core {
    fn abort(&self, reason: &str) {
        lock(&self.mail).abort.get_or_insert_with(|| reason.to_owned());
        self.serve();
    }
}

/// Owns the progress thread: the last owner, communicator or work, leaves the group and joins the thread.
struct Owner {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        lock(&self.core.mail).leave = true;
        self.core.waker.wake();
        // A region's owner may hold the communicator, and the progress thread may drop that region.
        let foreign = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(foreign)
            && thread.join().is_err()
        {
            log::error!("the progress thread of rank {} panicked", self.core.rank);
        }
    }
}

/// Fails what is in flight when the progress thread ends for any reason: nobody else would.
struct LastWord<'a>(&'a Core);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        let mut ring = lock(&self.0.ring);
        ring.fail(Cause::Broken { rank: self.0.rank, detail: "its progress thread has ended".into() });
        for flow in std::mem::take(&mut lock(&self.0.mail).flows) {
            ring.start(flow);
        }
    }
}

struct Tcp {
    owner: Arc<Owner>,
    rank: usize,
    size: usize,
    aborter: Aborter,
}

/// Forms the ring: connects both links, then waits until every rank has done so.
pub(crate) fn connect(
    listener: TcpListener,
    roster: &[Endpoint],
    options: Options,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let began = Instant::now();
    let (rank, size) = (options.rank, roster.len());
    let links = rendezvous::meet(listener, roster, &options, aborter)?;
    let (previous, next) = (Arc::new(links.previous), Arc::new(links.next));
    let failure = Arc::new(OnceLock::new());
    let patience = options.rendezvous_timeout.saturating_sub(began.elapsed()) + LAG;
    let endpoints = roster.iter().map(Endpoint::to_string).collect();
    let ring = Ring::new((rank, endpoints), Arc::clone(&previous), Arc::clone(&next), patience, Arc::clone(&failure));
    let waker = Waker::new().map_err(|error| Error::io("making the progress thread's waker", error))?;
    let core = Arc::new(Core { rank, ring: Mutex::new(ring), mail: Mutex::default(), waker, previous, next, failure });
    let thread = std::thread::Builder::new()
        .name(format!("kindling-ring-{rank}"))
        .spawn({
            let core = Arc::clone(&core);
            move || {
                let _last_word = LastWord(&core);
                core.run();
            }
        })
        .map_err(|error| Error::io("starting the progress thread", error))?;
    aborter.notify(&core);
    let owner = Arc::new(Owner { core, thread: Some(thread) });
    let group = Tcp { owner, rank, size, aborter: aborter.clone() };
    let (promise, awaited) = promise();
    group.start(Flow::barrier(Kind::Rendezvous, (rank, size), promise), awaited)?.wait()?;
    lock(&group.owner.core.ring).set_timeout(options.operation_timeout);
    Ok(Arc::new(group))
}

impl Tcp {
    fn start<T>(&self, flow: Flow, awaited: Awaited<T>) -> Result<Box<TcpPending<T>>, Error> {
        self.owner.core.start(flow)?;
        Ok(Box::new(TcpPending { awaited, _owner: Arc::clone(&self.owner) }))
    }

    fn start_buffer(&self, make: impl FnOnce((usize, usize), Promise<Buffer>) -> Flow) -> Result<Work, Error> {
        let (promise, awaited) = promise();
        let flow = make((self.rank, self.size), promise);
        self.start(flow, awaited).map(|pending| Work::new(*pending))
    }
}

impl Communicator for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn start_all_reduce(&self, mut buffer: Buffer, op: ReduceOp) -> Result<Work, Error> {
        let operation = communicator::all_reduce(&mut buffer, op)?;
        self.start_buffer(|place, promise| Flow::all_reduce(operation, buffer, op, place, promise))
    }

    fn start_broadcast(&self, mut buffer: Buffer, root: usize) -> Result<Work, Error> {
        let operation = communicator::broadcast(&mut buffer, root, self.size)?;
        self.start_buffer(|place, promise| Flow::broadcast(operation, buffer, root, place, promise))
    }

    fn start_all_gather(&self, bytes: Vec<u8>) -> Result<Gather, Error> {
        let (promise, awaited) = promise();
        let flow = Flow::gather(bytes, (self.rank, self.size), promise);
        self.start(flow, awaited).map(|pending| Gather::new(*pending))
    }

    fn start_barrier(&self) -> Result<Work, Error> {
        self.start_buffer(|place, promise| Flow::barrier(Kind::Barrier, place, promise))
    }

    fn aborter(&self) -> Aborter {
        self.aborter.clone()
    }
}

/// A started operation; it keeps the ring alive until it is over.
struct TcpPending<T> {
    awaited: Awaited<T>,
    _owner: Arc<Owner>,
}

impl<T: Send> Pending<T> for TcpPending<T> {
    fn wait(self: Box<Self>) -> Result<T, Error> {
        let TcpPending { awaited, _owner } = *self;
        awaited.wait()
    }
}
