//! Ranks as threads, over either transport.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod dice;
pub(crate) mod model;
pub(crate) mod proxy;

use kindling_collective::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// All ranks in one process.
    Local,
    /// Each rank as if in a process of its own, with shared memory.
    Shared,
    /// Likewise, over TCP.
    Tcp,
    /// Over TCP, with three connections between each two ranks.
    Sockets,
    /// Over TCP with TLS.
    Encrypted,
    /// Ranks 0 and 1 as if on one machine, rank 2 on another, and so on.
    Mixed,
}

pub(crate) const ALL: [Transport; 6] =
    [Transport::Local, Transport::Shared, Transport::Tcp, Transport::Sockets, Transport::Encrypted, Transport::Mixed];

/// Long enough for a loaded machine, short enough for a test that hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What a rank needs to connect, before it does.
pub(crate) struct Ticket {
    pub(crate) listener: Listener,
    pub(crate) roster: Vec<Endpoint>,
    pub(crate) options: Options,
    pub(crate) aborter: Aborter,
}

impl Ticket {
    pub(crate) fn connect(self) -> Result<Arc<dyn Communicator>, Error> {
        connect(self.listener, &self.roster, self.options, &self.aborter)
    }
}

/// A name that no other test of this process uses.
pub(crate) fn unique_run() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("run {}", RUNS.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn tickets(transport: Transport, world: usize, rendezvous: Duration, operation: Duration) -> Vec<Ticket> {
    let secret = Secret::generate().unwrap();
    let run = unique_run();
    let bind = if transport == Transport::Encrypted { Listener::bind_encrypted } else { Listener::bind };
    let listeners: Vec<Listener> = (0..world).map(|_| bind("127.0.0.1").unwrap()).collect();
    let roster: Vec<Endpoint> = listeners
        .iter()
        .enumerate()
        .map(|(rank, listener)| match transport {
            Transport::Local => listener.endpoint("one process"),
            Transport::Mixed => {
                let mut endpoint = listener.endpoint(&format!("process {rank}"));
                endpoint.machine = format!("machine {}", rank / 3 * 2 + usize::from(rank % 3 == 2));
                endpoint
            }
            _ => listener.endpoint(&format!("process {rank}")),
        })
        .collect();
    listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| Ticket {
            listener,
            roster: roster.clone(),
            options: Options {
                rendezvous_timeout: rendezvous,
                operation_timeout: operation,
                shared_memory: matches!(transport, Transport::Shared | Transport::Mixed),
                sockets_per_link: if transport == Transport::Sockets { 3 } else { 1 },
                ..Options::new(run.clone(), 1, rank, secret.clone())
            },
            aborter: Aborter::new(),
        })
        .collect()
}

/// Connects all tickets, each on a thread of its own, and gives each rank's outcome to `body`.
pub(crate) fn outcomes<T: Send>(
    tickets: Vec<Ticket>,
    body: impl Fn(Result<Arc<dyn Communicator>, Error>) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let handles: Vec<_> = tickets.into_iter().map(|ticket| scope.spawn(|| body(ticket.connect()))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

/// Runs `body` on every rank of a connected group and returns what the ranks returned.
pub(crate) fn ranks<T: Send>(
    transport: Transport,
    world: usize,
    body: impl Fn(Arc<dyn Communicator>) -> T + Sync,
) -> Vec<T> {
    patient_ranks(transport, world, LONG, body)
}

/// The same with an operation timeout.
pub(crate) fn patient_ranks<T: Send>(
    transport: Transport,
    world: usize,
    operation: Duration,
    body: impl Fn(Arc<dyn Communicator>) -> T + Sync,
) -> Vec<T> {
    outcomes(tickets(transport, world, LONG, operation), |group| body(group.unwrap()))
}

pub(crate) fn buffer(bytes: Vec<u8>, dtype: DType) -> Buffer {
    Buffer::new(Box::new(bytes), dtype)
}

pub(crate) fn bytes(mut buffer: Buffer) -> Vec<u8> {
    buffer.bytes().to_vec()
}
