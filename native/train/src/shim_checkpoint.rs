//! The Rust half of `shim/checkpoint.h`: what autograd saves is forgotten, and computed again when backward asks for it.
//!
//! Ownership: the shim owns the recomputation from [`Frame::enter`] on, and drops it when nothing that was forgotten can be
//! asked for any more, or at once on failure. A [`Frame`] only marks the time in which things are forgotten.
#![allow(unsafe_code, reason = "the border to the C++ shim")]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::error::Torch;
use crate::shim::last_error;

#[repr(C)]
struct KdFrame {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn kd_frame_enter(
        context: *mut c_void,
        recompute: extern "C" fn(*mut c_void) -> bool,
        release: extern "C" fn(*mut c_void),
    ) -> *mut KdFrame;
    fn kd_frame_leave(frame: *mut KdFrame);
    fn kd_frame_complete() -> bool;
}

/// Runs the same operators on the same values as between [`Frame::enter`] and its drop; false if it failed. Called at most
/// once, on the thread of the backward.
pub(crate) type Recompute = Box<dyn FnMut() -> bool + Send>;

extern "C" fn recompute(context: *mut c_void) -> bool {
    // SAFETY: `context` is the Recompute that `enter` leaked, alive until `release`; the shim calls it from one thread.
    let recompute = unsafe { &mut *context.cast::<Recompute>() };
    // A panic must not reach C++; what it left half done is dropped with the failed backward.
    catch_unwind(AssertUnwindSafe(recompute)).unwrap_or(false)
}

extern "C" fn release(context: *mut c_void) {
    // SAFETY: leaked by `enter`, and the shim calls this once, after its last use.
    let owned = unsafe { Box::from_raw(context.cast::<Recompute>()) };
    if catch_unwind(AssertUnwindSafe(|| drop(owned))).is_err() {
        log::error!("freeing a segment panicked");
    }
}

/// While it lives, this thread's operators keep nothing for backward.
pub(crate) struct Frame {
    frame: NonNull<KdFrame>,
    /// Bound to its thread.
    _thread: PhantomData<*const ()>,
}

impl Frame {
    pub(crate) fn enter(work: Recompute) -> Result<Frame, Torch> {
        let context = Box::into_raw(Box::new(work)).cast();
        // SAFETY: the shim owns the context from here on, also on failure.
        let frame = unsafe { kd_frame_enter(context, recompute, release) };
        NonNull::new(frame).map(|frame| Frame { frame, _thread: PhantomData }).ok_or_else(last_error)
    }

    /// Within a recomputation: whether all that was forgotten is there again.
    pub(crate) fn complete() -> bool {
        // SAFETY: takes no pointers.
        unsafe { kd_frame_complete() }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: made by kd_frame_enter on this thread (the type is not Send), left once.
        unsafe { kd_frame_leave(self.frame.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind, Tensor};

    use super::*;

    fn leaf() -> Tensor {
        Tensor::from_slice(&[0.5f32, -1.0, 2.0]).set_requires_grad(true)
    }

    /// Three operators that save their results, in a frame whose recomputation is `again`.
    fn forward(x: &Tensor, again: impl FnMut() -> bool + Send + 'static) -> Tensor {
        let _frame = Frame::enter(Box::new(again)).unwrap();
        x.sigmoid().tanh().exp()
    }

    #[test]
    fn what_was_forgotten_is_computed_once_and_gives_the_same_gradient() {
        let plain = leaf();
        plain.sigmoid().tanh().exp().sum(Kind::Float).backward();
        let (x, calls) = (leaf(), Arc::new(AtomicUsize::new(0)));
        let (again, counted) = (x.shallow_clone(), Arc::clone(&calls));
        let y = forward(&x, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = again.sigmoid().tanh().exp();
            assert!(Frame::complete());
            true
        });
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        y.sum(Kind::Float).backward();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), Vec::<f32>::try_from(plain.grad()).unwrap());
        // Nothing goes on being forgotten.
        let after = leaf();
        after.sigmoid().tanh().exp().sum(Kind::Float).backward();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_recomputation_that_fails_or_panics_fails_the_backward() {
        let failing: [fn() -> bool; 3] = [|| false, || panic!("on purpose"), || true];
        for again in failing {
            let x = leaf();
            let error = forward(&x, again).sum(Kind::Float).f_backward().unwrap_err().to_string();
            assert!(error.contains("a segment could not be run again") || error.contains("saved 0 tensors"), "{error}");
        }
    }

    #[test]
    fn the_recomputation_is_freed_with_the_graph_or_at_once_if_nothing_was_saved() {
        let owned = Arc::new(());
        let held = |x: &Tensor| {
            let owned = Arc::clone(&owned);
            forward(x, move || Arc::strong_count(&owned) > 0)
        };
        let y = held(&leaf());
        assert_eq!(Arc::strong_count(&owned), 2);
        drop(y);
        assert_eq!(Arc::strong_count(&owned), 1);
        let _y = held(&Tensor::ones([3], (Kind::Float, Device::Cpu)));
        assert_eq!(Arc::strong_count(&owned), 1, "without gradients nothing is saved");
    }
}
