//! LARS (You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017, algorithm 1): momentum SGD
//! whose rate is scaled per tensor by `trust * |w| / (|g| + decay * |w|)`. The rate is part of the running step, as in the
//! paper. A tensor whose norm or gradient is 0 is stepped with the plain rate.

use super::kernels::{Kernels, decayed, scale};
use super::lamb::{norm, trust_ratio};
use super::parts::Part;
use super::{Family, Group};
use crate::error::{Doing, Result};

pub(super) struct Lars {
    momentum: f64,
    trust: f64,
    kernels: Kernels,
}

impl Lars {
    pub(super) fn new(momentum: f64, trust: f64) -> Result<Lars> {
        Ok(Lars { momentum, trust, kernels: Kernels::new()? })
    }

    fn step_part(&mut self, part: &Part, group: Group) -> Result<()> {
        let doing = "stepping lars";
        let Some(running) = part.slots.first() else { return Ok(()) };
        let (length, slope) = (norm(&part.values)?, norm(&part.grads)?);
        let other = length.f_mul_scalar(group.weight_decay).and_then(|decay| decay.f_add(&slope)).doing(doing)?;
        // Where the ratio is not 1, it is the trust that makes a share of the norm of it.
        let both = length.f_mul(&slope).and_then(|product| product.f_gt(0.0)).doing(doing)?;
        let ratio = trust_ratio(&length, &other)?;
        let ratio = ratio
            .f_mul_scalar(self.trust)
            .and_then(|scaled| scaled.f_where_self(&both, &other.f_ones_like()?))
            .doing(doing)?;
        let grads = decayed(&mut self.kernels, &part.grads, &part.values, group.weight_decay)?;
        scale(running, self.momentum)?;
        self.kernels.add_product(running, group.learning_rate, &grads, &ratio)?;
        self.kernels.add(&part.values, -1.0, running)
    }
}

impl Family for Lars {
    fn slots(&self) -> Vec<&'static str> {
        vec!["momentum_buffer"]
    }

    fn by_tensor(&self) -> bool {
        true
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        parts.iter().try_for_each(|part| self.step_part(part, group))
    }
}
