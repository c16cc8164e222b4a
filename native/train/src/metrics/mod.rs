//! Metrics: what the validation rows say of the weights after each epoch, and what follows from it.
//!
//! Every metric is that of all validation rows together, however they are spread over ranks and batches: ranks keep sums
//! (or, for `auc`, scores), tell each other at the end of the epoch, and all come to the same value. Rows weigh what
//! `weightCol` says: a row of weight 3 is there three times. Means are never averaged over batches or ranks.
//!
//! | metric | of | what it is |
//! |---|---|---|
//! | `loss` | every loss | the objective |
//! | `accuracy` | classes, yes and no | the part of the labels answered right |
//! | `topK` | classes | the part whose class is among the `topK` largest outputs |
//! | `precision`, `recall`, `f1` | classes, yes and no | of class 1 where there are two; else the mean over the classes that occur |
//! | `auc` | two classes, yes and no | the area under the ROC curve, ties counted half |
//! | `mae`, `rmse` | numbers | over all elements |
//! | `r2` | numbers | per element of a row, then their mean |
//!
//! | file | what it is |
//! |---|---|
//! | `answers` | outputs and labels as what was answered, what is right, and what it weighs |
//! | `counts`, `curve`, `errors` | what is kept of them: classes counted, scores, deviations |
//! | `measures` | a run's metrics: checked against its loss, measured over an epoch |
//! | `watch` | early stopping: which epoch was the best, and when to end |

mod answers;
mod counts;
mod curve;
mod errors;
mod measures;
mod watch;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

pub(crate) use measures::{Epoch, Measures};
pub use watch::EarlyStopping;
pub(crate) use watch::{Watch, defined};

/// A metric by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Metric {
    /// The objective.
    Loss,
    /// The part of the labels answered right.
    Accuracy,
    /// The part whose class is among the largest outputs.
    TopK,
    /// Of what was answered with a class, the part that is of it.
    Precision,
    /// Of what is of a class, the part that was answered with it.
    Recall,
    /// The harmonic mean of the two.
    F1,
    /// The area under the ROC curve.
    Auc,
    /// The mean absolute error.
    Mae,
    /// The root of the mean squared error.
    Rmse,
    /// The part of the labels' variance that is explained.
    R2,
}

impl Metric {
    /// The name in configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::Accuracy => "accuracy",
            Metric::TopK => "topK",
            Metric::Precision => "precision",
            Metric::Recall => "recall",
            Metric::F1 => "f1",
            Metric::Auc => "auc",
            Metric::Mae => "mae",
            Metric::Rmse => "rmse",
            Metric::R2 => "r2",
        }
    }

    /// The name in reports, where it stands beside the figures of training.
    pub fn column(self) -> &'static str {
        match self {
            Metric::Loss => "validationLoss",
            Metric::Accuracy => "validationAccuracy",
            Metric::TopK => "validationTopK",
            Metric::Precision => "validationPrecision",
            Metric::Recall => "validationRecall",
            Metric::F1 => "validationF1",
            Metric::Auc => "validationAuc",
            Metric::Mae => "validationMae",
            Metric::Rmse => "validationRmse",
            Metric::R2 => "validationR2",
        }
    }

    /// Whether a larger value is a better one.
    pub fn rises(self) -> bool {
        !matches!(self, Metric::Loss | Metric::Mae | Metric::Rmse)
    }
}

/// The metrics of one epoch, in their order. Serialises as an object with the names of [`Metric::column`]; what is not
/// defined or not finite is null.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured(Vec<(Metric, Option<f64>)>);

impl Measured {
    /// The value, if it was measured and the rows define it: `auc` needs both classes.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.iter().find(|(measured, _)| *measured == metric).and_then(|(_, value)| *value)
    }

    /// All that was measured.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, Option<f64>)> + '_ {
        self.0.iter().copied()
    }
}

impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (metric, value) in &self.0 {
            map.serialize_entry(metric.column(), &value.filter(|value| value.is_finite()))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
