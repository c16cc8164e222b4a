//! The result of an operation, on its way from the thread that finishes it to the one that waits.
//!
//! A promise is kept exactly once: explicitly, or with an error when it is dropped. So a wait always ends, and needs
//! no deadline of its own: the engine keeps the deadlines.

use crate::error::Error;
use crate::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

pub(super) struct Promise<T> {
    slot: Option<Arc<Slot<T>>>,
}

/// The waiter's end.
pub(super) struct Awaited<T>(Arc<Slot<T>>);

struct Slot<T> {
    result: Mutex<Option<Result<T, Error>>>,
    filled: Condvar,
}

pub(super) fn promise<T>() -> (Promise<T>, Awaited<T>) {
    let slot = Arc::new(Slot { result: Mutex::new(None), filled: Condvar::new() });
    (Promise { slot: Some(Arc::clone(&slot)) }, Awaited(slot))
}

impl<T> Promise<T> {
    pub(super) fn keep(mut self, result: Result<T, Error>) {
        self.fill(result);
    }

    fn fill(&mut self, result: Result<T, Error>) {
        if let Some(slot) = self.slot.take() {
            *lock(&slot.result) = Some(result);
            slot.filled.notify_one();
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.fill(Err(Error::io("the operation was dropped", std::io::Error::other("its group has ended"))));
    }
}

impl<T> Awaited<T> {
    /// The result, if it is there.
    pub(super) fn poll(&self) -> Option<Result<T, Error>> {
        lock(&self.0.result).take()
    }

    pub(super) fn wait(self) -> Result<T, Error> {
        let mut result = lock(&self.0.result);
        loop {
            if let Some(result) = result.take() {
                return result;
            }
            result = self.0.filled.wait(result).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
