//! Layer lists run here against what Keras computed with the same weights (`integration-tests/golden/layers.safetensors`).
//!
//! Outputs in evaluation and in training, gradients of weights and inputs, and running means agree to 1e-5 of the largest
//! value in the tensor (or absolute below 1): both sides are float32 kernels that sum in different orders.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use kindling_program::Program;
use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use crate::runner::{Runner, State};

const TOLERANCE: f64 = 1e-5;

struct Golden {
    bytes: Vec<u8>,
    /// The network of each case as JSON, and with every default written out.
    networks: BTreeMap<String, (String, String)>,
}

impl Golden {
    fn open() -> Golden {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../integration-tests/golden/layers.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let about: HashMap<String, String> = metadata.metadata().clone().unwrap();
        let network = |(key, json): (&String, &String)| {
            let name = key.strip_prefix("case.")?;
            Some((name.to_owned(), (json.clone(), about.get(&format!("explicit.{name}"))?.clone())))
        };
        Golden { bytes, networks: about.iter().filter_map(network).collect() }
    }
}

/// One network with what Keras made of it.
struct Case<'a> {
    name: &'a str,
    file: &'a SafeTensors<'a>,
    program: Program,
    state: State,
    problems: Vec<String>,
}

impl Case<'_> {
    fn tensor(&self, name: &str) -> Option<Tensor> {
        let view = self.file.tensor(&format!("{}/{name}", self.name)).ok()?;
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::I64 => Kind::Int64,
            other => panic!("{other:?}"),
        };
        let sizes: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        Some(Tensor::from_data_size(view.data(), &sizes, kind))
    }

    fn compare(&mut self, name: &str, found: &Tensor) {
        let Some(expected) = self.tensor(name) else {
            return self.problems.push(format!("{}/{name} is not in the file", self.name));
        };
        if found.size() != expected.size() {
            let sizes = (found.size(), expected.size());
            return self.problems.push(format!("{}/{name} has shape {:?}, Keras' {:?}", self.name, sizes.0, sizes.1));
        }
        let scale = expected.abs().max().double_value(&[]).max(1.0);
        let difference = (found - &expected).abs().max().double_value(&[]) / scale;
        if difference.is_nan() || difference > TOLERANCE {
            self.problems.push(format!("{}/{name} differs by {difference:.1e}", self.name));
        }
    }

    fn inputs(&self) -> Vec<Tensor> {
        (0..).map_while(|index| self.tensor(&format!("x{index}"))).collect()
    }

    /// In training a mask is drawn: what comes out is finite, and not what evaluation gives.
    fn train_at_random(&mut self, inputs: &[Tensor], evaluated: &[Tensor]) {
        let trained = Runner::training(&self.program, &self.state, 0, Device::Cpu).unwrap().run(inputs).unwrap();
        for (found, evaluated) in trained.iter().zip(evaluated) {
            let finite = found.isfinite().all().int64_value(&[]) == 1;
            let differs = (found - evaluated).abs().max().double_value(&[]) > 1e-3;
            if !finite || !differs {
                self.problems.push(format!("{}: finite {finite}, random {differs}", self.name));
            }
        }
    }

    fn run(&mut self) {
        let inputs = self.inputs();
        let outputs = {
            let _guard = tch::no_grad_guard();
            match Runner::evaluation(&self.program, &self.state, 0, Device::Cpu)
                .and_then(|mut runner| runner.run(&inputs))
            {
                Ok(outputs) => outputs,
                Err(error) => return self.problems.push(format!("{}: {error}", self.name)),
            }
        };
        for (index, y) in outputs.iter().enumerate() {
            self.compare(&format!("y{index}.eval"), y);
        }
        if self.tensor("c0").is_none() {
            return self.train_at_random(&inputs, &outputs);
        }
        let inputs: Vec<Tensor> =
            inputs.into_iter().map(|x| if x.kind() == Kind::Float { x.set_requires_grad(true) } else { x }).collect();
        let outputs = Runner::training(&self.program, &self.state, 0, Device::Cpu).unwrap().run(&inputs).unwrap();
        let mut total = Tensor::zeros([], (Kind::Float, tch::Device::Cpu));
        for (index, y) in outputs.iter().enumerate() {
            self.compare(&format!("y{index}.train"), y);
            total += (y * self.tensor(&format!("c{index}")).unwrap()).sum(Kind::Float);
        }
        if let Err(error) = total.f_backward() {
            return self.problems.push(format!("{}: {error}", self.name));
        }
        let gradient = |tensor: &Tensor| if tensor.grad().defined() { tensor.grad() } else { tensor.zeros_like() };
        for index in 0..self.program.parameters.len() {
            let name = self.program.parameters[index].name.clone();
            self.compare(&format!("g.{name}"), &gradient(&self.state.parameters[index]));
        }
        for (index, x) in inputs.iter().enumerate().filter(|(_, x)| x.kind() == Kind::Float) {
            self.compare(&format!("gx{index}"), &gradient(x));
        }
        for index in 0..self.program.buffers.len() {
            let name = self.program.buffers[index].name.clone();
            if name.ends_with("running_mean") {
                self.compare(&format!("after.{name}"), &self.state.buffers[index].shallow_clone());
            }
        }
    }
}

#[test]
fn every_layer_gives_keras_outputs_and_gradients() {
    // As the generator did: more threads sum in another order.
    tch::set_num_threads(1);
    let golden = Golden::open();
    let file = SafeTensors::deserialize(&golden.bytes).unwrap();
    assert!(golden.networks.len() > 90, "{}", golden.networks.len());
    let mut problems = Vec::new();
    for (name, (json, _)) in &golden.networks {
        let program = match Program::read(json.clone().into_bytes()) {
            Ok(program) => program,
            Err(error) => {
                problems.push(format!("{name}: {error}"));
                continue;
            }
        };
        let mut case = Case {
            name,
            file: &file,
            state: State { parameters: Vec::new(), buffers: Vec::new(), constants: Vec::new() },
            program,
            problems: Vec::new(),
        };
        case.state = State::new(&case.program, Vec::new(), Device::Cpu).unwrap();
        let weight = |name: &str| case.tensor(&format!("w.{name}")).unwrap_or_else(|| panic!("{name} of {json}"));
        let parameters: Vec<Tensor> =
            case.program.parameters.iter().map(|parameter| weight(&parameter.name).set_requires_grad(true)).collect();
        let buffers: Vec<Tensor> = case.program.buffers.iter().map(|buffer| weight(&buffer.name)).collect();
        for (tensor, sizes) in (parameters.iter().zip(case.program.parameters.iter().map(|one| &one.tensor.sizes)))
            .chain(buffers.iter().zip(case.program.buffers.iter().map(|one| &one.tensor.sizes)))
        {
            assert_eq!(&tensor.size(), sizes, "{name}: the weights of {json}");
        }
        (case.state.parameters, case.state.buffers) = (parameters, buffers);
        case.run();
        problems.append(&mut case.problems);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_defaults_that_python_writes_out_are_the_ones_of_rust() {
    for (name, (json, explicit)) in &Golden::open().networks {
        let read =
            |json: &String| Program::read(json.clone().into_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (short, long) = (read(json), read(explicit));
        assert_eq!(short.nodes, long.nodes, "{name}");
        for (short, long) in short.parameters.iter().zip(&long.parameters) {
            assert_eq!((&short.name, &short.tensor.sizes), (&long.name, &long.tensor.sizes), "{name}");
            assert_eq!(short.tensor.contiguous_bytes(), long.tensor.contiguous_bytes(), "{name}: {}", short.name);
        }
    }
}
