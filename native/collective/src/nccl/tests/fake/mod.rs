//! An NCCL and a CUDA of Rust functions: device memory is host memory, and a communicator's operation is carried out
//! when all its ranks have enqueued it, or never. Stricter than the originals where a caller's mistake would go
//! unnoticed:
//! - a call on a communicator that is busy, aborted or destroyed is counted in [`mistakes`], as is a stream or event
//!   that is used after its end or never given back;
//! - every enqueue answers "in progress" first;
//! - an event is a promise only after it was recorded.
//!
//! Tests run side by side in one process; each takes device numbers of its own, and its wishes are kept by device.

#![allow(unsafe_code, reason = "stands for C functions and works on the memory that they are given")]

mod cuda;
mod world;

pub(super) use self::cuda::table as cuda;
use self::world::{Call, OperationId, World};
use super::super::api::Api;
use super::super::table::{Config, Handle, NcclTable, UniqueId};
use crate::lock;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

const IN_PROGRESS: c_int = 7;
const INVALID_USAGE: c_int = 5;
const REMOTE_ERROR: c_int = 6;

struct Comm {
    world: u64,
    rank: usize,
    device: c_int,
    /// So many questions are answered "in progress".
    busy: u32,
    finalized: bool,
}

/// What a test wishes to go wrong on a device.
#[derive(Clone, Copy, Default)]
pub(super) struct Wish {
    /// Aborts do not return until the wish is taken back.
    pub(super) abort_hangs: bool,
    /// NCCL's own threads have met an error.
    pub(super) remote_error: bool,
}

#[derive(Default)]
struct Machine {
    next: usize,
    worlds: BTreeMap<u64, World>,
    comms: BTreeMap<usize, Comm>,
    /// The operations put on each stream; which are done is known by their worlds.
    streams: BTreeMap<usize, Vec<OperationId>>,
    /// Streams that were told to wait for an event since their last operation.
    following: BTreeSet<usize>,
    events: BTreeMap<usize, Vec<OperationId>>,
    wishes: BTreeMap<c_int, Wish>,
    mistakes: Vec<String>,
    aborted: BTreeMap<c_int, usize>,
    destroyed: BTreeMap<c_int, usize>,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);
static RELEASED: Condvar = Condvar::new();

thread_local! {
    static DEVICE: Cell<c_int> = const { Cell::new(0) };
    static GROUPED: RefCell<Option<Vec<(usize, usize, Call)>>> = const { RefCell::new(None) };
}

fn machine<T>(work: impl FnOnce(&mut Machine) -> T) -> T {
    work(lock(&MACHINE).get_or_insert_default())
}

fn handle(number: usize) -> Handle {
    ptr::without_provenance_mut(number)
}

/// An interface onto the fake.
pub(super) fn api() -> Arc<Api> {
    Arc::new(Api::checked(nccl(), cuda(), Vec::new()).unwrap())
}

/// A device that no other test uses.
pub(super) fn device() -> c_int {
    machine(|machine| {
        machine.next += 1;
        c_int::try_from(machine.next).unwrap()
    })
}

pub(super) fn wish(device: c_int, wish: Wish) {
    machine(|machine| machine.wishes.insert(device, wish));
    RELEASED.notify_all();
}

/// (aborted, destroyed) communicators of a device.
pub(super) fn ended(device: c_int) -> (usize, usize) {
    let count = |of: &BTreeMap<c_int, usize>| of.get(&device).copied().unwrap_or(0);
    machine(|machine| (count(&machine.aborted), count(&machine.destroyed)))
}

/// What callers did wrong, in any test.
pub(super) fn mistakes() -> Vec<String> {
    machine(|machine| machine.mistakes.clone())
}

