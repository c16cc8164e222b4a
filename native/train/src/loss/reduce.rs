//! From the losses of rows to a share of the objective.

use tch::{Kind, Reduction, Tensor};

use crate::error::{Doing, Result};

/// How the losses of some rows are summed up.
pub(crate) enum Reduce {
    /// The rows are the whole batch and weigh the same: libtorch's own mean, with PyTorch's bits.
    Mean,
    /// The rows weigh the same and are a part of the batch: their sum, divided by what the batch weighs.
    Sum {
        /// What the global batch weighs.
        total: f64,
    },
    /// Rows have weights of their own.
    Weighted {
        /// float64 [rows]: the weight of each row, divided by what the global batch weighs. Divided before they become
        /// float32, so that the size of weights does not matter.
        shares: Tensor,
    },
}

impl Reduce {
    /// What libtorch is asked for.
    pub(crate) fn reduction(&self) -> Reduction {
        match self {
            Reduce::Mean => Reduction::Mean,
            Reduce::Sum { .. } => Reduction::Sum,
            Reduce::Weighted { .. } => Reduction::None,
        }
    }

    /// The same over what a row's elements sum to, for losses whose row is a sum and not a mean.
    pub(crate) fn of_sums(self, rows: i64) -> Reduce {
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        match self {
            Reduce::Mean => Reduce::Sum { total: rows as f64 },
            other => other,
        }
    }

    /// The share of the objective, from what libtorch made of it with [`Self::reduction`]. `per_row` losses make up a row's
    /// mean: 1 where the batch's weight counts every loss.
    pub(crate) fn finish(&self, losses: Tensor, per_row: i64) -> Result<Tensor> {
        #[expect(clippy::cast_precision_loss, reason = "elements of a row, far below 2^53")]
        let per_row = per_row.max(1) as f64;
        match self {
            Reduce::Mean => Ok(losses),
            Reduce::Sum { total } => losses.f_div_scalar(total * per_row).doing("taking the mean of the losses"),
            Reduce::Weighted { shares } => {
                let rows = shares.size().first().copied().unwrap_or(0);
                // Explicitly two-dimensional: with no rows at all -1 would be ambiguous.
                let columns = losses.numel() as i64 / rows.max(1);
                losses
                    .f_reshape([rows, columns])
                    .and_then(|losses| losses.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>))
                    .and_then(|losses| losses.f_mul(&shares.f_div_scalar(per_row)?.f_to_kind(losses.kind())?))
                    .and_then(|losses| losses.f_sum(None::<Kind>))
                    .doing("weighting the losses")
            }
        }
    }
}
