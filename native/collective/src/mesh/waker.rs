//! Ends another thread's wait, also that of a thread of another process.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An event counter. Signals are kept until cleared, so none is lost between two waits.
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn new() -> std::io::Result<Waker> {
        Ok(Waker(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// The waker of another process, as it was handed over.
    pub(super) fn of(counter: OwnedFd) -> Waker {
        Waker(counter)
    }

    pub(super) fn wake(&self) {
        // Fails only when 2^64 - 2 signals are pending, and then one is enough.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
