//! RMSprop (`torch.optim.RMSprop`), in the order of operations of PyTorch's single-tensor form. ATen has no fused kernel.

use super::kernels::{CACHED, Kernels, copy_of, decayed, lerp, scale};
use super::parts::Part;
use super::{Family, Group};
use crate::error::{Doing, Result};

pub(super) struct RmsProp {
    alpha: f64,
    epsilon: f64,
    momentum: f64,
    centered: bool,
    kernels: Kernels,
}

impl RmsProp {
    pub(super) fn new(alpha: f64, epsilon: f64, momentum: f64, centered: bool) -> Result<RmsProp> {
        Ok(RmsProp { alpha, epsilon, momentum, centered, kernels: Kernels::new()? })
    }

    fn step_part(&mut self, part: &Part, group: Group) -> Result<()> {
        let doing = "stepping rmsprop";
        let mut slots = part.slots.iter();
        let Some(squares) = slots.next() else { return Ok(()) };
        let grads = decayed(&mut self.kernels, &part.grads, &part.values, group.weight_decay)?;
        scale(squares, self.alpha)?;
        self.kernels.add_product(squares, 1.0 - self.alpha, &grads, &grads)?;
        let mut denominator = match slots.next().filter(|_| self.centered) {
            Some(mean) => {
                lerp(mean, &grads, 1.0 - self.alpha)?;
                let variance = copy_of(squares)?;
                self.kernels.add_product(&variance, -1.0, mean, mean)?;
                variance
            }
            None => copy_of(squares)?,
        };
        let denominator = denominator.f_sqrt_().and_then(|mut root| root.f_add_scalar_(self.epsilon)).doing(doing)?;
        match part.slots.last().filter(|_| self.momentum != 0.0) {
            Some(running) => {
                scale(running, self.momentum)?;
                self.kernels.add_quotient(running, 1.0, &grads, &denominator)?;
                self.kernels.add(&part.values, -group.learning_rate, running)
            }
            None => self.kernels.add_quotient(&part.values, -group.learning_rate, &grads, &denominator),
        }
    }
}

impl Family for RmsProp {
    fn slots(&self) -> Vec<&'static str> {
        let mut slots = vec!["square_avg"];
        slots.extend(self.centered.then_some("grad_avg"));
        slots.extend((self.momentum != 0.0).then_some("momentum_buffer"));
        slots
    }

    fn by_tensor(&self) -> bool {
        // Without epsilon, padding would become 0 / 0.
        self.epsilon == 0.0
    }

    fn longest(&self) -> i64 {
        CACHED
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        parts.iter().try_for_each(|part| self.step_part(part, group))
    }
}
