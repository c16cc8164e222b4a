//! The transport against the fake, with ranks as threads; and against a GPU, where there is one.

mod failure;
mod fake;
mod gpu;
mod operations;

use super::{NcclOptions, connect_with};
use crate::abort::Aborter;
use crate::buffer::{Buffer, DType, DeviceRegion};
use crate::communicator::Communicator;
use crate::connect::{Endpoint, Listener, Options, connect};
use crate::error::Error;
use crate::secret::Secret;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Memory that the fake takes for a GPU's. Counts how many regions are alive.
struct Memory {
    bytes: Vec<u8>,
    device: i32,
    alive: Arc<AtomicUsize>,
}

impl Memory {
    fn buffer(bytes: Vec<u8>, dtype: DType, device: i32, alive: &Arc<AtomicUsize>) -> Buffer {
        alive.fetch_add(1, Ordering::SeqCst);
        Buffer::on_device(Box::new(Memory { bytes, device, alive: Arc::clone(alive) }), dtype)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DeviceRegion for Memory {
    fn address(&self) -> u64 {
        self.bytes.as_ptr().expose_provenance() as u64
    }
    fn length(&self) -> usize {
        self.bytes.len()
    }
    fn device(&self) -> i32 {
        self.device
    }
    fn stream(&self) -> u64 {
        0
    }
}

fn floats(values: impl IntoIterator<Item = f32>, device: i32) -> Buffer {
    let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Memory::buffer(bytes, DType::F32, device, &Arc::default())
}

fn read(buffer: &Buffer) -> Vec<f32> {
    let region = buffer.device().unwrap();
    let memory = std::ptr::with_exposed_provenance::<f32>(usize::try_from(region.address()).unwrap());
    let count = region.length() / 4;
    #[allow(unsafe_code, reason = "reads the memory that stands for a GPU's")]
    // SAFETY: the region is alive, and the operation that wrote into it is over. Vectors of bytes from the system's
    // allocator are aligned for f32; read unaligned all the same.
    (0..count).map(|index| unsafe { memory.add(index).read_unaligned() }).collect()
}

fn options() -> NcclOptions {
    NcclOptions {
        operation_timeout: Duration::from_secs(20),
        rendezvous_timeout: Duration::from_secs(20),
        abort_timeout: Duration::from_millis(500),
        library: None,
    }
}

/// Runs `rank` as a thread for each rank of a new group on `device`, and gives their answers in rank order.
fn ranks<T: Send>(
    size: usize,
    device: i32,
    options: &NcclOptions,
    rank: impl Fn(Arc<dyn Communicator>) -> T + Sync,
) -> Vec<T> {
    bootstraps(size, |bootstrap| {
        let aborter = bootstrap.aborter();
        rank(connect_with(Ok(fake::api()), bootstrap, device, options, &aborter).unwrap())
    })
}

/// The same with no more than the bootstrap group: threads of this process, each with an aborter of its own.
fn bootstraps<T: Send>(size: usize, rank: impl Fn(Arc<dyn Communicator>) -> T + Sync) -> Vec<T> {
    // Groups of one process find each other by their run, and tests run side by side.
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = format!("nccl test {}", RUNS.fetch_add(1, Ordering::Relaxed));
    let secret = Secret::generate().unwrap();
    let listeners: Vec<Listener> = (0..size).map(|_| Listener::bind("127.0.0.1").unwrap()).collect();
    let roster: Vec<Endpoint> = listeners.iter().map(|listener| listener.endpoint("this process")).collect();
    let join = |number, listener| {
        let long = Duration::from_secs(20);
        let options = Options::new(run.clone(), 0, number, secret.clone());
        let options = Options { rendezvous_timeout: long, operation_timeout: long, ..options };
        rank(connect(listener, &roster, options, &Aborter::new()).unwrap())
    };
    let answers = thread::scope(|scope| {
        let join = &join;
        let listeners = listeners.into_iter().enumerate();
        let threads: Vec<_> = listeners.map(|(number, listener)| scope.spawn(move || join(number, listener))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(fake::mistakes(), Vec::<String>::new());
    answers
}

/// The error of a result whose good side cannot be printed.
fn refusal<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error,
    }
}
