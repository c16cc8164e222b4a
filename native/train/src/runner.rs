//! Runs a program op by op through libtorch's dispatcher, with autograd where gradients are on.
//!
//! A program is compiled once (see `compile`). Running it walks the nodes in order (see `step`); a value is dropped after its last
//! use, so that what autograd does not need is freed as early as Python frees it. What nodes make of constants and sizes alone is
//! kept for the next run on inputs of the same sizes (see `standing`).

use std::collections::HashMap;
use std::sync::Arc;

use kindling_program::{Arg, Dim, Program, SYNC_BATCH_NORM, ValueId};
use tch::{Device, Tensor};

use crate::compile::{Step, compile, mark_last_uses, needs_two_rows};
use crate::error::{Doing, Error, Result};
use crate::guards::Guards;
use crate::modes::Modes;
use crate::norms::Norms;
use crate::segment::Segment;
use crate::shared_norm;
use crate::shim::Generator;
use crate::slots::{Slot, put, tensor_at};
use crate::standing::Standing;
use crate::tensors;
use crate::within::{Remembered, Trouble, Within};

/// The tensors that a program's parameters, buffers and constants stand for. Training and evaluation share them.
pub(crate) struct State {
    pub(crate) parameters: Vec<Tensor>,
    pub(crate) buffers: Vec<Tensor>,
    pub(crate) constants: Vec<Tensor>,
}

impl State {
    /// Takes parameters as given, which are on `device`, and makes the rest from the program there.
    pub(crate) fn new(program: &Program, parameters: Vec<Tensor>, device: Device) -> Result<State> {
        // Contiguous, as a buffer that was expanded shows one value in many places and cannot be written.
        let buffer = |buffer: &kindling_program::Buffer| {
            let tensor = tensors::from_data(&buffer.tensor)?.f_contiguous();
            tensor.and_then(|tensor| tensor.f_to_device(device)).doing("reading a buffer of the program")
        };
        let buffers = program.buffers.iter().map(buffer).collect::<Result<_>>()?;
        let constant = |constant: &kindling_program::Constant| {
            tensors::from_data(&constant.tensor)?.f_to_device(device).doing("reading a constant of the program")
        };
        let constants = program.constants.iter().map(constant).collect::<Result<_>>()?;
        Ok(State { parameters, buffers, constants })
    }
}

/// A compiled program.
pub(crate) struct Runner {
    standing: Standing,
    parts: Vec<Part>,
    inputs: Vec<ValueId>,
    guards: Guards,
    outputs: Vec<Returned>,
    slots: Vec<Slot>,
    /// Values that stay from run to run: parameters, buffers and constants.
    fixed: Vec<Fixed>,
    /// Where it runs.
    device: Device,
    generator: Generator,
    /// A batch norm over single values per row, which cannot train on one row.
    needs_two_rows: Option<String>,
    /// The ranks whose batch norms are synchronised, if the program has any and the rank is in a group.
    norms: Option<Arc<Norms>>,
    /// What a rank without rows does to its buffers.
    counts: Counts,
    trouble: Trouble,
}

/// Nodes in the order in which they run.
enum Part {
    Step(Step),
    /// Nodes that backward runs again.
    Segment(Segment),
}

/// The buffers of synchronised batch norms.
#[derive(Default)]
struct Counts {
    /// Counts of batches, once for every time that a run counts.
    batches: Vec<Tensor>,
    /// Running mean and variance, by the index of the batch norm.
    running: Vec<Option<[Tensor; 2]>>,
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

impl Runner {
    /// Compiles `program` over `state`, which is on `device`, to train there. `seed` starts the generator that its random
    /// operators draw from.
    pub(crate) fn training(program: &Program, state: &State, seed: u64, device: Device) -> Result<Runner> {
        let mut runner = Runner::new(program, state, seed, device, &[])?;
        runner.group(program);
        runner.counts = Counts::of(program, state)?;
        Ok(runner)
    }

