//! A replica: a program with its parameters and optimizer, laid out to train.

use std::ops::Range;

use kindling_collective::Communicator;
use kindling_program::{Checkpointing, Program};
use tch::{Kind, Tensor};

use crate::clip::Clip;
use crate::data::Batch;
use crate::device::{Device, Place};
use crate::ema::Averages;
use crate::error::{Doing, Result};
use crate::fit::TrainingConfig;
use crate::gradients::{Gradients, Tail};
use crate::heap::Heap;
use crate::loss::{Judge, Sums};
use crate::metrics::Epoch;
use crate::norms::Norms;
use crate::optimizer::{Groups, Optimizer};
use crate::order;
use crate::parameters::ParameterStore;
use crate::precision::{Precision, Region, Scaler};
use crate::runner::{Runner, State};
use crate::schedule::Schedule;
use crate::state::Position;
use crate::sync::Sync;

/// A program on its way through training: parameters, optimizer, and the program compiled for training and evaluation.
///
/// A session drives one as a rank of a group; alone, it trains on batches of the caller's own.
pub struct Replica {
    /// Where it lives; whoever works on its tensors enters first.
    pub(crate) place: Place,
    pub(crate) program: Program,
    pub(crate) state: State,
    pub(crate) judge: Judge,
    pub(crate) parameters: ParameterStore,
    gradients: Gradients,
    /// Whether gradients are sent while backward runs.
    overlap: bool,
    pub(crate) optimizer: Optimizer,
    pub(crate) schedule: Schedule,
    clip: Clip,
    /// Parts into which a rank's share of a batch is cut.
    accumulation: u64,
    /// Whether steps count right answers.
    counted: bool,
    pub(crate) averages: Option<Averages>,
    precision: Precision,
    pub(crate) scaler: Option<Scaler>,
    /// Steps taken or skipped, which is the number of the next one.
    pub(crate) steps: u64,
    /// Where in the run it stands.
    pub(crate) position: Position,
    pub(crate) rank: usize,
    seed: u64,
    pub(crate) training: Runner,
    evaluation: Runner,
    /// Indices of the buffers that training writes.
    merged: Vec<usize>,
    /// Last, so that what the others free is given back.
    _heap: Heap,
}

/// A replica's part in a run.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) rank: usize,
    pub(crate) world: usize,
    /// The steps of the run, if they are known.
    pub(crate) total: Option<u64>,
}

impl Replica {
    /// Lays the program out for training, with `weights` (safetensors) in place of its own if given.
    /// `rank` chooses the stream of random numbers. A schedule must say its length itself: nobody knows the run's.
    pub fn new(program: Program, weights: Option<&[u8]>, config: &TrainingConfig, rank: usize) -> Result<Replica> {
        Replica::on(Device::Cpu, program, weights, config, rank)
    }

    /// The same on a device of the caller's choice.
    pub fn on(
        device: Device,
        program: Program,
        weights: Option<&[u8]>,
        config: &TrainingConfig,
        rank: usize,
    ) -> Result<Replica> {
        let seat = Seat { rank, world: 1, total: None };
        // `train` returns the loss alone.
        Ok(Replica { counted: false, ..Replica::of_run(Place::open(device)?, program, weights, config, seat)? })
    }

    /// The same as a rank of a run.
    pub(crate) fn of_run(
        place: Place,
        mut program: Program,
        weights: Option<&[u8]>,
        config: &TrainingConfig,
        Seat { rank, world, total }: Seat,
    ) -> Result<Replica> {
        let heap = Heap::keep();
        let judge = Judge::new(&config.loss, &program, config.prediction_output.as_deref())?;
        let _here = place.enter()?;
        let device = place.tch();
        let groups = Groups::assign(&mut program, &config.groups, &config.optimizer)?;
        let parameters = ParameterStore::new(&program, device, world == 1)?;
        let views = parameters.views.iter().map(Tensor::shallow_clone).collect();
        let state = State::new(&program, views, device)?;
        if let Some(bytes) = weights {
            crate::weights::read(&program, &state, bytes)?;
            parameters.raise()?;
        }
        let optimizer = Optimizer::new(&config.optimizer, groups, &parameters)?;
        let averages = config.ema_decay.map(|decay| Averages::new(decay, &parameters)).transpose()?;
        config.precision.check(&parameters)?;
        let schedule = Schedule::new(&config.schedule, total)?;
        optimizer.base().try_for_each(|rate| schedule.check_rate(rate))?;
        let seed = order::mix(config.seed.cast_unsigned() ^ order::mix(rank as u64));
        let training = Runner::training(&rewritten(&program, config)?, &state, seed, device)?;
        let merged = program.mutated_buffers();
        let evaluation = Runner::evaluation(&program, &state, seed, device)?;
        program.release_bytes();
        Ok(Replica {
            place,
            program,
            state,
            judge,
            gradients: Gradients::new(&parameters, config.bucket_bytes)?,
            overlap: config.overlap,
            parameters,
            optimizer,
            schedule,
            clip: Clip::new(config.clip_norm, config.clip_value)?,
            accumulation: config.accumulation_steps,
            counted: true,
            averages,
            precision: config.precision,
            scaler: Scaler::new(config.precision)?,
            steps: 0,
            position: Position::default(),
            rank,
            seed,
            training,
            evaluation,
            merged,
            _heap: heap,
        })
    }

