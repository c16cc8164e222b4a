//! Connectionist temporal classification.
//!
//! The output has shape (rows, time, classes) and is logits or log-probabilities: a log-softmax is applied, which leaves
//! log-probabilities as they are. Every row's time is the whole of it. A row's loss is divided by the number of its labels
//! (at least 1), as PyTorch's mean does.

use tch::{Device, Kind, Reduction, Tensor};

use super::judge::Rows;
use super::reduce::Reduce;
use crate::error::{Doing, Error, Result};

pub(crate) fn judge(
    output: &Tensor,
    rows: &Rows<'_>,
    reduce: &Reduce,
    blank: i64,
    padding: Option<i64>,
    zero_infinity: bool,
) -> Result<Tensor> {
    let &[count, time, classes] = output.size().as_slice() else {
        return Err(Error::Config(format!(
            "ctc takes an output of shape (rows, time, classes); the program returned {:?}",
            output.size()
        )));
    };
    if count != rows.count || blank >= classes {
        return Err(Error::Config(format!(
            "ctc takes an output of shape (rows, time, classes) with a class for blank {blank}; the program returned {:?} \
             for {} rows",
            output.size(),
            rows.count
        )));
    }
    let losses = || -> std::result::Result<Tensor, tch::TchError> {
        let labels = rows.labels.ok_or_else(|| tch::TchError::Kind("there are no labels".to_owned()))?;
        let labels = labels.f_reshape([count, -1])?;
        let mut real = labels.f_ne(blank)?;
        if let Some(padding) = padding {
            real = real.f_logical_and(&labels.f_ne(padding)?)?;
        }
        let lengths = real.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Int64)?;
        // Padding is not read, but must be a class.
        let labels = labels.f_where_self(&real, &labels.f_zeros_like()?)?;
        let times = Tensor::f_full([count], time, (Kind::Int64, Device::Cpu))?;
        let steps = output.f_log_softmax(2, None::<Kind>)?.f_transpose(0, 1)?;
        let losses =
            Tensor::f_ctc_loss_tensor(&steps, &labels, &times, &lengths, blank, Reduction::None, zero_infinity)?;
        let losses = losses.f_div(&lengths.f_clamp_min(1)?.f_to_kind(losses.kind())?)?;
        match reduce {
            Reduce::Mean => losses.f_mean(None::<Kind>),
            Reduce::Sum { .. } => losses.f_sum(None::<Kind>),
            Reduce::Weighted { .. } => Ok(losses),
        }
    };
    reduce.finish(losses().doing("computing ctc")?, 1)
}
