//! Measures all-reduce of f32 and prints microseconds per operation for 4 KB, 1 MB and 25 MB.
//!
//! ```text
//! cargo run --release -p kindling-collective --example allreduce_bench            # 2 processes, TCP ring
//! cargo run --release -p kindling-collective --example allreduce_bench -- 4       # 4 processes
//! cargo run --release -p kindling-collective --example allreduce_bench -- 2 local # 2 threads of this process
//! ```
//! The parent starts itself once per rank. A child prints its endpoint and reads the roster from its standard input, so
//! nothing but the pipes is needed. Rank 0 reports the median and the best of several rounds.

use kindling_collective::*;
use std::error::Error as StdError;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SIZES: [(usize, usize); 4] = [(4 << 10, 2000), (64 << 10, 1000), (1 << 20, 200), (25 << 20, 20)];

type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("rank") => {
            let mut number = || args.next().ok_or("a rank needs its number, the world and the secret");
            let (rank, world, secret) = (number()?.parse()?, number()?.parse()?, number()?);
            child(rank, world, &Secret::from_hex(&secret)?)
        }
        world => {
            let world: usize = world.map_or(Ok(2), str::parse)?;
            if args.next().as_deref() == Some("local") { local(world) } else { parent(world) }
        }
    }
}

fn options(rank: usize, secret: &Secret) -> Options {
    Options {
        run: "bench".into(),
        attempt: 0,
        rank,
        secret: secret.clone(),
        rendezvous_timeout: Duration::from_secs(30),
        operation_timeout: Duration::from_secs(60),
    }
}

/// Starts the ranks, hands the roster round, and waits for them.
fn parent(world: usize) -> Result<()> {
    let secret = Secret::generate()?.to_hex();
    let mut children: Vec<Child> = (0..world)
        .map(|rank| {
            Command::new(std::env::current_exe()?)
                .args(["rank", &rank.to_string(), &world.to_string(), &secret])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        })
        .collect::<std::io::Result<_>>()?;
    let mut outputs: Vec<_> = children.iter_mut().filter_map(|child| child.stdout.take()).map(BufReader::new).collect();
    let mut roster = String::new();
    for output in &mut outputs {
        output.read_line(&mut roster)?;
    }
    for input in children.iter_mut().filter_map(|child| child.stdin.as_mut()) {
        input.write_all(roster.as_bytes())?;
    }
    println!("{world} processes, TCP ring");
    for output in outputs {
        output.lines().try_for_each(|line| line.map(|line| println!("{line}")))?;
    }
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a rank failed".into());
        }
    }
    Ok(())
}

fn child(rank: usize, world: usize, secret: &Secret) -> Result<()> {
    let listener = Listener::bind("127.0.0.1")?;
    println!("{}", listener.endpoint("").port);
    let roster: Vec<Endpoint> = std::io::stdin()
        .lines()
        .take(world)
        .enumerate()
        .map(|(rank, port)| {
            Ok(Endpoint { process: rank.to_string(), host: "127.0.0.1".into(), port: port?.trim().parse()? })
        })
        .collect::<Result<_>>()?;
    let group = connect(listener, &roster, options(rank, secret), &Aborter::new())?;
    measure(&*group)
}

fn local(world: usize) -> Result<()> {
    let secret = Secret::generate()?;
    let listeners = (0..world).map(|_| Listener::bind("127.0.0.1")).collect::<std::result::Result<Vec<_>, _>>()?;
    let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("")).collect();
    println!("{world} threads of one process");
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners
            .into_iter()
            .enumerate()
            .map(|(rank, listener)| {
                let (roster, options) = (&roster, options(rank, &secret));
                scope.spawn(move || measure(&*connect(listener, roster, options, &Aborter::new())?))
            })
            .collect();
        ranks.into_iter().try_for_each(|rank| rank.join().map_err(|_| "a rank panicked")?)
    })
}

fn measure(group: &dyn Communicator) -> Result<()> {
    for (size, rounds) in SIZES {
        let mut buffer = Buffer::new(Box::new(vec![0u8; size]), DType::F32);
        let mut times = Vec::with_capacity(rounds);
        for round in 0..rounds + rounds / 10 + 2 {
            // Ranks begin together, so that what is measured is the operation and not who was late.
            group.start_barrier()?.wait()?;
            let began = Instant::now();
            buffer = group.start_all_reduce(buffer, ReduceOp::Sum)?.wait()?;
            if round >= rounds / 10 + 2 {
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        times.sort_by(f64::total_cmp);
        if group.rank() == 0 {
            let median = times.get(times.len() / 2).copied().unwrap_or(0.0);
            let best = times.first().copied().unwrap_or(0.0);
            println!("{:>7} KB: median {median:>9.1} µs, best {best:>9.1} µs", size >> 10);
        }
    }
    Ok(())
}
