//! Adafactor (`torch.optim.Adafactor`; Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
//! 2018), in the order of operations of PyTorch's single-tensor form. A tensor of two dimensions or more keeps the means
//! of its squared gradient over the last and over the last but one, instead of the whole.

use tch::{Kind, Tensor};

use super::kernels::{Kernels, copy_of, lerp, scale};
use super::parts::Part;
use super::{Family, Group};
use crate::error::{Doing, Result};

pub(super) struct Adafactor {
    beta2_decay: f64,
    epsilon1: Option<f64>,
    epsilon2: f64,
    clip_threshold: f64,
    kernels: Kernels,
}

impl Adafactor {
    pub(super) fn new(
        beta2_decay: f64,
        epsilon1: Option<f64>,
        epsilon2: f64,
        clip_threshold: f64,
    ) -> Result<Adafactor> {
        Ok(Adafactor { beta2_decay, epsilon1, epsilon2, clip_threshold, kernels: Kernels::new()? })
    }

    fn step_part(&mut self, part: &Part, group: Group) -> Result<()> {
        let doing = "stepping adafactor";
        let (values, grads, t) = (&part.values, &part.grads, part.count_as_float());
        let kind = values.kind();
        let epsilon1 = self.epsilon1.unwrap_or(if kind == Kind::Double { f64::EPSILON } else { f32::EPSILON.into() });
        let keep = t.powf(self.beta2_decay);
        let rate = group.learning_rate.min(1.0 / t.sqrt());
        let alpha = root_mean_square(values)?.max(self.epsilon2) * rate;
        if group.weight_decay != 0.0 {
            scale(values, 1.0 - group.learning_rate * group.weight_decay)?;
        }
        let mut estimate = match part.slots.as_slice() {
            [rows, columns] => {
                lerp(rows, &mean_square(grads, -1)?, keep)?;
                lerp(columns, &mean_square(grads, -2)?, keep)?;
                let mean = rows.f_mean_dim(-2, true, kind).and_then(|mut mean| mean.f_clamp_min_(epsilon1));
                let product = rows.f_matmul(columns);
                product.and_then(|mut product| product.f_div_(&mean?)).doing(doing)?
            }
            [variance] => {
                lerp(variance, &grads.f_mul(grads).doing(doing)?, keep)?;
                copy_of(variance)?
            }
            _ => return Ok(()),
        };
        let update = estimate
            .f_clamp_min_(epsilon1 * epsilon1)
            .and_then(|mut estimate| estimate.f_rsqrt_())
            .and_then(|mut scale| scale.f_mul_(grads))
            .doing(doing)?;
        let denominator = (root_mean_square(&update)? / self.clip_threshold).max(1.0);
        self.kernels.add(values, -alpha / denominator, &update)
    }
}

/// The mean of squares along one dimension, kept with size 1.
fn mean_square(tensor: &Tensor, dim: i64) -> Result<Tensor> {
    let sizes = tensor.size();
    let size = usize::try_from(sizes.len() as i64 + dim).ok().and_then(|index| sizes.get(index)).copied().unwrap_or(1);
    tensor
        .f_norm_scalaropt_dim(2.0, &[dim][..], true)
        .and_then(|mut norm| norm.f_square_())
        .and_then(|mut square| square.f_div_scalar_(size))
        .doing("stepping adafactor")
}

#[expect(clippy::cast_precision_loss, reason = "elements of a tensor, far below 2^53")]
fn root_mean_square(tensor: &Tensor) -> Result<f64> {
    let norm = super::lamb::norm(tensor)?.f_double_value(&[]).doing("stepping adafactor")?;
    Ok(norm / (tensor.numel() as f64).sqrt())
}

impl Family for Adafactor {
    fn slots(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn own(&self, sizes: &[i64]) -> Vec<(&'static str, Vec<i64>)> {
        let without = |dim: usize| sizes.iter().enumerate().map(|(i, &size)| if i == dim { 1 } else { size }).collect();
        match sizes.len() {
            0 | 1 => vec![("variance", sizes.to_vec())],
            dims => vec![("row_var", without(dims - 1)), ("col_var", without(dims - 2))],
        }
    }

    fn by_tensor(&self) -> bool {
        true
    }

    fn step(&mut self, parts: &[Part], group: Group) -> Result<()> {
        parts.iter().try_for_each(|part| self.step_part(part, group))
    }
}
