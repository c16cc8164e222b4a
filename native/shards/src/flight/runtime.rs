//! The one tokio runtime of a process: there while a server or a fetch is.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::{Builder, Runtime};

/// One of them encrypts or copies while the other accepts; the copying of a fetch is done by the thread that called.
const WORKERS: usize = 2;

/// A share of the runtime. The last one ends it, and with it whatever still runs there.
#[derive(Debug)]
pub(crate) struct Shared(Option<Runtime>);

impl Shared {
    /// The runtime, made now if nobody has it.
    pub(crate) fn get() -> io::Result<Arc<Shared>> {
        /// Process-wide so that stores and runs share its threads; it holds nothing alive.
        static CURRENT: Mutex<Weak<Shared>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = current.upgrade() {
            return Ok(shared);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(2 * WORKERS)
            .thread_name("kindling-flight")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared(Some(runtime)));
        *current = Arc::downgrade(&shared);
        Ok(shared)
    }

    pub(crate) fn runtime(&self) -> io::Result<&Runtime> {
        self.0.as_ref().ok_or_else(|| io::Error::other("the runtime has ended"))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Not the joining way, as the last share may be dropped by one of its own threads.
            runtime.shutdown_background();
        }
    }
}
