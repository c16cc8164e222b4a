//! Runs a program op by op through libtorch's dispatcher, with autograd where gradients are on.
//!
//! A program is compiled once (see `compile`). Running it walks the nodes in order; a value is dropped after its last
//! use, so that what autograd does not need is freed as early as Python frees it.

use kindling_program::{Dim, Output, Program, SymInt, ValueId};
use tch::Tensor;

use crate::compile::{Guard, Step, Work, compile, mark_last_uses, needs_two_rows};
use crate::error::{Doing, Error, Result, Torch};
use crate::shim::Generator;
use crate::tensors;

/// The tensors that a program's parameters, buffers and constants stand for. Training and evaluation share them.
pub(crate) struct State {
    pub(crate) parameters: Vec<Tensor>,
    pub(crate) buffers: Vec<Tensor>,
    pub(crate) constants: Vec<Tensor>,
}

impl State {
    /// Takes parameters as given and makes the rest from the program.
    pub(crate) fn new(program: &Program, parameters: Vec<Tensor>) -> Result<State> {
        // Contiguous, as a buffer that was expanded shows one value in many places and cannot be written.
        let buffer = |buffer: &kindling_program::Buffer| {
            tensors::from_data(&buffer.tensor)?.f_contiguous().doing("reading a buffer of the program")
        };
        let buffers = program.buffers.iter().map(buffer).collect::<Result<_>>()?;
        let constants =
            program.constants.iter().map(|constant| tensors::from_data(&constant.tensor)).collect::<Result<_>>()?;
        Ok(State { parameters, buffers, constants })
    }
}

/// A compiled program.
pub(crate) struct Runner {
    steps: Vec<Step>,
    inputs: Vec<Input>,
    outputs: Vec<Returned>,
    slots: Vec<Slot>,
    /// Values that stay from run to run: parameters, buffers and constants.
    fixed: Vec<Fixed>,
    generator: Generator,
    /// A batch norm over single values per row, which cannot train on one row.
    needs_two_rows: Option<String>,
}

struct Fixed {
    value: ValueId,
    tensor: Tensor,
    /// Whether a run gets a copy, because it writes and must leave the original as it was.
    copied: bool,
}

/// What the program returns.
struct Returned {
    value: ValueId,
    name: String,
    /// The sizes that the program promises.
    dims: Vec<Dim>,
}

struct Input {
    value: ValueId,
    name: String,
    dims: Vec<Dim>,
    /// Largest sizes that the export allows, by symbol.
    most: Vec<(String, i64)>,
}

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Tensor(Tensor),
    Int(i64),
}

impl Runner {
    /// Compiles `program` over `state` to train. `seed` starts the generator that its random operators draw from.
    pub(crate) fn training(program: &Program, state: &State, seed: u64) -> Result<Runner> {
        Runner::new(program, state, seed, &[])
    }

    /// Compiles what `program` is in evaluation. Running it changes nothing: buffers that it writes into (an exported
    /// graph no longer knows what stood behind `if self.training`) are copied for each run.
    pub(crate) fn evaluation(program: &Program, state: &State, seed: u64) -> Result<Runner> {
        let program = program.evaluation();
        let random = program.random_nodes();
        if !random.is_empty() {
            log::warn!("nodes {} draw random numbers in evaluation too: predictions will vary", random.join(", "));
        }
        Runner::new(&program, state, seed, &program.mutated_buffers())
    }

    fn new(program: &Program, state: &State, seed: u64, copied: &[usize]) -> Result<Runner> {
        let keep = |(value, tensor): (ValueId, &Tensor)| Fixed { value, tensor: tensor.shallow_clone(), copied: false };
        let parameters = program.parameters.iter().map(|parameter| parameter.value).zip(&state.parameters);
        let constants = program.constants.iter().map(|constant| constant.value).zip(&state.constants);
        let mut fixed: Vec<Fixed> = parameters.chain(constants).map(keep).collect();
        for (index, (buffer, tensor)) in program.buffers.iter().zip(&state.buffers).enumerate() {
            fixed.push(Fixed { copied: copied.contains(&index), ..keep((buffer.value, tensor)) });
        }
        let mut steps = program.nodes.iter().map(compile).collect::<Result<Vec<_>>>()?;
        mark_last_uses(program, &mut steps);
        let input = |input: &kindling_program::Input| Input {
            value: input.value,
            name: input.name.clone(),
            dims: input.shape.clone(),
            most: program.ranges.iter().filter_map(|(name, range)| Some((name.clone(), range.max?))).collect(),
        };
        let returned = |&value: &ValueId| Returned {
            value,
            name: program.value(value).map_or_else(String::new, |value| value.name.clone()),
            dims: program.meta(value).map_or_else(Vec::new, |meta| meta.shape.clone()),
        };
        Ok(Runner {
            needs_two_rows: needs_two_rows(program, &steps),
            steps,
            inputs: program.inputs.iter().map(input).collect(),
            outputs: program.outputs.iter().map(returned).collect(),
            slots: program.values.iter().map(|_| Slot::Empty).collect(),
            fixed,
            generator: Generator::new(seed).doing("making a random generator")?,
        })
    }

