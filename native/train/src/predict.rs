//! Prediction with a trained program: rows in by address, predictions out by address.

use std::sync::{Arc, Mutex, PoisonError};

use kindling_program::{Bytes, Program};
use kindling_shards::{Column, Role};
use serde::Deserialize;
use tch::Tensor;

use crate::data::ColumnLayout;
use crate::device::{Device, Place};
use crate::error::{Doing, Error, Result};
use crate::heap::Heap;
use crate::loss::{Judge, Loss, Told};
use crate::runner::{Runner, State};
use crate::{tensors, weights};

/// How a model predicts.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelConfig {
    /// Threads that libtorch may use.
    pub threads: i32,
    /// Where to predict.
    pub device: Device,
    /// What the model was trained for: it decides what is told of the output.
    pub loss: Loss,
    /// The output that predicts, as in training.
    #[serde(default)]
    pub prediction_output: Option<String>,
    /// Positions of outputs that are told as they are, beside the prediction.
    #[serde(default)]
    pub outputs: Vec<usize>,
    /// One column per input that the prediction needs, in the program's order.
    pub columns: Vec<Column>,
}

/// A trained program, ready to predict. What it holds is never written to, so that any number of [`Predictor`]s, one per
/// thread, share one copy of the weights.
pub struct Model {
    config: ModelConfig,
    /// What predicts, without its weights' bytes: they are in `state`.
    program: Program,
    /// Which of the program's outputs are told as they are.
    others: Vec<usize>,
    place: Place,
    /// Locked for as long as it takes to make a predictor: libtorch counts the tensors' owners, tch does not say so.
    state: Mutex<State>,
    layouts: Vec<ColumnLayout>,
    /// Last, so that what the others free is given back.
    _heap: Heap,
}

impl Model {
    /// Opens a program with `weights` (safetensors) in place of its own if given.
    pub fn open(config: ModelConfig, program: &Program, weights: Option<&[u8]>) -> Result<Model> {
        if config.threads < 1 {
            return Err(Error::Config(format!("threads must be at least 1, not {}", config.threads)));
        }
        let heap = Heap::keep();
        let predicted = Judge::new(&config.loss, program, config.prediction_output.as_deref())?.prediction();
        // The one that predicts comes first, and each comes once.
        let mut wanted = vec![predicted];
        let mut others = Vec::with_capacity(config.outputs.len());
        for &output in &config.outputs {
            let place = wanted.iter().position(|&known| known == output).unwrap_or_else(|| {
                wanted.push(output);
                wanted.len() - 1
            });
            others.push(place);
        }
        let mut program = program.pruned(&wanted).ok_or_else(|| {
            Error::Config(format!(
                "the outputs {wanted:?} are asked for, but the program has {}",
                program.outputs.len()
            ))
        })?;
        if config.columns.len() != program.inputs.len()
            || config.columns.iter().any(|column| column.role != Role::Input)
        {
            return Err(Error::Config(format!(
                "the prediction takes {} inputs and {} columns are given",
                program.inputs.len(),
                config.columns.len()
            )));
        }
        // The caller lays its results out by these sizes, before anything has run.
        let fixed = |output| {
            program.meta(output).is_some_and(|meta| meta.shape.iter().skip(1).all(|dim| dim.as_static().is_some()))
        };
        if !program.outputs.iter().all(|&output| fixed(output)) {
            return Err(Error::Config(
                "an output that is asked for has a symbolic size beside the batch; export it static".to_owned(),
            ));
        }
        let layouts = config
            .columns
            .iter()
            .zip(&program.inputs)
            .map(|(column, input)| ColumnLayout::of_input(column, input))
            .collect::<Result<_>>()?;
        let place = Place::open(config.device)?;
        let _here = place.enter()?;
        let parameters = program.parameters.iter().map(|p| place.bring(&tensors::from_data(&p.tensor)?));
        let state = State::new(&program, parameters.collect::<Result<_>>()?, place.tch())?;
        if let Some(bytes) = weights {
            weights::read(&program, &state, bytes)?;
        }
        // Predictors read it from streams of their own.
        place.finish()?;
        program.parameters.iter_mut().for_each(|parameter| parameter.tensor.bytes = Bytes::new([]));
        program.buffers.iter_mut().for_each(|buffer| buffer.tensor.bytes = Bytes::new([]));
        program.constants.iter_mut().for_each(|constant| constant.tensor.bytes = Bytes::new([]));
        Ok(Model { config, program, others, place, state: Mutex::new(state), layouts, _heap: heap })
    }

