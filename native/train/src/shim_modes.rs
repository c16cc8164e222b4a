//! The Rust half of `shim/autocast.h`: the modes of a thread, gradients and autocast.
//!
//! Nothing here is kept: who switches a mode puts it back (see `modes`).
#![allow(unsafe_code, reason = "the border to the C++ shim")]

use kindling_program::DType;

use crate::error::Torch;
use crate::shim::check;

/// What autocast does for one kind of device; laid out as in `autocast.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Autocast {
    /// Whether operators that autocast lists run in its type.
    pub(crate) enabled: bool,
    /// Whether low-precision copies of weights are kept, in a cache of the whole process. Never here: see `modes`.
    pub(crate) cache: bool,
    /// What it casts to: a `c10::ScalarType`; see [`Autocast::with_dtype`].
    pub(crate) dtype: i8,
}

unsafe extern "C" {
    fn kd_set_grad_enabled(enabled: bool) -> bool;
    fn kd_autocast_get(device: i8, state: *mut Autocast) -> bool;
    fn kd_autocast_set(device: i8, state: *const Autocast) -> bool;
}

/// Switches the recording of gradients on this thread; returns what it was.
pub(crate) fn set_grad_enabled(enabled: bool) -> bool {
    // SAFETY: takes no pointers and cannot fail.
    unsafe { kd_set_grad_enabled(enabled) }
}

/// `c10::DeviceType`.
fn device_type(device: tch::Device) -> i8 {
    match device {
        tch::Device::Cuda(_) => 1,
        _ => 0,
    }
}

impl Autocast {
    /// What is set on this thread for that device.
    pub(crate) fn current(device: tch::Device) -> Result<Autocast, Torch> {
        let mut state = Autocast::default();
        // SAFETY: `state` is written on success and outlives the call.
        check(unsafe { kd_autocast_get(device_type(device), &raw mut state) })?;
        Ok(state)
    }

    /// Sets it on this thread.
    pub(crate) fn set(self, device: tch::Device) -> Result<(), Torch> {
        // SAFETY: `self` is read before the shim returns.
        check(unsafe { kd_autocast_set(device_type(device), &raw const self) })
    }

    /// The same switched on, to this type or the one that is set.
    pub(crate) fn on(self, dtype: Option<DType>) -> Autocast {
        // Only the two that autocast knows; programs with others are refused.
        let dtype = dtype.map_or(self.dtype, |dtype| if dtype == DType::Float16 { 5 } else { 15 });
        Autocast { enabled: true, cache: false, dtype }
    }

    /// The same switched off.
    pub(crate) fn off(self) -> Autocast {
        Autocast { enabled: false, ..self }
    }
}
