//! From the nodes of a program to work that can be run many times: each node becomes a [`Call`] whose constant arguments
//! are set and whose variable ones are bound, in the order in which they stand in the node.

use std::collections::HashSet;

use kindling_program::{
    Arg, DType, Layout, MemoryFormat, Node, Output, Program, SYNC_BATCH_NORM, Scalar, ScalarOp, Scope, SymFloat,
    SymInt, Target, ValueId,
};
use tch::Device;

use crate::error::{Error, Result, Torch};
use crate::shared_norm::SharedNorm;
use crate::shim::{Call, Constant};

/// One node, ready to run.
pub(crate) struct Step {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) scope: Scope,
    pub(crate) work: Work,
    /// Values that no later node reads.
    pub(crate) last_uses: Vec<ValueId>,
}

/// What running a node means.
pub(crate) enum Work {
    Call {
        call: Call,
        tensors: Vec<ValueId>,
        numbers: Vec<ValueId>,
        outputs: Vec<Output>,
        random: bool,
        guard: Guard,
        /// How it runs in a group of ranks, if that is another way.
        shared: Option<Box<SharedNorm>>,
    },
    Scalar {
        op: ScalarOp,
        arguments: Vec<Operand>,
        output: Output,
    },
    /// `aten.sym_size.int`: the size of a tensor's dimension.
    Size {
        tensor: ValueId,
        dim: i64,
        output: ValueId,
    },
    /// `torch.cond`.
    Cond {
        predicate: Predicate,
        /// What runs if the predicate is true, and what runs if it is not.
        blocks: Box<[Block; 2]>,
        outputs: Vec<Output>,
    },
}

/// A number that an earlier node computes, or a literal.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    Value(ValueId),
    Literal(Scalar),
}

/// What a `cond` decides by.
pub(crate) enum Predicate {
    /// A tensor of one element, or a truth value.
    Value(ValueId),
    Literal(bool),
}

/// The steps of one branch, and what it hands out for each output of the node.
pub(crate) struct Block {
    pub(crate) steps: Vec<Step>,
    pub(crate) results: Vec<Arg>,
}

/// What Python checks before it calls an operator, and the exported graph no longer does.
pub(crate) enum Guard {
    None,
    /// Batch norm over a single value per channel would write NaN into the running variance.
    BatchNorm {
        input: ValueId,
    },
}

/// Turns a node into work on `device`: devices in an exported graph are those of the machine that exported it, and this one
/// takes their place. Arguments that name values are bound in the order in which they stand in the node.
pub(crate) fn compile(node: &Node, device: Device) -> Result<Step> {
    let (op, work) = match &node.target {
        Target::Scalar(op) => (op.name().to_owned(), compile_scalar(*op, node)?),
        Target::Aten { name, overload } => {
            let op = if overload.is_empty() { name.clone() } else { format!("{name}.{overload}") };
            let work = match size_of_dimension(name, node) {
                Some(work) => work,
                None => compile_call(name, overload, &op, node, device)?,
            };
            (op, work)
        }
        Target::Cond { blocks } => ("torch.cond".to_owned(), compile_cond(node, blocks, device)?),
    };
    Ok(Step { node: node.name.clone(), op, scope: node.scope, work, last_uses: Vec::new() })
}

fn compile_cond(node: &Node, blocks: &[kindling_program::Block; 2], device: Device) -> Result<Work> {
    let predicate = match node.args.as_slice() {
        [(_, Arg::Tensor(value) | Arg::SymBool(value))] => Predicate::Value(*value),
        [(_, Arg::Bool(truth))] => Predicate::Literal(*truth),
        other => return Err(Error::Config(format!("node {}: torch.cond cannot decide by {other:?}", node.name))),
    };
    let block = |block: &kindling_program::Block| {
        let steps = block.nodes.iter().map(|node| compile(node, device)).collect::<Result<_>>()?;
        Ok::<_, Error>(Block { steps, results: block.results.clone() })
    };
    let [yes, no] = blocks;
    Ok(Work::Cond { predicate, blocks: Box::new([block(yes)?, block(no)?]), outputs: node.outputs.clone() })
}

fn compile_scalar(op: ScalarOp, node: &Node) -> Result<Work> {
    let argument = |(name, argument): &(String, Arg)| match argument {
        Arg::Int(value) | Arg::SymInt(SymInt::Const(value)) => Ok(Operand::Literal(Scalar::Int(*value))),
        Arg::Float(value) => Ok(Operand::Literal(Scalar::Float(*value))),
        Arg::Bool(truth) => Ok(Operand::Literal(Scalar::Bool(*truth))),
        Arg::SymInt(SymInt::Value(value)) | Arg::SymFloat(value) | Arg::SymBool(value) => Ok(Operand::Value(*value)),
        other => Err(Error::Config(format!("node {}: {name} of {} is {other:?}, not a number", node.name, op.name()))),
    };
    let arguments = node.args.iter().map(argument).collect::<Result<_>>()?;
    match node.outputs.as_slice() {
        [output] => Ok(Work::Scalar { op, arguments, output: output.clone() }),
        other => Err(Error::Config(format!("node {}: {} yields one number, not {other:?}", node.name, op.name()))),
    }
}

