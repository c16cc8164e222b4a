//! The Rust half of `shim/norm.h`: batch norm by statistics of several ranks.
//!
//! Ownership: the shim owns the sum that backward needs from [`normalise`] on, and drops it with the graph.
#![allow(unsafe_code, reason = "the border to the C++ shim")]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::Torch;
use crate::shim::{check, owned};

#[rustfmt::skip]
unsafe extern "C" {
    fn kd_norm_moments(input: *const C_tensor, moments: *mut f64, length: usize) -> bool;
    fn kd_norm_apply(input: *const C_tensor, weight: *const C_tensor, bias: *const C_tensor, mean: *const f64,
                     variance: *const f64, channels: usize, count: f64, epsilon: f64, context: *mut c_void,
                     sum: extern "C" fn(*mut c_void, *mut f64, usize) -> bool,
                     release: extern "C" fn(*mut c_void)) -> *mut C_tensor;
}

/// Replaces figures by their sum over the ranks; false if that failed. Called on the thread of the backward.
pub(crate) type Sum = Box<dyn FnMut(&mut [f64]) -> bool + Send>;

/// The values per channel, then the mean of each channel, then the sum of squares around it.
pub(crate) fn moments(input: &Tensor) -> Result<Vec<f64>, Torch> {
    let channels = input.size().get(1).copied().unwrap_or(0);
    let mut moments = vec![0.0; 1 + 2 * usize::try_from(channels).unwrap_or(0)];
    // SAFETY: the tensor is alive; the shim writes `length` numbers at most.
    check(unsafe { kd_norm_moments(input.as_ptr(), moments.as_mut_ptr(), moments.len()) })?;
    Ok(moments)
}

/// Statistics per channel.
pub(crate) struct Statistics<'a> {
    /// The values per channel that they are of.
    pub(crate) count: f64,
    pub(crate) mean: &'a [f64],
    /// Around the mean, divided by the count; as long as `mean`.
    pub(crate) variance: &'a [f64],
}

/// Batch norm by these statistics.
pub(crate) fn normalise(
    input: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    statistics: &Statistics<'_>,
    epsilon: f64,
    sum: Sum,
) -> Result<Tensor, Torch> {
    let pointer = |tensor: Option<&Tensor>| tensor.map_or(std::ptr::null(), Tensor::as_ptr);
    let channels = statistics.mean.len().min(statistics.variance.len());
    let context = Box::into_raw(Box::new(sum)).cast();
    // SAFETY: tensors and slices are alive for the call and hold `channels` numbers; the shim owns the context from here on,
    // also on failure; a non-null result is ours.
    owned(unsafe {
        kd_norm_apply(
            input.as_ptr(),
            pointer(weight),
            pointer(bias),
            statistics.mean.as_ptr(),
            statistics.variance.as_ptr(),
            channels,
            statistics.count,
            epsilon,
            context,
            sum_over_ranks,
            release,
        )
    })
}

extern "C" fn sum_over_ranks(context: *mut c_void, values: *mut f64, length: usize) -> bool {
    // SAFETY: `context` is the Sum that `normalise` leaked, alive until `release`; the values are the shim's own, `length`
    // of them, for the time of this call; it calls from one thread.
    let (sum, values) = unsafe { (&mut *context.cast::<Sum>(), std::slice::from_raw_parts_mut(values, length)) };
    // A panic must not reach C++.
    catch_unwind(AssertUnwindSafe(|| sum(values))).unwrap_or(false)
}

extern "C" fn release(context: *mut c_void) {
    // SAFETY: leaked by `normalise`, and the shim calls this once, after its last use.
    let owned = unsafe { Box::from_raw(context.cast::<Sum>()) };
    if catch_unwind(AssertUnwindSafe(|| drop(owned))).is_err() {
        log::error!("freeing a batch norm panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn moments_of_half_precision_are_those_of_its_values() {
        for kind in [Kind::Half, Kind::BFloat16, Kind::Float] {
            // Sums of squares far beyond float16, and a mean that leaves bfloat16 few bits for the deviation.
            let values = Tensor::arange(600, (Kind::Double, Device::Cpu)).sin().reshape([100, 2, 3]) * 40.0 + 1000.0;
            let values = values.to_kind(kind);
            let (variance, mean) = values.to_kind(Kind::Double).var_mean_correction(Some(&[0, 2][..]), 0, false);
            let found = moments(&values).unwrap();
            assert_eq!((found.len(), found[0]), (5, 300.0));
            for channel in 0..2 {
                let expected = (mean.double_value(&[channel]), 300.0 * variance.double_value(&[channel]));
                let channel = channel as usize;
                assert!((found[1 + channel] / expected.0 - 1.0).abs() < 1e-6, "{kind:?}: {found:?} {expected:?}");
                assert!((found[3 + channel] / expected.1 - 1.0).abs() < 1e-4, "{kind:?}: {found:?} {expected:?}");
            }
        }
    }
}
