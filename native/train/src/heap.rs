//! The C library's heap while networks compute: what a step frees, the next one gets, and the system gets it at the end.
//!
//! libtorch takes the memory of tensors by `posix_memalign`, at which glibc is slow and leaves holes. From the first network
//! on it comes from `malloc`, with the same alignment: a step of a small BERT takes 6 % less time for it, and one of a
//! ResNet-18 20 % less memory.
//!
//! glibc gives the end of its heap back to the system whenever more than
//! its trim threshold is free there, and maps large blocks by themselves. A step that frees its activations and gradients
//! then costs the next one a page fault for every 4 KiB of them: a third of the time of a ResNet-18 on small batches. So,
//! from the first network on, this process maps only blocks of 32 MiB and more and keeps the rest; when the last network is
//! dropped, what is free goes back. An environment that sets `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` is left
//! alone, and so are other C libraries.
#![allow(unsafe_code, reason = "calls the C library and libtorch about the heap")]

use std::sync::{Mutex, Once, PoisonError};

unsafe extern "C" {
    safe fn kd_heap_install();
}

/// Static, as libtorch's allocator is the process's.
static INSTALLED: Once = Once::new();

/// Networks that compute in this process. Static, as the heap is the process's.
static NETWORKS: Mutex<usize> = Mutex::new(0);

/// Keeps the heap as long as it lives.
#[derive(Debug)]
pub(crate) struct Heap(());

impl Heap {
    pub(crate) fn keep() -> Heap {
        // Once: libtorch reads the allocator without a lock.
        INSTALLED.call_once(|| kd_heap_install());
        let mut networks = NETWORKS.lock().unwrap_or_else(PoisonError::into_inner);
        if *networks == 0 {
            set_thresholds();
        }
        *networks += 1;
        Heap(())
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        let mut networks = NETWORKS.lock().unwrap_or_else(PoisonError::into_inner);
        *networks = networks.saturating_sub(1);
        if *networks == 0 {
            give_back();
        }
    }
}

#[cfg(target_env = "gnu")]
fn set_thresholds() {
    /// glibc takes no more for a block, on 64 bits.
    const MAPPED_FROM: libc::c_int = 32 << 20;
    const TRIMMED_FROM: libc::c_int = 1 << 30;
    let chosen = |name| std::env::var_os(name).is_some();
    if chosen("MALLOC_TRIM_THRESHOLD_") || chosen("MALLOC_MMAP_THRESHOLD_") {
        return;
    }
    // SAFETY: mallopt changes two numbers that glibc reads when it allocates and frees, under its own lock.
    let taken = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, TRIMMED_FROM) == 1
    };
    if !taken {
        log::debug!("glibc did not take the thresholds of its heap: steps may be slower");
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: malloc_trim gives free pages of the heap back and touches no block that is in use; it takes glibc's locks.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn set_thresholds() {}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn tensors_are_aligned_keep_their_values_when_they_grow_and_may_be_empty_or_freed_elsewhere() {
        let before = Tensor::arange(5, (Kind::Int64, Device::Cpu));
        let heap = Heap::keep();
        for elements in [0, 1, 15, 16, 17, 1000, 1 << 20] {
            let tensor = Tensor::ones([elements], (Kind::Uint8, Device::Cpu));
            assert_eq!(tensor.data_ptr().addr() % 64, 0);
            assert_eq!(tensor.sum(Kind::Int64).int64_value(&[]), elements);
            let mut grown = tensor.copy();
            let _ = grown.resize_([2 * elements + 1]);
            assert_eq!(grown.data_ptr().addr() % 64, 0);
            assert!(grown.narrow(0, 0, elements) == tensor);
            std::thread::spawn(move || drop((tensor, grown))).join().unwrap();
        }
        drop(heap);
        assert_eq!(before.sum(Kind::Int64).int64_value(&[]), 10);
    }

    #[test]
    fn a_tensor_without_memory_is_an_error_that_tells_its_size() {
        let _heap = Heap::keep();
        let error = Tensor::f_empty([1 << 60], (Kind::Uint8, Device::Cpu)).unwrap_err().to_string();
        assert!(error.contains("no memory for a tensor of 1152921504606846976 bytes"), "{error}");
    }
}
