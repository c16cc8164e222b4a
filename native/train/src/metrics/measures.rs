//! A run's metrics: checked against its loss, measured over an epoch.

use kindling_program::TensorMeta;
use tch::Tensor;

use super::answers::{self, Family};
use super::counts::Counts;
use super::curve::Curve;
use super::errors::Errors;
use super::{Measured, Metric};
use crate::error::{Doing, Error, Result};
use crate::loss::{Loss, Rows};
use crate::sync::Sync;

/// What a run measures after each epoch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measures {
    family: Family,
    /// In their order, each once; the loss always.
    metrics: Vec<Metric>,
    top_k: i64,
}

impl Measures {
    /// `asked` are those of the configuration; without any they are the loss, and accuracy where there is one. `watched`
    /// are needed besides. Refuses by name what makes no sense for the loss or its output.
    pub(crate) fn new(
        loss: &Loss,
        output: Option<&TensorMeta>,
        asked: &[Metric],
        watched: &[Metric],
        top_k: u32,
    ) -> Result<Measures> {
        let family = Family::of(loss, output);
        let usual = if loss.classifies() { [Metric::Loss, Metric::Accuracy].as_slice() } else { &[Metric::Loss] };
        let mut metrics = [if asked.is_empty() { usual } else { asked }, watched, &[Metric::Loss]].concat();
        metrics.sort_unstable();
        metrics.dedup();
        if let Some(stranger) = metrics.iter().find(|metric| !family.metrics().contains(metric)) {
            let names: Vec<&str> = family.metrics().iter().map(|metric| metric.name()).collect();
            let why = match (stranger, &family) {
                (Metric::Auc, Family::Classes { classes: Some(classes), .. }) => {
                    format!("compares two classes, and the program has {classes}")
                }
                (Metric::Auc, Family::Classes { classes: None, .. }) => {
                    "compares two classes, and the program leaves their number open".to_owned()
                }
                _ => format!("makes no sense for the loss {}", loss.name()),
            };
            return Err(Error::Config(format!(
                "the metric {} {why}: leave it out, there are {}",
                stranger.name(),
                names.join(", ")
            )));
        }
        if metrics.contains(&Metric::TopK)
            && let Family::Classes { classes: Some(classes), .. } = family
            && i64::from(top_k) > classes
        {
            return Err(Error::Config(format!(
                "the metric topK looks at the {top_k} largest outputs and the program has {classes} classes: set topK to {classes} \
                 or less"
            )));
        }
        Ok(Measures { family, metrics, top_k: i64::from(top_k) })
    }

    /// Begins an epoch's validation.
    pub(crate) fn begin(&self) -> Epoch<'_> {
        Epoch {
            measures: self,
            loss: [0.0; 2],
            counts: Counts::default(),
            curve: self.has(Metric::Auc).then(Curve::default),
            errors: Errors::default(),
        }
    }

    fn has(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric)
    }
}

/// The validation rows of an epoch, as far as they were seen.
pub(crate) struct Epoch<'a> {
    measures: &'a Measures,
    /// Times weight, and weight.
    loss: [f64; 2],
    counts: Counts,
    curve: Option<Curve>,
    errors: Errors,
}

impl Epoch<'_> {
    /// Adds a batch's loss, as a sum and what it weighs.
    pub(crate) fn add_loss(&mut self, sum: f64, weight: f64) {
        let [loss, weights] = &mut self.loss;
        *loss += sum;
        *weights += weight;
    }

    /// Adds the output that is judged, in float32 or float64.
    pub(crate) fn add(&mut self, output: &Tensor, rows: &Rows<'_>) -> Result<()> {
        // The loss is measured already.
        if self.measures.metrics == [Metric::Loss] {
            return Ok(());
        }
        let answers = match self.measures.family {
            Family::Classes { ignored, .. } => {
                let top_k = self.measures.has(Metric::TopK).then_some(self.measures.top_k);
                answers::classes(output, rows, ignored, top_k)?
            }
            Family::YesNo { boundary, label } => answers::yes_no(output, rows, boundary, label)?,
            Family::Numbers { log } => {
                let (output, labels, weights) = answers::numbers(output, rows, log)?;
                return self.errors.add(&output, &labels, &weights).doing("measuring deviations");
            }
            Family::Other => return Ok(()),
        };
        self.counts.add(&answers).doing("counting answers")?;
        self.curve.as_mut().map_or(Ok(()), |curve| curve.add(&answers)).doing("keeping scores")
    }

    /// The metrics over the rows of all ranks; none if no row weighs anything.
    pub(crate) fn finish(self, sync: &mut Sync) -> Result<Option<Measured>> {
        let (mut loss, mut counts, mut errors) = ([0.0; 2], Counts::default(), Errors::default());
        for figures in sync.gather(&self.loss)? {
            loss.iter_mut().zip(figures).for_each(|(sum, more)| *sum += more);
        }
        // In rank order, on every rank: all come to the same bits.
        for figures in sync.gather(&self.counts.figures())? {
            counts.merge(&figures);
        }
        for figures in sync.gather(&self.errors.figures())? {
            errors.merge(&figures);
        }
        let area = self.curve.map(|curve| curve.area(sync)).transpose()?.flatten();
        let [sum, weight] = loss;
        if weight <= 0.0 {
            return Ok(None);
        }
        let value = |metric: &Metric| match metric {
            Metric::Loss => Some(sum / weight),
            Metric::Accuracy => counts.accuracy(),
            Metric::TopK => counts.top_k(),
            Metric::Precision => counts.precision(),
            Metric::Recall => counts.recall(),
            Metric::F1 => counts.f1(),
            Metric::Auc => area,
            Metric::Mae => errors.mae(),
            Metric::Rmse => errors.rmse(),
            Metric::R2 => errors.r2(),
        };
        Ok(Some(Measured(self.measures.metrics.iter().map(|metric| (*metric, value(metric))).collect())))
    }
}
