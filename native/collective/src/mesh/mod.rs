//! The transport between processes: a mesh of links, each over shared memory or TCP.
//!
//! [`connect`] makes the links ([`rendezvous`]) and starts two threads: one moves the bytes ([`progress`]), one listens for bad
//! news ([`control`]). What is to be moved is a [`plan`], how far it has got a [`flow`]; the [`engine`] holds them against
//! the [links](link).

mod census;
mod control;
mod dial;
mod door;
mod engine;
mod flow;
mod frame;
pub(crate) mod fuzzing;
mod handshake;
mod link;
mod memory;
mod offer;
mod plan;
mod progress;
mod promise;
mod rendezvous;
pub(crate) mod socket;
mod stream;
mod sums;
mod talk;
pub(crate) mod tls;
mod waker;

use crate::abort::Aborter;
use crate::buffer::Buffer;
use crate::communicator::{Communicator, Gather, Pending, Work};
use crate::connect::{Endpoint, Listener, Options};
use crate::error::Error;
use crate::operation::{Kind, Operation};
use crate::record::{Record, Report};
use crate::split::{self, Origin};
use crate::transport::{Place, Reach, Transport};
use control::Control;
use engine::{Engine, Settings};
use flow::Flow;
use plan::Seat;
use progress::{Core, LOOKING, LastWord};
use promise::{Awaited, Promise, promise};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use waker::Waker;

/// Bytes of memory that a rank comes to share with each other rank of the same machine: the ring that it writes. Per
/// connection, where [`Options::sockets_per_link`] asks for several.
pub const SHARED_BYTES_PER_PEER: u64 = offer::CAPACITY as u64;

/// How long the rendezvous of the whole group may take beyond the time that a rank has for its own links: the ranks do
/// not begin at the same moment, and those that lack a link know best whom to blame.
const LAG: Duration = Duration::from_secs(2);

/// Owns the threads: the last owner, communicator or work, leaves the group and joins them.
struct Owner {
    core: Arc<Core>,
    progress: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.core.dismiss();
        join(self.progress.take(), self.core.rank);
        self.core.desk.leave();
        join(self.control.take(), self.core.rank);
    }
}

/// Waits for a thread. It is another one by contract: a [region](crate::Region) does not own the communicator. Should one
/// do so and be dropped by the progress thread, that does not wait for itself.
fn join(thread: Option<JoinHandle<()>>, rank: usize) {
    let foreign = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
    if let Some(thread) = thread.filter(foreign) {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            log::error!("rank {rank}: the thread {name} panicked");
        }
    }
}

struct Mesh {
    owner: Arc<Owner>,
    seat: Seat,
    channels: usize,
    aborter: Aborter,
    origin: Origin,
}

/// Forms the group: makes the links, then waits until every rank has done so.
pub(crate) fn connect(
    listener: Listener,
    roster: &[Endpoint],
    options: Options,
    aborter: &Aborter,
) -> Result<Arc<dyn Communicator>, Error> {
    let seat = Seat { rank: options.rank, size: roster.len() };
    let channels = options.sockets_per_link;
    let origin = Origin::of(&listener, roster, &options);
    let waker = Arc::new(Waker::new().map_err(|error| Error::io("making the progress thread's waker", error))?);
    let links = rendezvous::meet(listener, roster, &options, aborter, &waker)?;
    let failure = Arc::new(OnceLock::new());
    let settings = Settings {
        seat,
        endpoints: roster.iter().map(Endpoint::to_string).collect(),
        channels,
        timeout: options.rendezvous_timeout + LAG,
        stall_warning: options.stall_warning,
    };
    for (peer, link) in
        links.data.iter().enumerate().filter_map(|(index, link)| Some((index / channels, link.as_ref()?)))
    {
        log::debug!("rank {} reaches rank {peer} through {}", seat.rank, link.name());
    }
    let engine = Engine::new(settings, links.data, Arc::clone(&failure));
    let core = Arc::new(Core::new(seat.rank, engine, waker, failure, Report::of(&options, seat.size))?);
    let mut owner = Owner { core: Arc::clone(&core), progress: None, control: None };
    owner.progress = Some(spawn(format!("kindling-mesh-{}", seat.rank), &core, Core::run)?);
    let (heartbeat, missed) = (options.heartbeat, options.heartbeats_missed);
    let begun = Instant::now() + options.rendezvous_timeout + LAG;
    owner.control = Some(spawn(format!("kindling-control-{}", seat.rank), &core, move |core| {
        Control::new(core, seat, links.control, heartbeat, missed, begun).run();
    })?);
    aborter.notify(&core);
    let group = Mesh { owner: Arc::new(owner), seat, channels, aborter: aborter.clone(), origin };
    let operation = Operation::plain(Kind::Rendezvous);
    group.start(operation, Buffer::empty())?.wait()?;
    core.stand(options.operation_timeout);
    Ok(Arc::new(group))
}

fn spawn(name: String, core: &Arc<Core>, body: impl FnOnce(&Core) + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let core = Arc::clone(core);
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let _last_word = LastWord(&core);
            body(&core);
        })
        .map_err(|error| Error::io(format!("starting the thread {name}"), error))
}

impl Mesh {
    fn begin<T>(&self, make: impl FnOnce(Promise<T>) -> Flow) -> Result<MeshPending<T>, Error> {
        let (promise, awaited) = promise();
        self.owner.core.start(make(promise))?;
        Ok(MeshPending { awaited, owner: Arc::clone(&self.owner) })
    }
}

impl Transport for Mesh {
    fn place(&self) -> Place {
        Place { rank: self.seat.rank, size: self.seat.size, reach: Reach::Host }
    }

    fn start(&self, operation: Operation, buffer: Buffer) -> Result<Work, Error> {
        self.begin(|promise| Flow::of(operation, buffer, self.seat, self.channels, promise)).map(Work::new)
    }

    fn start_gather(&self, operation: Operation, bytes: Vec<u8>) -> Result<Gather, Error> {
        self.begin(|promise| Flow::gather_bytes(operation, bytes, self.seat, promise)).map(Gather::new)
    }

    fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Arc<dyn Communicator>>, Error> {
        split::split(self, &self.origin, color, key)
    }

    fn aborter(&self) -> Aborter {
        self.aborter.clone()
    }

    fn records(&self) -> Vec<Record> {
        self.owner.core.records()
    }
}

/// A started operation; it keeps the threads alive until it is over.
struct MeshPending<T> {
    awaited: Awaited<T>,
    owner: Arc<Owner>,
}

impl<T: Send> Pending<T> for MeshPending<T> {
    fn wait(self: Box<Self>) -> Result<T, Error> {
        let MeshPending { awaited, owner } = *self;
        let since = Instant::now();
        loop {
            if let Some(result) = awaited.poll() {
                return result;
            }
            // Somebody else is at it, or it takes longer.
            if !owner.core.is_free() || since.elapsed() >= LOOKING {
                break;
            }
            if !owner.core.serve() {
                std::thread::yield_now();
            }
        }
        owner.core.attend();
        awaited.wait()
    }
}
