//! The C library's heap while networks compute: what a step frees, the next one gets, and the system gets it at the end.
//!
//! libtorch's tensors on the CPU come from `malloc`. glibc gives the end of its heap back to the system whenever more than
//! its trim threshold is free there, and maps large blocks by themselves. A step that frees its activations and gradients
//! then costs the next one a page fault for every 4 KiB of them: a third of the time of a ResNet-18 on small batches. So,
//! from the first network on, this process maps only blocks of 32 MiB and more and keeps the rest; when the last network is
//! dropped, what is free goes back. An environment that sets `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` is left
//! alone, and so are other C libraries.
#![allow(unsafe_code, reason = "calls the C library about its heap")]

use std::sync::{Mutex, PoisonError};

/// Networks that compute in this process. Static, as the heap is the process's.
static NETWORKS: Mutex<usize> = Mutex::new(0);

/// Keeps the heap as long as it lives.
#[derive(Debug)]
pub(crate) struct Heap(());

impl Heap {
    pub(crate) fn keep() -> Heap {
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