    /// Takes one step on a batch given whole and returns its mean loss before the step. Inputs in the program's order;
    /// labels of shape (rows,) or (rows, width), and none for a loss that takes none.
    pub fn train(&mut self, inputs: Vec<Tensor>, labels: impl Into<Option<Tensor>>) -> Result<f64> {
        self.train_weighted(inputs, labels, None)
    }

    /// The same with a weight for each row, of shape (rows,).
    pub fn train_weighted(
        &mut self,
        inputs: Vec<Tensor>,
        labels: impl Into<Option<Tensor>>,
        weights: Option<&Tensor>,
    ) -> Result<f64> {
        let _here = self.place.enter()?;
        let rows = inputs.first().and_then(|input| input.size().first().copied()).unwrap_or(0);
        let weights =
            weights.map(|weights| weights.f_to_kind(Kind::Double)).transpose().doing("reading the weights")?;
        let bring = |tensor: &Tensor| self.place.bring(tensor);
        let batch = Batch {
            inputs: inputs.iter().map(bring).collect::<Result<_>>()?,
            labels: labels.into().as_ref().map(bring).transpose()?,
            weights: weights.as_ref().map(bring).transpose()?,
            rows,
        };
        let totals = self.judge.sums(&batch.judged())?;
        let mut alone = Sync::alone();
        self.begin()?;
        let parts = parts(usize::try_from(rows).unwrap_or(0), self.accumulation);
        match parts.split_last() {
            None => self.backward(None, &totals, &alone)?,
            Some((_, [])) => self.backward(Some(&batch), &totals, &alone)?,
            Some((last, before)) => {
                for range in before {
                    self.accumulate(Some(&batch.part(range)?), &totals)?;
                }
                self.backward(Some(&batch.part(last)?), &totals, &alone)?;
            }
        }
        Ok(self.step(&mut alone)?.loss)
    }

    /// The weights as safetensors under PyTorch's names: with `emaDecay`, the averaged ones.
    pub fn weights(&self) -> Result<Vec<u8>> {
        let _here = self.place.enter()?;
        self.fitted(|| crate::weights::write(&self.program, &self.state))
    }

    /// The state of training as safetensors: all that is needed to go on from here bit for bit, except for the rows.
    pub fn save_state(&self) -> Result<Vec<u8>> {
        let _here = self.place.enter()?;
        crate::state::write(self)
    }

    /// Goes on from where `save_state` was called on a replica of the same program and settings. What does not fit is
    /// refused by name; after a failure the replica may be half changed. A state of other ranks only starts new random
    /// numbers, which depend on the seed, the rank and the step.
    pub fn load_state(&mut self, bytes: &[u8]) -> Result<()> {
        let _here = self.place.enter()?;
        crate::state::read(self, bytes)
    }

    /// Random numbers for a rank that goes on where it has none to go on with.
    pub(crate) fn restart_random(&mut self) -> Result<()> {
        self.training.reseed(order::mix(self.seed ^ order::mix(self.steps)))
    }

