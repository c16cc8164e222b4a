//! From the nodes of a program to work that can be run many times: each node becomes a [`Call`] whose constant arguments
//! are set and whose variable ones are bound, in the order in which they stand in the node.

use kindling_program::{Arg, DType, Layout, MemoryFormat, Node, Output, Program, ScalarOp, SymInt, Target, ValueId};

use crate::error::{Error, Result, Torch};
use crate::shim::{Call, Constant};

/// One node, ready to run.
pub(crate) struct Step {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) work: Work,
    /// Values that no later node reads.
    pub(crate) last_uses: Vec<ValueId>,
}

/// What running a node means.
pub(crate) enum Work {
    Call {
        call: Call,
        tensors: Vec<ValueId>,
        integers: Vec<ValueId>,
        outputs: Vec<Output>,
        random: bool,
        guard: Guard,
    },
    Scalar {
        op: ScalarOp,
        arguments: Vec<SymInt>,
        output: ValueId,
    },
    /// `aten.sym_size.int`: the size of a tensor's dimension.
    Size {
        tensor: ValueId,
        dim: i64,
        output: ValueId,
    },
}

/// What Python checks before it calls an operator, and the exported graph no longer does.
pub(crate) enum Guard {
    None,
    /// Batch norm over a single value per channel would write NaN into the running variance.
    BatchNorm {
        input: ValueId,
    },
}

/// Turns a node into work. Arguments that name values are bound in the order in which they stand in the node.
pub(crate) fn compile(node: &Node) -> Result<Step> {
    let (op, work) = match &node.target {
        Target::Scalar(op) => (op.name().to_owned(), compile_scalar(*op, node)?),
        Target::Aten { name, overload } => {
            let op = if overload.is_empty() { name.clone() } else { format!("{name}.{overload}") };
            let work = match size_of_dimension(name, node) {
                Some(work) => work,
                None => compile_call(name, overload, &op, node)?,
            };
            (op, work)
        }
    };
    Ok(Step { node: node.name.clone(), op, work, last_uses: Vec::new() })
}

fn compile_scalar(op: ScalarOp, node: &Node) -> Result<Work> {
    let argument = |(name, argument): &(String, Arg)| match argument {
        Arg::Int(value) => Ok(SymInt::Const(*value)),
        Arg::SymInt(value) => Ok(*value),
        other => {
            Err(Error::Config(format!("node {}: {name} of {} is {other:?}, not an integer", node.name, op.name())))
        }
    };
    let arguments = node.args.iter().map(argument).collect::<Result<_>>()?;
    match node.outputs.as_slice() {
        [Output::Int(output)] => Ok(Work::Scalar { op, arguments, output: *output }),
        other => Err(Error::Config(format!("node {}: {} yields one integer, not {other:?}", node.name, op.name()))),
    }
}

fn compile_call(name: &str, overload: &str, op: &str, node: &Node) -> Result<Work> {
    let failed = |source: Torch| Error::Node { node: node.name.clone(), op: op.to_owned(), source };
    let mut call = Call::new(name, overload).map_err(failed)?;
    let (mut tensors, mut integers) = (Vec::new(), Vec::new());
    for (argument, value) in &node.args {
        bind(&mut call, argument, value, &mut tensors, &mut integers).map_err(failed)?;
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
    Ok(Work::Call { call, tensors, integers, outputs: node.outputs.clone(), random, guard })
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
    integers: &mut Vec<ValueId>,
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
        Arg::SymInt(SymInt::Value(value)) => {
            integers.push(*value);
            call.bind_int(name)
        }
        Arg::SymInt(SymInt::Const(value)) | Arg::Int(value) => call.set(name, Constant::Int(*value)),
        Arg::SymInts(values) => {
            let constants: Vec<Option<i64>> = values
                .iter()
                .map(|value| match value {
                    SymInt::Value(value) => {
                        integers.push(*value);
                        None
                    }
                    SymInt::Const(value) => Some(*value),
                })
                .collect();
            call.bind_ints(name, &constants)
        }
        Arg::Ints(values) => call.bind_ints(name, &values.iter().copied().map(Some).collect::<Vec<_>>()),
        Arg::Float(value) => call.set(name, Constant::Float(*value)),
        Arg::Floats(values) => call.set(name, Constant::Floats(values)),
        Arg::Bool(value) => call.set(name, Constant::Bool(*value)),
        Arg::Bools(values) => call.set(name, Constant::Bools(values)),
        Arg::None => call.set(name, Constant::None),
        Arg::Str(value) => call.set(name, Constant::Str(value)),
        Arg::Dtype(dtype) => call.set(name, Constant::Enum(scalar_type(*dtype))),
        Arg::Layout(Layout::Strided) => call.set(name, Constant::Enum(0)),
        Arg::MemoryFormat(format) => call.set(name, Constant::Enum(memory_format(*format))),
        // The archive names the device of the export; a run has its own.
        Arg::Device(_) => call.set(name, Constant::Device("cpu")),
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
    let mut kept = vec![false; program.values.len()];
    let mut keep = |value: ValueId| {
        if let Some(slot) = kept.get_mut(value.index()) {
            *slot = true;
        }
    };
    program.outputs.iter().copied().for_each(&mut keep);
    // Walk backwards: the first node met that reads a value is the last to use it; made and never read is dropped at once.
    for (step, node) in steps.iter_mut().zip(&program.nodes).rev() {
        let made = node.outputs.iter().flat_map(|output| output.values().iter().copied());
        for value in node.args.iter().flat_map(|(_, argument)| reads(argument)).chain(made) {
            if let Some(slot) = kept.get_mut(value.index())
                && !std::mem::replace(slot, true)
            {
                step.last_uses.push(value);
            }
        }
    }
}

fn reads(argument: &Arg) -> Vec<ValueId> {
    let symbolic = |value: &SymInt| match value {
        SymInt::Value(value) => Some(*value),
        SymInt::Const(_) => None,
    };
    match argument {
        Arg::Tensor(value) => vec![*value],
        Arg::Tensors(values) => values.clone(),
        Arg::OptionalTensors(values) => values.iter().flatten().copied().collect(),
        Arg::SymInt(value) => symbolic(value).into_iter().collect(),
        Arg::SymInts(values) => values.iter().filter_map(symbolic).collect(),
        _ => Vec::new(),
    }
}

/// The first batch norm in training whose input has one value per row and channel.
pub(crate) fn needs_two_rows(program: &Program, steps: &[Step]) -> Option<String> {
    steps.iter().find_map(|step| match &step.work {
        Work::Call { guard: Guard::BatchNorm { input }, .. } => {
            let sizes = &program.meta(*input)?.shape;
            let per_channel = sizes.iter().skip(2).map(|dim| dim.as_static().unwrap_or(2)).fold(1, i64::saturating_mul);
            (per_channel == 1).then(|| step.node.clone())
        }
        _ => None,
    })
}
