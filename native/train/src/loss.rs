//! Losses: what a batch's output is judged by.
//!
//! A loss is the mean over this rank's rows; the trainer weights it by rows, so that the sum over ranks is the mean
//! over the global batch. `crossEntropy` takes logits of shape (rows, classes) and integer labels of shape (rows,), and
//! counts the rows whose largest logit is the label's. `mse` takes an output and labels of the same number of elements
//! per row, and averages over all of them.

use serde::Deserialize;
use tch::{Kind, Reduction, Tensor};

use crate::error::{Doing, Error, Result};

/// The loss of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Loss {
    /// Softmax and negative log-likelihood of integer labels (`torch.nn.CrossEntropyLoss`).
    CrossEntropy,
    /// Mean squared error (`torch.nn.MSELoss`).
    Mse,
}

/// A batch judged.
pub(crate) struct Judged {
    /// Mean over the rows, a scalar with its graph.
    pub(crate) loss: Tensor,
    /// Rows answered right, where the loss knows what that means.
    pub(crate) correct: Option<f64>,
}

/// `crossEntropy` skips no label: PyTorch's default of -100 would drop rows in silence. Labels are checked to be at
/// least 0 before training, so this value never occurs.
const NO_IGNORED_LABEL: i64 = i64::MIN;

impl Loss {
    /// Whether rows can be answered right.
    pub fn classifies(self) -> bool {
        self == Loss::CrossEntropy
    }

    /// Judges `output` by `labels`, both of `rows` rows.
    pub(crate) fn judge(self, output: &Tensor, labels: &Tensor, rows: i64) -> Result<Judged> {
        match self {
            Loss::CrossEntropy => {
                if output.dim() != 2 || output.size().first() != Some(&rows) {
                    return Err(Error::Config(format!(
                        "crossEntropy takes logits of shape (rows, classes); the program returned {:?} for {rows} rows",
                        output.size()
                    )));
                }
                let labels = labels.f_view([rows]).doing("shaping the labels")?;
                let loss = output
                    .f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, NO_IGNORED_LABEL, 0.0)
                    .doing("computing crossEntropy")?;
                let correct = output
                    .f_argmax(1, false)
                    .and_then(|answers| answers.f_eq_tensor(&labels))
                    .and_then(|right| right.f_sum(Kind::Int64))
                    .and_then(|count| count.f_double_value(&[]))
                    .doing("counting right answers")?;
                Ok(Judged { loss, correct: Some(correct) })
            }
            Loss::Mse => {
                if output.numel() != labels.numel() || output.size().first() != Some(&rows) {
                    return Err(Error::Config(format!(
                        "mse takes as many labels as outputs per row; the program returned {:?} for {rows} rows with {} \
                         labels each",
                        output.size(),
                        labels.numel() / usize::try_from(rows).unwrap_or(1).max(1)
                    )));
                }
                let labels = labels.f_view_as(output).doing("shaping the labels")?;
                let loss = output.f_mse_loss(&labels, Reduction::Mean).doing("computing mse")?;
                Ok(Judged { loss, correct: None })
            }
        }
    }
}
