//! Outputs and labels as what was answered, what is right, and what it weighs.

use kindling_program::TensorMeta;
use tch::{Device, Kind, TchError, Tensor};

use super::Metric;
use crate::error::{Doing, Result};
use crate::loss::{Loss, Rows};

/// What a loss compares, which decides the metrics that make sense.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Family {
    /// An output of shape (rows, classes, …) with a class, or probabilities of classes, for each position.
    Classes { classes: Option<i64>, ignored: Option<i64> },
    /// Yes where the output lies above `boundary`; the label says yes above `label`.
    YesNo { boundary: f64, label: f64 },
    /// Numbers; with `log` the output is the logarithm of the one that the label is.
    Numbers { log: bool },
    /// Anything else: there is only the loss.
    Other,
}

impl Family {
    pub(super) fn of(loss: &Loss, output: Option<&TensorMeta>) -> Family {
        let classes = output.and_then(|output| output.shape.get(1)?.as_static());
        match loss {
            Loss::CrossEntropy { ignore_index, .. } => Family::Classes { classes, ignored: *ignore_index },
            Loss::CategoricalHinge {} => Family::Classes { classes, ignored: None },
            Loss::BinaryCrossEntropy {} => Family::YesNo { boundary: 0.5, label: 0.5 },
            Loss::BinaryCrossEntropyWithLogits { .. } => Family::YesNo { boundary: 0.0, label: 0.5 },
            Loss::Hinge {} | Loss::SquaredHinge {} => Family::YesNo { boundary: 0.0, label: 0.0 },
            Loss::Mse {} | Loss::Mae {} | Loss::Huber { .. } | Loss::SmoothL1 { .. } => Family::Numbers { log: false },
            Loss::Poisson { log_input, .. } => Family::Numbers { log: *log_input },
            _ => Family::Other,
        }
    }

    /// The metrics that it has.
    pub(super) fn metrics(&self) -> &'static [Metric] {
        use Metric as M;
        match self {
            Family::Classes { classes: Some(2), .. } => {
                &[M::Loss, M::Accuracy, M::TopK, M::Precision, M::Recall, M::F1, M::Auc]
            }
            Family::Classes { .. } => &[M::Loss, M::Accuracy, M::TopK, M::Precision, M::Recall, M::F1],
            Family::YesNo { .. } => &[M::Loss, M::Accuracy, M::Precision, M::Recall, M::F1, M::Auc],
            Family::Numbers { .. } => &[M::Loss, M::Mae, M::Rmse, M::R2],
            Family::Other => &[M::Loss],
        }
    }
}

/// Answers one by one: tensors of one dimension and equal length.
pub(super) struct Answered {
    /// How many classes there are; yes and no are two.
    pub(super) classes: i64,
    /// int64.
    pub(super) answer: Tensor,
    /// int64.
    pub(super) truth: Tensor,
    /// float64; 0 where the label is to be ignored.
    pub(super) weights: Tensor,
    /// Whether the right class is among the largest outputs, if it was asked.
    pub(super) among: Option<Tensor>,
    /// float64: the larger, the more it is class 1. Where there are two classes.
    pub(super) score: Option<Tensor>,
}

/// The weights of rows on `device`, float64, in a shape that broadcasts over (rows, …) with `dims` dimensions.
fn weights(rows: &Rows<'_>, dims: usize, device: Device) -> std::result::Result<Tensor, TchError> {
    let shape: Vec<i64> = (0..dims.max(1)).map(|dim| if dim == 0 { rows.count } else { 1 }).collect();
    match rows.weights {
        Some(weights) => weights.f_to_kind(Kind::Double)?.f_reshape(&shape),
        None => Tensor::f_ones(&shape, (Kind::Double, device)),
    }
}

/// What a classifier answered. Of `top_k` it is asked whether the right class is among as many of the largest outputs.
pub(super) fn classes(output: &Tensor, rows: &Rows<'_>, ignored: Option<i64>, top_k: Option<i64>) -> Result<Answered> {
    let labels = rows.labels()?;
    let answer = || -> std::result::Result<Answered, TchError> {
        let answer = output.f_argmax(1, false)?;
        let soft = labels.kind() != Kind::Int64;
        let truth = if soft { labels.f_view_as(output)?.f_argmax(1, false)? } else { labels.f_view_as(&answer)? };
        let mut weights = weights(rows, answer.dim(), output.device())?.f_expand_as(&answer)?;
        let mut truth = truth;
        if let Some(ignored) = ignored.filter(|_| !soft) {
            let left_out = truth.f_eq(ignored)?;
            weights = weights.f_masked_fill(&left_out, 0.0)?;
            // Any class will do, as it weighs nothing.
            truth = truth.f_masked_fill(&left_out, 0)?;
        }
        let among = top_k.map(|top_k| {
            let own = output.f_gather(1, &truth.f_unsqueeze(1)?, false)?;
            // Not "larger": where an output is NaN, nothing is known to be smaller.
            let before =
                output.f_le_tensor(&own)?.f_logical_not()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Int64)?;
            before.f_lt(top_k)?.f_reshape([-1])
        });
        let classes = output.size().get(1).copied().unwrap_or(0);
        // Logits and not probabilities, which are 1 for many logits.
        let score = (classes == 2).then(|| {
            let class = |at| output.f_select(1, at)?.f_to_kind(Kind::Double);
            class(1)?.f_sub(&class(0)?)?.f_reshape([-1])
        });
        Ok(Answered {
            classes,
            answer: answer.f_reshape([-1])?,
            truth: truth.f_reshape([-1])?,
            weights: weights.f_reshape([-1])?,
            among: among.transpose()?,
            score: score.transpose()?,
        })
    };
    answer().doing("reading the answers")
}

/// What was answered with yes or no, all outputs of a row one after the other.
pub(super) fn yes_no(output: &Tensor, rows: &Rows<'_>, boundary: f64, label: f64) -> Result<Answered> {
    let labels = rows.labels()?;
    let answer = || -> std::result::Result<Answered, TchError> {
        let flat = output.f_reshape([rows.count, -1])?;
        Ok(Answered {
            classes: 2,
            answer: flat.f_gt(boundary)?.f_to_kind(Kind::Int64)?.f_reshape([-1])?,
            truth: labels.f_view_as(&flat)?.f_gt(label)?.f_to_kind(Kind::Int64)?.f_reshape([-1])?,
            weights: weights(rows, 2, output.device())?.f_expand_as(&flat)?.f_reshape([-1])?,
            among: None,
            score: Some(flat.f_to_kind(Kind::Double)?.f_reshape([-1])?),
        })
    };
    answer().doing("reading the answers")
}

/// Output, labels and weights of shape (rows, elements), (rows, elements) and (rows, 1), float64.
pub(super) fn numbers(output: &Tensor, rows: &Rows<'_>, log: bool) -> Result<(Tensor, Tensor, Tensor)> {
    let labels = rows.labels()?;
    let read = || -> std::result::Result<_, TchError> {
        let output = output.f_reshape([rows.count, -1])?.f_to_kind(Kind::Double)?;
        let labels = labels.f_view_as(&output)?.f_to_kind(Kind::Double)?;
        let weights = weights(rows, 2, output.device())?;
        Ok((if log { output.f_exp()? } else { output }, labels, weights))
    };
    read().doing("reading the predictions")
}
