//! The CUDA runtime in safe clothes. The promises are those of [`api`](super::api).

#![allow(unsafe_code, reason = "calls the C functions of the table")]

use super::api::{Api, Event, Fault, Span, Stream, address, text};
use super::table::Handle;
#[cfg(test)]
use crate::buffer::DType;
use std::ffi::c_int;
use std::ptr;

const CUDA_SUCCESS: c_int = 0;
const CUDA_NOT_READY: c_int = 600;
/// `cudaStreamNonBlocking`: the stream does not wait for the default stream.
const STREAM_NON_BLOCKING: u32 = 1;
/// `cudaEventDisableTiming`: events that are only asked whether they have come are cheaper.
const EVENT_DISABLE_TIMING: u32 = 2;
const MEMCPY_DEVICE_TO_DEVICE: c_int = 3;

impl Api {
    pub(super) fn device_count(&self) -> Result<i32, Fault> {
        let mut count = 0;
        // SAFETY: the pointer is to a live integer.
        let code = unsafe { (self.cuda.get_device_count)(&raw mut count) };
        self.allowed(code, "cudaGetDeviceCount").map(|()| count)
    }

    /// Runs `work` with `device` as the thread's current one, and gives the caller's device back to it.
    pub(super) fn on_device<T>(&self, device: i32, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let mut before = device;
        // SAFETY: the pointer is to a live integer.
        self.allowed(unsafe { (self.cuda.get_device)(&raw mut before) }, "cudaGetDevice")?;
        // SAFETY: takes a number.
        self.allowed(unsafe { (self.cuda.set_device)(device) }, "cudaSetDevice")?;
        let result = work();
        if before != device {
            // SAFETY: takes a number.
            self.allowed(unsafe { (self.cuda.set_device)(before) }, "cudaSetDevice")?;
        }
        result
    }

    /// A stream of our own on the current device.
    pub(super) fn stream(&self) -> Result<Stream, Fault> {
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        let code = unsafe { (self.cuda.stream_create)(&raw mut handle, STREAM_NON_BLOCKING) };
        self.allowed(code, "cudaStreamCreateWithFlags").map(|()| Stream(handle))
    }

    /// Gives up a stream made by [`Api::stream`].
    pub(super) fn destroy_stream(&self, stream: Stream) {
        // SAFETY: the stream is ours, and by value: this is its last use.
        self.told(unsafe { (self.cuda.stream_destroy)(stream.0) }, "cudaStreamDestroy");
    }

    pub(super) fn event(&self) -> Result<Event, Fault> {
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        let code = unsafe { (self.cuda.event_create)(&raw mut handle, EVENT_DISABLE_TIMING) };
        self.allowed(code, "cudaEventCreateWithFlags").map(|()| Event(handle))
    }

    pub(super) fn destroy_event(&self, event: Event) {
        // SAFETY: the event is ours, and by value: this is its last use.
        self.told(unsafe { (self.cuda.event_destroy)(event.0) }, "cudaEventDestroy");
    }

    /// Puts `event` behind all that `stream` has to do now.
    pub(super) fn record(&self, event: &Event, stream: &Stream) -> Result<(), Fault> {
        // SAFETY: the handles are alive; a region's stream is, by its promise.
        self.allowed(unsafe { (self.cuda.event_record)(event.0, stream.0) }, "cudaEventRecord")
    }

    /// Whether all before `event` is done.
    pub(super) fn come(&self, event: &Event) -> Result<bool, Fault> {
        // SAFETY: the event is alive.
        match unsafe { (self.cuda.event_query)(event.0) } {
            CUDA_NOT_READY => Ok(false),
            code => self.allowed(code, "cudaEventQuery").map(|()| true),
        }
    }

    /// Whatever `stream` is given from now on waits for `event`.
    pub(super) fn follow(&self, stream: &Stream, event: &Event) -> Result<(), Fault> {
        // SAFETY: the handles are alive.
        self.allowed(unsafe { (self.cuda.stream_wait_event)(stream.0, event.0, 0) }, "cudaStreamWaitEvent")
    }

    /// A copy of `span` in memory from the stream's pool, made in the stream's order.
    pub(super) fn copied(&self, span: Span, on: &Stream) -> Result<Span, Fault> {
        let bytes = span.elements * span.dtype.size();
        let mut memory: Handle = ptr::null_mut();
        // SAFETY: the pointer is to a live pointer.
        self.allowed(unsafe { (self.cuda.malloc_async)(&raw mut memory, bytes, on.0) }, "cudaMallocAsync")?;
        let copy = Span { address: memory.expose_provenance() as u64, ..span };
        // SAFETY: both have `bytes` bytes; the new memory is valid from here on in the stream's order.
        let code =
            unsafe { (self.cuda.memcpy_async)(memory, address(span.address), bytes, MEMCPY_DEVICE_TO_DEVICE, on.0) };
        self.allowed(code, "cudaMemcpyAsync").map(|()| copy)
    }

    /// Gives a copy back when the stream has done what it has to do now.
    pub(super) fn free(&self, copy: Span, on: &Stream) -> Result<(), Fault> {
        // SAFETY: the memory comes from `copied` on this stream; its owner frees it once.
        self.allowed(unsafe { (self.cuda.free_async)(address(copy.address), on.0) }, "cudaFreeAsync")
    }

    /// Device memory with `bytes` in it, ready for any stream.
    #[cfg(test)]
    pub(super) fn upload(&self, bytes: &[u8], dtype: DType) -> Result<Span, Fault> {
        let (mut memory, stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the pointers are to live values; the default stream is 0.
        self.allowed(unsafe { (self.cuda.malloc_async)(&raw mut memory, bytes.len(), stream) }, "cudaMallocAsync")?;
        // SAFETY: both have that many bytes; the copy is over before the bytes go, see `settle`. 1 is host to device.
        let code = unsafe { (self.cuda.memcpy_async)(memory, bytes.as_ptr().cast(), bytes.len(), 1, stream) };
        self.allowed(code, "cudaMemcpyAsync")?;
        self.settle()?;
        let address = memory.expose_provenance() as u64;
        Ok(Span { address, elements: bytes.len() / dtype.size(), dtype })
    }

    #[cfg(test)]
    pub(super) fn download(&self, span: Span) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0u8; span.elements * span.dtype.size()];
        let (to, from) = (bytes.as_mut_ptr().cast(), address(span.address));
        // SAFETY: both have that many bytes; the copy is over before they are read, see `settle`. 2 is device to host.
        let code = unsafe { (self.cuda.memcpy_async)(to, from, bytes.len(), 2, ptr::null_mut()) };
        self.allowed(code, "cudaMemcpyAsync")?;
        self.settle().map(|()| bytes)
    }

    /// Waits for the default stream.
    #[cfg(test)]
    fn settle(&self) -> Result<(), Fault> {
        let event = self.event()?;
        self.record(&event, &Stream::of(0))?;
        while !self.come(&event)? {
            std::hint::spin_loop();
        }
        self.destroy_event(event);
        Ok(())
    }

    fn allowed(&self, code: c_int, what: &str) -> Result<(), Fault> {
        if code == CUDA_SUCCESS {
            return Ok(());
        }
        // SAFETY: takes a number, gives a string that lives as long as the library.
        let meaning = text(unsafe { (self.cuda.get_error_string)(code) });
        Err(Fault(format!("{what} answers {code}: {meaning}")))
    }

    /// For what cannot be helped any more: a line in the log.
    fn told(&self, code: c_int, what: &str) {
        if let Err(fault) = self.allowed(code, what) {
            log::warn!("{fault}");
        }
    }
}
