//! The training loop of one rank.
//!
//! A step is applied on all ranks or on none: the optimizer steps only after the gradients of every rank have been
//! summed. Loss and right answers of a batch travel in the tail of the gradients, so that every rank knows the figures
//! of the global batch without another round. Batches come from the rank's [loader](crate::loader), ahead of the loop.

use std::ops::Range;
use std::time::Instant;

use kindling_program::Checkpointing;
use serde::Deserialize;

use crate::clip::Clip;
use crate::data::RankData;
use crate::ema::Averages;
use crate::error::{Error, Result};
use crate::kept::Kept;
use crate::loader::{Loader, Source};
use crate::loss::{Judge, Loss, Sums};
use crate::metrics::{self, EarlyStopping, Measured, Measures, Metric, Watch};
use crate::optimizer::{GroupConfig, OptimizerConfig};
use crate::order::Order;
use crate::precision::Precision;
use crate::replica::{Replica, parts};
use crate::report::{EpochReport, Event, Figures, FitReport};
use crate::schedule::ScheduleConfig;
use crate::state::Position;
use crate::sync::Sync;
use crate::totals::Totals;
use crate::upload;

/// How a run trains.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainingConfig {
    /// What a batch is judged by.
    pub loss: Loss,
    /// The output that is judged and predicts, by name or index, of a program that returns several. By default the one named
    /// `logits`, else the first (with the loss `model`, the first that is not the loss).
    #[serde(default)]
    pub prediction_output: Option<String>,
    /// The optimizer and its settings.
    pub optimizer: OptimizerConfig,
    /// Parameters that are trained in a way of their own; the first group that matches takes a parameter. None by
    /// default.
    #[serde(default)]
    pub groups: Vec<GroupConfig>,
    /// The learning rate over the steps; constant by default.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// The largest norm of the gradient of the global batch: a longer one is scaled down to it. None by default.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// The largest absolute value of an element of the gradient of the global batch; bounded before the norm is taken.
    /// None by default.
    #[serde(default)]
    pub clip_value: Option<f64>,
    /// Parts into which every rank cuts its share of a batch, one after the other through forward and backward: the same
    /// step in less memory. With `syncBatchNorm` it is the batch that is cut, so that a part is the same rows whoever has
    /// them. 1 by default.
    #[serde(default = "one")]
    pub accumulation_steps: u64,
    /// Decay of an average of the weights, which the fitted model and validation use instead of the last ones. None by
    /// default.
    #[serde(default)]
    pub ema_decay: Option<f64>,
    /// What forward and loss compute in; float32 by default.
    #[serde(default)]
    pub precision: Precision,
    /// Rows of a global batch, all ranks together.
    pub batch_size: u64,
    /// Passes over the data.
    pub max_epochs: u64,
    /// Fixes the batch order and the random operators; any integer.
    pub seed: i64,
    /// Whether every epoch has an order of its own.
    pub shuffle: bool,
    /// Least time between two progress events.
    pub progress_interval_ms: u64,
    /// Whether the report names the rows and the loss of every batch; for tests.
    pub record_rows: bool,
    /// Bytes of gradients that are sent to the other ranks as one; a larger parameter is sent alone.
    #[serde(default = "bucket_bytes")]
    pub bucket_bytes: u64,
    /// Whether gradients are sent while backward still computes others; after it if not. The weights are the same.
    #[serde(default = "overlap")]
    pub overlap: bool,
    /// Whether batch norms normalise by the rows of all ranks.
    #[serde(default)]
    pub sync_batch_norm: bool,
    /// What backward computes again instead of keeping it in memory.
    #[serde(default)]
    pub activation_checkpointing: Checkpointing,
    /// What is measured over the validation rows after each epoch; the loss always, and by default also accuracy where
    /// the loss has it.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// How many of the largest outputs the metric `topK` looks at; 5 by default.
    #[serde(default = "top_k")]
    pub top_k: u32,
    /// What the run does with its best epoch; nothing by default.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
}

fn one() -> u64 {
    1
}

