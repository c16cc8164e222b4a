//! Prediction with a trained program: rows in by address, predictions out by address.

use kindling_program::Program;
use kindling_shards::{Column, Role};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::data::ColumnLayout;
use crate::error::{Doing, Error, Result};
use crate::loss::Loss;
use crate::runner::{Runner, State};
use crate::session::Device;
use crate::{tensors, weights};

/// How a model predicts.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelConfig {
    /// Threads that libtorch may use.
    pub threads: i32,
    /// Where to predict.
    pub device: Device,
    /// What the model was trained for: `crossEntropy` gives a class and probabilities, `mse` the output itself.
    pub loss: Loss,
    /// One column per input of the program.
    pub columns: Vec<Column>,
}

/// A program in evaluation, with room for a batch of rows. Used by one thread at a time.
pub struct Predictor {
    config: ModelConfig,
    runner: Runner,
    layouts: Vec<ColumnLayout>,
    /// One tensor per input, as many rows as were reserved.
    room: Vec<Tensor>,
    /// The last results, float64: the prediction, and the probabilities of a classifier.
    results: Vec<Tensor>,
}

impl Predictor {
    /// Opens a program with `weights` (safetensors) in place of its own if given.
    pub fn open(config: ModelConfig, program: &Program, weights: Option<&[u8]>) -> Result<Predictor> {
        if config.threads < 1 {
            return Err(Error::Config(format!("threads must be at least 1, not {}", config.threads)));
        }
        if program.outputs.len() != 1 {
            return Err(Error::Config(format!(
                "the program returns {} outputs; prediction takes one",
                program.outputs.len()
            )));
        }
        if config.columns.len() != program.inputs.len()
            || config.columns.iter().any(|column| column.role != Role::Input)
        {
            return Err(Error::Config(format!(
                "the program takes {} inputs and {} columns are given",
                program.inputs.len(),
                config.columns.len()
            )));
        }
        // The caller lays its results out by these sizes, before anything has run.
        let output = program.outputs.first().and_then(|&output| program.meta(output));
        if output.is_none_or(|meta| meta.shape.iter().skip(1).any(|dim| dim.as_static().is_none())) {
            return Err(Error::Config(
                "the program's output has a symbolic size beside the batch; export it static".to_owned(),
            ));
        }
        let layouts = config
            .columns
            .iter()
            .zip(&program.inputs)
            .map(|(column, input)| ColumnLayout::of_input(column, input))
            .collect::<Result<_>>()?;
        let parameters = program.parameters.iter().map(|p| tensors::from_data(&p.tensor)).collect::<Result<_>>()?;
        let state = State::new(program, parameters)?;
        if let Some(bytes) = weights {
            weights::read(program, &state, bytes)?;
        }
        let runner = Runner::evaluation(program, &state, 0)?;
        Ok(Predictor { config, runner, layouts, room: Vec::new(), results: Vec::new() })
    }

    /// Makes room for `rows` rows and returns one address per input column; row r of a column starts at
    /// address + r · width · size. The addresses hold until the next `reserve`.
    pub fn reserve(&mut self, rows: usize) -> Result<Vec<u64>> {
        let rows = i64::try_from(rows).map_err(|_| Error::Config(format!("{rows} rows are too many")))?;
        self.room = self.layouts.iter().map(|layout| layout.allocate(rows)).collect::<Result<_>>()?;
        self.room.iter().map(tensors::address).collect()
    }

    /// Predicts the first `rows` rows of the room. Returns two addresses of float64: the predictions (the class, or the
    /// output's values, row by row) and the probabilities (rows x classes; 0 unless the model classifies). They hold
    /// until the next `predict`.
    pub fn predict(&mut self, rows: usize) -> Result<Vec<u64>> {
        let _no_graph = tch::no_grad_guard();
        tch::set_num_threads(self.config.threads);
        let count = i64::try_from(rows).unwrap_or(i64::MAX);
        let inputs =
            self.room.iter().map(|room| room.f_narrow(0, 0, count)).collect::<std::result::Result<Vec<_>, _>>();
        let inputs = inputs.map_err(|_| {
            Error::Config(format!(
                "{rows} rows were asked for and {} reserved",
                self.room.first().and_then(|room| room.size().first().copied()).unwrap_or(0)
            ))
        })?;
        let output = self.run(&inputs)?;
        self.results = self.judge(&output).doing("computing predictions")?;
        let mut addresses = self.results.iter().map(tensors::address).collect::<Result<Vec<_>>>()?;
        addresses.resize(2, 0);
        Ok(addresses)
    }

    /// The program's output for inputs of the caller's own, one tensor per input, rows first.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Tensor> {
        let _no_graph = tch::no_grad_guard();
        let rows = inputs.first().and_then(|input| input.size().first().copied());
        match self.runner.run(inputs)?.into_iter().next() {
            Some(output) if output.size().first().copied() == rows => Ok(output),
            Some(output) => {
                let rows = rows.unwrap_or(0);
                Err(Error::Config(format!("the program returned {:?} for {rows} rows", output.size())))
            }
            None => Err(Error::Config("the program returned nothing".to_owned())),
        }
    }

    fn judge(&self, output: &Tensor) -> std::result::Result<Vec<Tensor>, tch::TchError> {
        let dense = |tensor: Tensor| tensor.f_to_kind(Kind::Double)?.f_contiguous();
        match self.config.loss {
            Loss::CrossEntropy => {
                Ok(vec![dense(output.f_argmax(-1, false)?)?, dense(output.f_softmax(-1, Kind::Double)?)?])
            }
            Loss::Mse => Ok(vec![dense(output.shallow_clone())?]),
        }
    }
}
