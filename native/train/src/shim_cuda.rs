//! The Rust half of `shim/device.h`: what the driver shows, libtorch's CUDA part, streams and events.
//!
//! Ownership: an [`Event`] owns its C++ object and frees it once. A [`Queue`] is two numbers; its stream comes from libtorch's
//! pool and lives as long as the process. [`Entered`] changes the calling thread only, and puts back what it found.
#![allow(unsafe_code, reason = "the border to the C++ shim")]

use std::ffi::{CStr, CString, OsStr, c_char};
use std::marker::PhantomData;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use crate::error::Torch;
use crate::shim::{check, last_error, owned};

#[repr(C)]
struct KdEvent {
    _private: [u8; 0],
}

/// As in `device.h`.
#[repr(C)]
#[derive(Clone)]
struct KdGpu {
    name: [u8; 256],
    uuid: [u8; 16],
    memory: u64,
    major: i32,
    minor: i32,
}

/// What a thread's work on a GPU is queued on: the GPU, and one of its streams. Laid out as `KdQueue` in `device.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Queue {
    gpu: i8,
    stream: i64,
}

#[rustfmt::skip]
unsafe extern "C" {
    fn kd_torch_library() -> *const c_char;
    fn kd_gpus(gpus: *mut KdGpu, room: usize, count: *mut usize) -> bool;
    fn kd_cuda_open(library: *const c_char) -> bool;
    fn kd_cuda_version(version: *mut i64) -> bool;
    fn kd_stream_new(gpu: i8, stream: *mut i64) -> bool;
    fn kd_stream_handle(queue: *const Queue, handle: *mut u64) -> bool;
    fn kd_queue_enter(queue: *const Queue, before: *mut Queue) -> bool;
    fn kd_queue_leave(queue: *const Queue, before: *const Queue) -> bool;
    fn kd_queue_finish(queue: *const Queue) -> bool;
    fn kd_event_record(queue: *const Queue) -> *mut KdEvent;
    fn kd_event_free(event: *mut KdEvent);
    fn kd_event_block(event: *const KdEvent, queue: *const Queue) -> bool;
    fn kd_event_query(event: *const KdEvent, come: *mut bool) -> bool;
    fn kd_event_wait(event: *const KdEvent) -> bool;
    fn kd_pinned(sizes: *const i64, dims: usize, like: *const C_tensor) -> *mut C_tensor;
    fn kd_copy(to: *const C_tensor, from: *const C_tensor) -> bool;
}

/// The GPUs of a machine are fewer.
const MOST_GPUS: usize = 64;

/// A GPU as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    pub(crate) uuid: [u8; 16],
    /// Bytes.
    pub(crate) memory: u64,
    /// Its compute capability.
    pub(crate) capability: (i32, i32),
}

/// The folder of the libtorch in use.
pub(crate) fn torch_folder() -> Option<PathBuf> {
    // SAFETY: null, or a string that lives as long as the library is loaded.
    let file = unsafe { kd_torch_library().as_ref().map(|file| CStr::from_ptr(file)) }?;
    Path::new(OsStr::from_bytes(file.to_bytes())).parent().map(Path::to_path_buf)
}