    /// A predictor of its own for one more thread, over the same weights.
    pub fn predictor(self: &Arc<Self>) -> Result<Predictor> {
        // Nothing is changed under the lock, so a panic there leaves nothing half done.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.place.another()?;
        let runner = Runner::evaluation(&self.program, &state, 0, place.tch())?;
        Ok(Predictor { model: Arc::clone(self), place, runner, room: Vec::new(), results: Vec::new() })
    }
}

/// Runs a [`Model`], with room for a batch of rows. Used by one thread at a time.
pub struct Predictor {
    place: Place,
    runner: Runner,
    /// One tensor per input, as many rows as were reserved.
    room: Vec<Tensor>,
    /// The last results, float64: the prediction, the probabilities of a classifier, and other outputs, as far as they were
    /// wanted.
    results: Vec<Option<Tensor>>,
    model: Arc<Model>,
}

impl Predictor {
    /// Makes room for `rows` rows and returns one address per input column; row r of a column starts at
    /// address + r · width · size. The addresses hold until the next `reserve`.
    pub fn reserve(&mut self, rows: usize) -> Result<Vec<u64>> {
        let rows = i64::try_from(rows).map_err(|_| Error::Config(format!("{rows} rows are too many")))?;
        self.room = self.model.layouts.iter().map(|layout| layout.allocate(rows)).collect::<Result<_>>()?;
        self.room.iter().map(tensors::address).collect()
    }

    /// Predicts the first `rows` rows of the room. Returns addresses of float64: the predictions (the class, or the
    /// output's values, row by row), the probabilities (0 unless the loss makes the output one), and the values of each
    /// of the configuration's `outputs`; 0 for each that is not `wanted`. They hold until the next `predict`.
    pub fn predict(&mut self, rows: usize, wanted: &[bool]) -> Result<Vec<u64>> {
        let [prediction, probabilities, others @ ..] = wanted else { return Err(self.wants(wanted)) };
        if others.len() != self.model.others.len() {
            return Err(self.wants(wanted));
        }
        let _no_graph = tch::no_grad_guard();
        tch::set_num_threads(self.model.config.threads);
        let count = i64::try_from(rows).unwrap_or(i64::MAX);
        let inputs =
            self.room.iter().map(|room| room.f_narrow(0, 0, count)).collect::<std::result::Result<Vec<_>, _>>();
        let inputs = inputs.map_err(|_| {
            Error::Config(format!(
                "{rows} rows were asked for and {} reserved",
                self.room.first().and_then(|room| room.size().first().copied()).unwrap_or(0)
            ))
        })?;
        let _here = self.place.enter()?;
        let outputs = self.outputs(&inputs)?;
        let [output, ..] = outputs.as_slice() else { return Err(nothing()) };
        let own = Told { prediction: *prediction, probabilities: *probabilities };
        let told = self.model.config.loss.predictions(output, &own).doing("computing predictions")?;
        let mut results = vec![told.prediction, told.probabilities];
        for (&place, &wanted) in self.model.others.iter().zip(others) {
            let output = outputs.get(place).filter(|_| wanted);
            results.push(output.map(dense).transpose().doing("bringing an output into the form of a column")?);
        }
        self.results = results.iter().map(|result| result.as_ref().map(to_host).transpose()).collect::<Result<_>>()?;
        self.results.iter().map(|result| result.as_ref().map_or(Ok(0), tensors::address)).collect()
    }

    fn wants(&self, wanted: &[bool]) -> Error {
        Error::Config(format!("a model of {} results was asked for {}", 2 + self.model.others.len(), wanted.len()))
    }

    /// The program's output for inputs of the caller's own, one tensor per input, rows first.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Tensor> {
        let _no_graph = tch::no_grad_guard();
        let _here = self.place.enter()?;
        to_host(self.outputs(inputs)?.first().ok_or_else(nothing)?)
    }

    /// The outputs where they were computed; the one that predicts is the first.
    fn outputs(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let rows = inputs.first().and_then(|input| input.size().first().copied());
        let inputs = inputs.iter().map(|input| self.place.bring(input)).collect::<Result<Vec<_>>>()?;
        let outputs = self.runner.run(&inputs)?;
        match outputs.iter().find(|output| output.size().first().copied() != rows) {
            None => Ok(outputs),
            Some(output) => {
                let rows = rows.unwrap_or(0);
                Err(Error::Config(format!("the program returned {:?} for {rows} rows", output.size())))
            }
        }
    }
}

fn nothing() -> Error {
    Error::Config("the program returned nothing".to_owned())
}

