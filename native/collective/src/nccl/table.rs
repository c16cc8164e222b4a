//! The symbols of NCCL and of the CUDA runtime, with their C types, as tables of functions.
//!
//! Tables, not direct calls, because both libraries are optional and looked up at run time, and because tests put
//! functions of their own into them. What a symbol means stands in `nccl.h` and `cuda_runtime_api.h`.

#![allow(unsafe_code, reason = "declares C functions and copies them out of a loaded library")]

use libloading::os::unix::Library;
use std::ffi::{c_char, c_int, c_uint, c_void};

/// `ncclComm_t`, `cudaStream_t`, `cudaEvent_t`: opaque.
pub(super) type Handle = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclConfig_t` as it was in 2.14, the first version that had it.
///
/// Every later NCCL copies no more than `size` bytes over its own defaults and then ignores what `version` did not know
/// (`parseCommConfig` in NCCL's `init.cc`), so the short form stays valid.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// The padding of 2.14's struct. 2.17 has a field here; the value is NCCL's word for "not set".
    unset: c_int,
}

impl Config {
    /// The configuration of a communicator whose calls do not block.
    pub(super) fn non_blocking() -> Config {
        Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: 21_400, blocking: 0, unset: c_int::MIN }
    }
}

/// Declares a table whose fields are C functions and how it is read out of a library.
macro_rules! table {
    ($(#[$about:meta])* $name:ident {
        $($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $answer:ty)?;)*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy)]
        pub(super) struct $name {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)*
        }

        impl $name {
            /// Reads all symbols; the error is the name of the first that is missing.
            pub(super) fn read(library: &Library) -> Result<$name, &'static str> {
                Ok($name {
                    // SAFETY: the library is the one whose header declares the symbol with this type, which has been
                    // the same since NCCL 2.14 and CUDA 11.2. The pointer outlives the `Symbol`: callers leak the
                    // library.
                    $($field: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }.map_err(|_| $symbol)?,)*
                })
            }
        }
    };
}

table! {
    /// NCCL. Answers are `ncclResult_t`.
    NcclTable {
        get_version = "ncclGetVersion": fn(*mut c_int) -> c_int;
        get_unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> c_int;
        comm_init_rank_config = "ncclCommInitRankConfig": fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int;
        comm_get_async_error = "ncclCommGetAsyncError": fn(Handle, *mut c_int) -> c_int;
        comm_finalize = "ncclCommFinalize": fn(Handle) -> c_int;
        comm_destroy = "ncclCommDestroy": fn(Handle) -> c_int;
        comm_abort = "ncclCommAbort": fn(Handle) -> c_int;
        get_error_string = "ncclGetErrorString": fn(c_int) -> *const c_char;
        get_last_error = "ncclGetLastError": fn(Handle) -> *const c_char;
        group_start = "ncclGroupStart": fn() -> c_int;
        group_end = "ncclGroupEnd": fn() -> c_int;
        all_reduce = "ncclAllReduce":
            fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
        reduce = "ncclReduce":
            fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Handle, Handle) -> c_int;
        reduce_scatter = "ncclReduceScatter":
            fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
        all_gather = "ncclAllGather": fn(*const c_void, *mut c_void, usize, c_int, Handle, Handle) -> c_int;
        broadcast = "ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
        send = "ncclSend": fn(*const c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
        receive = "ncclRecv": fn(*mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
    }
}

table! {
    /// The CUDA runtime. Answers are `cudaError_t`.
    CudaTable {
        get_device_count = "cudaGetDeviceCount": fn(*mut c_int) -> c_int;
        get_device = "cudaGetDevice": fn(*mut c_int) -> c_int;
        set_device = "cudaSetDevice": fn(c_int) -> c_int;
        get_error_string = "cudaGetErrorString": fn(c_int) -> *const c_char;
        stream_create = "cudaStreamCreateWithFlags": fn(*mut Handle, c_uint) -> c_int;
        stream_destroy = "cudaStreamDestroy": fn(Handle) -> c_int;
        stream_wait_event = "cudaStreamWaitEvent": fn(Handle, Handle, c_uint) -> c_int;
        event_create = "cudaEventCreateWithFlags": fn(*mut Handle, c_uint) -> c_int;
        event_record = "cudaEventRecord": fn(Handle, Handle) -> c_int;
        event_query = "cudaEventQuery": fn(Handle) -> c_int;
        event_destroy = "cudaEventDestroy": fn(Handle) -> c_int;
        malloc_async = "cudaMallocAsync": fn(*mut Handle, usize, Handle) -> c_int;
        free_async = "cudaFreeAsync": fn(Handle, Handle) -> c_int;
        memcpy_async = "cudaMemcpyAsync": fn(*mut c_void, *const c_void, usize, c_int, Handle) -> c_int;
    }
}
