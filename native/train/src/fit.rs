//! The training loop of one rank.
//!
//! A step is applied on all ranks or on none: the optimizer steps only after the gradients of every rank have been
//! summed. Loss and right answers of a batch travel in the tail of the gradients, so that every rank knows the figures
//! of the global batch without another round.

use std::time::{Duration, Instant};

use kindling_program::Program;
use kindling_shards::Split;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::data::{Batch, RankData};
use crate::error::{Doing, Error, Result};
use crate::loss::Loss;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::order::{self, Order};
use crate::parameters::{ParameterStore, Tail};
use crate::runner::{Runner, State};
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
    /// Fixes the batch order and the random operators.
    pub seed: u64,
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

/// A program on its way through training: parameters, optimizer, and the program compiled for training and evaluation.
///
/// A session drives one as a rank of a group; alone, it trains on batches of the caller's own.
pub struct Replica {
    pub(crate) program: Program,
    pub(crate) state: State,
    loss: Loss,
    parameters: ParameterStore,
    optimizer: Optimizer,
    training: Runner,
    evaluation: Runner,
}

impl Replica {
    /// Lays the program out for training, with `weights` (safetensors) in place of its own if given.
    /// `rank` chooses the stream of random numbers.
    pub fn new(program: Program, weights: Option<&[u8]>, config: &TrainingConfig, rank: usize) -> Result<Replica> {
        refuse_probabilities(&program, config.loss)?;
        if program.outputs.len() != 1 {
            return Err(Error::Config(format!(
                "the program returns {} outputs; {:?} judges one: export a module that returns a single tensor",
                program.outputs.len(),
                config.loss
            )));
        }
        let parameters = ParameterStore::new(&program)?;
        let views = parameters.views.iter().map(Tensor::shallow_clone).collect();
        let state = State::new(&program, views)?;
        if let Some(bytes) = weights {
            crate::weights::read(&program, &state, bytes)?;
        }
        let optimizer = Optimizer::new(config.optimizer, &parameters)?;
        let seed = order::mix(config.seed ^ order::mix(rank as u64));
        let training = Runner::new(&program, &state, seed)?;
        let evaluation = Runner::new(&program.evaluation(), &state, seed)?;
        Ok(Replica { program, state, loss: config.loss, parameters, optimizer, training, evaluation })
    }

    /// Takes one step on a batch given whole and returns its mean loss before the step. Inputs in the program's order;
    /// labels of shape (rows,) or (rows, width).
    pub fn train(&mut self, inputs: Vec<Tensor>, labels: Tensor) -> Result<f64> {
        let rows = labels.size().first().copied().unwrap_or(0);
        let batch = Batch { inputs, labels, rows };
        self.backward(Some(&batch), u64::try_from(rows).unwrap_or(0))?;
        Ok(self.step()?.loss)
    }

    /// The weights as safetensors under PyTorch's names.
    pub fn weights(&self) -> Result<Vec<u8>> {
        crate::weights::write(&self.program, &self.state)
    }

    /// Computes the gradients of this rank's share of a batch of `global_rows` rows, and the tail that goes with them.
    fn backward(&mut self, batch: Option<&Batch>, global_rows: u64) -> Result<()> {
        self.parameters.zero_grads()?;
        // A rank without rows in this batch adds nothing to its sums.
        let (mut loss, mut correct) = (0.0, 0.0);
        if let Some(batch) = batch {
            #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
            let share = batch.rows as f64 / global_rows as f64;
            let judged = self.judge_training(batch)?;
            let mean = judged.loss.f_double_value(&[]).doing("reading the loss")?;
            (loss, correct) = (mean * share, judged.correct.unwrap_or(0.0));
            let weighted =
                if share == 1.0 { judged.loss } else { judged.loss.f_mul_scalar(share).doing("weighting the loss")? };
            weighted.f_backward().doing("computing the gradients")?;
        }
        self.parameters.write_tail(loss, correct)
    }

    fn judge_training(&mut self, batch: &Batch) -> Result<crate::loss::Judged> {
        let outputs = self.training.run(&batch.inputs)?;
        let output = outputs.first().ok_or_else(|| Error::Config("the program returned nothing".to_owned()))?;
        self.loss.judge(output, &batch.labels, batch.rows)
    }

    /// Loss and right answers, summed over the batch's rows, in evaluation.
    fn evaluate(&mut self, batch: &Batch) -> Result<(f64, f64)> {
        let outputs = self.evaluation.run(&batch.inputs)?;
        let output = outputs.first().ok_or_else(|| Error::Config("the program returned nothing".to_owned()))?;
        let judged = self.loss.judge(output, &batch.labels, batch.rows)?;
        let mean = judged.loss.f_double_value(&[]).doing("reading the loss")?;
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        Ok((mean * batch.rows as f64, judged.correct.unwrap_or(0.0)))
    }

    fn step(&mut self) -> Result<Tail> {
        let tail = self.parameters.read_tail()?;
        self.optimizer.step(&self.parameters, &tail.used)?;
        Ok(tail)
    }
}

/// `crossEntropy` takes logits; a program that ends in probabilities would train, slowly and wrongly.
pub(crate) fn refuse_probabilities(program: &Program, loss: Loss) -> Result<()> {
    match (loss, program.final_activation()) {
        (Loss::CrossEntropy, Some(activation @ ("softmax" | "sigmoid"))) => Err(Error::Config(format!(
            "crossEntropy takes logits and the program ends in {activation}; remove that last layer (the loss applies \
             softmax itself, and the fitted model's probabilities do too)"
        ))),
        _ => Ok(()),
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
    let order = Order::new(rows, config.batch_size, config.seed, config.shuffle);
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
        sync.merge_buffers(&replica.state.buffers, trained_here)?;
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
    for rows in rows.chunks(usize::try_from(config.batch_size).unwrap_or(usize::MAX)) {
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

/// The running figures of an epoch.
struct Figures {
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
    fn new(config: &TrainingConfig) -> Figures {
        let now = Instant::now();
        let interval = Duration::from_millis(config.progress_interval_ms);
        Figures { begun: now, trained: None, last_event: now, interval, loss: 0.0, correct: 0.0, rows: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn add(&mut self, tail: &Tail, rows: u64) {
        self.loss += tail.loss * rows as f64;
        self.correct += tail.correct;
        self.rows += rows;
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn per_row(&self, sum: f64) -> f64 {
        sum / self.rows as f64
    }

    /// Ends the time that counts as training.
    fn stop(&mut self) {
        self.trained = Some(self.begun.elapsed());
    }

    fn seconds(&self) -> f64 {
        self.trained.unwrap_or_else(|| self.begun.elapsed()).as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds().max(1e-9)
    }

    fn progress(&mut self, epoch: u64, step: u64, steps: u64) -> Option<Event> {
        if self.last_event.elapsed() < self.interval {
            return None;
        }
        self.last_event = Instant::now();
        let (loss, rows_per_second) = (self.per_row(self.loss), self.rows_per_second());
        Some(Event::Progress { epoch, step, steps, loss, rows_per_second })
    }

    fn finish(&self, epoch: u64, loss: Loss, validation: Option<(f64, f64)>) -> EpochReport {
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
