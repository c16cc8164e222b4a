//! The loss that a program returns itself.
//!
//! A scalar is the mean over the rows that the program was given, and counts as many rows: shares of a batch are put
//! together by rows, as data-parallel training does everywhere. A program whose mean counts something else (tokens that
//! are not padding) should return one loss per row, which is exact however rows are spread, and takes weights.

use tch::{Kind, Tensor};

use super::judge::{Rows, Sums};
use super::reduce::Reduce;
use crate::error::{Doing, Error, Result};

pub(crate) fn judge(output: &Tensor, rows: &Rows<'_>, reduce: &Reduce, totals: &Sums) -> Result<Tensor> {
    if output.dim() > 0 && output.size().first() == Some(&rows.count) && output.numel() as i64 == rows.count {
        let losses = match reduce {
            Reduce::Mean => output.f_mean(None::<Kind>),
            Reduce::Sum { .. } => output.f_sum(None::<Kind>),
            Reduce::Weighted { .. } => Ok(output.shallow_clone()),
        };
        return reduce.finish(losses.doing("reducing the losses")?, 1);
    }
    if output.numel() != 1 {
        return Err(Error::Config(format!(
            "the loss of the program is one number, or one per row; it returned {:?} for {} rows",
            output.size(),
            rows.count
        )));
    }
    let mean = output.f_reshape([0i64; 0]).doing("reading the loss")?;
    let loss = match reduce {
        Reduce::Mean => mean,
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        Reduce::Sum { .. } => mean.f_mul_scalar(rows.count as f64 / totals.weight).doing("weighting the loss")?,
        Reduce::Weighted { .. } => return Err(no_weights()),
    };
    Ok(loss)
}

/// A scalar loss cannot be weighted any more.
pub(crate) fn no_weights() -> Error {
    Error::Config(
        "weights are given and the program returns a loss that is already the mean of its rows: leave weightCol unset, or \
         let the program return one loss per row"
            .to_owned(),
    )
}
