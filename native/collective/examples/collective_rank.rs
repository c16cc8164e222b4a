//! One rank of a benchmark, as a process that is driven by lines: `integration-tests/bench/collective.py` starts several
//! of them and asks them in turn, so that rivals can be measured in the same minute.
//!
//! ```text
//! collective_rank RANK WORLD SECRET --transport tcp|shm|local|loopback [--host HOST] [--encrypted] [--sockets N]
//! ```
//! Every line it prints is one JSON object, every line it reads a command:
//!
//! ```text
//! prints   {"process":…,"host":…,"port":…}          its endpoint
//! reads    [{…},{…}]                                the roster: all endpoints, in rank order
//! prints   {"joined":2,"shared_memory":true}        the group is complete
//! reads    all_reduce BYTES REPS full|bf16|f16      of f32 zeros; the same command on all ranks
//! prints   {"median_us":…}
//! reads    memcpy BYTES REPS                        one thread, this process alone
//! prints   {"median_GBs":…}
//! reads    loopback BYTES REPS                      transport loopback only; the same command on both ranks
//! prints   {"median_GBs":…}                         each way, while both ways are busy
//! ```
//! With `local` one process is all ranks, as threads; it prints no endpoint and reads no roster. `loopback` is no group
//! but a bare pair of sockets between two processes: what a transport over TCP could reach at best.
//!
//! It ends when its standard input does. Whatever it waits for has a deadline, so that it outlives no driver for long.

