//! From the archive's named graph to numbered values and checked nodes.
//!
//! Names become [`ValueId`]s as they are defined, so a use before its definition cannot get through. A graph within the
//! graph (see [`super::region`]) has names of its own: it sees its operands and nothing else. Assertions of the export are
//! left out, with the arithmetic that only feeds them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::schema;
use super::target::{Callee, callee};
use crate::dtype::{DType, Layout, MemoryFormat};
use crate::error::Error;
use crate::expression::Expression;
use crate::ir::{
    Arg, Dim, Node, Output, Program, Scalar, Scope, SymFloat, SymInt, Target, TensorMeta, Value, ValueId, ValueKind,
};
use crate::scalar::ScalarOp;

/// Dimensions that libtorch's operators work on.
const MOST_DIMENSIONS: usize = 64;

/// Numbers the values of a program.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    values: Vec<Value>,
    /// The graph being read and, before it, those that it stands in.
    frames: Vec<Frame<'a>>,
    /// Where the next node stands.
    pub(super) scope: Scope,
    /// Numbers given so far to checkpointed segments.
    pub(super) segments: u32,
    /// The kind of device that the program was exported on: `cpu`, `cuda`.
    pub(super) device: &'a str,
}

/// The names of one graph.
#[derive(Debug)]
struct Frame<'a> {
    metas: &'a BTreeMap<String, schema::TensorMeta>,
    names: HashMap<&'a str, Bound>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    Value(ValueId, Kind),
    /// A literal that a graph within the graph was given.
    Literal(Scalar),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tensor,
    Int,
    Float,
    Bool,
}

impl Kind {
    fn of(number: Scalar) -> Self {
        match number {
            Scalar::Int(_) => Self::Int,
            Scalar::Float(_) => Self::Float,
            Scalar::Bool(_) => Self::Bool,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tensor => "a tensor",
            Self::Int => "an integer",
            Self::Float => "a float",
            Self::Bool => "a truth value",
        }
    }
}

/// Who uses a value, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum User<'a> {
    Argument { node: &'a str, name: &'a str },
    Output { index: usize },
}

impl fmt::Display for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument { node, name: "" } => write!(f, "an argument of node {node}"),
            Self::Argument { node, name } => write!(f, "argument {name} of node {node}"),
            Self::Output { index } => write!(f, "output {index} of the program"),
        }
    }
}

impl<'a> Graph<'a> {
    pub(super) fn new(graph: &'a schema::Graph) -> Self {
        // A program on an accelerator has a few tensors on the CPU beside it, never the other way round.
        let devices = graph.tensor_values.values().filter_map(|meta| meta.device.as_ref().map(|device| &device.kind));
        let device = devices.map(String::as_str).find(|&kind| kind != "cpu" && kind != "meta").unwrap_or("cpu");
        let frame = Frame { metas: &graph.tensor_values, names: HashMap::new() };
        Self { values: Vec::new(), frames: vec![frame], scope: Scope::default(), segments: 0, device }
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }

    /// A new tensor value, with the meta the archive states for that name.
    pub(super) fn define_tensor(&mut self, name: &'a str) -> Result<ValueId, Error> {
        let meta = self.frames.last().and_then(|frame| frame.metas.get(name));
        let meta = tensor_meta(name, meta.ok_or_else(|| Error::MissingMeta { value: name.to_owned() })?)?;
        self.define(name, Kind::Tensor, ValueKind::Tensor(meta))
    }

    fn define(&mut self, name: &'a str, kind: Kind, value: ValueKind) -> Result<ValueId, Error> {
        // A graph with 2^32 values would not fit any memory this is read into.
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.bind(name, Bound::Value(id, kind))?;
        self.values.push(Value { name: name.to_owned(), kind: value });
        Ok(id)
    }

    /// Another name of a tensor.
    pub(super) fn alias(&mut self, name: &'a str, value: ValueId) -> Result<(), Error> {
        self.bind(name, Bound::Value(value, Kind::Tensor))
    }

    pub(super) fn bind(&mut self, name: &'a str, bound: Bound) -> Result<(), Error> {
        match self.frames.last_mut().and_then(|frame| frame.names.insert(name, bound)) {
            None => Ok(()),
            Some(_) => Err(Error::DuplicateValue { value: name.to_owned() }),
        }
    }

    /// The meta of a value defined here.
    pub(super) fn meta(&self, id: ValueId) -> Option<&TensorMeta> {
        self.values.get(id.index()).and_then(Value::meta)
    }