    /// Runs `body` while the state holds what a fitted model has: the averaged weights, if there are any.
    fn fitted<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(averages) = &self.averages else { return body() };
        averages.swap(&self.parameters)?;
        let outcome = body();
        averages.swap(&self.parameters)?;
        outcome
    }

    /// Puts the averaged weights in the place of the trained ones for evaluation, and back again: call it twice.
    pub(crate) fn swap_averages(&self) -> Result<()> {
        self.averages.as_ref().map_or(Ok(()), |averages| averages.swap(&self.parameters))
    }

    /// Where the random numbers of training stand: the bytes of `torch.Generator(device).get_state()`.
    pub fn random_state(&self) -> Result<Vec<u8>> {
        self.training.random_state()
    }

    /// Draws on from where `state` was taken, so that a run that goes on repeats the one that was not interrupted.
    pub fn set_random_state(&mut self, state: &[u8]) -> Result<()> {
        self.training.set_random_state(state)
    }

    /// Makes batch norms normalise by the rows of all ranks, if the run asks for it and the program has any. All ranks call
    /// it at the same place.
    pub(crate) fn synchronise(&mut self, communicator: &dyn Communicator) -> Result<()> {
        if communicator.size() > 1
            && self.training.can_synchronise()
            && let Some(norms) = Norms::split(communicator)?
        {
            self.training.synchronise(norms);
        }
        Ok(())
    }

    /// The buffers that training writes, such as running statistics.
    pub(crate) fn written_buffers(&self) -> Vec<&Tensor> {
        self.merged.iter().filter_map(|&index| self.state.buffers.get(index)).collect()
    }

    /// Buffers that training does not write have changed, too.
    pub(crate) fn forget_standing(&mut self) {
        self.training.forget_standing();
        self.evaluation.forget_standing();
    }

    /// Begins a step: forgets the gradients of the last one.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.gradients.begin()
    }

    /// Adds the gradients of a part of this rank's share of a batch that sums to `totals`: of rows, or of none where other
    /// ranks have some and batch norms are synchronised. The last part is for [`Replica::backward`].
    pub(crate) fn accumulate(&mut self, part: Option<&Batch>, totals: &Sums) -> Result<()> {
        // A batch in which nothing weighs anything has no mean: nobody runs it, and no parameter gets a gradient.
        if totals.weight <= 0.0 {
            return Ok(());
        }
        let Some(part) = part else { return self.training.listen() };
        let judged =
            judge(&mut self.training, &self.judge, part, totals, (self.precision, self.place.tch(), self.counted))?;
        let loss = self.scaled(&judged.loss)?;
        self.training.after(self.gradients.accumulate(&loss))?;
        self.note(&judged)
    }

    /// Adds the gradients of the last part, or the only one, and sends the step's gradients to the other ranks while
    /// backward runs. A rank without rows adds nothing to the sums.
    pub(crate) fn backward(&mut self, part: Option<&Batch>, totals: &Sums, sync: &Sync) -> Result<()> {
        let Some(part) = part.filter(|_| totals.weight > 0.0) else {
            if totals.weight > 0.0 {
                self.training.listen()?;
            }
            return self.gradients.finish(None, sync, self.overlap);
        };
        let judged =
            judge(&mut self.training, &self.judge, part, totals, (self.precision, self.place.tch(), self.counted))?;
        let loss = self.scaled(&judged.loss)?;
        self.training.after(self.gradients.finish(Some(&loss), sync, self.overlap))?;
        self.note(&judged)
    }

    fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        self.scaler.as_ref().map_or_else(|| Ok(loss.shallow_clone()), |scaler| scaler.scaled(loss))
    }

    /// Reads the figures of a part; after its backward, as reading waits for the device.
    fn note(&mut self, judged: &Judged) -> Result<()> {
        let loss = judged.loss.f_double_value(&[]).doing("reading the loss")?;
        self.gradients.add_figures(loss, judged.correct()?);
        Ok(())
    }

    /// Adds a batch to what is measured of an epoch, in evaluation.
    pub(crate) fn evaluate(&mut self, batch: &Batch, epoch: &mut Epoch<'_>) -> Result<()> {
        let sums = self.judge.sums(&batch.judged())?;
        let outputs = {
            let _autocast = Region::enter(self.precision, self.place.tch())?;
            self.evaluation.run(&batch.inputs)?
        };
        // Where nothing weighs anything there is no mean.
        if sums.weight > 0.0 {
            let _autocast = Region::enter(self.precision, self.place.tch())?;
            let mean = self.judge.judge(&outputs, &batch.judged(), &sums)?;
            epoch.add_loss(mean.f_double_value(&[]).doing("reading the loss")? * sums.weight, sums.weight);
        }
        epoch.add(&self.judge.judged(&outputs)?, &batch.judged())
    }

    /// Waits for the gradients of all ranks and steps.
    pub(crate) fn step(&mut self, sync: &mut Sync) -> Result<Tail> {
        let tail = self.gradients.receive(sync)?;
        let number = self.steps;
        // The schedule goes by batches: a skipped step has had its turn.
        self.steps += 1;
        if let Some(scaler) = &mut self.scaler
            && !scaler.unscale(&self.parameters)?
        {
            self.position.skipped += 1;
            return Ok(Tail { skipped: true, ..tail });
        }
        self.clip.apply(&self.parameters)?;
        let schedule = &self.schedule;
        self.optimizer.step(&self.parameters, &tail.used, |base| schedule.rate(base, number))?;
        self.parameters.lower()?;
        if let Some(averages) = &mut self.averages {
            averages.update(&self.parameters)?;
        }
        Ok(tail)
    }

    /// The optimizer's own learning rate in the next step; those of groups are scheduled likewise.
    pub fn learning_rate(&self) -> f64 {
        self.schedule.rate(self.optimizer.learning_rate(), self.steps)
    }

    /// Tells the schedule the figure of an epoch that it watches: its metric, else the loss of the validation rows, or of
    /// the training rows where there are none.
    pub fn end_epoch(&mut self, value: f64) {
        self.schedule.epoch(value);
    }
}