    /// Compiles what `program` is in evaluation. Running it changes nothing: buffers that it writes into (an exported
    /// graph no longer knows what stood behind `if self.training`) are copied for each run.
    pub(crate) fn evaluation(program: &Program, state: &State, seed: u64, device: Device) -> Result<Runner> {
        let program = program.evaluation();
        let random = program.random_nodes();
        if !random.is_empty() {
            log::warn!("nodes {} draw random numbers in evaluation too: predictions will vary", random.join(", "));
        }
        Runner::new(&program, state, seed, device, &program.mutated_buffers())
    }

    fn new(program: &Program, state: &State, seed: u64, device: Device, copied: &[usize]) -> Result<Runner> {
        let keep = |(value, tensor): (ValueId, &Tensor)| Fixed { value, tensor: tensor.shallow_clone(), copied: false };
        let parameters = program.parameters.iter().map(|parameter| parameter.value).zip(&state.parameters);
        let constants = program.constants.iter().map(|constant| constant.value).zip(&state.constants);
        let mut fixed: Vec<Fixed> = parameters.chain(constants).map(keep).collect();
        for (index, (buffer, tensor)) in program.buffers.iter().zip(&state.buffers).enumerate() {
            fixed.push(Fixed { copied: copied.contains(&index), ..keep((buffer.value, tensor)) });
        }
        let (program, standing) = &program.standing_first();
        let mut steps = program.nodes.iter().map(|node| compile(node, device)).collect::<Result<Vec<_>>>()?;
        mark_last_uses(program, &mut steps);
        let returned = |&value: &ValueId| Returned {
            value,
            name: program.value(value).map_or_else(String::new, |value| value.name.clone()),
            dims: program.meta(value).map_or_else(Vec::new, |meta| meta.shape.clone()),
        };
        Ok(Runner {
            needs_two_rows: needs_two_rows(program, &steps),
            standing: Standing::new(program, steps.drain(..*standing).collect()),
            parts: steps.into_iter().map(Part::Step).collect(),
            inputs: program.inputs.iter().map(|input| input.value).collect(),
            guards: Guards::new(program)?,
            outputs: program.outputs.iter().map(returned).collect(),
            slots: program.values.iter().map(|_| Slot::Empty).collect(),
            fixed,
            device,
            generator: Generator::new(seed, device).doing("making a random generator")?,
            norms: None,
            counts: Counts::default(),
            trouble: Trouble::default(),
        })
    }

    /// Puts the nodes of each of the program's segments together.
    fn group(&mut self, program: &Program) {
        let (program, standing) = program.standing_first();
        let changing = program.changing();
        let mut steps = std::mem::take(&mut self.parts).into_iter();
        let mut done = standing;
        for segment in program.own_segments() {
            self.parts.extend(steps.by_ref().take(segment.start - done));
            let step = |part| match part {
                Part::Step(step) => Some(step),
                Part::Segment(_) => None,
            };
            let inner = steps.by_ref().take(segment.len()).filter_map(step).collect();
            let nodes = program.nodes.get(segment.clone()).unwrap_or_default();
            self.parts.push(Part::Segment(Segment::new(nodes, inner, program.values.len(), &changing, self.device)));
            done = segment.end;
        }
        self.parts.extend(steps);
    }

    /// Synchronises the batch norms of a rewritten program (see `norms`) with these ranks.
    pub(crate) fn synchronise(&mut self, norms: Arc<Norms>) {
        self.norms = Some(norms);
    }

    /// Whether the program has batch norms that can be synchronised.
    pub(crate) fn can_synchronise(&self) -> bool {
        !self.counts.running.is_empty()
    }

