//! The training loop of one rank.
//!
//! A step is applied on all ranks or on none: the optimizer steps only after the gradients of every rank have been
//! summed. Loss and right answers of a batch travel in the tail of the gradients, so that every rank knows the figures
//! of the global batch without another round.

use std::time::Instant;

use kindling_shards::Split;
use serde::Deserialize;

use crate::data::RankData;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::optimizer::OptimizerConfig;
use crate::order::Order;
use crate::replica::Replica;
use crate::report::{Event, Figures, FitReport};
use crate::sync::Sync;

/// How a run trains.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainingConfig {
    /// What a batch is judged by.
    pub loss: Loss,
    /// The optimizer and its settings.
    pub optimizer: OptimizerConfig,
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
}

impl TrainingConfig {
    pub(crate) fn check(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::Config("batchSize must be at least 1".to_owned()));
        }
        if self.max_epochs == 0 {
            return Err(Error::Config("maxEpochs must be at least 1".to_owned()));
        }
        self.optimizer.check()
    }
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
    let order = Order::new(rows, config.batch_size, config.seed.cast_unsigned(), config.shuffle);
    if let Some(node) = replica.training.needs_two_rows() {
        refuse_single_rows(node, &order, data, config, sync.world())?;
    }
    let mut report = FitReport {
        epochs: Vec::new(),
        steps: 0,
        seconds: 0.0,
        communication_seconds: 0.0,
        rows: config.record_rows.then(Vec::new),
        losses: config.record_rows.then(Vec::new),
    };
    for number in 0..config.max_epochs {
        let epoch = order.epoch(number);
        let mut figures = Figures::new(config);
        let mut trained_here = 0;
        for step in 0..order.steps() {
            alive()?;
            let mine: Vec<u64> = epoch
                .batch_where(step, |start, end| data.training.touches(start, end))
                .filter(|&row| data.training.locate(row).is_some())
                .collect();
            let batch = if mine.is_empty() { None } else { Some(data.batch(Split::Train, &mine)?) };
            replica.backward(batch.as_ref(), order.batch_rows(step))?;
            sync.sum_gradients(&replica.parameters)?;
            let tail = replica.step()?;
            figures.add(&tail, order.batch_rows(step));
            trained_here += mine.len() as u64;
            report.steps += 1;
            if let (Some(rows), Some(losses)) = (&mut report.rows, &mut report.losses) {
                rows.push(mine);
                losses.push(tail.loss);
            }
            if let Some(event) = figures.progress(number, step + 1, order.steps()) {
                events(&event)?;
            }
        }
        sync.merge_buffers(&replica.written_buffers(), trained_here)?;
        figures.stop();
        let validation = validate(replica, data, sync, config, alive)?;
        let epoch = figures.finish(number, config.loss, validation);
        events(&Event::Epoch(epoch.clone()))?;
        report.epochs.push(epoch);
    }
    report.seconds = begun.elapsed().as_secs_f64();
    report.communication_seconds = sync.waited().as_secs_f64();
    Ok(report)
}

/// Batch norm cannot train on a single row. Which shares have one is known before the first step, so it is said then and
/// not hours later. Only the last batch of an epoch is small, unless all are; the others are guarded as they come.
fn refuse_single_rows(node: &str, order: &Order, data: &RankData, config: &TrainingConfig, world: usize) -> Result<()> {
    const FEW_ROWS_PER_RANK: u64 = 8;
    let first = if config.batch_size < FEW_ROWS_PER_RANK * world as u64 { 0 } else { order.steps().saturating_sub(1) };
    for number in 0..config.max_epochs {
        let epoch = order.epoch(number);
        for step in first..order.steps() {
            if epoch.batch(step).filter(|&row| data.training.locate(row).is_some()).count() == 1 {
                return Err(Error::Config(format!(
                    "this rank would train on a single row in step {step} of epoch {number}, which batch norm (node \
                     {node}) cannot: choose batchSize or numWorkers so that every share of a batch has none or at least 2 \
                     rows ({} of {} rows are in that batch)",
                    order.batch_rows(step),
                    config.batch_size
                )));
            }
        }
    }
    Ok(())
}

/// Mean loss and accuracy over all validation rows, if there are any.
fn validate(
    replica: &mut Replica,
    data: &RankData,
    sync: &mut Sync,
    config: &TrainingConfig,
    alive: &dyn Fn() -> Result<()>,
) -> Result<Option<(f64, f64)>> {
    let _no_graph = tch::no_grad_guard();
    let (mut loss, mut correct, mut count) = (0.0, 0.0, 0.0);
    let rows: Vec<u64> = data.validation.segments().iter().flat_map(|segment| segment.rows.clone()).collect();
    // A share like that of training, so that what trains fits in memory here too.
    let share = usize::try_from(config.batch_size).unwrap_or(usize::MAX).div_ceil(sync.world());
    for rows in rows.chunks(share) {
        alive()?;
        let (batch_loss, batch_correct) = replica.evaluate(&data.batch(Split::Validation, rows)?)?;
        loss += batch_loss;
        correct += batch_correct;
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        let batch_rows = rows.len() as f64;
        count += batch_rows;
    }
    let mut figures = [loss, correct, count];
    sync.sum(&mut figures)?;
    let [loss, correct, count] = figures;
    Ok((count > 0.0).then(|| (loss / count, correct / count)))
}
