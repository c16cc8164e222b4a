//! Losses: what a batch's output is judged by.
//!
//! A loss gives every row a value `l`; what is minimised is their mean over the *global* batch, weighted by the rows'
//! weights `w` where the data has them:
//!
//! ```text
//! objective = Σ w·l / Σ w        (w = 1 without weights; Σ over the rows of all ranks)
//! ```
//!
//! The value of a row is the mean over its elements, except that `kl` sums over them (PyTorch's `batchmean`) and that
//! `crossEntropy` over integer labels weighs every label: with class weights `c` and ignored labels left out,
//! `objective = Σ w·c·l / Σ w·c` over all labels of the batch, which is PyTorch's mean. A rank cannot know the
//! denominator from its own rows, but labels and weights are known before anything runs: ranks tell each other what the
//! next batches sum to (`totals`), and each judges its rows by the global sum. So the result does not depend on how rows
//! are spread over ranks and micro-batches.
//!
//! Outputs in half precision are judged in float32, as PyTorch's autocast does.
//!
//! | file | what it is |
//! |---|---|
//! | `judge` | a loss fitted to a program: which outputs it judges, what rows weigh, the judging itself |
//! | `reduce` | from losses of rows to a share of the objective |
//! | `classes`, `binary`, `values`, `pairs`, `ctc`, `own` | the families |
//! | `labels` | which labels a loss takes, checked before training |
//! | `predict` | what a fitted model tells of its output |

mod binary;
mod classes;
mod ctc;
mod judge;
mod labels;
mod own;
mod pairs;
mod predict;
mod reduce;
mod values;

use serde::Deserialize;

use crate::error::{Error, Result};
pub(crate) use judge::{Judge, Rows, Sums};
pub(crate) use labels::Labels;
pub(crate) use predict::Told;

/// The loss of a run and its settings, with PyTorch's meaning and defaults: `{"name": "huber", "delta": 2.0}`.
// Every variant has braces: serde refuses unknown keys of those only.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Loss {
    /// Softmax and negative log-likelihood (`torch.nn.CrossEntropyLoss`): an output of shape (rows, classes, …) and one
    /// integer label, or one probability per class, for each of the further positions.
    CrossEntropy {
        /// A weight per class; 1 by default.
        #[serde(default)]
        class_weights: Option<Vec<f64>>,
        /// The part of every label, in 0..=1, that is spread evenly over all classes; 0 by default.
        #[serde(default)]
        label_smoothing: f64,
        /// A label that is left out of the mean; none by default (PyTorch's default is -100).
        #[serde(default)]
        ignore_index: Option<i64>,
    },
    /// Of probabilities (`torch.nn.BCELoss`); labels are probabilities too.
    BinaryCrossEntropy {},
    /// Of logits (`torch.nn.BCEWithLogitsLoss`); labels are probabilities.
    BinaryCrossEntropyWithLogits {
        /// What a positive label weighs, for all outputs or one per output; 1 by default.
        #[serde(default)]
        pos_weight: Option<Vec<f64>>,
    },
    /// Mean squared error (`torch.nn.MSELoss`).
    Mse {},
    /// Mean absolute error (`torch.nn.L1Loss`).
    Mae {},
    /// Squared below `delta`, linear above (`torch.nn.HuberLoss`).
    Huber {
        /// Where it turns linear, above 0; 1 by default.
        #[serde(default = "one")]
        delta: f64,
    },
    /// `huber` divided by `beta` (`torch.nn.SmoothL1Loss`).
    SmoothL1 {
        /// Where it turns linear; 0 makes it `mae`; 1 by default.
        #[serde(default = "one")]
        beta: f64,
    },
    /// Negative log-likelihood of counts (`torch.nn.PoissonNLLLoss`, eps 1e-8).
    Poisson {
        /// Whether the output is the logarithm of the rate; true by default.
        #[serde(default = "yes")]
        log_input: bool,
        /// Whether to add Stirling's approximation of what depends on the label only; false by default.
        #[serde(default)]
        full: bool,
    },
    /// Kullback-Leibler divergence of log-probabilities, summed over a row's elements (`torch.nn.KLDivLoss` with
    /// `reduction="batchmean"`).
    Kl {
        /// Whether labels are log-probabilities too; false by default.
        #[serde(default)]
        log_target: bool,
    },
    /// Of two outputs and a label of 1 (alike) or -1 (`torch.nn.CosineEmbeddingLoss`).
    Cosine {
        /// The similarity that unlike pairs may have, in -1..=1; 0 by default.
        #[serde(default)]
        margin: f64,
    },
    /// Minus the cosine of the angle between output and label (`keras.losses.CosineSimilarity`).
    CosineSimilarity {},
    /// `max(0, 1 - label·output)` with labels 1 and -1 or 0 (`keras.losses.Hinge`).
    Hinge {},
    /// The square of `hinge` (`keras.losses.SquaredHinge`).
    SquaredHinge {},
    /// By how much the best other class comes within 1 of the label's (`keras.losses.CategoricalHinge`); integer labels.
    CategoricalHinge {},
    /// Of two outputs and a label of 1 (the first should be larger) or -1 (`torch.nn.MarginRankingLoss`).
    MarginRanking {
        /// By how much it should be; 0 by default.
        #[serde(default)]
        margin: f64,
    },
    /// Of three outputs, anchor, positive and negative, without a label (`torch.nn.TripletMarginLoss`).
    Triplet {
        /// By how much the negative should be further away, above 0; 1 by default.
        #[serde(default = "one")]
        margin: f64,
        /// The norm's degree, above 0; 2 by default.
        #[serde(default = "two")]
        norm_degree: f64,
        /// Whether the negative's distance to the positive counts where it is smaller; false by default.
        #[serde(default)]
        swap: bool,
    },
    /// Connectionist temporal classification (`torch.nn.CTCLoss`) of an output of shape (rows, time, classes) and integer
    /// labels, padded at the end with `blank` or `ignoreIndex`.
    Ctc {
        /// The class that stands for no label; 0 by default.
        #[serde(default)]
        blank: i64,
        /// Another value that pads labels; none by default.
        #[serde(default)]
        ignore_index: Option<i64>,
        /// Whether a row whose labels cannot fit into its time counts as 0; false by default.
        #[serde(default)]
        zero_infinity: bool,
    },
    /// The program returns the loss itself: its output named `loss`, else its first scalar.
    Model {},
}