fn compile_call(name: &str, overload: &str, op: &str, node: &Node, device: Device) -> Result<Work> {
    let failed = |source: Torch| Error::Node { node: node.name.clone(), op: op.to_owned(), source };
    // Alone, a rank normalises by its own rows, which are all.
    let (name, shared) = match name {
        SYNC_BATCH_NORM => ("aten::batch_norm", Some(Box::new(SharedNorm::compile(node)?))),
        _ => (name, None),
    };
    let mut call = Call::new(name, overload).map_err(failed)?;
    let (mut tensors, mut numbers) = (Vec::new(), Vec::new());
    for (argument, value) in node.args.iter().filter(|(argument, _)| shared.is_none() || argument != "index") {
        match value {
            Arg::Device(_) => call.set(argument, Constant::Device(&device_name(device))),
            value => bind(&mut call, argument, value, &mut tensors, &mut numbers),
        }
        .map_err(failed)?;
    }
    // An operator that makes a tensor of no other makes it on the processor, unless it is told where.
    let untold = tensors.is_empty() && !node.args.iter().any(|(argument, _)| argument == "device");
    if device != Device::Cpu && untold && call.takes("device").map_err(failed)? {
        call.set("device", Constant::Device(&device_name(device))).map_err(failed)?;
    }
    let training = is_true(node, "training") || is_true(node, "train");
    let guard = match (name, node.arg("input")) {
        (
            "aten::batch_norm" | "aten::native_batch_norm" | "aten::_native_batch_norm_legit",
            Some(&Arg::Tensor(input)),
        ) if training => Guard::BatchNorm { input },
        _ => Guard::None,
    };
    let random = call.is_random() && draws(node);
    Ok(Work::Call { call, tensors, numbers, outputs: node.outputs.clone(), random, guard, shared })
}

fn is_true(node: &Node, name: &str) -> bool {
    matches!(node.arg(name), Some(Arg::Bool(true)))
}

/// Whether an operator that can draw random numbers does here: dropout in evaluation or at rate 0 does not, and need
/// not wait for its turn at the generator.
fn draws(node: &Node) -> bool {
    let zero = |name| matches!(node.arg(name), Some(Arg::Float(rate)) if *rate == 0.0);
    let off = matches!(node.arg("train"), Some(Arg::Bool(false)));
    match node.aten() {
        Some("aten::scaled_dot_product_attention") => node.arg("dropout_p").is_some() && !zero("dropout_p"),
        Some("aten::lstm" | "aten::gru" | "aten::rnn_tanh" | "aten::rnn_relu") => !off && !zero("dropout"),
        Some(_) => !(off || node.arg("train").is_some() && zero("p")),
        None => false,
    }
}

fn size_of_dimension(name: &str, node: &Node) -> Option<Work> {
    match (name, node.args.as_slice(), node.outputs.as_slice()) {
        ("aten::sym_size", [(_, Arg::Tensor(tensor)), (_, Arg::Int(dim))], [Output::Int(output)]) => {
            Some(Work::Size { tensor: *tensor, dim: *dim, output: *output })
        }
        _ => None,
    }
}

