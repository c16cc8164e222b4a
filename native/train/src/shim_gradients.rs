//! The Rust half of `shim/gradients.h`: where backward's gradients go, and the news of each.
//!
//! Ownership: [`GradientHooks`] owns the C++ object and the context that its hooks point to. Dropping it takes the hooks
//! off the parameters first; should that fail, both are leaked, because a hook may still fire. The one callback catches
//! panics, so no Rust panic enters C++.
#![allow(unsafe_code, reason = "the border to the C++ shim")]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::Torch;
use crate::shim::{check, last_error};

#[repr(C)]
struct KdGradients {
    _private: [u8; 0],
}

#[rustfmt::skip]
unsafe extern "C" {
    fn kd_gradients_new(parameters: *const *const C_tensor, places: *const *const C_tensor, adopted: *const bool,
                        count: usize, hook: extern "C" fn(*mut c_void, usize), context: *mut c_void)
                        -> *mut KdGradients;
    fn kd_gradients_detach(gradients: *mut KdGradients) -> bool;
    fn kd_gradients_free(gradients: *mut KdGradients);
    fn kd_gradients_begin(gradients: *mut KdGradients) -> bool;
    fn kd_gradients_begin_last(gradients: *mut KdGradients);
    fn kd_gradients_finish(gradients: *mut KdGradients) -> bool;
}

/// Who wants to know about gradients.
pub(crate) trait Listener: Send + Sync {
    /// Backward has put the gradient of the `index`-th parameter into its place. Called within backward, on its thread.
    fn arrived(&self, index: usize);
}

/// Hooks on parameters that move each gradient into a place of the caller's.
pub(crate) struct GradientHooks {
    gradients: NonNull<KdGradients>,
    context: NonNull<Arc<dyn Listener>>,
}

// SAFETY: the C++ object holds tensors, flags and a pointer, none of them tied to a thread; `&mut` keeps its functions
// to one thread at a time, and the hooks run only within a backward of that thread's making.
unsafe impl Send for GradientHooks {}

extern "C" fn arrived(context: *mut c_void, index: usize) {
    // SAFETY: `context` is the Arc of a GradientHooks, which outlives its hooks.
    let listener = unsafe { &*context.cast_const().cast::<Arc<dyn Listener>>() };
    if catch_unwind(AssertUnwindSafe(|| listener.arrived(index))).is_err() {
        log::error!("a gradient hook panicked at parameter {index}");
    }
}

impl GradientHooks {
    /// Hangs a hook on each of `parameters` (leaves that require a gradient) with `places` of the same sizes and dtypes, or
    /// empty ones that are `adopted`: such a place becomes the tensor that autograd made.
    pub(crate) fn new(
        parameters: &[&Tensor],
        places: &[&Tensor],
        adopted: &[bool],
        listener: Arc<dyn Listener>,
    ) -> Result<GradientHooks, Torch> {
        if parameters.len() != places.len() || adopted.len() != places.len() {
            return Err(Torch(format!("{} parameters have {} places for gradients", parameters.len(), places.len())));
        }
        let count = parameters.len();
        let pointers = |tensors: &[&Tensor]| tensors.iter().map(|tensor| tensor.as_ptr()).collect::<Vec<_>>();
        let (parameters, places) = (pointers(parameters), pointers(places));
        let context = NonNull::from(Box::leak(Box::new(listener)));
        let (parameters, places, adopted) = (parameters.as_ptr(), places.as_ptr(), adopted.as_ptr());
        // SAFETY: the arrays have `count` elements, two of them live tensors, whose handles the shim copies; the context is
        // a leaked box that `drop` frees after the hooks are off.
        let gradients =
            unsafe { kd_gradients_new(parameters, places, adopted, count, arrived, context.as_ptr().cast()) };
        // A failed `new` may leave hooks that it has hung: the context stays leaked then.
        NonNull::new(gradients).map(|gradients| GradientHooks { gradients, context }).ok_or_else(last_error)
    }

    /// Starts a sum: the next gradient of each parameter replaces what its place holds, further ones are added. Adopted
    /// places are empty until then.
    pub(crate) fn begin(&mut self) -> Result<(), Torch> {
        // SAFETY: the object lives as long as self.
        check(unsafe { kd_gradients_begin(self.gradients.as_ptr()) })
    }

    /// From here to the next `begin` each gradient may come once, as its place may be lent once it has come: a backward
    /// that brings one again fails before it writes.
    pub(crate) fn begin_last(&mut self) {
        // SAFETY: the object lives as long as self.
        unsafe { kd_gradients_begin_last(self.gradients.as_ptr()) }
    }

    /// Ends a sum: places that no gradient has come to since `begin` become zero, or stay empty if adopted.
    pub(crate) fn finish(&mut self) -> Result<(), Torch> {
        // SAFETY: the object lives as long as self.
        check(unsafe { kd_gradients_finish(self.gradients.as_ptr()) })
    }
}

impl Drop for GradientHooks {
    fn drop(&mut self) {
        // SAFETY: the object lives; it and the context are freed once, and only when no hook can fire any more.
        unsafe {
            if kd_gradients_detach(self.gradients.as_ptr()) {
                kd_gradients_free(self.gradients.as_ptr());
                drop(Box::from_raw(self.context.as_ptr()));
            } else {
                log::error!("a gradient hook could not be removed ({}); its memory is leaked", last_error());
            }
        }
    }
}
