//! Losses that compare each element of an output with one of the label: distances, counts, distributions, margins.

use tch::{Kind, Tensor};

use super::Loss;
use super::judge::{Rows, shaped_like};
use super::reduce::Reduce;
use crate::error::{Doing, Error, Result};

/// PyTorch's `eps` of `PoissonNLLLoss`.
const POISSON_EPSILON: f64 = 1e-8;
/// The square of Keras' `epsilon`, below which it divides by no norm.
const SQUARED_NORM_FLOOR: f64 = 1e-14;

pub(crate) fn judge(loss: &Loss, output: &Tensor, rows: &Rows<'_>, reduce: Reduce) -> Result<Tensor> {
    let labels = shaped_like(loss, output, rows)?;
    let per_row = output.numel() as i64 / rows.count.max(1);
    let reduction = reduce.reduction();
    let losses = match loss {
        Loss::Mse {} => output.f_mse_loss(&labels, reduction),
        Loss::Mae {} => output.f_l1_loss(&labels, reduction),
        Loss::Huber { delta } => output.f_huber_loss(&labels, reduction, *delta),
        Loss::SmoothL1 { beta } => output.f_smooth_l1_loss(&labels, reduction, *beta),
        Loss::Poisson { log_input, full } => {
            output.f_poisson_nll_loss(&labels, *log_input, *full, POISSON_EPSILON, reduction)
        }
        Loss::Kl { log_target } => {
            let reduce = reduce.of_sums(rows.count);
            let losses = output.f_kl_div(&labels, reduce.reduction(), *log_target).doing("computing kl")?;
            return reduce.finish(losses, 1);
        }
        Loss::CosineSimilarity {} => {
            let losses = similarity(output, &labels).doing("computing cosineSimilarity")?;
            return elementwise(losses, &reduce, rows.count);
        }
        Loss::Hinge {} | Loss::SquaredHinge {} => {
            let squared = matches!(loss, Loss::SquaredHinge {});
            let losses = hinge(output, &labels, squared).doing("computing the hinge loss")?;
            return elementwise(losses, &reduce, rows.count);
        }
        other => return Err(Error::Config(format!("{} does not compare element by element", other.name()))),
    };
    let losses = losses.doing("computing the loss")?;
    reduce.finish(losses, per_row)
}

/// Reduces losses that libtorch has no function for.
fn elementwise(losses: Tensor, reduce: &Reduce, rows: i64) -> Result<Tensor> {
    let per_row = losses.numel() as i64 / rows.max(1);
    let losses = match reduce {
        Reduce::Mean => losses.f_mean(None::<Kind>),
        Reduce::Sum { .. } => losses.f_sum(None::<Kind>),
        Reduce::Weighted { .. } => Ok(losses),
    };
    reduce.finish(losses.doing("reducing the losses")?, per_row)
}

/// Minus the cosine along the last dimension, one per vector, as Keras normalises: `x / max(norm, 1e-7)`.
fn similarity(output: &Tensor, labels: &Tensor) -> std::result::Result<Tensor, tch::TchError> {
    let unit = |tensor: &Tensor| {
        let squares = tensor.f_square()?.f_sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>)?;
        tensor.f_mul(&squares.f_clamp_min(SQUARED_NORM_FLOOR)?.f_rsqrt()?)
    };
    unit(output)?.f_mul(&unit(labels)?)?.f_sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>)?.f_neg()
}

/// `max(0, 1 - y·output)` where a label above 0 is 1 and any other -1.
fn hinge(output: &Tensor, labels: &Tensor, squared: bool) -> std::result::Result<Tensor, tch::TchError> {
    let signs = labels.f_gt(0.0)?.f_to_kind(output.kind())?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?;
    let losses = signs.f_mul(output)?.f_neg()?.f_add_scalar(1.0)?.f_clamp_min(0.0)?;
    if squared { losses.f_square() } else { Ok(losses) }
}
