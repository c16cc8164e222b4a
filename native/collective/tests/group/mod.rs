//! Ranks as threads, over either transport.

#![allow(dead_code, reason = "each test file uses its own part")]

use kindling_collective::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Local,
    Tcp,
}

pub(crate) const BOTH: [Transport; 2] = [Transport::Local, Transport::Tcp];

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
    let listeners: Vec<Listener> = (0..world).map(|_| Listener::bind("127.0.0.1").unwrap()).collect();
    let roster: Vec<Endpoint> = listeners
        .iter()
        .enumerate()
        .map(|(rank, listener)| match transport {
            Transport::Local => listener.endpoint("one process"),
            Transport::Tcp => listener.endpoint(&format!("process {rank}")),
        })
        .collect();
    listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| Ticket {
            listener,
            roster: roster.clone(),
            options: Options {
                run: run.clone(),
                attempt: 1,
                rank,
                secret: secret.clone(),
                rendezvous_timeout: rendezvous,
                operation_timeout: operation,
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