/// The GPUs that the driver shows to this process, in their order.
pub(crate) fn gpus() -> Result<Vec<Gpu>, Torch> {
    let empty = KdGpu { name: [0; 256], uuid: [0; 16], memory: 0, major: 0, minor: 0 };
    let mut found = vec![empty; MOST_GPUS];
    let mut count = 0;
    // SAFETY: the array has that many places, and `count` is written on success.
    check(unsafe { kd_gpus(found.as_mut_ptr(), found.len(), &raw mut count) })?;
    let gpu = |gpu: KdGpu| Gpu {
        name: CStr::from_bytes_until_nul(&gpu.name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        uuid: gpu.uuid,
        memory: gpu.memory,
        capability: (gpu.major, gpu.minor),
    };
    Ok(found.into_iter().take(count).map(gpu).collect())
}

/// Opens libtorch's CUDA part for the rest of the process.
pub(crate) fn open(library: &Path) -> Result<(), Torch> {
    let library = CString::new(library.as_os_str().to_os_string().into_vec())
        .map_err(|_| Torch("its path holds a NUL".to_owned()))?;
    // SAFETY: the string outlives the call. The initialisers that run are those of the libtorch in use.
    check(unsafe { kd_cuda_open(library.as_ptr()) })
}

/// The CUDA runtime of libtorch, 13000 for 13.0, once the CUDA part is open.
pub(crate) fn runtime_version() -> Result<i64, Torch> {
    let mut version = 0;
    // SAFETY: written on success.
    check(unsafe { kd_cuda_version(&raw mut version) })?;
    Ok(version)
}

impl Queue {
    /// A stream of that GPU that is not the default one.
    pub(crate) fn new(gpu: i8) -> Result<Queue, Torch> {
        let mut stream = 0;
        // SAFETY: written on success.
        check(unsafe { kd_stream_new(gpu, &raw mut stream) })?;
        Ok(Queue { gpu, stream })
    }

    /// The stream's number in CUDA's own interface.
    pub(crate) fn handle(self) -> Result<u64, Torch> {
        let mut handle = 0;
        // SAFETY: `self` is read and `handle` written before the shim returns.
        check(unsafe { kd_stream_handle(&raw const self, &raw mut handle) })?;
        Ok(handle)
    }

    /// Queues what this thread starts on this queue, until the guard is dropped.
    pub(crate) fn enter(self) -> Result<Entered, Torch> {
        let mut before = Queue::default();
        // SAFETY: as above.
        check(unsafe { kd_queue_enter(&raw const self, &raw mut before) })?;
        Ok(Entered { queue: self, before, _thread: PhantomData })
    }

    /// Waits until all that was queued is done.
    pub(crate) fn finish(self) -> Result<(), Torch> {
        // SAFETY: `self` is read before the shim returns.
        check(unsafe { kd_queue_finish(&raw const self) })
    }
}

/// While it lives, this thread's work goes to a queue.
pub(crate) struct Entered {
    queue: Queue,
    before: Queue,
    /// Bound to its thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: both are read before the shim returns; this is the thread that entered.
        if let Err(error) = check(unsafe { kd_queue_leave(&raw const self.queue, &raw const self.before) }) {
            log::error!("a thread could not be given its GPU and stream back: {error}");
        }
    }
}

/// A place in a queue.
pub(crate) struct Event(NonNull<KdEvent>);

// SAFETY: a CUDA event may be used from any thread, one at a time, and the wrapper has no thread-local state.
unsafe impl Send for Event {}

impl Event {
    /// Behind all that the queue has to do now.
    pub(crate) fn record(queue: Queue) -> Result<Event, Torch> {
        // SAFETY: `queue` is read before the shim returns; a non-null result is ours.
        NonNull::new(unsafe { kd_event_record(&raw const queue) }).map(Event).ok_or_else(last_error)
    }

    /// Whatever `queue` is given from now on waits for it.
    pub(crate) fn block(&self, queue: Queue) -> Result<(), Torch> {
        // SAFETY: the event lives as long as self; `queue` is read before the shim returns.
        check(unsafe { kd_event_block(self.0.as_ptr(), &raw const queue) })
    }

    /// Whether all before it is done.
    pub(crate) fn has_come(&self) -> Result<bool, Torch> {
        let mut come = false;
        // SAFETY: as above; written on success.
        check(unsafe { kd_event_query(self.0.as_ptr(), &raw mut come) })?;
        Ok(come)
    }

    /// Waits until all before it is done.
    pub(crate) fn wait(&self) -> Result<(), Torch> {
        // SAFETY: as above.
        check(unsafe { kd_event_wait(self.0.as_ptr()) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by kd_event_record, freed once.
        unsafe { kd_event_free(self.0.as_ptr()) }
    }
}

/// An uninitialised tensor in memory of the host that GPUs read and write by themselves.
pub(crate) fn pinned(sizes: &[i64], kind: Kind) -> Result<Tensor, Torch> {
    let like = Tensor::f_empty([0i64; 1], (kind, Device::Cpu)).map_err(|error| Torch::new(&error.to_string()))?;
    // SAFETY: sizes and tensor are read before the shim returns; a non-null result is ours.
    owned(unsafe { kd_pinned(sizes.as_ptr(), sizes.len(), like.as_ptr()) })
}

/// Queues a copy on this thread's stream. Between pinned memory and a GPU it returns at once: both must be left alone until
/// an event behind it has come. On the CPU it is done on return.
pub(crate) fn copy(to: &Tensor, from: &Tensor) -> Result<(), Torch> {
    // SAFETY: both tensors are alive for the call, and the caller has `to` to write into.
    check(unsafe { kd_copy(to.as_ptr(), from.as_ptr()) })
}