    /// The tensor of that name.
    pub(super) fn tensor(&self, user: User<'_>, name: &str) -> Result<ValueId, Error> {
        match self.resolve(user, name, Kind::Tensor)? {
            Bound::Value(id, _) => Ok(id),
            Bound::Literal(_) => Err(wrong(user, name, Kind::Tensor)),
        }
    }

    /// What the name stands for, which must be of that kind.
    fn resolve(&self, user: User<'_>, name: &str, expected: Kind) -> Result<Bound, Error> {
        match self.frames.last().and_then(|frame| frame.names.get(name)) {
            Some(&bound @ Bound::Value(_, kind)) if kind == expected => Ok(bound),
            Some(&bound @ Bound::Literal(number)) if Kind::of(number) == expected => Ok(bound),
            Some(_) => Err(wrong(user, name, expected)),
            None => Err(Error::UndefinedValue { user: user.to_string(), value: name.to_owned() }),
        }
    }

    /// Opens a graph within the graph: until [`Self::leave`], names are its own.
    pub(super) fn enter(&mut self, graph: &'a schema::Graph) {
        self.frames.push(Frame { metas: &graph.tensor_values, names: HashMap::new() });
    }

    pub(super) fn leave(&mut self) {
        self.frames.pop();
    }

    /// Converts the nodes of a graph into `nodes`.
    pub(super) fn nodes(&mut self, raw: &'a [schema::Node], nodes: &mut Vec<Node>) -> Result<(), Error> {
        raw.iter().try_for_each(|raw| self.node(raw, nodes))
    }