fn one() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

fn yes() -> bool {
    true
}

impl Loss {
    /// The name in configurations and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::CrossEntropy { .. } => "crossEntropy",
            Loss::BinaryCrossEntropy {} => "binaryCrossEntropy",
            Loss::BinaryCrossEntropyWithLogits { .. } => "binaryCrossEntropyWithLogits",
            Loss::Mse {} => "mse",
            Loss::Mae {} => "mae",
            Loss::Huber { .. } => "huber",
            Loss::SmoothL1 { .. } => "smoothL1",
            Loss::Poisson { .. } => "poisson",
            Loss::Kl { .. } => "kl",
            Loss::Cosine { .. } => "cosine",
            Loss::CosineSimilarity {} => "cosineSimilarity",
            Loss::Hinge {} => "hinge",
            Loss::SquaredHinge {} => "squaredHinge",
            Loss::CategoricalHinge {} => "categoricalHinge",
            Loss::MarginRanking { .. } => "marginRanking",
            Loss::Triplet { .. } => "triplet",
            Loss::Ctc { .. } => "ctc",
            Loss::Model {} => "model",
        }
    }

    /// Whether answers can be right: of classes, or of yes and no.
    pub fn classifies(&self) -> bool {
        matches!(
            self,
            Loss::CrossEntropy { .. }
                | Loss::CategoricalHinge {}
                | Loss::BinaryCrossEntropy {}
                | Loss::BinaryCrossEntropyWithLogits { .. }
                | Loss::Hinge {}
                | Loss::SquaredHinge {}
        )
    }

    /// Refuses values that no loss takes.
    pub fn check(&self) -> Result<()> {
        let refuse = |sentence: String| Err(Error::Config(sentence));
        let finite = |name: &str, value: f64| {
            if value.is_finite() { Ok(()) } else { refuse(format!("{name} must be a number, not {value}")) }
        };
        let above_zero = |name: &str, value: f64| {
            finite(name, value)?;
            if value > 0.0 { Ok(()) } else { refuse(format!("{name} must be above 0, not {value}")) }
        };
        let weights = |name: &str, values: &Option<Vec<f64>>| match values {
            Some(values) if values.is_empty() => refuse(format!("{name} is empty: give at least one weight")),
            Some(values) => match values.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
                Some(value) => refuse(format!("{name} must be numbers of at least 0, not {value}")),
                None => Ok(()),
            },
            None => Ok(()),
        };
        match self {
            Loss::CrossEntropy { class_weights, label_smoothing, .. } => {
                weights("classWeights", class_weights)?;
                if !(0.0..=1.0).contains(label_smoothing) {
                    return refuse(format!("labelSmoothing must lie in 0..1, not {label_smoothing}"));
                }
                Ok(())
            }
            Loss::BinaryCrossEntropyWithLogits { pos_weight } => weights("posWeight", pos_weight),
            Loss::Huber { delta } => above_zero("delta", *delta),
            Loss::SmoothL1 { beta } => {
                finite("beta", *beta)?;
                if *beta < 0.0 { refuse(format!("beta must be at least 0, not {beta}")) } else { Ok(()) }
            }
            Loss::Cosine { margin } => {
                if (-1.0..=1.0).contains(margin) {
                    Ok(())
                } else {
                    refuse(format!("the margin of cosine must lie in -1..1, not {margin}"))
                }
            }
            Loss::MarginRanking { margin } => finite("margin", *margin),
            Loss::Triplet { margin, norm_degree, .. } => {
                above_zero("margin", *margin)?;
                above_zero("normDegree", *norm_degree)
            }
            Loss::Ctc { blank, .. } if *blank < 0 => refuse(format!("blank must be a class, not {blank}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
