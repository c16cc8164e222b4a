//! Binary cross entropy, of probabilities or of logits.

use tch::{Kind, Tensor};

use super::Loss;
use super::judge::{Rows, shaped_like, vector};
use super::reduce::Reduce;
use crate::error::{Doing, Error, Result};

pub(crate) fn judge(loss: &Loss, output: &Tensor, rows: &Rows<'_>, reduce: &Reduce) -> Result<Tensor> {
    let labels = shaped_like(loss, output, rows)?;
    let per_row = output.numel() as i64 / rows.count.max(1);
    let losses = match loss {
        Loss::BinaryCrossEntropyWithLogits { pos_weight } => {
            let weights = pos_weight.as_deref().map(|weights| positive_weights(weights, output)).transpose()?;
            output.f_binary_cross_entropy_with_logits(&labels, None, weights.as_ref(), reduce.reduction())
        }
        _ => output.f_binary_cross_entropy::<Tensor>(&labels, None, reduce.reduction()),
    };
    let losses = losses.doing("computing binary cross entropy")?;
    reduce.finish(losses, per_row)
}

/// How many elements lie above `threshold` where their label lies above `yes`, or neither does.
pub(crate) fn right(
    output: &Tensor,
    labels: &Tensor,
    threshold: f64,
    yes: f64,
) -> std::result::Result<Tensor, tch::TchError> {
    let labels = labels.f_to_kind(output.kind())?.f_view_as(output)?.f_gt(yes)?;
    output.f_gt(threshold)?.f_eq_tensor(&labels)?.f_sum(Kind::Int64)
}

/// One weight for all, or one per element of the last dimension.
fn positive_weights(weights: &[f64], output: &Tensor) -> Result<Tensor> {
    let last = output.size().last().copied().unwrap_or(1);
    if weights.len() != 1 && weights.len() as i64 != last {
        return Err(Error::Config(format!(
            "posWeight has {} weights and the program's output has shape {:?}: give one for all, or one per element of \
             its last dimension",
            weights.len(),
            output.size()
        )));
    }
    vector(weights, output)
}
