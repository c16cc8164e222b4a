//! What a fit tells: events while it runs, a report at the end, and the running figures behind both.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::fit::TrainingConfig;
use crate::loss::Loss;
use crate::parameters::Tail;

/// What a fit tells while it runs; only rank 0 speaks.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// Somewhere within an epoch.
    Progress {
        /// Counts from 0.
        epoch: u64,
        /// Batches done in this epoch.
        step: u64,
        /// Batches of an epoch.
        steps: u64,
        /// Mean over the rows of this epoch so far.
        loss: f64,
        /// Rows of all ranks per second in this epoch.
        rows_per_second: f64,
    },
    /// An epoch is done.
    Epoch(EpochReport),
}

/// The figures of one epoch, over the rows of all ranks.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochReport {
    /// Counts from 0.
    pub epoch: u64,
    /// Mean over the rows, each judged in the step that trained on it.
    pub loss: f64,
    /// Part of the rows answered right, judged likewise; for losses that classify.
    pub accuracy: Option<f64>,
    /// Mean over the validation rows after the epoch.
    pub validation_loss: Option<f64>,
    /// Part of the validation rows answered right.
    pub validation_accuracy: Option<f64>,
    /// Rows trained on.
    pub rows: u64,
    /// Seconds of training, validation left out.
    pub seconds: f64,
    /// Rows of all ranks per second of training.
    pub rows_per_second: f64,
}

/// What a fit did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FitReport {
    /// One per epoch.
    pub epochs: Vec<EpochReport>,
    /// Optimizer steps.
    pub steps: u64,
    /// Seconds from the first batch to the end, validation included.
    pub seconds: f64,
    /// Seconds this rank spent in collective operations, waiting included.
    pub communication_seconds: f64,
    /// Row numbers of this rank's part of every batch, if they were recorded.
    pub rows: Option<Vec<Vec<u64>>>,
    /// Loss of every global batch, if rows were recorded.
    pub losses: Option<Vec<f64>>,
}

/// The running figures of an epoch.
pub(crate) struct Figures {
    begun: Instant,
    /// How long training took, once it is over.
    trained: Option<Duration>,
    last_event: Instant,
    interval: Duration,
    loss: f64,
    correct: f64,
    rows: u64,
}

impl Figures {
    pub(crate) fn new(config: &TrainingConfig) -> Figures {
        let now = Instant::now();
        let interval = Duration::from_millis(config.progress_interval_ms);
        Figures { begun: now, trained: None, last_event: now, interval, loss: 0.0, correct: 0.0, rows: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    pub(crate) fn add(&mut self, tail: &Tail, rows: u64) {
        self.loss += tail.loss * rows as f64;
        self.correct += tail.correct;
        self.rows += rows;
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn per_row(&self, sum: f64) -> f64 {
        sum / self.rows as f64
    }

    /// Ends the time that counts as training.
    pub(crate) fn stop(&mut self) {
        self.trained = Some(self.begun.elapsed());
    }

    fn seconds(&self) -> f64 {
        self.trained.unwrap_or_else(|| self.begun.elapsed()).as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds().max(1e-9)
    }

    pub(crate) fn progress(&mut self, epoch: u64, step: u64, steps: u64) -> Option<Event> {
        if self.last_event.elapsed() < self.interval {
            return None;
        }
        self.last_event = Instant::now();
        let (loss, rows_per_second) = (self.per_row(self.loss), self.rows_per_second());
        Some(Event::Progress { epoch, step, steps, loss, rows_per_second })
    }

    pub(crate) fn finish(&self, epoch: u64, loss: Loss, validation: Option<(f64, f64)>) -> EpochReport {
        EpochReport {
            epoch,
            loss: self.per_row(self.loss),
            accuracy: loss.classifies().then(|| self.per_row(self.correct)),
            validation_loss: validation.map(|(mean, _)| mean),
            validation_accuracy: validation.filter(|_| loss.classifies()).map(|(_, right)| right),
            rows: self.rows,
            seconds: self.seconds(),
            rows_per_second: self.rows_per_second(),
        }
    }
}
