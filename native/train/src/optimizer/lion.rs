//! Lion (Chen and others, "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2), with the decoupled weight
//! decay of the authors' PyTorch code: the parameter shrinks before the step.

use super::kernels::{CACHED, Kernels, scale};
use super::parts::Part;
use super::{Family, Group};
use crate::error::{Doing, Result};

pub(super) struct Lion {
    betas: [f64; 2],
    kernels: Kernels,
}

impl Lion {
    pub(super) fn new(betas: [f64; 2]) -> Result<Lion> {
        Ok(Lion { betas, kernels: Kernels::new()? })
    }

    fn step_part(&mut self, part: &Part, group: Group) -> Result<()> {
        let [beta1, beta2] = self.betas;
        let Some(mean) = part.slots.first() else { return Ok(()) };
        if group.weight_decay != 0.0 {
            scale(&part.values, 1.0 - group.learning_rate * group.weight_decay)?;
        }
        let mut direction = mean.f_mul_scalar(beta1).doing("stepping lion")?;
        self.kernels.add(&direction, 1.0 - beta1, &part.grads)?;
        let sign = direction.f_sign_().doing("stepping lion")?;
        self.kernels.add(&part.values, -group.learning_rate, &sign)?;
        scale(mean, beta2)?;
        self.kernels.add(mean, 1.0 - beta2, &part.grads)
    }
}

impl Family for Lion {
    fn slots(&self) -> Vec<&'static str> {
        vec!["exp_avg"]
    }

    fn longest(&self) -> i64 {
        CACHED
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        parts.iter().try_for_each(|part| self.step_part(part, group))
    }
}