/// Less than DDP's 25 MiB, so that a net of a few MiB has more than one; not chosen by measurement.
fn bucket_bytes() -> u64 {
    4 << 20
}

fn overlap() -> bool {
    true
}

fn top_k() -> u32 {
    5
}

impl TrainingConfig {
    pub(crate) fn check(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::Config("batchSize must be at least 1".to_owned()));
        }
        if self.max_epochs == 0 {
            return Err(Error::Config("maxEpochs must be at least 1".to_owned()));
        }
        self.loss.check()?;
        self.optimizer.check()?;
        self.groups.iter().try_for_each(GroupConfig::check)?;
        self.schedule.check()?;
        if self.bucket_bytes == 0 {
            return Err(Error::Config("bucketBytes must be at least 1".to_owned()));
        }
        if self.accumulation_steps == 0 {
            return Err(Error::Config("accumulationSteps must be at least 1".to_owned()));
        }
        self.ema_decay.map_or(Ok(()), Averages::check)?;
        if self.top_k == 0 {
            return Err(Error::Config("topK must be at least 1".to_owned()));
        }
        self.early_stopping.as_ref().map_or(Ok(()), EarlyStopping::check)?;
        Clip::new(self.clip_norm, self.clip_value).map(drop)
    }
}

impl TrainingConfig {
    /// What is measured, if it makes sense for the program.
    pub(crate) fn measures(&self, judge: &Judge) -> Result<Measures> {
        let watched = [self.early_stopping.as_ref().map(|stopping| stopping.metric), self.schedule.metric];
        let watched: Vec<Metric> = watched.into_iter().flatten().collect();
        Measures::new(&self.loss, judge.output(), &self.metrics, &watched, self.top_k)
    }

    /// Refuses a run whose settings look at validation rows when there are none.
    pub(crate) fn check_validation(&self, rows: u64) -> Result<()> {
        let asked = match (&self.early_stopping, self.schedule.metric) {
            _ if rows > 0 => return Ok(()),
            (Some(_), _) => "early stopping",
            (None, Some(_)) => "the metric of reduceOnPlateau",
            (None, None) if !self.metrics.is_empty() => "metrics",
            (None, None) => return Ok(()),
        };
        Err(Error::Data(format!(
            "there is no validation row, which {asked} looks at: validate on more rows, or leave it out"
        )))
    }
}

/// The order of `rows` rows of `row_bytes` bytes in this run.
pub(crate) fn order(config: &TrainingConfig, rows: u64, row_bytes: u64) -> Order {
    Order::new(rows, row_bytes, config.batch_size, config.seed.cast_unsigned(), config.shuffle)
}