    /// The node that cannot train on a single row, if there is one.
    pub(crate) fn needs_two_rows(&self) -> Option<&str> {
        self.needs_two_rows.as_deref()
    }

    /// Runs the program on one batch and returns its outputs.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let outputs = self.run_nodes(inputs);
        // Free activations (and the graph behind them, if nobody else holds it) whether or not the run succeeded.
        self.slots.fill_with(Slot::default);
        outputs
    }

    fn run_nodes(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::Config(format!("the program takes {} inputs, not {}", self.inputs.len(), inputs.len())));
        }
        for (input, tensor) in self.inputs.iter().zip(inputs) {
            check_shape(input, tensor)?;
            put(&mut self.slots, input.value, Slot::Tensor(tensor.shallow_clone()))?;
        }
        for Fixed { value, tensor, copied } in &self.fixed {
            let tensor = if *copied {
                let mut copy = tensor.f_empty_like().doing("copying a buffer")?;
                copy.f_copy_(tensor).doing("copying a buffer")?;
                copy
            } else {
                tensor.shallow_clone()
            };
            put(&mut self.slots, *value, Slot::Tensor(tensor))?;
        }
        for step in &mut self.steps {
            step.run(&mut self.slots, &mut self.generator)?;
        }
        self.outputs.iter().map(|returned| returned.take(&self.slots)).collect()
    }
}

impl Returned {
    /// The tensor, if its sizes are what the program promised: others have laid out memory by that promise.
    fn take(&self, slots: &[Slot]) -> Result<Tensor> {
        let tensor = tensor_at(slots, self.value)?;
        let sizes = tensor.size();
        let kept = |(size, dim): (&i64, &Dim)| dim.as_static().is_none_or(|promised| *size == promised);
        if sizes.len() == self.dims.len() && sizes.iter().zip(&self.dims).all(kept) {
            return Ok(tensor.shallow_clone());
        }
        Err(Error::Config(format!(
            "output {} has shape {sizes:?}; the program promises {:?}",
            self.name,
            self.dims
                .iter()
                .map(|dim| dim.as_static().map_or("any".to_owned(), |size| size.to_string()))
                .collect::<Vec<_>>()
        )))
    }
}

fn check_shape(input: &Input, tensor: &Tensor) -> Result<()> {
    let sizes = tensor.size();
    let fits = |(size, dim): (&i64, &Dim)| match dim {
        Dim::Static(expected) => size == expected,
        Dim::Symbolic { name } => !input.most.iter().any(|(symbol, most)| symbol == name && size > most),
    };
    if sizes.len() == input.dims.len() && sizes.iter().zip(&input.dims).all(fits) {
        return Ok(());
    }
    let wanted = |dim: &Dim| match dim {
        Dim::Static(size) => size.to_string(),
        Dim::Symbolic { name } => match input.most.iter().find(|(symbol, _)| symbol == name) {
            Some((_, most)) => format!("at most {most}"),
            None => "any".to_owned(),
        },
    };
    let wanted: Vec<String> = input.dims.iter().map(wanted).collect();
    Err(Error::Config(format!("input {} has shape {sizes:?}; the program takes [{}]", input.name, wanted.join(", "))))
}

fn put(slots: &mut [Slot], value: ValueId, content: Slot) -> Result<()> {
    match slots.get_mut(value.index()) {
        Some(slot) => {
            *slot = content;
            Ok(())
        }
        None => Err(Error::Config(format!("the program names value {} and has none", value.index()))),
    }
}

fn tensor_at(slots: &[Slot], value: ValueId) -> Result<&Tensor> {
    match slots.get(value.index()) {
        Some(Slot::Tensor(tensor)) => Ok(tensor),
        _ => Err(Error::Config(format!("the program reads value {} as a tensor before a node made it", value.index()))),
    }
}

fn int_at(slots: &[Slot], value: ValueId) -> Result<i64> {
    match slots.get(value.index()) {
        Some(Slot::Int(int)) => Ok(*int),
        // A sym_int made by `aten.item` and its kind arrives as a tensor of one element.
        Some(Slot::Tensor(tensor)) => tensor.f_int64_value(&[]).doing("reading an integer"),
        _ => {
            Err(Error::Config(format!("the program reads value {} as an integer before a node made it", value.index())))
        }
    }
}

