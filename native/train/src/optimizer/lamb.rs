//! LAMB (You and others, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2020, algorithm 2):
//! Adam's direction plus weight decay, scaled per tensor to the norm of the tensor. The scaling function is the
//! identity; a tensor or a direction of norm 0 is not scaled. Moments are corrected for their bias as in the paper.

use tch::Tensor;

use super::kernels::{Kernels, scale};
use super::parts::Part;
use super::{Family, Group};
use crate::error::{Doing, Result};

pub(super) struct Lamb {
    betas: [f64; 2],
    epsilon: f64,
    kernels: Kernels,
}

impl Lamb {
    pub(super) fn new(betas: [f64; 2], epsilon: f64) -> Result<Lamb> {
        Ok(Lamb { betas, epsilon, kernels: Kernels::new()? })
    }

    fn step_part(&mut self, part: &Part, group: Group) -> Result<()> {
        let doing = "stepping lamb";
        let [beta1, beta2] = self.betas;
        let [mean, squares] = part.slots.as_slice() else { return Ok(()) };
        scale(mean, beta1)?;
        self.kernels.add(mean, 1.0 - beta1, &part.grads)?;
        scale(squares, beta2)?;
        self.kernels.add_product(squares, 1.0 - beta2, &part.grads, &part.grads)?;
        let t = part.count_as_float();
        let denominator = squares
            .f_div_scalar(1.0 - beta2.powf(t))
            .and_then(|mut corrected| corrected.f_sqrt_())
            .and_then(|mut root| root.f_add_scalar_(self.epsilon))
            .doing(doing)?;
        let direction =
            mean.f_div_scalar(1.0 - beta1.powf(t)).and_then(|mut mean| mean.f_div_(&denominator)).doing(doing)?;
        if group.weight_decay != 0.0 {
            self.kernels.add(&direction, group.weight_decay, &part.values)?;
        }
        let ratio = trust_ratio(&norm(&part.values)?, &norm(&direction)?)?;
        self.kernels.add_product(&part.values, -group.learning_rate, &direction, &ratio)
    }
}

/// `length / other`, or 1 where one of them is 0; as a tensor, so that a GPU need not be waited for.
pub(super) fn trust_ratio(length: &Tensor, other: &Tensor) -> Result<Tensor> {
    let product = length.f_mul(other).and_then(|product| product.f_gt(0.0));
    let ratio = length.f_div(other);
    product.and_then(|both| ratio?.f_where_self(&both, &other.f_ones_like()?)).doing("scaling a tensor's step")
}

/// The Euclidean norm of a tensor.
pub(super) fn norm(tensor: &Tensor) -> Result<Tensor> {
    tensor.f_norm().doing("taking a norm")
}

impl Family for Lamb {
    fn slots(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_sq"]
    }

    fn by_tensor(&self) -> bool {
        true
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        parts.iter().try_for_each(|part| self.step_part(part, group))
    }
}