impl Machine {
    fn fresh(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn mistake(&mut self, what: &str) -> c_int {
        self.mistakes.push(what.to_owned());
        INVALID_USAGE
    }

    fn enqueue(&mut self, comm: usize, stream: usize, calls: Vec<Call>) -> c_int {
        let Some(known) = self.comms.get_mut(&comm) else {
            return self.mistake("a call on a communicator that is gone");
        };
        let (id, rank, ready) = (known.world, known.rank, known.busy == 0 && !known.finalized);
        known.busy = 2;
        let world = self.worlds.get_mut(&id).unwrap();
        if !ready || world.joined.len() < world.size {
            return self.mistake("a call on a communicator that is busy");
        }
        if !self.following.remove(&stream) {
            return self.mistake("an operation that does not wait for what the caller's stream had to do");
        }
        let own = world.enqueued.entry(rank).or_default();
        own.push(calls);
        let operation = OperationId(id, own.len() - 1);
        world.carry_out();
        match self.streams.get_mut(&stream) {
            Some(stream) => stream.push(operation),
            None => return self.mistake("a call on a stream that is not ours"),
        }
        IN_PROGRESS
    }

    fn over(&self, operation: OperationId) -> bool {
        self.worlds.get(&operation.0).is_some_and(|world| world.done > operation.1)
    }
}

fn put(comm: Handle, stream: Handle, call: Call) -> c_int {
    let (comm, stream) = (comm.addr(), stream.addr());
    let grouped = GROUPED.with_borrow_mut(|grouped| grouped.as_mut().map(|calls| calls.push((comm, stream, call))));
    if grouped.is_some() { 0 } else { machine(|machine| machine.enqueue(comm, stream, vec![call])) }
}

extern "C" fn get_version(version: *mut c_int) -> c_int {
    // SAFETY: the caller's integer is alive, as in all functions below.
    unsafe { *version = 22_809 };
    0
}

extern "C" fn get_unique_id(id: *mut UniqueId) -> c_int {
    let number = machine(Machine::fresh) as u64;
    let mut bytes = [7; 128];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    // SAFETY: as above.
    unsafe { *id = UniqueId(bytes) };
    0
}

extern "C" fn init(comm: *mut Handle, size: c_int, id: UniqueId, rank: c_int, _: *mut Config) -> c_int {
    machine(|machine| {
        let (id, size) = (u64::from_le_bytes(id.0[..8].try_into().unwrap()), usize::try_from(size).unwrap());
        let (number, rank) = (machine.fresh(), usize::try_from(rank).unwrap());
        let world = machine.worlds.entry(id).or_default();
        world.size = size;
        if !world.joined.insert(rank) {
            return machine.mistake("a rank joined twice");
        }
        let device = DEVICE.get();
        machine.comms.insert(number, Comm { world: id, rank, device, busy: 1, finalized: false });
        // SAFETY: as above.
        unsafe { *comm = handle(number) };
        IN_PROGRESS
    })
}

extern "C" fn get_async_error(comm: Handle, state: *mut c_int) -> c_int {
    machine(|machine| {
        let Some(known) = machine.comms.get_mut(&comm.addr()) else {
            return machine.mistake("a question about a communicator that is gone");
        };
        let world = &machine.worlds[&known.world];
        let wish = machine.wishes.get(&known.device).copied().unwrap_or_default();
        let answer = match known.busy {
            _ if wish.remote_error => REMOTE_ERROR,
            _ if world.joined.len() < world.size => IN_PROGRESS,
            0 => 0,
            _ => {
                known.busy -= 1;
                IN_PROGRESS
            }
        };
        // SAFETY: as above.
        unsafe { *state = answer };
        0
    })
}

extern "C" fn finalize(comm: Handle) -> c_int {
    machine(|machine| match machine.comms.get_mut(&comm.addr()) {
        Some(known) if known.busy == 0 && !known.finalized => {
            (known.busy, known.finalized) = (2, true);
            IN_PROGRESS
        }
        _ => machine.mistake("a finalize out of place"),
    })
}

extern "C" fn destroy(comm: Handle) -> c_int {
    machine(|machine| match machine.comms.remove(&comm.addr()) {
        Some(known) if known.busy == 0 && known.finalized => {
            *machine.destroyed.entry(known.device).or_default() += 1;
            0
        }
        _ => machine.mistake("a destroy out of place"),
    })
}

extern "C" fn abort(comm: Handle) -> c_int {
    let mut guard = lock(&MACHINE);
    let machine = guard.get_or_insert_default();
    let Some(known) = machine.comms.remove(&comm.addr()) else { return machine.mistake("an abort out of place") };
    if let Some(world) = machine.worlds.get_mut(&known.world) {
        world.dead = true;
    }
    let hangs = |machine: &mut Option<Machine>| {
        machine.as_ref().is_some_and(|machine| machine.wishes.get(&known.device).is_some_and(|wish| wish.abort_hangs))
    };
    let mut guard = RELEASED.wait_while(guard, |machine| hangs(machine)).unwrap_or_else(PoisonError::into_inner);
    *guard.get_or_insert_default().aborted.entry(known.device).or_default() += 1;
    0
}

extern "C" fn error_string(code: c_int) -> *const c_char {
    if code == REMOTE_ERROR { c"remote error".as_ptr() } else { c"something is wrong".as_ptr() }
}

extern "C" fn last_error(_: Handle) -> *const c_char {
    c"".as_ptr()
}

extern "C" fn group_start() -> c_int {
    GROUPED.with_borrow_mut(|grouped| *grouped = Some(Vec::new()));
    0
}

extern "C" fn group_end() -> c_int {
    let calls = GROUPED.with_borrow_mut(Option::take).unwrap_or_default();
    let Some((comm, stream, _)) = calls.first().copied() else { return 0 };
    machine(|machine| machine.enqueue(comm, stream, calls.into_iter().map(|(_, _, call)| call).collect()))
}

/// Memory is passed on as a number; the original provenance was exposed by the region.
fn at(memory: *const c_void) -> usize {
    memory.expose_provenance()
}

extern "C" fn all_reduce(
    from: *const c_void,
    _: *mut c_void,
    count: usize,
    dtype: c_int,
    op: c_int,
    comm: Handle,
    on: Handle,
) -> c_int {
    put(comm, on, Call::AllReduce { memory: at(from), count, dtype, op })
}

extern "C" fn reduce(
    from: *const c_void,
    _: *mut c_void,
    count: usize,
    dtype: c_int,
    op: c_int,
    root: c_int,
    comm: Handle,
    on: Handle,
) -> c_int {
    put(comm, on, Call::Reduce { memory: at(from), count, dtype, op, root })
}

extern "C" fn reduce_scatter(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    dtype: c_int,
    op: c_int,
    comm: Handle,
    on: Handle,
) -> c_int {
    put(comm, on, Call::ReduceScatter { from: at(from), to: at(to), count, dtype, op })
}

extern "C" fn all_gather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    dtype: c_int,
    comm: Handle,
    on: Handle,
) -> c_int {
    put(comm, on, Call::AllGather { from: at(from), to: at(to), count, dtype })
}

extern "C" fn broadcast(
    from: *const c_void,
    _: *mut c_void,
    count: usize,
    dtype: c_int,
    root: c_int,
    comm: Handle,
    on: Handle,
) -> c_int {
    put(comm, on, Call::Broadcast { memory: at(from), count, dtype, root })
}

extern "C" fn send(from: *const c_void, count: usize, dtype: c_int, peer: c_int, comm: Handle, on: Handle) -> c_int {
    put(comm, on, Call::Send { memory: at(from), count, dtype, peer })
}

extern "C" fn receive(to: *mut c_void, count: usize, dtype: c_int, peer: c_int, comm: Handle, on: Handle) -> c_int {
    put(comm, on, Call::Receive { memory: at(to), count, dtype, peer })
}

pub(super) fn nccl() -> NcclTable {
    NcclTable {
        get_version,
        get_unique_id,
        comm_init_rank_config: init,
        comm_get_async_error: get_async_error,
        comm_finalize: finalize,
        comm_destroy: destroy,
        comm_abort: abort,
        get_error_string: error_string,
        get_last_error: last_error,
        group_start,
        group_end,
        all_reduce,
        reduce,
        reduce_scatter,
        all_gather,
        broadcast,
        send,
        receive,
    }
}