    /// Ends what `run` began on a batch, with the outcome of its backward: other ranks may wait for batch norms.
    pub(crate) fn after(&self, backward: Result<()>) -> Result<()> {
        match (backward, &self.norms) {
            (Ok(()), Some(norms)) => norms.end(),
            (Ok(()), None) => Ok(()),
            // What went wrong in a callback says more than what C++ makes of it.
            (Err(error), _) => Err(self.trouble.take().unwrap_or(error)),
        }
    }

    /// A part of a batch that this rank has no rows of: what the others' rows do to statistics, they do here too.
    pub(crate) fn listen(&mut self) -> Result<()> {
        let Some(norms) = &self.norms else { return Ok(()) };
        for count in &self.counts.batches {
            let _ = count.shallow_clone().f_add_scalar_(1).doing("counting a batch")?;
        }
        norms.listen(&mut |index, moments| match self.counts.running.get(index as usize) {
            Some(Some([mean, variance])) => shared_norm::update([mean, variance], moments),
            Some(None) | None => Ok(()),
        })
    }

    /// The node that cannot train on a single row, if there is one.
    pub(crate) fn needs_two_rows(&self) -> Option<&str> {
        self.needs_two_rows.as_deref()
    }

    /// Buffers have changed between two runs.
    pub(crate) fn forget_standing(&mut self) {
        self.standing.forget();
    }

    /// Where the random numbers stand.
    pub(crate) fn random_state(&self) -> Result<Vec<u8>> {
        self.generator.state().doing("reading the state of the random numbers")
    }

    /// Starts the random numbers of another seed.
    pub(crate) fn reseed(&mut self, seed: u64) -> Result<()> {
        self.generator = Generator::new(seed, self.device).doing("making a random generator")?;
        Ok(())
    }

    /// Draws on from where `state` was taken.
    pub(crate) fn set_random_state(&mut self, state: &[u8]) -> Result<()> {
        self.generator.set_state(state).doing("restoring the state of the random numbers")
    }

    /// Runs the program on one batch and returns its outputs.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if let Some(norms) = &self.norms {
            norms.begin();
        }
        let outputs = self.run_nodes(inputs);
        // Free activations (and the graph behind them, if nobody else holds it) whether or not the run succeeded.
        self.slots.fill_with(Slot::default);
        outputs
    }

    fn run_nodes(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let sizes: Vec<Vec<i64>> = inputs.iter().map(Tensor::size).collect();
        self.guards.check(&sizes)?;
        for (&value, tensor) in self.inputs.iter().zip(inputs) {
            put(&mut self.slots, value, Slot::Tensor(tensor.shallow_clone()))?;
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
        let mut within = Within {
            generator: &mut self.generator,
            modes: Modes::new(self.device),
            norms: self.norms.as_ref(),
            trouble: &self.trouble,
            moments: Remembered::Nothing,
        };
        self.standing.run(sizes, &mut self.slots, &mut within)?;
        for part in &mut self.parts {
            match part {
                Part::Step(step) => step.run(&mut self.slots, &mut within)?,
                Part::Segment(segment) => segment.run(&mut self.slots, &mut within)?,
            }
        }
        self.outputs.iter().map(|returned| returned.take(&self.slots)).collect()
    }
}

