//! Early stopping: which epoch was the best, and when to end.

use serde::Deserialize;

use super::{Measured, Metric};
use crate::check::at_least;
use crate::error::{Error, Result};

/// What a run does with its best epoch. Without a patience it goes on to the last epoch and only remembers the best.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EarlyStopping {
    /// What decides, over the validation rows; `loss` by default.
    #[serde(default = "loss")]
    pub metric: Metric,
    /// The run ends after as many epochs in a row that are no better than the best; never by default.
    #[serde(default)]
    pub patience: Option<u64>,
    /// By more than this an epoch must be better to count; 0 by default.
    #[serde(default)]
    pub min_delta: f64,
    /// Whether the fitted model has the weights and buffers of the best epoch, not of the last; false by default.
    #[serde(default)]
    pub restore_best_weights: bool,
}

fn loss() -> Metric {
    Metric::Loss
}

impl EarlyStopping {
    pub(crate) fn check(&self) -> Result<()> {
        if self.patience == Some(0) {
            return Err(Error::Config("earlyStoppingPatience must be at least 1".to_owned()));
        }
        at_least(0.0, "earlyStoppingMinDelta", self.min_delta)
    }
}

/// What follows from an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// It is the best so far.
    pub(crate) best: bool,
    /// The run is over.
    pub(crate) stop: bool,
}

/// The epochs seen so far. All ranks see the same figures and come to the same verdicts.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    config: &'a EarlyStopping,
    best: Option<(u64, f64)>,
    /// Epochs in a row that were no better.
    bad: u64,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(config: &'a EarlyStopping) -> Watch<'a> {
        Watch { config, best: None, bad: 0 }
    }

    /// Whether the weights of the best epoch are kept.
    pub(crate) fn restores(&self) -> bool {
        self.config.restore_best_weights
    }

    /// The number of the best epoch.
    pub(crate) fn best_epoch(&self) -> Option<u64> {
        self.best.map(|(epoch, _)| epoch)
    }

    /// Judges an epoch. A value that is not a number (a run that diverged) is no better than any.
    pub(crate) fn judge(&mut self, epoch: u64, measured: Option<&Measured>) -> Result<Verdict> {
        let metric = self.config.metric;
        let value = defined(metric, measured, "earlyStoppingMetric")?;
        let gain = |best: f64| if metric.rises() { value - best } else { best - value };
        let better = match self.best {
            Some((_, best)) => gain(best) > self.config.min_delta,
            None => !value.is_nan(),
        };
        if better {
            self.best = Some((epoch, value));
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        Ok(Verdict { best: better, stop: self.config.patience.is_some_and(|patience| self.bad >= patience) })
    }
}

/// The value of a metric that something depends on; an error where the validation rows do not define it.
pub(crate) fn defined(metric: Metric, measured: Option<&Measured>, setting: &str) -> Result<f64> {
    let Some(measured) = measured else {
        return Err(Error::Data(format!("{setting} is {}, but no validation row weighs anything", metric.name())));
    };
    measured.get(metric).ok_or_else(|| {
        Error::Data(format!(
            "{setting} is {}, which these validation rows do not define: it takes rows of both classes",
            metric.name()
        ))
    })
}