impl Step {
    fn run(&mut self, slots: &mut [Slot], generator: &mut Generator) -> Result<()> {
        match &mut self.work {
            Work::Size { tensor, dim, output } => {
                let sizes = tensor_at(slots, *tensor)?.size();
                let index = if *dim < 0 { *dim + sizes.len() as i64 } else { *dim };
                let size = usize::try_from(index).ok().and_then(|index| sizes.get(index).copied());
                let size = size.ok_or_else(|| Error::Config(format!("node {} asks for dimension {dim}", self.node)))?;
                put(slots, *output, Slot::Int(size))?;
            }
            Work::Scalar { op, arguments, output } => {
                let values = arguments.iter().map(|argument| match argument {
                    SymInt::Value(value) => int_at(slots, *value),
                    SymInt::Const(value) => Ok(*value),
                });
                let result = op.apply(&values.collect::<Result<Vec<_>>>()?)?;
                put(slots, *output, Slot::Int(result))?;
            }
            Work::Call { call, tensors, integers, outputs, random, guard } => {
                if let Guard::BatchNorm { input } = guard {
                    check_batch_norm(&self.node, tensor_at(slots, *input)?)?;
                }
                let given = tensors.iter().map(|&value| tensor_at(slots, value)).collect::<Result<Vec<_>>>()?;
                let ints = integers.iter().map(|&value| int_at(slots, value)).collect::<Result<Vec<_>>>()?;
                let failed = |source: Torch| Error::Node { node: self.node.clone(), op: self.op.clone(), source };
                let mut results = call.run(&given, &ints, random.then_some(generator)).map_err(failed)?;
                for (index, output) in outputs.iter().enumerate() {
                    match output {
                        Output::Tensor(value) => {
                            put(slots, *value, Slot::Tensor(results.tensor(index).map_err(failed)?))?
                        }
                        Output::Tensors(values) => {
                            let list = results.tensors(index).map_err(failed)?;
                            if list.len() != values.len() {
                                return Err(Error::Config(format!(
                                    "node {} ({}) returned {} tensors where the program expects {}",
                                    self.node,
                                    self.op,
                                    list.len(),
                                    values.len()
                                )));
                            }
                            for (value, tensor) in values.iter().zip(list) {
                                put(slots, *value, Slot::Tensor(tensor))?;
                            }
                        }
                        Output::Int(value) => put(slots, *value, Slot::Int(results.int(index).map_err(failed)?))?,
                        Output::None => {}
                    }
                }
            }
        }
        for value in &self.last_uses {
            put(slots, *value, Slot::Empty)?;
        }
        Ok(())
    }
}

fn check_batch_norm(node: &str, input: &Tensor) -> Result<()> {
    let channels = input.size().get(1).copied().unwrap_or(1).max(1);
    if input.numel() as i64 / channels > 1 {
        return Ok(());
    }
    Err(Error::Config(format!(
        "batch norm (node {node}) needs more than one value per channel in training and this rank's share of the batch \
         has shape {:?}; choose batchSize so that every rank has at least 2 rows in every batch, the last one included",
        input.size()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn runner(layers: &str, seed: u64) -> Runner {
        let text = format!(r#"{{"inputShape":[4],"seed":1,"layers":[{layers}]}}"#);
        let program = Program::read(text.into_bytes()).unwrap();
        let parameters = program.parameters.iter().map(|p| tensors::from_data(&p.tensor).unwrap()).collect();
        Runner::training(&program, &State::new(&program, parameters).unwrap(), seed).unwrap()
    }

    fn ones(rows: i64) -> Tensor {
        Tensor::ones([rows, 4], (Kind::Float, Device::Cpu))
    }

    #[test]
    fn random_operators_draw_from_the_runners_own_generator() {
        let dropout = r#"{"type":"dropout","rate":0.5}"#;
        let draw = |runner: &mut Runner| {
            Vec::<f32>::try_from(runner.run(&[ones(8)]).unwrap().remove(0).reshape([-1])).unwrap()
        };
        let (mut one, mut same, mut other) = (runner(dropout, 5), runner(dropout, 5), runner(dropout, 6));
        let first = draw(&mut one);
        // What others draw from the process's generator, or from theirs, makes no difference.
        tch::manual_seed(99);
        let _ = Tensor::rand([100], (Kind::Float, Device::Cpu));
        assert_ne!(draw(&mut other), first);
        assert_eq!(draw(&mut same), first);
        assert_ne!(draw(&mut one), first, "the stream goes on");
    }

    #[test]
    fn the_process_generator_is_left_as_it_was() {
        tch::manual_seed(7);
        let expected = Vec::<f32>::try_from(Tensor::rand([4], (Kind::Float, Device::Cpu))).unwrap();
        tch::manual_seed(7);
        runner(r#"{"type":"dropout","rate":0.5}"#, 1).run(&[ones(8)]).unwrap();
        assert_eq!(Vec::<f32>::try_from(Tensor::rand([4], (Kind::Float, Device::Cpu))).unwrap(), expected);
    }

    #[test]
    fn batch_norm_over_one_row_is_refused_and_two_rows_are_not() {
        let mut runner = runner(r#"{"type":"batchNorm"}"#, 0);
        let error = runner.run(&[ones(1)]).unwrap_err().to_string();
        assert!(error.contains("batch norm") && error.contains("batchSize"), "{error}");
        assert!(runner.run(&[ones(2)]).is_ok());
    }

    #[test]
    fn a_wrong_shape_names_the_input() {
        let error =
            runner(r#"{"type":"relu"}"#, 0).run(&[Tensor::ones([2, 5], (Kind::Float, Device::Cpu))]).unwrap_err();
        assert!(error.to_string().contains("[2, 5]") && error.to_string().contains("[any, 4]"), "{error}");
    }
}