use kindling_collective::{
    Aborter, Buffer, Communicator, DType, Endpoint, Listener, Options, ReduceOp, Secret, Wire, connect,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use serde_json::json;
use std::error::Error as StdError;
use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const RENDEZVOUS: Duration = Duration::from_secs(30);
const OPERATION: Duration = Duration::from_secs(60);

/// As the TCP links have it, so that both are carried alike.
const SOCKET_BUFFER: usize = 2 << 20;

/// What one call to the kernel reads or writes at most. The receiver's piece stays in the cache.
const PIECE: usize = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

fn main() -> ExitCode {
    let start = match Start::parse(std::env::args().skip(1)) {
        Ok(start) => start,
        Err(error) => {
            eprintln!("collective_rank: {error}");
            return ExitCode::from(2);
        }
    };
    match serve(&start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("collective_rank: rank {} of {}: {error}", start.rank, start.world);
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Shm,
    Local,
    Loopback,
}

/// The command line.
struct Start {
    rank: usize,
    world: usize,
    secret: Secret,
    transport: Transport,
    host: String,
    encrypted: bool,
    sockets: usize,
}

impl Start {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Start> {
        let mut positional = || args.next().ok_or("RANK, WORLD and SECRET come first");
        let (rank, world) = (positional()?.parse()?, positional()?.parse()?);
        let secret = Secret::from_hex(&positional()?)?;
        let (mut transport, mut host, mut encrypted, mut sockets) = (None, "127.0.0.1".to_owned(), false, 1);
        while let Some(flag) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{flag} wants a value"));
            match flag.as_str() {
                "--transport" => transport = Some(Start::transport(&value()?)?),
                "--host" => host = value()?,
                "--encrypted" => encrypted = true,
                "--sockets" => sockets = value()?.parse()?,
                _ => return Err(format!("there is no flag {flag}").into()),
            }
        }
        let transport = transport.ok_or("--transport is missing")?;
        if rank >= world {
            return Err(format!("rank {rank} is not below the world of {world}").into());
        }
        if transport == Transport::Loopback && world != 2 {
            return Err(format!("loopback is between 2 processes, not {world}").into());
        }
        Ok(Start { rank, world, secret, transport, host, encrypted, sockets })
    }

    fn transport(name: &str) -> Result<Transport> {
        match name {
            "tcp" => Ok(Transport::Tcp),
            "shm" => Ok(Transport::Shm),
            "local" => Ok(Transport::Local),
            "loopback" => Ok(Transport::Loopback),
            _ => Err(format!("there is no transport {name}").into()),
        }
    }

    fn options(&self, rank: usize) -> Options {
        Options {
            rendezvous_timeout: RENDEZVOUS,
            operation_timeout: OPERATION,
            sockets_per_link: self.sockets,
            shared_memory: self.transport == Transport::Shm,
            ..Options::new("bench", 0, rank, self.secret.clone())
        }
    }

    fn listen(&self) -> Result<Listener> {
        Ok(if self.encrypted { Listener::bind_encrypted(&self.host)? } else { Listener::bind(&self.host)? })
    }
}

/// What this process takes part in.
enum Party {
    /// One rank of a group; with the transport `local`, all of them.
    Ranks(Vec<Arc<dyn Communicator>>),
    Sockets(TcpStream),
}

fn serve(start: &Start) -> Result<()> {
    let mut lines = std::io::stdin().lines();
    let mut next = move || lines.next().transpose();
    let party = match start.transport {
        Transport::Local => Party::Ranks(join_inside(start)?),
        Transport::Tcp | Transport::Shm => {
            let listener = start.listen()?;
            say(&serde_json::to_value(listener.endpoint(&std::process::id().to_string()))?)?;
            let roster: Vec<Endpoint> = serde_json::from_str(&next()?.ok_or("no roster came")?)?;
            Party::Ranks(vec![connect(listener, &roster, start.options(start.rank), &Aborter::new())?])
        }
        Transport::Loopback => {
            let listener = TcpListener::bind((start.host.as_str(), 0))?;
            let port = listener.local_addr()?.port();
            say(&json!({ "process": std::process::id().to_string(), "host": start.host, "port": port }))?;
            let roster: Vec<Endpoint> = serde_json::from_str(&next()?.ok_or("no roster came")?)?;
            Party::Sockets(pair(&listener, start.rank, &roster)?)
        }
    };
    say(&json!({ "joined": start.world, "shared_memory": shares_memory()? }))?;
    while let Some(line) = next()? {
        say(&obey(&party, &line)?)?;
    }
    Ok(())
}

fn say(answer: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn obey(party: &Party, line: &str) -> Result<serde_json::Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match (words.as_slice(), party) {
        (["all_reduce", bytes, reps, wire], Party::Ranks(ranks)) => {
            let (bytes, reps, wire) = (bytes.parse()?, reps.parse()?, parse_wire(wire)?);
            let medians = on_each(ranks, |rank| all_reduce(&**rank, bytes, reps, wire))?;
            Ok(json!({ "median_us": medians.first().ok_or("this process has no rank")? }))
        }
        (["memcpy", bytes, reps], _) => Ok(json!({ "median_GBs": memcpy(bytes.parse()?, reps.parse()?) })),
        (["loopback", bytes, reps], Party::Sockets(stream)) => {
            Ok(json!({ "median_GBs": duplex(stream, bytes.parse()?, reps.parse()?)? }))
        }
        _ => Err(format!("this process has no answer to {line:?}").into()),
    }
}

fn parse_wire(name: &str) -> Result<Wire> {
    match name {
        "full" => Ok(Wire::Full),
        "bf16" => Ok(Wire::BF16),
        "f16" => Ok(Wire::F16),
        _ => Err(format!("there is no wire {name}").into()),
    }
}

/// All ranks of a group, as threads of this process.
fn join_inside(start: &Start) -> Result<Vec<Arc<dyn Communicator>>> {
    let listeners = (0..start.world).map(|_| start.listen()).collect::<Result<Vec<_>>>()?;
    let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("this process")).collect();
    on_each(listeners.into_iter().enumerate(), |(rank, listener)| {
        Ok(connect(listener, &roster, start.options(rank), &Aborter::new())?)
    })
}

/// Does the same for every item, each in a thread of its own, and hands the results back in order.
fn on_each<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    task: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let task = &task;
        let threads = items
            .into_iter()
            .enumerate()
            .map(|(rank, item)| {
                std::thread::Builder::new().name(format!("rank {rank}")).spawn_scoped(scope, move || task(item))
            })
            .collect::<std::io::Result<Vec<_>>>()?;
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a rank panicked")?).collect()
    })
}

/// Whether this process maps memory that has no name in the file system, as only a shared link does. A rank that was
/// asked to share but fell back to TCP must not be taken for one that shares.
fn shares_memory() -> Result<bool> {
    Ok(std::fs::read_to_string("/proc/self/maps")?.contains("/memfd:"))
}