fn dense(tensor: &Tensor) -> std::result::Result<Tensor, tch::TchError> {
    tensor.f_to_kind(tch::Kind::Double)?.f_contiguous()
}

fn to_host(tensor: &Tensor) -> Result<Tensor> {
    tensor.f_to_device(tch::Device::Cpu).doing("bringing predictions to the host")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: &str = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"dense","units":8,"activation":"tanh"},{"type":"batchNorm"},{"type":"dense","units":3}]}"#;

    fn model() -> Arc<Model> {
        let program = Program::read(NET.as_bytes().to_vec()).unwrap();
        let name = program.value(program.inputs[0].value).unwrap().name.clone();
        let config = serde_json::json!({"threads": 1, "device": "cpu", "loss": {"name": "crossEntropy"},
            "columns": [{"name": name, "role": "input", "dtype": "float32", "width": 4}]});
        Arc::new(Model::open(serde_json::from_value(config).unwrap(), &program, None).unwrap())
    }

    fn rows(shift: f32) -> Tensor {
        let values: Vec<f32> = (0..64 * 4).map(|i| (i % 7) as f32 - shift).collect();
        Tensor::from_slice(&values).view([64, 4])
    }

    #[test]
    fn threads_that_predict_at_once_over_the_same_weights_do_not_disturb_each_other() {
        let model = model();
        let expected: Vec<Tensor> =
            (0..4).map(|i| model.predictor().unwrap().run(&[rows(i as f32)]).unwrap()).collect();
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let mut predictor = model.predictor().unwrap();
                std::thread::spawn(move || {
                    let inputs = [rows(i as f32)];
                    (0..50).map(|_| predictor.run(&inputs).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        for (thread, expected) in threads.into_iter().zip(expected) {
            assert!(thread.join().unwrap().iter().all(|found| *found == expected));
        }
    }

    #[test]
    fn outputs_are_told_beside_the_prediction_in_the_order_they_are_asked_for() {
        let graph = r#"{"inputs":[{"name":"x","shape":[4]}],"layers":[{"type":"dense","units":5,"activation":"tanh","name":"h",
            "inputs":["x"]},{"type":"dense","units":3,"name":"y","inputs":["h"]}],"outputs":["y","h"],"seed":1}"#;
        let program = Program::read(graph.as_bytes().to_vec()).unwrap();
        let open = |outputs: &[usize]| {
            let name = program.value(program.inputs[0].value).unwrap().name.clone();
            let config = serde_json::json!({"threads": 1, "device": "cpu", "loss": {"name": "mse"}, "outputs": outputs,
                "columns": [{"name": name, "role": "input", "dtype": "float32", "width": 4}]});
            Model::open(serde_json::from_value(config).unwrap(), &program, None).map(Arc::new)
        };
        let mut predictor = open(&[1, 0, 1]).unwrap().predictor().unwrap();
        predictor.reserve(64).unwrap();
        predictor.room[0].copy_(&rows(1.0));
        let addresses = predictor.predict(64, &[true; 5]).unwrap();
        assert_eq!(addresses.iter().map(|&address| address != 0).collect::<Vec<_>>(), [true, false, true, true, true]);
        let [Some(prediction), None, Some(hidden), Some(same), Some(again)] = predictor.results.as_slice() else {
            panic!("four results and no probabilities")
        };
        assert_eq!((hidden.size(), same.size()), (vec![64, 5], vec![64, 3]));
        assert_eq!((prediction, hidden), (same, again));
        let prediction = prediction.shallow_clone();
        let mut alone = open(&[]).unwrap().predictor().unwrap();
        assert_eq!(alone.run(&[rows(1.0)]).unwrap().to_kind(tch::Kind::Double), prediction);
        let wanted = [false, true, false, true, false];
        let addresses = predictor.predict(64, &wanted).unwrap();
        assert_eq!(
            addresses.iter().map(|&address| address != 0).collect::<Vec<_>>(),
            [false, false, false, true, false]
        );
        assert!(predictor.predict(64, &[true; 4]).err().unwrap().to_string().contains("5 results was asked for 4"));
        assert!(open(&[2]).err().unwrap().to_string().contains("[0, 2] are asked for, but the program has 2"));
    }

    #[test]
    fn the_last_predictor_keeps_the_weights_after_the_model_is_gone() {
        let model = model();
        let mut one = model.predictor().unwrap();
        let mut other = model.predictor().unwrap();
        drop(model);
        let expected = one.run(&[rows(1.0)]).unwrap();
        drop(one);
        assert_eq!(other.run(&[rows(1.0)]).unwrap(), expected);
    }
}