/// The program as it trains: with checkpointed segments, and batch norms that can be synchronised.
pub(crate) fn rewritten(program: &Program, config: &TrainingConfig) -> Result<Program> {
    let (program, segments) = program.checkpointed(&config.activation_checkpointing)?;
    for node in &segments.dropped {
        log::warn!(
            "the checkpointed region at node {node} is trained like any other: a tensor that it reads is changed in place \
             afterwards, so it cannot be computed again"
        );
    }
    if segments.count == 0 && config.activation_checkpointing == Checkpointing::Auto {
        log::warn!(
            "activationCheckpointing is auto and no part of the program is worth computing again: all activations are kept"
        );
    }
    if segments.count > 0 {
        log::info!(
            "{} segments of the program are computed again in backward, which keeps an estimated {:.0} % of the activations",
            segments.count,
            100.0 * segments.bytes_with as f64 / segments.bytes_without.max(1) as f64
        );
    }
    if !config.sync_batch_norm {
        return Ok(program);
    }
    let (program, norms) = program.synchronised()?;
    if norms == 0 {
        log::warn!("syncBatchNorm is set and the program has no batch norm that trains: it changes nothing");
    }
    Ok(program)
}

/// A share of a batch after forward.
struct Judged {
    /// Its share of the objective of the global batch, with its graph.
    loss: Tensor,
    /// Labels answered right, where they are counted.
    right: Option<Tensor>,
}

impl Judged {
    fn correct(&self) -> Result<f64> {
        let read = |right: &Tensor| right.f_double_value(&[]).doing("counting right answers");
        self.right.as_ref().map_or(Ok(0.0), read)
    }
}

/// Runs the program on a share of a batch and judges its outputs; counts right answers too if they are `counted`.
fn judge(
    runner: &mut Runner,
    judge: &Judge,
    batch: &Batch,
    totals: &Sums,
    (precision, device, counted): (Precision, tch::Device, bool),
) -> Result<Judged> {
    let _autocast = Region::enter(precision, device)?;
    let outputs = runner.run(&batch.inputs)?;
    let loss = judge.judge(&outputs, &batch.judged(), totals)?;
    let right = if counted { judge.right(&outputs, &batch.judged())? } else { None };
    Ok(Judged { loss, right })
}

/// Cuts `rows` rows into `count` parts as even as can be; none is empty.
pub(crate) fn parts(rows: usize, count: u64) -> Vec<Range<usize>> {
    let count = usize::try_from(count).unwrap_or(usize::MAX).clamp(1, rows.max(1));
    let (size, larger) = (rows / count, rows % count);
    let start = |part: usize| part * size + part.min(larger);
    (0..count).map(|part| start(part)..start(part + 1)).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_even_and_none_is_empty() {
        assert_eq!(parts(10, 4), [0..3, 3..6, 6..8, 8..10]);
        assert_eq!(parts(2, 4), [0..1, 1..2]);
        assert_eq!(parts(5, 1), vec![std::ops::Range { start: 0, end: 5 }]);
        assert!(parts(0, 3).is_empty());
    }

    #[test]
    fn rows_that_weigh_nothing_leave_what_is_measured_as_it_is() {
        let layers = r#"{"inputShape":[2],"seed":1,"layers":[{"type":"dense","units":2}]}"#;
        let program = Program::read(layers.as_bytes().to_vec()).unwrap();
        let config = serde_json::from_value(serde_json::json!({
            "loss": {"name": "crossEntropy"}, "optimizer": {"name": "sgd", "learningRate": 0.1}, "batchSize": 8,
            "maxEpochs": 1, "seed": 0, "shuffle": false, "progressIntervalMs": 1000, "recordRows": false
        }));
        let config: TrainingConfig = config.unwrap();
        let mut replica = Replica::new(program, None, &config, 0).unwrap();
        let measures = config.measures(&replica.judge).unwrap();
        let mut evaluate = |weights: &[f32]| {
            let mut epoch = measures.begin();
            for &weight in weights {
                let x = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0, -1.0, weight, weight, -1.0]).reshape([4, 2]);
                let weights = Tensor::from_slice(&[weight; 4]).to_kind(Kind::Double);
                let labels = Some(Tensor::from_slice(&[0i64, 0, 1, 1]));
                let batch = Batch { inputs: vec![x], labels, weights: Some(weights), rows: 4 };
                replica.evaluate(&batch, &mut epoch).unwrap();
            }
            epoch.finish(&mut Sync::alone()).unwrap()
        };
        let measured = evaluate(&[1.0]);
        assert!(measured.is_some() && evaluate(&[1.0, 0.0, 0.0]) == measured);
        assert!(evaluate(&[0.0]).is_none());
    }
}
