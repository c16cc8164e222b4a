//! From the archive's named graph to numbered values and checked nodes.
//!
//! Names become [`ValueId`]s as they are defined, so a use before its definition cannot get through. Assertions of the
//! export are left out, with the comparisons that only feed them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::schema;
use crate::allow;
use crate::dtype::{DType, Layout, MemoryFormat};
use crate::error::Error;
use crate::ir::{Arg, Dim, Node, Output, SymInt, Target, TensorMeta, Value, ValueId};
use crate::scalar::ScalarOp;

/// Numbers the values of one graph.
#[derive(Debug)]
pub(super) struct Graph<'a> {
    metas: &'a BTreeMap<String, schema::TensorMeta>,
    values: Vec<Value>,
    names: HashMap<String, (ValueId, Kind)>,
    /// Truth values that only assertions used.
    dropped: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tensor,
    Int,
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
            Self::Argument { node, name } => write!(f, "argument {name} of node {node}"),
            Self::Output { index } => write!(f, "output {index} of the program"),
        }
    }
}

impl<'a> Graph<'a> {
    pub(super) fn new(metas: &'a BTreeMap<String, schema::TensorMeta>) -> Self {
        Self { metas, values: Vec::new(), names: HashMap::new(), dropped: HashSet::new() }
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }

    /// A new tensor value, with the meta the archive states for that name.
    pub(super) fn define_tensor(&mut self, name: &str) -> Result<ValueId, Error> {
        let meta = self.metas.get(name).ok_or_else(|| Error::MissingMeta { value: name.to_owned() })?;
        let meta = tensor_meta(name, meta)?;
        self.define(name, Kind::Tensor, Some(meta))
    }

    /// Another name of a value.
    pub(super) fn alias(&mut self, name: &str, value: ValueId) -> Result<(), Error> {
        match self.names.insert(name.to_owned(), (value, Kind::Tensor)) {
            None => Ok(()),
            Some(_) => Err(Error::DuplicateValue { value: name.to_owned() }),
        }
    }

    /// The meta of a value defined here.
    pub(super) fn meta(&self, id: ValueId) -> Option<&TensorMeta> {
        self.values.get(id.index()).and_then(|value| value.meta.as_ref())
    }

    /// The tensor of that name.
    pub(super) fn tensor(&self, user: User<'_>, name: &str) -> Result<ValueId, Error> {
        self.resolve(user, name, Kind::Tensor)
    }

