//! What a fit tells: events while it runs, a report at the end, and the running figures behind both.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::fit::TrainingConfig;

use crate::loss::Loss;
use crate::metrics::Measured;
use crate::state::Position;

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
        /// Learning rate of the last step, before a parameter group's own.
        learning_rate: f64,
        /// Part of this epoch's time in which this rank waited for rows.
        wait_share: f64,
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
    /// Mean over the rows, each judged in the step that trained on it; those of skipped steps are left out.
    pub loss: f64,
    /// Part of the rows answered right, judged likewise; for losses that classify.
    pub accuracy: Option<f64>,
    /// The metrics over the validation rows after the epoch; empty without such rows.
    #[serde(flatten)]
    pub validation: Measured,
    /// Learning rate of the epoch's last step, before a parameter group's own.
    pub learning_rate: f64,
    /// Steps that were not taken, as float16 overflowed somewhere; the loss is scaled down after each.
    pub skipped_steps: u64,
    /// Rows trained on.
    pub rows: u64,
    /// Seconds of training, validation left out.
    pub seconds: f64,
    /// Rows of all ranks per second of training.
    pub rows_per_second: f64,
}

/// What a fit did.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FitReport {
    /// One per epoch.
    pub epochs: Vec<EpochReport>,
    /// Batches, each an optimizer step unless it was skipped.
    pub steps: u64,
    /// Steps that were not taken, as float16 overflowed somewhere.
    pub skipped_steps: u64,
    /// Seconds from the first batch to the end, validation included.
    pub seconds: f64,
    /// Seconds in which this rank waited for other ranks and for transfers, and computed nothing.
    pub communication_seconds: f64,
    /// Seconds in which gradients travelled while backward still ran: in every step, from the start of its first bucket
    /// to the end of its backward.
    pub overlapped_seconds: f64,
    /// Seconds in which this rank waited for its rows to be gathered, and computed nothing.
    pub data_wait_seconds: f64,
    /// Rows that this rank fetched from other processes before its first step.
    pub fetched_rows: u64,
    /// Bytes of those rows.
    pub fetched_bytes: u64,
    /// The epoch that validated best, if the run looked for it.
    pub best_epoch: Option<u64>,
    /// Whether the run ended before its last epoch, as it got no better.
    pub stopped_early: bool,
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
    position: Position,
    /// Rows that were trained on before this attempt took the epoch up.
    rows_before: u64,
    learning_rate: f64,
    /// How long the loop had waited for rows before this epoch, and until now.
    waited: (Duration, Duration),
}

impl Figures {
    /// Of an epoch that begins, or goes on, at `position`, when the loop has waited for rows for `waited` in all.
    pub(crate) fn new(config: &TrainingConfig, position: Position, waited: Duration) -> Figures {
        let now = Instant::now();
        let interval = Duration::from_millis(config.progress_interval_ms);
        Figures {
            begun: now,
            trained: None,
            last_event: now,
            interval,
            position,
            rows_before: position.rows,
            learning_rate: 0.0,
            waited: (waited, waited),
        }
    }

    /// A step was taken with that rate and led to `position`; the loop has waited for rows for `waited` in all.
    pub(crate) fn update(&mut self, position: Position, learning_rate: f64, waited: Duration) {
        self.position = position;
        self.learning_rate = learning_rate;
        self.waited.1 = waited;
    }

    /// The mean as the objective weighs it; 0 while nothing has weighed anything, and no number if every step was skipped.
    fn mean_loss(&self) -> f64 {
        let [loss, weight, ..] = self.position.sums;
        match (weight > 0.0, self.position.skipped) {
            (true, _) => loss / weight,
            (false, 0) => 0.0,
            (false, _) => f64::NAN,
        }
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
        (self.position.rows - self.rows_before) as f64 / self.seconds().max(1e-9)
    }

    fn wait_share(&self) -> f64 {
        let (before, now) = self.waited;
        now.saturating_sub(before).as_secs_f64() / self.seconds().max(1e-9)
    }

    pub(crate) fn progress(&mut self, steps: u64) -> Option<Event> {
        if self.last_event.elapsed() < self.interval {
            return None;
        }
        self.last_event = Instant::now();
        let (Position { epoch, step, .. }, learning_rate) = (self.position, self.learning_rate);
        let (loss, rows_per_second) = (self.mean_loss(), self.rows_per_second());
        Some(Event::Progress {
            epoch,
            step,
            steps,
            loss,
            rows_per_second,
            learning_rate,
            wait_share: self.wait_share(),
        })
    }

    pub(crate) fn finish(&self, loss: &Loss, validation: Measured) -> EpochReport {
        let [_, _, correct, answers] = self.position.sums;
        EpochReport {
            epoch: self.position.epoch,
            loss: self.mean_loss(),
            accuracy: (loss.classifies() && answers > 0.0).then(|| correct / answers),
            validation,
            learning_rate: self.learning_rate,
            skipped_steps: self.position.skipped,
            rows: self.position.rows,
            seconds: self.seconds(),
            rows_per_second: self.rows_per_second(),
        }
    }
}