/// Trains `replica` on `data`. `alive` is asked before every step and fails if the run was aborted.
pub(crate) fn fit(
    replica: &mut Replica,
    data: &RankData,
    sync: &mut Sync,
    config: &TrainingConfig,
    rows: u64,
    alive: &dyn Fn() -> Result<()>,
    events: &mut dyn FnMut(&Event) -> Result<()>,
) -> Result<FitReport> {
    if rows == 0 {
        return Err(Error::Data("there are no rows to train on".to_owned()));
    }
    let begun = Instant::now();
    let _here = replica.place.enter()?;
    let order = order(config, rows, data.row_bytes());
    if let Some(node) = replica.training.needs_two_rows() {
        if config.sync_batch_norm {
            refuse_single_row_batches(node, &order, config)?;
        } else {
            refuse_single_rows(node, &order, data, config, sync.world())?;
        }
    }
    let measures = config.measures(&replica.judge)?;
    let totals = Totals::agree(&replica.judge, data, sync)?;
    let start = (replica.position.epoch, replica.position.step);
    let source = Source { data, order: &order, config, world: sync.world(), start };
    let port = upload::port(&replica.place)?;
    let mut report = std::thread::scope(|scope| {
        let loader = Loader::start(scope, replica.rank, source, port.clone())?;
        Loop { replica, source, loader, sync, totals, alive, measures: &measures, kept: None }.run(events)
    })?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// A fit under way.
struct Loop<'a, 'scope> {
    replica: &'a mut Replica,
    source: Source<'a>,
    loader: Loader<'scope>,
    sync: &'a mut Sync,
    totals: Totals,
    alive: &'a dyn Fn() -> Result<()>,
    measures: &'a Measures,
    /// The best epoch's weights, where they are to be restored.
    kept: Option<Kept>,
}

impl Loop<'_, '_> {
    fn run(mut self, events: &mut dyn FnMut(&Event) -> Result<()>) -> Result<FitReport> {
        let Source { order, config, .. } = self.source;
        let recorded = || config.record_rows.then(Vec::new);
        let mut report =
            FitReport { rows: recorded(), losses: config.record_rows.then(Vec::new), ..FitReport::default() };
        let mut watch = config.early_stopping.as_ref().map(Watch::new);
        // A replica that was given a training state goes on from there.
        for number in self.replica.position.epoch..config.max_epochs {
            let mut figures = Figures::new(config, self.replica.position, self.loader.waited());
            for step in self.replica.position.step..order.steps() {
                (self.alive)()?;
                let sums = self.sums(number, step)?;
                let mine = self.backward(&sums)?;
                let rate = self.replica.learning_rate();
                let tail = self.replica.step(self.sync)?;
                self.replica.position.add(&tail, &sums, mine.len() as u64);
                figures.update(self.replica.position, rate, self.loader.waited());
                report.steps += 1;
                if let (Some(rows), Some(losses)) = (&mut report.rows, &mut report.losses) {
                    rows.push(mine);
                    losses.push(tail.loss);
                }
                if let Some(event) = figures.progress(order.steps()) {
                    events(&event)?;
                }
            }
            self.sync.merge_buffers(&self.replica.written_buffers(), self.replica.position.rows_here)?;
            figures.stop();
            self.replica.swap_averages()?;
            let validated = self.validate(number, watch.as_mut());
            self.replica.swap_averages()?;
            let (measured, stop) = validated?;
            let epoch = figures.finish(&config.loss, measured.unwrap_or_default());
            self.replica.end_epoch(plateau_value(config, &epoch)?);
            self.replica.position = Position { epoch: number + 1, ..Position::default() };
            report.skipped_steps += epoch.skipped_steps;
            events(&Event::Epoch(epoch.clone()))?;
            report.epochs.push(epoch);
            if stop {
                report.stopped_early = number + 1 < config.max_epochs;
                break;
            }
        }
        report.best_epoch = watch.and_then(|watch| watch.best_epoch());
        if let Some(kept) = &self.kept {
            kept.restore(self.replica)?;
        }
        report.communication_seconds = self.sync.waited().as_secs_f64();
        report.overlapped_seconds = self.sync.overlapped().as_secs_f64();
        report.data_wait_seconds = self.loader.waited().as_secs_f64();
        Ok(report)
    }

    /// What a batch sums to over all ranks.
    fn sums(&mut self, epoch: u64, step: u64) -> Result<Sums> {
        let Source { data, order, .. } = self.source;
        let rows = |step| order.batch_rows(step);
        let mine = |steps: Range<u64>| {
            let epoch = order.epoch(epoch);
            steps.map(|step| data.share(&epoch, step)).collect()
        };
        self.totals.of(step, order.steps(), &rows, &mine, (&self.replica.judge, data, self.sync))
    }

    /// Computes the gradients of this rank's share of the next batch, part by part. The batch sums to `sums`. Returns the
    /// share's row numbers.
    fn backward(&mut self, sums: &Sums) -> Result<Vec<u64>> {
        self.replica.begin()?;
        let mut rows = Vec::new();
        loop {
            let part = self.loader.next(self.alive)?;
            rows.extend_from_slice(&part.rows);
            if part.last {
                self.replica.backward(part.batch.as_ref(), sums, self.sync)?;
            } else {
                self.replica.accumulate(part.batch.as_ref(), sums)?;
            }
            let last = part.last;
            self.loader.give_back(part)?;
            if last {
                return Ok(rows);
            }
        }
    }

    /// The metrics over all validation rows, if there are any, and whether the run is over. Keeps the weights of the best
    /// epoch, as they validated.
    fn validate(&mut self, number: u64, watch: Option<&mut Watch<'_>>) -> Result<(Option<Measured>, bool)> {
        let measured = self.measure()?;
        let Some(watch) = watch else { return Ok((measured, false)) };
        let verdict = watch.judge(number, measured.as_ref())?;
        if verdict.best && watch.restores() {
            self.kept = Some(Kept::take(self.replica, self.kept.take())?);
        }
        Ok((measured, verdict.stop))
    }

    fn measure(&mut self) -> Result<Option<Measured>> {
        let _no_graph = tch::no_grad_guard();
        let mut epoch = self.measures.begin();
        for _ in 0..self.source.validation_parts() {
            (self.alive)()?;
            let part = self.loader.next(self.alive)?;
            if let Some(batch) = &part.batch {
                self.replica.evaluate(batch, &mut epoch)?;
            }
            self.loader.give_back(part)?;
        }
        epoch.finish(self.sync)
    }
}

/// What `reduceOnPlateau` hears of an epoch: its metric, else the validation loss, else that of training.
fn plateau_value(config: &TrainingConfig, epoch: &EpochReport) -> Result<f64> {
    match config.schedule.metric {
        Some(metric) => {
            let measured = Some(&epoch.validation).filter(|measured| measured.iter().next().is_some());
            metrics::defined(metric, measured, "the metric of reduceOnPlateau")
        }
        None => Ok(epoch.validation.get(Metric::Loss).unwrap_or(epoch.loss)),
    }
}

/// Batch norm cannot train on a single row. Which shares have one is known before the first step, so it is said then and
/// not hours later. Only the last batch of an epoch is small, unless all are; the others are guarded as they come.
fn refuse_single_rows(node: &str, order: &Order, data: &RankData, config: &TrainingConfig, world: usize) -> Result<()> {
    const FEW_ROWS_PER_RANK: u64 = 8;
    let pieces = config.accumulation_steps.saturating_mul(world as u64);
    let first =
        if config.batch_size < FEW_ROWS_PER_RANK.saturating_mul(pieces) { 0 } else { order.steps().saturating_sub(1) };
    for number in 0..config.max_epochs {
        let epoch = order.epoch(number);
        for step in first..order.steps() {
            let share = epoch.batch(step).filter(|&row| data.training.locate(row).is_some()).count();
            if parts(share, config.accumulation_steps).iter().any(|part| part.len() == 1) {
                return Err(Error::Config(format!(
                    "this rank would train on a single row in step {step} of epoch {number}, which batch norm (node \
                     {node}) cannot: choose batchSize or numWorkers so that every share of a batch has none or at least 2 \
                     rows in each of its gradientAccumulationSteps parts ({} of {} rows are in that batch)",
                    order.batch_rows(step),
                    config.batch_size
                )));
            }
        }
    }
    Ok(())
}

/// The same where batch norms see the rows of all ranks: then only a part of a batch that is one row is too small.
fn refuse_single_row_batches(node: &str, order: &Order, config: &TrainingConfig) -> Result<()> {
    let single = |step: &u64| {
        let rows = usize::try_from(order.batch_rows(*step)).unwrap_or(usize::MAX);
        parts(rows, config.accumulation_steps).iter().any(|part| part.len() == 1)
    };
    // All batches have one size, but for the last.
    match [0, order.steps().saturating_sub(1)].into_iter().find(single) {
        Some(step) => Err(Error::Config(format!(
            "step {step} of every epoch would train on a single row, which batch norm (node {node}) cannot, with \
             syncBatchNorm neither: choose a batchSize other than {} so that every batch has at least 2 rows in each of its \
             gradientAccumulationSteps parts ({} of its rows are in that batch)",
            config.batch_size,
            order.batch_rows(step)
        ))),
        None => Ok(()),
    }
}