    /// Converts a node; `None` if it is an assertion.
    pub(super) fn node(&mut self, raw: &schema::Node) -> Result<Option<Node>, Error> {
        let name = node_name(raw);
        let target = match target(name, &raw.target)? {
            Callee::Run(target) => target,
            Callee::Assertion => {
                for output in &raw.outputs {
                    if let schema::Argument::SymBool(schema::SymBool::Name(value)) = output {
                        self.dropped.insert(value.clone());
                    }
                }
                return Ok(None);
            }
        };
        let args = raw
            .inputs
            .iter()
            .map(|input| Ok((input.name.clone(), self.argument(name, input)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        if let Target::Scalar(op) = target {
            check_scalar(name, op, &args)?;
        }
        let outputs = raw
            .outputs
            .iter()
            .enumerate()
            .map(|(index, output)| self.output(name, index, output))
            .collect::<Result<Vec<_>, Error>>()?;
        if matches!(target, Target::Scalar(_)) && !matches!(outputs.as_slice(), [Output::Int(_)]) {
            return Err(Error::SymbolicNumber { node: name.to_owned(), op: raw.target.clone() });
        }
        Ok(Some(Node { name: name.to_owned(), target, args, outputs }))
    }

    fn define(&mut self, name: &str, kind: Kind, meta: Option<TensorMeta>) -> Result<ValueId, Error> {
        // A graph with 2^32 values would not fit any memory this is read into.
        let id = ValueId(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        if self.names.insert(name.to_owned(), (id, kind)).is_some() {
            return Err(Error::DuplicateValue { value: name.to_owned() });
        }
        self.values.push(Value { name: name.to_owned(), meta });
        Ok(id)
    }

    fn resolve(&self, user: User<'_>, name: &str, expected: Kind) -> Result<ValueId, Error> {
        match self.names.get(name) {
            Some(&(id, kind)) if kind == expected => Ok(id),
            Some(_) => Err(Error::WrongValue {
                user: user.to_string(),
                value: name.to_owned(),
                expected: match expected {
                    Kind::Tensor => "a tensor",
                    Kind::Int => "an integer",
                },
            }),
            None => Err(Error::UndefinedValue { user: user.to_string(), value: name.to_owned() }),
        }
    }

    fn argument(&self, node: &str, input: &schema::NamedArgument) -> Result<Arg, Error> {
        use schema::Argument as Raw;
        let user = User::Argument { node, name: &input.name };
        let tensor = |name: &String| self.tensor(user, name);
        let refused = |kind: &str| unsupported(node, "argument", &input.name, kind);
        Ok(match &input.arg {
            Raw::None | Raw::OptionalTensor(None) => Arg::None,
            Raw::Tensor(name) | Raw::OptionalTensor(Some(name)) => Arg::Tensor(tensor(name)?),
            Raw::Tensors(names) => Arg::Tensors(names.iter().map(tensor).collect::<Result<_, _>>()?),
            Raw::OptionalTensors(names) => {
                let optional = |name: &Option<String>| name.as_ref().map(tensor).transpose();
                Arg::OptionalTensors(names.iter().map(optional).collect::<Result<_, _>>()?)
            }
            Raw::Int(number) | Raw::SymInt(schema::SymInt::Int(number)) => Arg::Int(*number),
            Raw::Ints(numbers) => Arg::Ints(numbers.clone()),
            Raw::SymInt(schema::SymInt::Name(name)) => {
                Arg::SymInt(SymInt::Value(self.resolve(user, name, Kind::Int)?))
            }
            Raw::SymInts(numbers) => self.sym_ints(user, numbers)?,
            Raw::Float(number) => Arg::Float(*number),
            Raw::Floats(numbers) => Arg::Floats(numbers.clone()),
            Raw::SymFloat(schema::SymFloat::Float(number)) => Arg::Float(number.0),
            Raw::Bool(truth) | Raw::SymBool(schema::SymBool::Bool(truth)) => Arg::Bool(*truth),
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
            // Truth values and floats computed from sizes: nothing here computes them.
            raw @ (Raw::SymFloat(_) | Raw::SymBool(_) | Raw::Graph | Raw::Other(_)) => return Err(refused(raw.kind())),
        })
    }

    fn sym_ints(&self, user: User<'_>, numbers: &[schema::SymInt]) -> Result<Arg, Error> {
        let literal = |number: &schema::SymInt| match number {
            schema::SymInt::Int(number) => Some(*number),
            schema::SymInt::Name(_) => None,
        };
        if let Some(literals) = numbers.iter().map(literal).collect() {
            return Ok(Arg::Ints(literals));
        }
        let number = |number: &schema::SymInt| match number {
            schema::SymInt::Int(number) => Ok(SymInt::Const(*number)),
            schema::SymInt::Name(name) => self.resolve(user, name, Kind::Int).map(SymInt::Value),
        };
        numbers.iter().map(number).collect::<Result<_, _>>().map(Arg::SymInts)
    }

    fn output(&mut self, node: &str, index: usize, output: &schema::Argument) -> Result<Output, Error> {
        use schema::Argument as Raw;
        Ok(match output {
            Raw::None | Raw::OptionalTensor(None) => Output::None,
            Raw::Tensor(name) | Raw::OptionalTensor(Some(name)) => Output::Tensor(self.define_tensor(name)?),
            Raw::Tensors(names) => {
                Output::Tensors(names.iter().map(|name| self.define_tensor(name)).collect::<Result<_, _>>()?)
            }
            Raw::SymInt(schema::SymInt::Name(name)) => Output::Int(self.define(name, Kind::Int, None)?),
            other => return Err(unsupported(node, "result", &index.to_string(), other.kind())),
        })
    }
}

/// What a node's target asks for.
enum Callee {
    Run(Target),
    Assertion,
}

fn target(node: &str, raw: &str) -> Result<Callee, Error> {
    let forbidden = |op: String| Err(Error::ForbiddenOp { node: node.to_owned(), op });
    if let Some(op) = ScalarOp::from_target(raw) {
        return Ok(Callee::Run(Target::Scalar(op)));
    }
    if matches!(
        raw,
        "_operator.eq"
            | "_operator.ne"
            | "_operator.lt"
            | "_operator.le"
            | "_operator.gt"
            | "_operator.ge"
            | "_operator.and_"
            | "_operator.or_"
            | "torch.sym_not"
    ) {
        // Truth values feed assertions and nothing else; a node that uses one in another way is refused.
        return Ok(Callee::Assertion);
    }
    if ["_operator.", "math.", "torch.sym_"].iter().any(|prefix| raw.starts_with(prefix)) {
        return Err(Error::SymbolicNumber { node: node.to_owned(), op: raw.to_owned() });
    }
    let mut parts = raw.strip_prefix("torch.ops.").unwrap_or(raw).splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("higher_order"), ..) => {
            Err(Error::HigherOrder { node: node.to_owned(), op: raw.to_owned(), hint: hint(raw) })
        }
        (Some("aten"), Some(name), Some(_)) if allow::is_assertion(name) => Ok(Callee::Assertion),
        (Some("aten"), Some(name), Some(overload)) => {
            let name = format!("aten::{name}");
            let overload = if overload == "default" { "" } else { overload };
            // An out= overload writes into, and may re-allocate, a tensor of its caller's; export never writes one.
            if allow::is_allowed(&name) && overload != "out" && !overload.ends_with("_out") {
                return Ok(Callee::Run(Target::Aten { name, overload: overload.to_owned() }));
            }
            let dot = if overload.is_empty() { "" } else { "." };
            forbidden(format!("{name}{dot}{overload}"))
        }
        _ => forbidden(raw.to_owned()),
    }
}

/// What to write instead of a higher-order operator.
fn hint(op: &str) -> &'static str {
    match op.rsplit('.').next() {
        Some("wrap_with_set_grad_enabled") => "use detach() in place of torch.no_grad() inside the model",
        Some("wrap_with_autocast") => "leave torch.autocast out of the model",
        Some("cond") => "use torch.where in place of torch.cond",
        _ => "write the model without it",
    }
}

fn node_name(raw: &schema::Node) -> &str {
    raw.name.as_deref().unwrap_or_else(|| match raw.outputs.first() {
        Some(schema::Argument::Tensor(name)) => name,
        _ => &raw.target,
    })
}

fn check_scalar(node: &str, op: ScalarOp, args: &[(String, Arg)]) -> Result<(), Error> {
    if args.len() != op.arity() {
        return Err(Error::Arity {
            node: node.to_owned(),
            op: op.name().into(),
            found: args.len(),
            expected: op.arity(),
        });
    }
    match args.iter().find(|(_, arg)| !matches!(arg, Arg::Int(_) | Arg::SymInt(_))) {
        None => Ok(()),
        Some(_) => Err(Error::SymbolicNumber { node: node.to_owned(), op: op.name().into() }),
    }
}

fn unsupported(node: &str, role: &'static str, argument: &str, kind: &str) -> Error {
    Error::UnsupportedArgument { node: node.into(), role, argument: argument.into(), kind: kind.into() }
}

fn tensor_meta(name: &str, raw: &schema::TensorMeta) -> Result<TensorMeta, Error> {
    let place = || format!("the tensor {name}");
    let dtype = DType::from_schema(raw.dtype).map_err(|dtype| Error::UnsupportedDtype { place: place(), dtype })?;
    if Layout::from_schema(raw.layout).is_none() {
        return Err(Error::UnsupportedLayout { place: place(), code: raw.layout });
    }
    let dim = |size: &schema::Size| match size {
        schema::Size::Int(size) => Dim::Static(*size),
        schema::Size::Expression { expr_str } => {
            Dim::Symbolic { name: symbol(expr_str).unwrap_or(expr_str).to_owned() }
        }
    };
    Ok(TensorMeta { dtype, shape: raw.sizes.iter().map(dim).collect() })
}

/// `s77` of `Symbol('s77', positive=True, integer=True)`; `None` for anything that is more than one symbol.
fn symbol(expression: &str) -> Option<&str> {
    let (name, rest) = expression.strip_prefix("Symbol('")?.split_once('\'')?;
    rest.strip_suffix(')').filter(|flags| !flags.contains(['(', ')'])).map(|_| name)
}

/// Whether a symbolic size is one plain symbol, so that it can be any number.
pub(super) fn is_symbol(name: &str) -> bool {
    !name.contains(['(', '*', '+', ' '])
}
