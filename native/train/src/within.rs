//! What surrounds the nodes of one run: random numbers, modes, the other ranks, and what is remembered of the first time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::modes::Modes;
use crate::norms::{Moments, Norms};
use crate::shim::Generator;

/// See the file. It lives for one run.
pub(crate) struct Within<'a> {
    pub(crate) generator: &'a mut Generator,
    pub(crate) modes: Modes,
    /// The ranks whose batch norms are synchronised.
    pub(crate) norms: Option<&'a Arc<Norms>>,
    pub(crate) trouble: &'a Trouble,
    pub(crate) moments: Remembered,
}

/// The moments of synchronised batch norms: a segment that runs again does not ask the ranks again.
pub(crate) enum Remembered {
    /// Nobody will run again.
    Nothing,
    /// Those of the nodes that ran so far.
    Kept(Vec<Moments>),
    /// Those of the first time, for the nodes to come.
    Given(VecDeque<Moments>),
}

/// The first error of a callback: through C++ it travels only as a sentence, and an error's kind matters.
#[derive(Clone, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<Error>>>);

impl Trouble {
    pub(crate) fn note(&self, error: Error) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(crate) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
