//! NCCL in safe clothes: what a group calls, with owned handles. CUDA's part is in [`cuda`](super::cuda).
//!
//! - [`Comm`], [`Stream`] and [`Event`] are not `Clone` and are given up by value, so nothing is used after its end.
//! - No call here waits for another rank: communicators do not block, streams and events are only asked.
//! - Device addresses are numbers. They are handed to the GPU and never followed here; that they are valid, and that
//!   nobody else uses the memory, is what a [`DeviceRegion`](crate::DeviceRegion) promises. The owner of the region
//!   keeps it until the event after the operation has come, or until the communicator's abort has returned.

#![allow(unsafe_code, reason = "calls the C functions of the tables")]

use super::table::{Config, CudaTable, Handle, NcclTable, UniqueId};
use crate::buffer::DType;
use crate::reduce::ReduceOp;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr;

const NCCL_SUCCESS: c_int = 0;
const NCCL_IN_PROGRESS: c_int = 7;

/// What NCCL or CUDA refused, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault(pub(super) String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far a call that does not block has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    Going,
}

/// A member of a communicator (`ncclComm_t`).
pub(super) struct Comm(Handle);

// SAFETY: NCCL lets any thread use a communicator, one at a time; the group's lock, or being moved, sees to that.
unsafe impl Send for Comm {}

/// A CUDA stream: one of ours, or the number that a region gave.
pub(super) struct Stream(pub(super) Handle);

// SAFETY: the CUDA runtime may be called from any thread.
unsafe impl Send for Stream {}

/// A CUDA event.
pub(super) struct Event(pub(super) Handle);

// SAFETY: the CUDA runtime may be called from any thread.
unsafe impl Send for Event {}

impl Stream {
    /// The stream that a region names. It is the caller's and is never destroyed here.
    pub(super) fn of(number: u64) -> Stream {
        Stream(address(number))
    }
}

/// Elements in device memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) address: u64,
    pub(super) elements: usize,
    pub(super) dtype: DType,
}

impl Span {
    pub(super) fn part(self, range: std::ops::Range<usize>) -> Span {
        let address = self.address + (range.start * self.dtype.size()) as u64;
        Span { address, elements: range.len(), ..self }
    }
}

/// Both libraries.
pub(super) struct Api {
    nccl: NcclTable,
    pub(super) cuda: CudaTable,
    version: i32,
    /// Calls of newer versions that are there. Nothing depends on them; they are told in the log.
    pub(super) extras: Vec<&'static str>,
}

impl Api {
    pub(super) fn new(nccl: NcclTable, cuda: CudaTable, extras: Vec<&'static str>) -> Result<Api, Fault> {
        let mut api = Api { nccl, cuda, version: 0, extras };
        // SAFETY: the pointer is to a live integer.
        let code = unsafe { (api.nccl.get_version)(&raw mut api.version) };
        api.done(code, "ncclGetVersion").map(|()| api)
    }

    /// As NCCL codes it: 22809 for 2.28.9.
    pub(super) fn version(&self) -> i32 {
        self.version
    }

    /// The version in words. Up to 2.8 it was coded with a factor of 1000.
    pub(super) fn version_name(&self) -> String {
        let (code, major) = (self.version, if self.version < 10_000 { 1000 } else { 10_000 });
        format!("{}.{}.{}", code / major, code % major / 100, code % 100)
    }