    /// Converts a node: to none if it is an assertion, to many if it holds a graph that is dissolved.
    fn node(&mut self, raw: &'a schema::Node, nodes: &mut Vec<Node>) -> Result<(), Error> {
        let name = node_name(raw);
        let target = match callee(name, &raw.target)? {
            Callee::Run(target) => target,
            Callee::Assertion => return Ok(()),
            Callee::Region(region) => return self.region(region, name, raw, nodes),
        };
        let args = raw
            .inputs
            .iter()
            .map(|input| Ok((input.name.clone(), self.argument(name, input)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let outputs = self.outputs(name, &raw.outputs)?;
        if let Target::Scalar(op) = target {
            check_scalar(name, op, &args, &outputs)?;
        }
        nodes.push(Node { name: name.to_owned(), target, args, outputs, scope: self.scope, module: raw.module() });
        Ok(())
    }

    pub(super) fn argument(&self, node: &str, input: &schema::NamedArgument) -> Result<Arg, Error> {
        let user = User::Argument { node, name: &input.name };
        self.value(user, &input.arg)?.ok_or_else(|| unsupported(node, "argument", &input.name, input.arg.kind()))
    }

    /// What a node or the caller is given; `None` if it is of an unsupported kind.
    pub(super) fn value(&self, user: User<'_>, raw: &schema::Argument) -> Result<Option<Arg>, Error> {
        use schema::Argument as Raw;
        let tensor = |name: &String| self.tensor(user, name);
        Ok(Some(match raw {
            Raw::None | Raw::OptionalTensor(None) => Arg::None,
            Raw::Tensor(name) | Raw::OptionalTensor(Some(name)) => Arg::Tensor(tensor(name)?),
            Raw::Tensors(names) => Arg::Tensors(names.iter().map(tensor).collect::<Result<_, _>>()?),
            Raw::OptionalTensors(names) => {
                let optional = |name: &Option<String>| name.as_ref().map(tensor).transpose();
                Arg::OptionalTensors(names.iter().map(optional).collect::<Result<_, _>>()?)
            }
            Raw::Int(number) => Arg::Int(*number),
            Raw::Ints(numbers) => Arg::Ints(numbers.clone()),
            Raw::SymInt(number) => match self.sym_int(user, number)? {
                SymInt::Const(number) => Arg::Int(number),
                number @ SymInt::Value(_) => Arg::SymInt(number),
            },
            Raw::SymInts(numbers) => {
                let numbers = numbers.iter().map(|number| self.sym_int(user, number)).collect::<Result<Vec<_>, _>>()?;
                let literal = |number: &SymInt| match number {
                    SymInt::Const(number) => Some(*number),
                    SymInt::Value(_) => None,
                };
                numbers.iter().map(literal).collect::<Option<_>>().map_or_else(|| Arg::SymInts(numbers), Arg::Ints)
            }
            Raw::Float(number) => Arg::Float(*number),
            Raw::Floats(numbers) => Arg::Floats(numbers.clone()),
            Raw::SymFloat(number) => match self.sym_float(user, number)? {
                SymFloat::Const(number) => Arg::Float(number),
                SymFloat::Value(value) => Arg::SymFloat(value),
            },
            Raw::SymFloats(numbers) => {
                let numbers =
                    numbers.iter().map(|number| self.sym_float(user, number)).collect::<Result<Vec<_>, _>>()?;
                let literal = |number: &SymFloat| match number {
                    SymFloat::Const(number) => Some(*number),
                    SymFloat::Value(_) => None,
                };
                numbers.iter().map(literal).collect::<Option<_>>().map_or_else(|| Arg::SymFloats(numbers), Arg::Floats)
            }
            Raw::Bool(truth) | Raw::SymBool(schema::SymBool::Bool(truth)) => Arg::Bool(*truth),
            Raw::SymBool(schema::SymBool::Name(name)) => match self.resolve(user, name, Kind::Bool)? {
                Bound::Literal(number) => Arg::Bool(number.truth()),
                Bound::Value(value, _) => Arg::SymBool(value),
            },
            Raw::Bools(truths) => Arg::Bools(truths.clone()),
            Raw::Str(text) => Arg::Str(text.clone()),
            Raw::ScalarType(code) => Arg::Dtype(
                DType::from_schema(*code)
                    .map_err(|dtype| Error::UnsupportedDtype { place: user.to_string(), dtype })?,
            ),
            Raw::Layout(code) => Arg::Layout(
                Layout::from_schema(*code)
                    .ok_or_else(|| Error::UnsupportedLayout { place: user.to_string(), code: *code })?,
            ),
            Raw::MemoryFormat(code) => Arg::MemoryFormat(
                MemoryFormat::from_schema(*code)
                    .ok_or_else(|| Error::UnsupportedMemoryFormat { place: user.to_string(), code: *code })?,
            ),
            Raw::Device(schema::Device { kind, index: None }) => Arg::Device(kind.clone()),
            Raw::Device(schema::Device { kind, index: Some(index) }) => Arg::Device(format!("{kind}:{index}")),
            Raw::Graph(_) | Raw::Other(_) => return Ok(None),
        }))
    }

    fn sym_int(&self, user: User<'_>, number: &schema::SymInt) -> Result<SymInt, Error> {
        let name = match number {
            schema::SymInt::Int(number) => return Ok(SymInt::Const(*number)),
            schema::SymInt::Name(name) => name,
        };
        match self.resolve(user, name, Kind::Int)? {
            Bound::Value(value, _) => Ok(SymInt::Value(value)),
            Bound::Literal(number) => number.int().map(SymInt::Const).ok_or_else(|| wrong(user, name, Kind::Int)),
        }
    }

    fn sym_float(&self, user: User<'_>, number: &schema::SymFloat) -> Result<SymFloat, Error> {
        match number {
            schema::SymFloat::Float(number) => Ok(SymFloat::Const(number.0)),
            schema::SymFloat::Name(name) => Ok(match self.resolve(user, name, Kind::Float)? {
                Bound::Value(value, _) => SymFloat::Value(value),
                Bound::Literal(number) => SymFloat::Const(number.float()),
            }),
        }
    }

    /// Defines what a node returns.
    pub(super) fn outputs(&mut self, node: &str, raw: &'a [schema::Argument]) -> Result<Vec<Output>, Error> {
        raw.iter().enumerate().map(|(index, output)| self.output(node, index, output)).collect()
    }

    fn output(&mut self, node: &str, index: usize, output: &'a schema::Argument) -> Result<Output, Error> {
        use schema::Argument as Raw;
        Ok(match output {
            Raw::None | Raw::OptionalTensor(None) => Output::None,
            Raw::Tensor(name) | Raw::OptionalTensor(Some(name)) => Output::Tensor(self.define_tensor(name)?),
            Raw::Tensors(names) => {
                Output::Tensors(names.iter().map(|name| self.define_tensor(name)).collect::<Result<_, _>>()?)
            }
            Raw::SymInt(schema::SymInt::Name(name)) => Output::Int(self.define(name, Kind::Int, ValueKind::Int)?),
            Raw::SymFloat(schema::SymFloat::Name(name)) => {
                Output::Float(self.define(name, Kind::Float, ValueKind::Float)?)
            }
            Raw::SymBool(schema::SymBool::Name(name)) => {
                Output::Bool(self.define(name, Kind::Bool, ValueKind::Bool)?)
            }
            other => return Err(unsupported(node, "result", &index.to_string(), other.kind())),
        })
    }

    /// What a name of the current graph stands for, for another name of it.
    pub(super) fn bound(&self, user: User<'_>, name: &str) -> Result<Bound, Error> {
        let bound = self.frames.last().and_then(|frame| frame.names.get(name)).copied();
        bound.ok_or_else(|| Error::UndefinedValue { user: user.to_string(), value: name.to_owned() })
    }
}

impl Program {
    /// Removes arithmetic whose result nobody uses: what fed the assertions that were left out.
    pub(super) fn drop_unused_arithmetic(&mut self) {
        let mut used: HashSet<ValueId> = self.outputs.iter().copied().collect();
        drop_unused(&mut self.nodes, &mut used);
    }
}

fn drop_unused(nodes: &mut Vec<Node>, used: &mut HashSet<ValueId>) {
    // Backwards: whoever uses a value stands after the node that makes it.
    let mut kept = Vec::with_capacity(nodes.len());
    for mut node in std::mem::take(nodes).into_iter().rev() {
        if matches!(node.target, Target::Scalar(_)) && !node.defines().any(|value| used.contains(&value)) {
            continue;
        }
        for block in node.blocks_mut() {
            used.extend(block.results.iter().flat_map(Arg::values));
            drop_unused(&mut block.nodes, used);
        }
        used.extend(node.args.iter().flat_map(|(_, arg)| arg.values()));
        kept.push(node);
    }
    kept.reverse();
    *nodes = kept;
}

pub(super) fn node_name(raw: &schema::Node) -> &str {
    raw.name.as_deref().unwrap_or_else(|| match raw.outputs.first() {
        Some(schema::Argument::Tensor(name)) => name,
        _ => &raw.target,
    })
}

fn check_scalar(node: &str, op: ScalarOp, args: &[(String, Arg)], outputs: &[Output]) -> Result<(), Error> {
    if args.len() != op.arity() {
        return Err(Error::Arity {
            node: node.to_owned(),
            op: op.name().into(),
            found: args.len(),
            expected: op.arity(),
        });
    }
    let number = |arg: &Arg| {
        matches!(arg, Arg::Int(_) | Arg::SymInt(_) | Arg::Float(_) | Arg::SymFloat(_) | Arg::Bool(_) | Arg::SymBool(_))
    };
    let returns = matches!(outputs, [Output::Int(_) | Output::Float(_) | Output::Bool(_)]);
    if returns && args.iter().all(|(_, arg)| number(arg)) {
        return Ok(());
    }
    Err(Error::SymbolicNumber { node: node.to_owned(), op: op.name().into() })
}

/// Refuses what libtorch has no room for, before anybody copies it about.
pub(super) fn check_rank(sizes: &[schema::Size], place: impl FnOnce() -> String) -> Result<(), Error> {
    if sizes.len() > MOST_DIMENSIONS {
        return Err(Error::TooManyDimensions { place: place(), found: sizes.len(), most: MOST_DIMENSIONS });
    }
    Ok(())
}

fn wrong(user: User<'_>, name: &str, expected: Kind) -> Error {
    Error::WrongValue { user: user.to_string(), value: name.to_owned(), expected: expected.name() }
}

pub(super) fn unsupported(node: &str, role: &'static str, argument: &str, kind: &str) -> Error {
    Error::UnsupportedArgument { node: node.into(), role, argument: argument.into(), kind: kind.into() }
}

fn tensor_meta(name: &str, raw: &schema::TensorMeta) -> Result<TensorMeta, Error> {
    let place = || format!("the tensor {name}");
    check_rank(&raw.sizes, place)?;
    let dtype = DType::from_schema(raw.dtype).map_err(|dtype| Error::UnsupportedDtype { place: place(), dtype })?;
    if Layout::from_schema(raw.layout).is_none() {
        return Err(Error::UnsupportedLayout { place: place(), code: raw.layout });
    }
    let negative = raw.sizes.iter().find_map(|size| match size {
        schema::Size::Int(size) if *size < 0 => Some(*size),
        _ => None,
    });
    if let Some(size) = negative {
        return Err(Error::NegativeSize { place: place(), size });
    }
    let dim = |size: &schema::Size| match size {
        schema::Size::Int(size) => Dim::Static(*size),
        // One that cannot be read is told apart where somebody needs it: at the inputs.
        schema::Size::Expression { expr_str } => Dim::Symbolic {
            name: Expression::parse(expr_str).map_or_else(
                || expr_str.clone(),
                |expression| match expression {
                    Expression::Symbol(name) => name,
                    _ => expr_str.clone(),
                },
            ),
        },
    };
    Ok(TensorMeta { dtype, shape: raw.sizes.iter().map(dim).collect() })
}
