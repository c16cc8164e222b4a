//! The CUDA runtime of the fake.

#![allow(unsafe_code, reason = "stands for C functions")]

use super::super::super::table::{CudaTable, Handle};
use super::world::OperationId;
use super::{DEVICE, error_string, handle, machine};
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

const NOT_READY: c_int = 600;

extern "C" fn get_device_count(count: *mut c_int) -> c_int {
    // SAFETY: the caller's pointer is to a live value, as in all functions below.
    unsafe { *count = c_int::MAX };
    0
}

extern "C" fn get_device(device: *mut c_int) -> c_int {
    // SAFETY: as above.
    unsafe { *device = DEVICE.get() };
    0
}

extern "C" fn set_device(device: c_int) -> c_int {
    DEVICE.set(device);
    0
}

extern "C" fn stream_create(stream: *mut Handle, _: c_uint) -> c_int {
    machine(|machine| {
        let number = machine.fresh();
        machine.streams.insert(number, Vec::new());
        // SAFETY: as above.
        unsafe { *stream = handle(number) };
        0
    })
}

extern "C" fn stream_destroy(stream: Handle) -> c_int {
    machine(|machine| match machine.streams.remove(&stream.addr()) {
        Some(_) => 0,
        None => machine.mistake("a stream destroyed twice"),
    })
}

extern "C" fn stream_wait(stream: Handle, event: Handle, _: c_uint) -> c_int {
    machine(|machine| match (machine.streams.get(&stream.addr()), machine.events.get(&event.addr())) {
        (Some(_), Some(_)) => {
            machine.following.insert(stream.addr());
            0
        }
        _ => machine.mistake("a stream that waits for nothing"),
    })
}

extern "C" fn event_create(event: *mut Handle, _: c_uint) -> c_int {
    machine(|machine| {
        let number = machine.fresh();
        machine.events.insert(number, vec![OperationId(u64::MAX, 0)]);
        // SAFETY: as above.
        unsafe { *event = handle(number) };
        0
    })
}

extern "C" fn event_record(event: Handle, stream: Handle) -> c_int {
    machine(|machine| {
        // The callers' streams are numbers that the fake does not know, with nothing on them.
        let on = machine.streams.get(&stream.addr()).cloned().unwrap_or_default();
        match machine.events.get_mut(&event.addr()) {
            Some(event) => {
                *event = on;
                0
            }
            None => machine.mistake("an event recorded after its end"),
        }
    })
}

extern "C" fn event_query(event: Handle) -> c_int {
    machine(|machine| match machine.events.get(&event.addr()) {
        Some(on) if on.iter().all(|operation| machine.over(*operation)) => 0,
        Some(_) => NOT_READY,
        None => machine.mistake("an event asked after its end"),
    })
}

extern "C" fn event_destroy(event: Handle) -> c_int {
    machine(|machine| match machine.events.remove(&event.addr()) {
        Some(_) => 0,
        None => machine.mistake("an event destroyed twice"),
    })
}

extern "C" fn malloc_async(memory: *mut Handle, length: usize, _: Handle) -> c_int {
    // Freed only in the order of the stream, which the fake does not have: it keeps the memory.
    let kept = Box::leak(vec![0u8; length].into_boxed_slice());
    // SAFETY: as above.
    unsafe { *memory = kept.as_mut_ptr().cast() };
    0
}

extern "C" fn free_async(_: Handle, _: Handle) -> c_int {
    0
}

extern "C" fn memcpy_async(to: *mut c_void, from: *const c_void, length: usize, _: c_int, _: Handle) -> c_int {
    // SAFETY: both are buffers of that length, and different ones.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), length) };
    0
}

pub(in super::super) fn table() -> CudaTable {
    CudaTable {
        get_device_count,
        get_device,
        set_device,
        get_error_string: error_string,
        stream_create,
        stream_destroy,
        stream_wait_event: stream_wait,
        event_create,
        event_record,
        event_query,
        event_destroy,
        malloc_async,
        free_async,
        memcpy_async,
    }
}
