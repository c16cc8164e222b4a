//! Ending waits from outside: a task was killed, a session is closed, another part of the run failed.
//!
//! An aborter is made before [`connect`](crate::connect()), so that the rendezvous can be ended too, and is shared by the
//! communicators made with it. The first reason is kept; what connects afterwards fails with it at once.

use crate::lock;
use std::sync::{Arc, Mutex, Weak};

/// Ends every wait of the communicators that were connected with it, on this rank and on its peers.
///
/// May be called from any thread, any number of times; only the first reason counts.
#[derive(Clone, Default)]
pub struct Aborter {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    reason: Option<String>,
    targets: Vec<Weak<dyn Abort>>,
}

/// Whatever can be woken by an abort.
pub(crate) trait Abort: Send + Sync {
    fn abort(&self, reason: &str);
}

impl Aborter {
    /// An aborter that nothing listens to yet.
    pub fn new() -> Aborter {
        Aborter::default()
    }

    /// Fails all operations in flight and all later ones with [`Error::Aborted`](crate::Error::Aborted).
    pub fn abort(&self, reason: &str) {
        let targets = {
            let mut state = lock(&self.state);
            if state.reason.is_some() {
                return;
            }
            state.reason = Some(reason.to_owned());
            std::mem::take(&mut state.targets)
        };
        for target in targets.iter().filter_map(Weak::upgrade) {
            target.abort(reason);
        }
    }

    /// The reason of the abort, if there was one.
    pub fn reason(&self) -> Option<String> {
        lock(&self.state).reason.clone()
    }

    /// Tells `target` of the abort when it comes, or now if it came already.
    pub(crate) fn notify(&self, target: &Arc<impl Abort + 'static>) {
        let reason = {
            let mut state = lock(&self.state);
            state.targets.retain(|known| known.strong_count() > 0);
            if state.reason.is_none() {
                let target: Weak<dyn Abort> = Arc::downgrade(&(Arc::clone(target) as Arc<dyn Abort>));
                state.targets.push(target);
            }
            state.reason.clone()
        };
        if let Some(reason) = reason {
            target.abort(&reason);
        }
    }
}

impl std::fmt::Debug for Aborter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aborter").field("reason", &self.reason()).finish_non_exhaustive()
    }
}