impl Counts {
    fn of(program: &Program, state: &State) -> Result<Counts> {
        let buffers: HashMap<ValueId, &Tensor> =
            program.buffers.iter().map(|buffer| buffer.value).zip(&state.buffers).collect();
        let buffer = |value: &ValueId| buffers.get(value).map(|tensor| tensor.shallow_clone());
        let mut running = Vec::new();
        for node in program.all_nodes().into_iter().filter(|node| node.aten() == Some(SYNC_BATCH_NORM)) {
            let statistic = |name| match node.arg(name) {
                Some(Arg::Tensor(value)) => buffer(value).map(Some).ok_or_else(|| {
                    Error::Config(format!(
                        "syncBatchNorm: node {} keeps its {name} in something else than a buffer of the model",
                        node.name
                    ))
                }),
                _ => Ok(None),
            };
            let both = statistic("running_mean")?.zip(statistic("running_var")?);
            running.push(both.map(|(mean, variance)| [mean, variance]));
        }
        let batches = program.counted_buffers().iter().filter_map(buffer).collect();
        Ok(Counts { batches, running })
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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn runner(layers: &str, seed: u64) -> Runner {
        let text = format!(r#"{{"inputShape":[4],"seed":1,"layers":[{layers}]}}"#);
        let program = Program::read(text.into_bytes()).unwrap();
        let parameters = program.parameters.iter().map(|p| tensors::from_data(&p.tensor).unwrap()).collect();
        let state = State::new(&program, parameters, Device::Cpu).unwrap();
        Runner::training(&program, &state, seed, Device::Cpu).unwrap()
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
        // What others draw from theirs makes no difference.
        assert_ne!(draw(&mut other), first);
        assert_eq!(draw(&mut same), first);
        assert_ne!(draw(&mut one), first, "the stream goes on");
    }

    /// The layer's result, to which an operator's is added: `op(input) * buffer`.
    fn with_standing(op: &str) -> (Runner, State) {
        use kindling_program::{Buffer, Output, Target, Value};
        let text = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"dense","units":4,"useBias":false}]}"#;
        let mut program = Program::read(text.as_bytes().to_vec()).unwrap();
        let meta = program.meta(program.outputs[0]).unwrap().clone();
        let mut value = || {
            program.values.push(Value::tensor(format!("v{}", program.values.len()), meta.clone()));
            ValueId(u32::try_from(program.values.len() - 1).unwrap())
        };
        let [buffer, made, scaled, output] = [(); 4].map(|()| value());
        let tensor = program.parameters[0].tensor.clone();
        let name = "scale".to_owned();
        program.buffers.push(Buffer { value: buffer, name, aliases: vec![], persistent: true, tensor });
        let (input, result, template) = (program.inputs[0].value, program.outputs[0], program.nodes[0].clone());
        let mut call = |op: &str, overload: &str, arguments: &[(&str, ValueId)], output| {
            program.nodes.push(kindling_program::Node {
                name: op.to_owned(),
                target: Target::Aten { name: format!("aten::{op}"), overload: overload.to_owned() },
                args: arguments.iter().map(|&(name, value)| (name.to_owned(), Arg::Tensor(value))).collect(),
                outputs: vec![Output::Tensor(output)],
                ..template.clone()
            });
        };
        call(op, "", &[("self", input)], made);
        call("matmul", "", &[("self", made), ("other", buffer)], scaled);
        call("add", "Tensor", &[("self", result), ("other", scaled)], output);
        program.outputs = vec![output];
        let parameters =
            program.parameters.iter().map(|p| tensors::from_data(&p.tensor).unwrap().zeros_like()).collect();
        let state = State::new(&program, parameters, Device::Cpu).unwrap();
        (Runner::training(&program, &state, 0, Device::Cpu).unwrap(), state)
    }

    #[test]
    fn what_stands_is_computed_once_per_size_until_it_is_forgotten() {
        let (mut runner, state) = with_standing("ones_like");
        let sums = |scale: &Tensor, rows: i64| ones(rows).matmul(scale);
        let mut buffer = state.buffers[0].shallow_clone();
        let first = buffer.copy();
        for rows in [8, 8, 5, 8] {
            assert!(runner.run(&[ones(rows)]).unwrap()[0].equal(&sums(&first, rows)));
        }
        let _ = buffer.fill_(2.0);
        assert!(runner.run(&[ones(8)]).unwrap()[0].equal(&sums(&first, 8)), "the buffer was read again");
        runner.forget_standing();
        assert!(runner.run(&[ones(8)]).unwrap()[0].equal(&sums(&buffer, 8)));
    }

    #[test]
    fn what_depends_on_values_is_computed_in_every_run() {
        let (mut runner, state) = with_standing("neg");
        for factor in [1.0, 2.0] {
            let rows = ones(3) * factor;
            let wanted = (-&rows).matmul(&state.buffers[0]);
            assert!(runner.run(&[rows]).unwrap()[0].equal(&wanted));
        }
    }

    #[test]
    fn a_saved_random_state_is_gone_on_from() {
        let dropout = r#"{"type":"dropout","rate":0.5}"#;
        let draw = |runner: &mut Runner| {
            Vec::<f32>::try_from(runner.run(&[ones(8)]).unwrap().remove(0).reshape([-1])).unwrap()
        };
        let (mut one, mut other) = (runner(dropout, 5), runner(dropout, 6));
        draw(&mut one);
        let state = one.random_state().unwrap();
        let expected = [draw(&mut one), draw(&mut one)];
        other.set_random_state(&state).unwrap();
        assert_eq!([draw(&mut other), draw(&mut other)], expected);
        assert_eq!(one.random_state().unwrap(), other.random_state().unwrap());
        // PyTorch takes the same bytes; others are refused and change nothing.
        assert_eq!(state.len(), 5056);
        assert!(other.set_random_state(&state[1..]).is_err());
        assert_eq!(one.random_state().unwrap(), other.random_state().unwrap());
    }

    #[test]
    fn two_threads_that_draw_at_once_repeat_what_each_draws_alone() {
        let draws = |seed| {
            let mut runner = runner(r#"{"type":"dropout","rate":0.5}"#, seed);
            let draw = |_| Vec::<f32>::try_from(runner.run(&[ones(64)]).unwrap().remove(0).reshape([-1])).unwrap();
            (0..200).map(draw).collect::<Vec<_>>()
        };
        let alone = [draws(1), draws(2)];
        let (one, other) = std::thread::scope(|scope| {
            let (one, other) = (scope.spawn(|| draws(1)), scope.spawn(|| draws(2)));
            (one.join().unwrap(), other.join().unwrap())
        });
        assert!(alone == [one, other], "the ranks of one process disturb each other's random numbers");
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

    #[test]
    fn evaluation_gives_what_module_eval_gives_for_every_layer_with_a_switch() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integration-tests/golden/evaluation_f32");
        let program = Program::read(std::fs::read(format!("{path}.pt2")).unwrap()).unwrap();
        let bytes = std::fs::read(format!("{path}.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let golden = |name: &str| {
            let view = file.tensor(name).unwrap();
            let sizes: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
            Tensor::from_data_size(view.data(), &sizes, Kind::Float)
        };
        let parameters = program.parameters.iter().map(|p| tensors::from_data(&p.tensor).unwrap()).collect();
        let state = State::new(&program, parameters, Device::Cpu).unwrap();
        let before: Vec<Tensor> = state.buffers.iter().map(|buffer| buffer.copy()).collect();
        let evaluated = Runner::evaluation(&program, &state, 1, Device::Cpu).unwrap().run(&[golden("x")]).unwrap();
        assert!(before.iter().zip(&state.buffers).all(|(before, after)| before == after), "evaluation wrote a buffer");
        let trained = Runner::training(&program, &state, 1, Device::Cpu).unwrap().run(&[golden("x")]).unwrap();
        let varies = Vec::<f32>::try_from(golden("varies")).unwrap();
        assert_eq!((program.output_names.len(), evaluated.len(), varies.len()), (20, 20, 20));
        for (index, name) in program.output_names.iter().enumerate() {
            let expected = golden(name);
            let off = |ours: &Tensor| (ours - &expected).abs().max().double_value(&[]);
            // Sums in another order than on the machine that wrote the file: a few roundings of values of about 1.
            assert!(off(&evaluated[index]) < 1e-5, "{name} in evaluation is off by {}", off(&evaluated[index]));
            assert_eq!(off(&trained[index]) > 1e-3, varies[index] > 0.0, "{name} in training");
        }
    }
}