    /// A name for a new communicator, for all its ranks.
    pub(super) fn unique_id(&self) -> Result<UniqueId, Fault> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the pointer is to a live id.
        let code = unsafe { (self.nccl.get_unique_id)(&raw mut id) };
        self.done(code, "ncclGetUniqueId").map(|()| id)
    }

    /// Begins to join a communicator on the current device. [`Api::state`] tells when it is complete.
    pub(super) fn join(&self, id: UniqueId, rank: usize, world: usize) -> Result<Comm, Fault> {
        let mut handle: Handle = ptr::null_mut();
        let mut config = Config::non_blocking();
        let (rank, world) = (c_int::try_from(rank).unwrap_or(-1), c_int::try_from(world).unwrap_or(-1));
        // SAFETY: the pointers are to live values, which NCCL copies before it returns.
        let code = unsafe { (self.nccl.comm_init_rank_config)(&raw mut handle, world, id, rank, &raw mut config) };
        self.progress(code, "ncclCommInitRankConfig", None)?;
        if handle.is_null() {
            return Err(Fault("ncclCommInitRankConfig gave no communicator".into()));
        }
        Ok(Comm(handle))
    }

    /// How the communicator is: ready, busy with what was asked last, or broken.
    pub(super) fn state(&self, comm: &Comm) -> Result<Progress, Fault> {
        let mut state = NCCL_SUCCESS;
        // SAFETY: the communicator is alive and the pointer is to a live integer.
        let code = unsafe { (self.nccl.comm_get_async_error)(comm.0, &raw mut state) };
        self.done(code, "ncclCommGetAsyncError")?;
        self.progress(state, "the communicator", Some(comm))
    }

    /// Begins to end a communicator in order; destroy it when [`Api::state`] says that this is done.
    pub(super) fn finalize(&self, comm: &Comm) -> Result<Progress, Fault> {
        // SAFETY: the communicator is alive.
        let code = unsafe { (self.nccl.comm_finalize)(comm.0) };
        self.progress(code, "ncclCommFinalize", Some(comm))
    }

    /// Frees a communicator that is finalized.
    pub(super) fn destroy(&self, comm: Comm) -> Result<Progress, Fault> {
        // SAFETY: the communicator is alive, and by value: this is its last use.
        let code = unsafe { (self.nccl.comm_destroy)(comm.0) };
        self.progress(code, "ncclCommDestroy", None)
    }

    /// Ends a communicator whatever it does. May hang (nccl#1777), so it is called on a thread that may hang.
    pub(super) fn abort(&self, comm: Comm) -> Result<Progress, Fault> {
        // SAFETY: the communicator is alive, and by value: this is its last use.
        let code = unsafe { (self.nccl.comm_abort)(comm.0) };
        self.progress(code, "ncclCommAbort", None)
    }

    /// Several calls as one: NCCL starts them together when the group ends. `calls` make no other kind of call.
    pub(super) fn grouped(&self, comm: &Comm, calls: impl FnOnce() -> Result<(), Fault>) -> Result<Progress, Fault> {
        // SAFETY: takes no argument; the end follows on the same thread whatever the calls answer.
        self.done(unsafe { (self.nccl.group_start)() }, "ncclGroupStart")?;
        let called = calls();
        // SAFETY: the group was started above on this thread.
        let code = unsafe { (self.nccl.group_end)() };
        called.and_then(|()| self.progress(code, "ncclGroupEnd", Some(comm)))
    }

    pub(super) fn all_reduce(&self, span: Span, op: ReduceOp, comm: &Comm, on: &Stream) -> Result<Progress, Fault> {
        let (memory, op) = (address(span.address), reduction(op));
        // SAFETY: the handles are alive; the memory is the region's, see the module. Likewise in the calls below.
        let code =
            unsafe { (self.nccl.all_reduce)(memory, memory, span.elements, element(span.dtype), op, comm.0, on.0) };
        self.progress(code, "ncclAllReduce", Some(comm))
    }

    pub(super) fn reduce(
        &self,
        span: Span,
        op: ReduceOp,
        root: usize,
        comm: &Comm,
        on: &Stream,
    ) -> Result<Progress, Fault> {
        let (memory, op, root) = (address(span.address), reduction(op), number(root));
        // SAFETY: as in `all_reduce`.
        let code =
            unsafe { (self.nccl.reduce)(memory, memory, span.elements, element(span.dtype), op, root, comm.0, on.0) };
        self.progress(code, "ncclReduce", Some(comm))
    }

    /// `mine` is this rank's part of `whole`, and all parts have its length.
    pub(super) fn reduce_scatter(
        &self,
        whole: Span,
        mine: Span,
        op: ReduceOp,
        comm: &Comm,
        on: &Stream,
    ) -> Result<Progress, Fault> {
        let (from, to, op) = (address(whole.address), address(mine.address), reduction(op));
        // SAFETY: as in `all_reduce`.
        let code =
            unsafe { (self.nccl.reduce_scatter)(from, to, mine.elements, element(mine.dtype), op, comm.0, on.0) };
        self.progress(code, "ncclReduceScatter", Some(comm))
    }

    /// `mine` is this rank's part of `whole`, and all parts have its length.
    pub(super) fn all_gather(&self, whole: Span, mine: Span, comm: &Comm, on: &Stream) -> Result<Progress, Fault> {
        let (from, to) = (address(mine.address), address(whole.address));
        // SAFETY: as in `all_reduce`.
        let code = unsafe { (self.nccl.all_gather)(from, to, mine.elements, element(mine.dtype), comm.0, on.0) };
        self.progress(code, "ncclAllGather", Some(comm))
    }

    pub(super) fn broadcast(&self, span: Span, root: usize, comm: &Comm, on: &Stream) -> Result<Progress, Fault> {
        let (memory, root) = (address(span.address), number(root));
        // SAFETY: as in `all_reduce`.
        let code =
            unsafe { (self.nccl.broadcast)(memory, memory, span.elements, element(span.dtype), root, comm.0, on.0) };
        self.progress(code, "ncclBroadcast", Some(comm))
    }

    pub(super) fn send(&self, span: Span, to: usize, comm: &Comm, on: &Stream) -> Result<Progress, Fault> {
        let (memory, to) = (address(span.address), number(to));
        // SAFETY: as in `all_reduce`.
        let code = unsafe { (self.nccl.send)(memory, span.elements, element(span.dtype), to, comm.0, on.0) };
        self.progress(code, "ncclSend", Some(comm))
    }

    pub(super) fn receive(&self, span: Span, from: usize, comm: &Comm, on: &Stream) -> Result<Progress, Fault> {
        let (memory, from) = (address(span.address), number(from));
        // SAFETY: as in `all_reduce`.
        let code = unsafe { (self.nccl.receive)(memory, span.elements, element(span.dtype), from, comm.0, on.0) };
        self.progress(code, "ncclRecv", Some(comm))
    }

    fn done(&self, code: c_int, what: &str) -> Result<(), Fault> {
        match code {
            NCCL_SUCCESS => Ok(()),
            code => Err(self.nccl_fault(code, what, None)),
        }
    }

    fn progress(&self, code: c_int, what: &str, comm: Option<&Comm>) -> Result<Progress, Fault> {
        match code {
            NCCL_SUCCESS => Ok(Progress::Done),
            NCCL_IN_PROGRESS => Ok(Progress::Going),
            code => Err(self.nccl_fault(code, what, comm)),
        }
    }

    fn nccl_fault(&self, code: c_int, what: &str, comm: Option<&Comm>) -> Fault {
        // SAFETY: takes a number, gives a string that lives as long as the library.
        let meaning = text(unsafe { (self.nccl.get_error_string)(code) });
        // SAFETY: the communicator is alive, or null, which NCCL allows; the string lives until NCCL's next call.
        let last = text(unsafe { (self.nccl.get_last_error)(comm.map_or(ptr::null_mut(), |comm| comm.0)) });
        let last = if last.is_empty() { String::new() } else { format!(" ({})", last.trim()) };
        Fault(format!("{what} answers {code}: {meaning}{last}"))
    }
}

pub(super) fn address(number: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(usize::try_from(number).unwrap_or(0))
}

/// Ranks were checked to fit into u32; NCCL refuses -1.
fn number(rank: usize) -> c_int {
    c_int::try_from(rank).unwrap_or(-1)
}

/// `ncclRedOp_t`.
fn reduction(op: ReduceOp) -> c_int {
    match op {
        ReduceOp::Sum => 0,
        ReduceOp::Max => 2,
        ReduceOp::Min => 3,
        ReduceOp::Mean => 4,
    }
}

/// `ncclDataType_t`.
fn element(dtype: DType) -> c_int {
    match dtype {
        DType::U8 => 1,
        DType::I32 => 2,
        DType::I64 => 4,
        DType::F16 => 6,
        DType::F32 => 7,
        DType::F64 => 8,
        DType::BF16 => 9,
    }
}

pub(super) fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the libraries give strings that end in zero.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