fn bind(
    call: &mut Call,
    name: &str,
    value: &Arg,
    tensors: &mut Vec<ValueId>,
    numbers: &mut Vec<ValueId>,
) -> std::result::Result<(), Torch> {
    match value {
        Arg::Tensor(value) => {
            tensors.push(*value);
            call.bind_tensor(name)
        }
        Arg::Tensors(values) => {
            tensors.extend(values);
            call.bind_tensors(name, &vec![true; values.len()])
        }
        Arg::OptionalTensors(values) => {
            tensors.extend(values.iter().flatten());
            call.bind_tensors(name, &values.iter().map(Option::is_some).collect::<Vec<_>>())
        }
        Arg::SymInt(SymInt::Value(value)) | Arg::SymFloat(value) | Arg::SymBool(value) => {
            numbers.push(*value);
            call.bind_number(name)
        }
        Arg::SymInt(SymInt::Const(value)) | Arg::Int(value) => call.set(name, Constant::Int(*value)),
        Arg::SymInts(values) => {
            let mut element = |value: &SymInt| match value {
                SymInt::Value(value) => {
                    numbers.push(*value);
                    None
                }
                SymInt::Const(value) => Some(Scalar::Int(*value)),
            };
            let elements: Vec<_> = values.iter().map(&mut element).collect();
            call.bind_numbers(name, &elements)
        }
        Arg::SymFloats(values) => {
            let mut element = |value: &SymFloat| match value {
                SymFloat::Value(value) => {
                    numbers.push(*value);
                    None
                }
                SymFloat::Const(value) => Some(Scalar::Float(*value)),
            };
            let elements: Vec<_> = values.iter().map(&mut element).collect();
            call.bind_numbers(name, &elements)
        }
        Arg::Ints(values) => {
            call.bind_numbers(name, &values.iter().map(|&value| Some(Scalar::Int(value))).collect::<Vec<_>>())
        }
        Arg::Float(value) => call.set(name, Constant::Float(*value)),
        Arg::Floats(values) => call.set(name, Constant::Floats(values)),
        Arg::Bool(value) => call.set(name, Constant::Bool(*value)),
        Arg::Bools(values) => call.set(name, Constant::Bools(values)),
        Arg::None => call.set(name, Constant::None),
        Arg::Str(value) => call.set(name, Constant::Str(value)),
        Arg::Dtype(dtype) => call.set(name, Constant::Enum(scalar_type(*dtype))),
        Arg::Layout(Layout::Strided) => call.set(name, Constant::Enum(0)),
        Arg::MemoryFormat(format) => call.set(name, Constant::Enum(memory_format(*format))),
        Arg::Device(_) => Err(Torch("a device is set where the device of the run is known".to_owned())),
    }
}

/// What libtorch calls a device.
fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(gpu) => format!("cuda:{gpu}"),
        _ => "cpu".to_owned(),
    }
}

/// `c10::ScalarType`.
fn scalar_type(dtype: DType) -> i64 {
    match dtype {
        DType::UInt8 => 0,
        DType::Int8 => 1,
        DType::Int16 => 2,
        DType::Int32 => 3,
        DType::Int64 => 4,
        DType::Float16 => 5,
        DType::Float32 => 6,
        DType::Float64 => 7,
        DType::Bool => 11,
        DType::BFloat16 => 15,
    }
}

/// `c10::MemoryFormat`.
fn memory_format(format: MemoryFormat) -> i64 {
    match format {
        MemoryFormat::Contiguous => 0,
        MemoryFormat::Preserve => 1,
        MemoryFormat::ChannelsLast => 2,
        MemoryFormat::ChannelsLast3d => 3,
    }
}

/// Notes at each step which values nobody reads after it.
pub(crate) fn mark_last_uses(program: &Program, steps: &mut [Step]) {
    let all = program.all_nodes();
    let made = all.iter().flat_map(|node| node.defines());
    let inputs = program.inputs.iter().map(|input| input.value);
    let parameters = program.parameters.iter().map(|parameter| parameter.value);
    let buffers = program.buffers.iter().map(|buffer| buffer.value);
    let constants = program.constants.iter().map(|constant| constant.value);
    let mut droppable: HashSet<ValueId> =
        made.chain(inputs).chain(parameters).chain(buffers).chain(constants).collect();
    for value in &program.outputs {
        droppable.remove(value);
    }
    mark(&program.nodes, steps, &mut droppable);
}

fn mark(nodes: &[Node], steps: &mut [Step], droppable: &mut HashSet<ValueId>) {
    // Walk backwards: the first node met that reads a value is the last to use it; made and never read is dropped at once.
    for (step, node) in steps.iter_mut().zip(nodes).rev() {
        step.last_uses.extend(node.uses().into_iter().chain(node.defines()).filter(|value| droppable.remove(value)));
        if let Work::Cond { blocks, .. } = &mut step.work {
            for (block, steps) in node.blocks().iter().zip(blocks.iter_mut()) {
                // Within a block only what it made itself may go, and not what it hands out: that goes after the node,
                // with whatever else the node was the last to use.
                let mut own: HashSet<ValueId> = block.nodes.iter().flat_map(Node::defines).collect();
                for value in block.results.iter().flat_map(Arg::values) {
                    own.remove(&value);
                }
                mark(&block.nodes, &mut steps.steps, &mut own);
            }
        }
    }
}

/// The first batch norm in training whose input has one value per row and channel.
pub(crate) fn needs_two_rows(program: &Program, steps: &[Step]) -> Option<String> {
    steps.iter().find_map(|step| match &step.work {
        Work::Cond { blocks, .. } => blocks.iter().find_map(|block| needs_two_rows(program, &block.steps)),
        Work::Call { guard: Guard::BatchNorm { input }, .. } => {
            let sizes = &program.meta(*input)?.shape;
            let per_channel = sizes.iter().skip(2).map(|dim| dim.as_static().unwrap_or(2)).fold(1, i64::saturating_mul);
            (per_channel == 1).then(|| step.node.clone())
        }
        _ => None,
    })
}
