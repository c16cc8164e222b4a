//! Losses over classes: cross entropy of integer labels or probabilities, and the categorical hinge.

use tch::{Kind, Tensor};

use super::Loss;
use super::judge::{Rows, vector};
use super::reduce::Reduce;
use crate::error::{Doing, Error, Result};

/// No label is ignored unless the setting says one: PyTorch's default of -100 would drop rows in silence. Labels are
/// checked to be classes before training, so this value never occurs.
const NO_IGNORED_LABEL: i64 = i64::MIN;

pub(crate) fn judge(loss: &Loss, output: &Tensor, rows: &Rows<'_>, reduce: &Reduce) -> Result<Tensor> {
    let size = output.size();
    let (classes, positions) = match size.as_slice() {
        [count, classes, positions @ ..] if *count == rows.count => (*classes, positions),
        _ => {
            return Err(Error::Config(format!(
                "{} takes an output of shape (rows, classes, …); the program returned {size:?} for {} rows",
                loss.name(),
                rows.count
            )));
        }
    };
    match loss {
        Loss::CrossEntropy { class_weights, label_smoothing, ignore_index } => {
            let weights = class_weights.as_deref().map(|weights| class_tensor(weights, classes, output));
            let weights = weights.transpose()?;
            let labels = rows.labels()?;
            let soft = labels.kind() != Kind::Int64;
            let (labels, per_row) = if soft {
                (probabilities(labels, output)?, positions.iter().product())
            } else {
                (indices(loss, labels, rows.count, positions)?, 1)
            };
            let ignored = ignore_index.unwrap_or(NO_IGNORED_LABEL);
            let losses = output
                .f_cross_entropy_loss(&labels, weights.as_ref(), reduce.reduction(), ignored, *label_smoothing)
                .doing("computing crossEntropy")?;
            reduce.finish(losses, per_row)
        }
        _ => {
            let labels = indices(loss, rows.labels()?, rows.count, positions)?;
            let losses = categorical_hinge(output, &labels).and_then(|losses| match reduce {
                Reduce::Mean => losses.f_mean(None::<Kind>),
                Reduce::Sum { .. } => losses.f_sum(None::<Kind>),
                Reduce::Weighted { .. } => Ok(losses),
            });
            let losses = losses.doing("computing categoricalHinge")?;
            let per_row = positions.iter().product();
            reduce.finish(losses, per_row)
        }
    }
}

fn class_tensor(weights: &[f64], classes: i64, output: &Tensor) -> Result<Tensor> {
    if weights.len() as i64 != classes {
        return Err(Error::Config(format!(
            "classWeights has {} weights and the program has {classes} classes",
            weights.len()
        )));
    }
    vector(weights, output)
}

/// Integer labels as (rows, positions…).
fn indices(loss: &Loss, labels: &Tensor, rows: i64, positions: &[i64]) -> Result<Tensor> {
    let shape: Vec<i64> = std::iter::once(rows).chain(positions.iter().copied()).collect();
    labels.f_reshape(&shape).map_err(|_| {
        Error::Config(format!(
            "{} takes one label for each of the {} positions of a row; the labels have shape {:?}",
            loss.name(),
            positions.iter().product::<i64>(),
            labels.size()
        ))
    })
}

/// Probabilities in the shape of the output.
fn probabilities(labels: &Tensor, output: &Tensor) -> Result<Tensor> {
    if labels.numel() != output.numel() {
        return Err(Error::Config(format!(
            "labels that are probabilities take one value per class: the program returned {:?} and the labels have shape \
             {:?}",
            output.size(),
            labels.size()
        )));
    }
    labels.f_to_kind(output.kind()).and_then(|labels| labels.f_view_as(output)).doing("shaping the labels")
}

/// How many labels the largest output names; of probabilities, the label is the largest.
pub(crate) fn right(
    output: &Tensor,
    labels: &Tensor,
    ignored: Option<i64>,
) -> std::result::Result<Tensor, tch::TchError> {
    let answers = output.f_argmax(1, false)?;
    if labels.kind() != Kind::Int64 {
        let labels = labels.f_to_kind(output.kind())?.f_view_as(output)?.f_argmax(1, false)?;
        return answers.f_eq_tensor(&labels)?.f_sum(Kind::Int64);
    }
    let labels = labels.f_reshape(answers.size())?;
    let right = answers.f_eq_tensor(&labels)?;
    match ignored {
        Some(ignored) => right.f_logical_and(&labels.f_ne(ignored)?)?.f_sum(Kind::Int64),
        None => right.f_sum(Kind::Int64),
    }
}

/// Keras': `max(0, 1 + max over other classes - the label's)`, where the other classes' maximum is at least 0.
fn categorical_hinge(output: &Tensor, labels: &Tensor) -> std::result::Result<Tensor, tch::TchError> {
    let at = labels.f_unsqueeze(1)?;
    let own = output.f_gather(1, &at, false)?.f_squeeze_dim(1)?;
    let others = output.f_scatter_value(1, &at, 0.0)?.f_amax([1i64].as_slice(), false)?;
    others.f_sub(&own)?.f_add_scalar(1.0)?.f_clamp_min(0.0)
}
