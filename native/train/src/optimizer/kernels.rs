//! ATen's in-place operators with a factor, which tch binds without it.

use tch::Tensor;

use crate::error::{Doing, Result};
use crate::shim::{Call, Constant};

/// The operators, found once.
pub(super) struct Kernels {
    add: Call,
    product: Call,
    quotient: Call,
}

impl Kernels {
    pub(super) fn new() -> Result<Kernels> {
        let find = |name: &str, overload: &str, tensors: [&str; 2]| {
            let mut call = Call::new(name, overload)?;
            call.bind_tensor("self")?;
            for tensor in tensors.into_iter().filter(|name| !name.is_empty()) {
                call.bind_tensor(tensor)?;
            }
            Ok::<Call, crate::error::Torch>(call)
        };
        let doing = "finding the optimizer's operators";
        Ok(Kernels {
            add: find("aten::add_", "Tensor", ["other", ""]).doing(doing)?,
            product: find("aten::addcmul_", "", ["tensor1", "tensor2"]).doing(doing)?,
            quotient: find("aten::addcdiv_", "", ["tensor1", "tensor2"]).doing(doing)?,
        })
    }

    /// `target += factor * other`
    pub(super) fn add(&mut self, target: &Tensor, factor: f64, other: &Tensor) -> Result<()> {
        run(&mut self.add, "alpha", factor, &[target, other])
    }

    /// `target += factor * a * b`
    pub(super) fn add_product(&mut self, target: &Tensor, factor: f64, a: &Tensor, b: &Tensor) -> Result<()> {
        run(&mut self.product, "value", factor, &[target, a, b])
    }

    /// `target += factor * a / b`
    pub(super) fn add_quotient(&mut self, target: &Tensor, factor: f64, a: &Tensor, b: &Tensor) -> Result<()> {
        run(&mut self.quotient, "value", factor, &[target, a, b])
    }
}

fn run(call: &mut Call, setting: &str, factor: f64, tensors: &[&Tensor]) -> Result<()> {
    call.set(setting, Constant::Float(factor)).doing("stepping the optimizer")?;
    call.run(tensors, &[], None).map(drop).doing("stepping the optimizer")
}

/// `target *= factor`
pub(super) fn scale(target: &Tensor, factor: f64) -> Result<()> {
    target.shallow_clone().f_mul_scalar_(factor).map(drop).doing("stepping the optimizer")
}

/// `target += weight * (end - target)`
pub(super) fn lerp(target: &Tensor, end: &Tensor, weight: f64) -> Result<()> {
    target.shallow_clone().f_lerp_(end, weight).map(drop).doing("stepping the optimizer")
}

/// A copy with the same strides.
pub(super) fn copy_of(tensor: &Tensor) -> Result<Tensor> {
    let mut copy = tensor.f_empty_like().doing("stepping the optimizer")?;
    copy.f_copy_(tensor).doing("stepping the optimizer")?;
    Ok(copy)
}

/// The gradient with L2 weight decay in it: a new tensor where there is any.
pub(super) fn decayed(kernels: &mut Kernels, grads: &Tensor, values: &Tensor, decay: f64) -> Result<Tensor> {
    if decay == 0.0 {
        return Ok(grads.shallow_clone());
    }
    let sum = copy_of(grads)?;
    kernels.add(&sum, decay, values)?;
    Ok(sum)
}

/// Elements of a range whose temporaries stay small and in the cache.
pub(super) const CACHED: i64 = 1 << 17;
