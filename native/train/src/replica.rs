//! A replica: a program with its parameters and optimizer, laid out to train.

use kindling_program::Program;
use tch::Tensor;

use crate::data::Batch;
use crate::error::{Doing, Error, Result};
use crate::fit::TrainingConfig;
use crate::loss::{Judged, Loss};
use crate::optimizer::Optimizer;
use crate::order;
use crate::parameters::{ParameterStore, Tail};
use crate::runner::{Runner, State};

/// A program on its way through training: parameters, optimizer, and the program compiled for training and evaluation.
///
/// A session drives one as a rank of a group; alone, it trains on batches of the caller's own.
pub struct Replica {
    pub(crate) program: Program,
    pub(crate) state: State,
    loss: Loss,
    pub(crate) parameters: ParameterStore,
    optimizer: Optimizer,
    pub(crate) training: Runner,
    evaluation: Runner,
    /// Indices of the buffers that training writes.
    merged: Vec<usize>,
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
        let seed = order::mix(config.seed.cast_unsigned() ^ order::mix(rank as u64));
        let training = Runner::training(&program, &state, seed)?;
        let merged = program.mutated_buffers();
        let evaluation = Runner::evaluation(&program, &state, seed)?;
        Ok(Replica { program, state, loss: config.loss, parameters, optimizer, training, evaluation, merged })
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

    /// The buffers that training writes, such as running statistics.
    pub(crate) fn written_buffers(&self) -> Vec<&Tensor> {
        self.merged.iter().filter_map(|&index| self.state.buffers.get(index)).collect()
    }

    /// Computes the gradients of this rank's share of a batch of `global_rows` rows, and the tail that goes with them.
    pub(crate) fn backward(&mut self, batch: Option<&Batch>, global_rows: u64) -> Result<()> {
        self.parameters.zero_grads()?;
        // A rank without rows in this batch adds nothing to its sums.
        let (mut loss, mut correct) = (0.0, 0.0);
        if let Some(batch) = batch {
            #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
            let share = batch.rows as f64 / global_rows as f64;
            let judged = judge(&mut self.training, self.loss, batch)?;
            let mean = judged.loss.f_double_value(&[]).doing("reading the loss")?;
            (loss, correct) = (mean * share, judged.correct.unwrap_or(0.0));
            let weighted =
                if share == 1.0 { judged.loss } else { judged.loss.f_mul_scalar(share).doing("weighting the loss")? };
            weighted.f_backward().doing("computing the gradients")?;
        }
        self.parameters.write_tail(loss, correct)
    }

    /// Loss and right answers, summed over the batch's rows, in evaluation.
    pub(crate) fn evaluate(&mut self, batch: &Batch) -> Result<(f64, f64)> {
        let judged = judge(&mut self.evaluation, self.loss, batch)?;
        let mean = judged.loss.f_double_value(&[]).doing("reading the loss")?;
        #[expect(clippy::cast_precision_loss, reason = "rows of a batch, far below 2^53")]
        Ok((mean * batch.rows as f64, judged.correct.unwrap_or(0.0)))
    }

    pub(crate) fn step(&mut self) -> Result<Tail> {
        let tail = self.parameters.read_tail()?;
        self.optimizer.step(&self.parameters, &tail.used)?;
        Ok(tail)
    }
}

/// Runs the program on a batch and judges its output.
fn judge(runner: &mut Runner, loss: Loss, batch: &Batch) -> Result<Judged> {
    let outputs = runner.run(&batch.inputs)?;
    let output = outputs.first().ok_or_else(|| Error::Config("the program returned nothing".to_owned()))?;
    loss.judge(output, &batch.labels, batch.rows)
}

/// `crossEntropy` takes logits; a program that ends in probabilities would train, slowly and wrongly.
fn refuse_probabilities(program: &Program, loss: Loss) -> Result<()> {
    match (loss, program.final_activation()) {
        (Loss::CrossEntropy, Some(activation @ ("softmax" | "sigmoid"))) => Err(Error::Config(format!(
            "crossEntropy takes logits and the program ends in {activation}; remove that last layer (the loss applies \
             softmax itself, and the fitted model's probabilities do too)"
        ))),
        _ => Ok(()),
    }
}
