//! The modes of the thread that runs a program: gradients and autocast, switched as the scope of the nodes asks.
//!
//! [`Modes`] lives for one run and puts back what it found, whether the run succeeds or not.
//!
//! A weight is cast for every use, as `torch.autocast(cache_enabled=False)` does it. ATen's cache of such copies is one map
//! for the process, and whoever leaves his outermost region clears it for all: of ranks that share a process, how often a
//! weight is cast, and so whether the gradients of its uses are added in the low precision or in float32, would depend on
//! when the others leave. Weights that a forward uses once, which are nearly all, are cast once either way.

use kindling_program::{AutocastMode, GradMode, Scope};
use tch::Device;

use crate::error::Torch;
use crate::shim_modes::{Autocast, set_grad_enabled};

/// What was switched, and what was there before.
pub(crate) struct Modes {
    /// The device of the run, whose autocast is switched.
    device: Device,
    scope: Scope,
    /// The caller's grad mode, once it was switched.
    grad: Option<bool>,
    /// The caller's autocast, while the thread stands in a region of the program.
    autocast: Option<Autocast>,
}

impl Modes {
    pub(crate) fn new(device: Device) -> Modes {
        Modes { device, scope: Scope::default(), grad: None, autocast: None }
    }

    /// Switches to what `scope` asks for. Nearly always there is nothing to do.
    pub(crate) fn enter(&mut self, scope: Scope) -> Result<(), Torch> {
        if scope.grad != self.scope.grad {
            self.switch_grad(scope.grad);
        }
        if scope.autocast != self.scope.autocast {
            self.switch_autocast(scope)?;
        }
        self.scope = scope;
        Ok(())
    }

    fn switch_grad(&mut self, mode: GradMode) {
        let enabled = match (mode, self.grad) {
            (GradMode::Off, _) => false,
            (GradMode::On, _) => true,
            (GradMode::Inherit, Some(before)) => before,
            (GradMode::Inherit, None) => return,
        };
        let before = set_grad_enabled(enabled);
        self.grad.get_or_insert(before);
    }

    fn switch_autocast(&mut self, scope: Scope) -> Result<(), Torch> {
        let Some(wanted) = scope.autocast else { return self.leave_region() };
        let before = match self.autocast {
            Some(before) => before,
            None => *self.autocast.insert(Autocast::current(self.device)?),
        };
        let state = match wanted {
            AutocastMode::Off => before.off(),
            AutocastMode::On(dtype) => before.on(dtype),
        };
        state.set(self.device)
    }

    /// Puts back the caller's autocast, if the thread stands in a region.
    fn leave_region(&mut self) -> Result<(), Torch> {
        self.autocast.take().map_or(Ok(()), |before| before.set(self.device))
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        self.switch_grad(GradMode::Inherit);
        if let Err(error) = self.leave_region() {
            log::error!("autocast of this thread could not be put back as it was: {error}");
        }
    }
}
