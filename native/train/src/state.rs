//! The whole state of training as one safetensors file: with it, a run goes on bit for bit as if it had not stopped.
//!
//! Tensors, by parameter name and without any trace of the number of ranks or of the flat layout:
//!
//! | tensor | is |
//! |---|---|
//! | `parameter.<name>`, `buffer.<name>` | the weights that are trained (not their averages; of float16 and bfloat16 the float32 masters), and every buffer as it is on this rank |
//! | `optimizer.<slot>.<name>`, `steps.<name>` | the optimizer's state under PyTorch's names, and the steps the parameter took |
//! | `average.<name>` | the averaged weights, with `emaDecay` |
//! | `plateau.best`, `scale` | what `reduceOnPlateau` and the loss scaler have seen (float64) |
//! | `position.sums` | the running figures of the epoch (float64) |
//! | `random.<rank>` | where the random numbers of a rank stand; a file may hold those of several ranks |
//!
//! Counts are in the metadata, as decimal numbers. A state fits a replica of the same program, optimizer and groups; what
//! does not fit is refused by name. A rank whose random numbers the state does not hold, or
//! that goes on on another kind of device, starts new ones.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::SafeTensors;
use tch::{Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::gradients::Tail;
use crate::loss::Sums;
use crate::replica::Replica;
use crate::weights::{Weight, overwrite};

/// What the first line of the metadata says; another format gets another number.
const FORMAT: &str = "kindling training state 1";

/// Where in the run a replica stands, and the figures of the epoch so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Position {
    /// The epoch that is trained, from 0.
    pub(crate) epoch: u64,
    /// Batches of it that are done.
    pub(crate) step: u64,
    /// Sums over those batches that were stepped on: of losses by weight, of weights, of right answers and of answers.
    pub(crate) sums: [f64; 4],
    /// Rows trained on in this epoch, by all ranks and by this one. A rank that goes on from another's state has its buffers,
    /// and none of its rows.
    pub(crate) rows: u64,
    pub(crate) rows_here: u64,
    /// Steps skipped in this epoch, as float16 overflowed.
    pub(crate) skipped: u64,
}

impl Position {
    /// A batch is done, of which this rank had `rows_here` rows.
    pub(crate) fn add(&mut self, tail: &Tail, batch: &Sums, rows_here: u64) {
        // Nobody judged a batch in which nothing weighs anything, and a step that overflowed has no loss to speak of.
        if batch.weight > 0.0 && !tail.skipped {
            let more = [tail.loss * batch.weight, batch.weight, tail.correct, batch.answers];
            self.sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.rows += batch.rows;
        self.rows_here += rows_here;
        self.step += 1;
    }
}

/// Every tensor of the state by its name; each shares memory with the replica, but for the scalars in `figures`.
fn tensors(replica: &Replica) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    let name = |index: usize| replica.program.parameters.get(index).map_or("?", |parameter| parameter.name.as_str());
    for (parameter, tensor) in replica.program.parameters.iter().zip(&replica.state.parameters) {
        tensors.insert(format!("parameter.{}", parameter.name), tensor.f_detach().doing("reading the state")?);
    }
    for (parameter, master) in replica.parameters.masters()? {
        tensors.insert(format!("parameter.{}", name(parameter)), master);
    }
    for (buffer, tensor) in replica.program.buffers.iter().zip(&replica.state.buffers) {
        tensors.insert(format!("buffer.{}", buffer.name), tensor.shallow_clone());
    }
    for state in replica.optimizer.state(&replica.parameters)? {
        tensors.insert(format!("optimizer.{}.{}", state.slot, name(state.parameter)), state.tensor);
    }
    if let Some(averages) = &replica.averages {
        for (parameter, tensor) in averages.tensors(&replica.parameters)? {
            tensors.insert(format!("average.{}", name(parameter)), tensor);
        }
    }
    Ok(tensors)
}

/// The state's numbers that are not kept in tensors: as tensors, since text would round them.
fn figures(replica: &Replica) -> Vec<(&'static str, Vec<f64>)> {
    let mut figures = vec![("position.sums", replica.position.sums.to_vec())];
    figures.extend(replica.schedule.plateau.as_ref().map(|plateau| ("plateau.best", vec![plateau.best])));
    figures.extend(replica.scaler.as_ref().map(|scaler| ("scale", vec![scaler.scale])));
    figures
}

/// Writes the state of a rank.
pub(crate) fn write(replica: &Replica) -> Result<Vec<u8>> {
    let doing = "writing the training state";
    let mut views = BTreeMap::new();
    for (name, tensor) in tensors(replica)? {
        views.insert(name.clone(), Weight::new(&name, &tensor)?);
    }
    for (name, values) in figures(replica) {
        views.insert(name.to_owned(), Weight::new(name, &Tensor::f_from_slice(&values).doing(doing)?)?);
    }
    for (parameter, steps) in replica.optimizer.steps(&replica.parameters) {
        let name = format!("steps.{}", replica.program.parameters.get(parameter).map_or("?", |p| p.name.as_str()));
        let steps = Tensor::f_from_slice(&[steps.cast_signed()]).doing(doing)?;
        views.insert(name.clone(), Weight::new(&name, &steps)?);
    }
    let random = format!("random.{}", replica.rank);
    let generator = Tensor::f_from_slice(&replica.training.random_state()?).doing(doing)?;
    views.insert(random.clone(), Weight::new(&random, &generator)?);
    let position = replica.position;
    let mut metadata = HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("optimizer".to_owned(), replica.optimizer.name().to_owned()),
    ]);
    let mut count = |name: &str, value: u64| metadata.insert(name.to_owned(), value.to_string());
    count("rank", replica.rank as u64);
    count("steps", replica.steps);
    count("epoch", position.epoch);
    count("step", position.step);
    count("rows", position.rows);
    count("rowsHere", position.rows_here);
    count("skipped", position.skipped);
    if let Some(averages) = &replica.averages {
        count("averageUpdates", averages.updates);
    }
    if let Some(plateau) = &replica.schedule.plateau {
        count("plateauBad", plateau.bad);
        count("plateauCooling", plateau.cooling);
        count("plateauReductions", plateau.reductions);
    }
    if let Some(scaler) = &replica.scaler {
        count("scaleSteady", scaler.steady);
    }
    safetensors::serialize(views, Some(metadata))
        .map_err(|error| Error::Weights(format!("the training state cannot be written: {error}")))
}