/// Median microseconds of one all-reduce.
fn all_reduce(group: &dyn Communicator, bytes: usize, reps: usize, wire: Wire) -> Result<f64> {
    let mut buffer = Buffer::new(Box::new(vec![0u8; bytes]), DType::F32);
    let mut times = Vec::with_capacity(reps);
    let unmeasured = warm_up(reps);
    for repetition in 0..unmeasured + reps {
        // Ranks begin together, so that what is measured is the operation and not who was late.
        group.start_barrier()?.wait()?;
        let began = Instant::now();
        buffer = group.start_all_reduce_as(buffer, ReduceOp::Sum, wire)?.wait()?;
        if repetition >= unmeasured {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(median(times))
}

/// Repetitions before those that count: they touch the pages and wake who slept. The same as in `gloo_rank.py`.
fn warm_up(reps: usize) -> usize {
    1 + reps / 10
}

/// Median GB/s of copying, each byte counted once.
fn memcpy(bytes: usize, reps: usize) -> f64 {
    // Not zeros, which the kernel would lend from one page that stays in the cache.
    let (from, mut to) = (vec![1u8; bytes], vec![2u8; bytes]);
    let rates = (0..warm_up(reps) + reps).map(|_| {
        let began = Instant::now();
        black_box(&mut to[..]).copy_from_slice(black_box(&from));
        gigabytes_per_second(bytes, began)
    });
    median(rates.skip(warm_up(reps)).collect())
}

/// The socket between ranks 0 and 1: the one accepts, the other connects.
fn pair(listener: &TcpListener, rank: usize, roster: &[Endpoint]) -> Result<TcpStream> {
    let first = roster.first().ok_or("the roster is empty")?;
    let stream = if rank == 0 {
        wait(listener, PollFlags::IN)?;
        listener.accept()?.0
    } else {
        TcpStream::connect((first.host.as_str(), first.port))?
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPERATION))?;
    stream.set_write_timeout(Some(OPERATION))?;
    set_socket_send_buffer_size(&stream, SOCKET_BUFFER)?;
    set_socket_recv_buffer_size(&stream, SOCKET_BUFFER)?;
    Ok(stream)
}

fn wait(socket: impl AsFd, wanted: PollFlags) -> Result<()> {
    let limit = Timespec::try_from(OPERATION)?;
    match poll(&mut [PollFd::new(&socket, wanted)], Some(&limit))? {
        0 => Err(format!("the other process did nothing for {OPERATION:?}").into()),
        _ => Ok(()),
    }
}

/// Median GB/s in each direction when both ranks send as many bytes at once.
fn duplex(stream: &TcpStream, bytes: usize, reps: usize) -> Result<f64> {
    let (data, mut piece) = (vec![1u8; bytes], vec![0u8; PIECE]);
    let mut rates = Vec::with_capacity(reps);
    let unmeasured = warm_up(reps);
    for repetition in 0..unmeasured + reps {
        // A byte each way, so that both begin together.
        let (mut out, mut come) = (stream, stream);
        out.write_all(&[0])?;
        come.read_exact(&mut [0])?;
        let began = Instant::now();
        exchange(stream, &data, &mut piece)?;
        if repetition >= unmeasured {
            rates.push(gigabytes_per_second(bytes, began));
        }
    }
    Ok(median(rates))
}

/// Sends `data` and receives as much, in one thread: with one more in each process, two cores would pass work around.
fn exchange(stream: &TcpStream, data: &[u8], piece: &mut [u8]) -> Result<()> {
    let (mut out, mut come) = (stream, stream);
    let (mut unsent, mut missing) = (data, data.len());
    stream.set_nonblocking(true)?;
    while !unsent.is_empty() || missing > 0 {
        let (mut wanted, mut idle) = (PollFlags::empty(), true);
        if !unsent.is_empty() {
            let sent = moved(out.write(unsent.get(..PIECE).unwrap_or(unsent)))?;
            unsent = unsent.get(sent..).unwrap_or_default();
            (wanted, idle) = (wanted | PollFlags::OUT, sent == 0);
        }
        if missing > 0 {
            let received = moved(come.read(piece.get_mut(..missing.min(PIECE)).unwrap_or_default()))?;
            missing -= received;
            (wanted, idle) = (wanted | PollFlags::IN, idle && received == 0);
        }
        if idle {
            wait(stream, wanted)?;
        }
    }
    Ok(stream.set_nonblocking(false)?)
}

/// The bytes of a call that moved some, 0 of one that would have had to wait.
fn moved(result: std::io::Result<usize>) -> Result<usize> {
    match result {
        Ok(0) => Err("the other process went away".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn gigabytes_per_second(bytes: usize, began: Instant) -> f64 {
    bytes as f64 / began.elapsed().as_secs_f64() / 1e9
}

/// The middle one, or the mean of the two in the middle; 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    if values.len() % 2 == 1 { at(half) } else { (at(half.saturating_sub(1)) + at(half)) / 2.0 }
}