/// A state that was read, by name.
struct File<'a> {
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl File<'_> {
    fn count(&self, name: &str) -> Result<u64> {
        let text = self.metadata.get(name).ok_or_else(|| lacks(name))?;
        text.parse().map_err(|_| Error::Weights(format!("the training state says {name} is {text:?}, not a count")))
    }

    fn floats(&self, name: &str) -> Result<Vec<f64>> {
        let view = self.tensors.tensor(name).map_err(|_| lacks(name))?;
        let chunks = view.data().as_chunks::<8>();
        if view.dtype() != safetensors::Dtype::F64 || !chunks.1.is_empty() {
            return Err(Error::Weights(format!("{name} of the training state is not float64")));
        }
        Ok(chunks.0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    fn float(&self, name: &str) -> Result<f64> {
        self.floats(name)?.first().copied().ok_or_else(|| lacks(name))
    }
}

fn lacks(name: &str) -> Error {
    Error::Weights(format!("the training state lacks {name}: it belongs to a run with another program or settings"))
}

/// Puts the state of `bytes` in the place of the replica's. A failure may leave the replica half changed: drop it.
pub(crate) fn read(replica: &mut Replica, bytes: &[u8]) -> Result<()> {
    let broken = |error| Error::Weights(format!("the training state is no safetensors file: {error}"));
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let file = File { tensors: SafeTensors::deserialize(bytes).map_err(broken)?, metadata };
    match file.metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        found => {
            return Err(Error::Weights(format!("a training state of format {FORMAT:?} is needed, not {found:?}")));
        }
    }
    let (found, optimizer) = (file.metadata.get("optimizer").map_or("", String::as_str), replica.optimizer.name());
    if found != optimizer {
        return Err(Error::Weights(format!("the training state is {found}'s and the optimizer is {optimizer}")));
    }
    let places = tensors(replica)?;
    let steps = replica.optimizer.steps(&replica.parameters);
    let name = |index: usize| replica.program.parameters.get(index).map_or("?", |parameter| parameter.name.as_str());
    let counters: Vec<String> = steps.iter().map(|&(parameter, _)| format!("steps.{}", name(parameter))).collect();
    let known = |name: &str| {
        places.contains_key(name)
            || counters.iter().any(|counter| counter == name)
            || name.starts_with("random.")
            || figures(replica).iter().any(|(figure, _)| *figure == name)
    };
    if let Some(stranger) = file.tensors.names().into_iter().filter(|name| !known(name)).min() {
        return Err(Error::Weights(format!(
            "the training state holds {stranger}, which a run with this program and these settings does not have"
        )));
    }
    for (name, place) in &places {
        overwrite(name, place, &file.tensors.tensor(name).map_err(|_| lacks(name))?)?;
    }
    replica.parameters.lower()?;
    replica.forget_standing();
    let mut counts = Vec::new();
    for counter in &counters {
        let slot = Tensor::f_zeros([1], (Kind::Int64, tch::Device::Cpu)).doing("reading the training state")?;
        overwrite(counter, &slot, &file.tensors.tensor(counter).map_err(|_| lacks(counter))?)?;
        let count = slot.f_int64_value(&[0]).doing("reading the training state")?;
        counts.push(
            u64::try_from(count)
                .map_err(|_| Error::Weights(format!("the training state says {counter} is {count}")))?,
        );
    }
    replica.optimizer.set_steps(&counts);
    replica.steps = file.count("steps")?;
    let sums = <[f64; 4]>::try_from(file.floats("position.sums")?).map_err(|_| lacks("position.sums"))?;
    let own = file.count("rank")? == replica.rank as u64;
    replica.position = Position {
        epoch: file.count("epoch")?,
        step: file.count("step")?,
        sums,
        rows: file.count("rows")?,
        rows_here: if own { file.count("rowsHere")? } else { 0 },
        skipped: file.count("skipped")?,
    };
    if let Some(averages) = &mut replica.averages {
        averages.updates = file.count("averageUpdates")?;
    }
    if let Some(plateau) = &mut replica.schedule.plateau {
        plateau.best = file.float("plateau.best")?;
        plateau.bad = file.count("plateauBad")?;
        plateau.cooling = file.count("plateauCooling")?;
        plateau.reductions = file.count("plateauReductions")?;
    }
    if let Some(scaler) = &mut replica.scaler {
        scaler.scale = file.float("scale")?;
        scaler.steady = file.count("scaleSteady")?;
    }
    match file.tensors.tensor(&format!("random.{}", replica.rank)) {
        Ok(generator) if !of_another_device(generator.data(), &replica.training.random_state()?) => {
            replica.training.set_random_state(generator.data())
        }
        Ok(_) | Err(_) => replica.restart_random(),
    }
}

/// Whether one of two generators is of the CPU and the other of a GPU: neither can go on from the other.
fn of_another_device(saved: &[u8], own: &[u8]) -> bool {
    const OF_A_GPU: usize = 16;
    (saved.len() == OF_A_GPU) != (own.len() == OF_A_GPU)
}

#[cfg(test)]
mod tests;
