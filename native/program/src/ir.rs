//! The intermediate representation: a straight line of operator calls over numbered values.
//!
//! A [`Program`] is what every source of models becomes and what every rewrite works on. It promises:
//!
//! * **Order.** A node uses only values that inputs, weights or earlier nodes define; every value is defined once.
//! * **Kinds.** A [`ValueId`] in a tensor position names a tensor, one in a [`SymInt`] an integer, one in a [`SymFloat`]
//!   or [`Arg::SymFloat`] a float, one in [`Arg::SymBool`] a truth value.
//! * **Operators.** Every [`Target::Aten`] is on the list of [`crate::is_allowed`]; every [`Target::Scalar`] has as many
//!   arguments as its operation takes.
//! * **Blocks.** The two blocks of a [`Target::Cond`] number their values with the program's: they use what is defined
//!   before the node and what they define themselves, and nothing outside sees the latter. Both have as many results as
//!   the node has outputs.
//! * **Memory.** Every [`TensorData`] fits its bytes, and no two weights share memory: names of one tied tensor are
//!   `aliases` of one parameter or buffer, with one value.
//! * **Batch.** Dimension 0 of every input is symbolic: it counts rows, and any number of rows fits.
//!
//! Regions of the source (`torch.no_grad`, `torch.autocast`, checkpoints) are no graphs here: each node carries the
//! [`Scope`] it stands in. Values are dense (`0..program.values.len()`), so a runner can keep them in one `Vec`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use crate::dtype::{DType, Layout, MemoryFormat};
pub use crate::scalar::{Scalar, ScalarOp};
pub use crate::scope::{AutocastMode, GradMode, Scope};
pub use crate::tensor::{Bytes, TensorData};

/// A model: weights, and the operator calls that turn rows into predictions.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where the program came from.
    pub source: Source,
    /// What a caller feeds, in the order of the model's arguments.
    pub inputs: Vec<Input>,
    /// What an optimizer moves.
    pub parameters: Vec<Parameter>,
    /// State that nodes change in place, such as a batch norm's running mean.
    pub buffers: Vec<Buffer>,
    /// Tensors that nothing changes.
    pub constants: Vec<Constant>,
    /// The operator calls, in the order in which they run.
    pub nodes: Vec<Node>,
    /// The tensors that the model returns, flattened; the first one is the prediction unless a caller names another.
    /// What else it returns (numbers, `None`) is no output.
    pub outputs: Vec<ValueId>,
    /// One name for each of `outputs`: the keys of a returned dict or the fields of a returned dataclass that lead to it,
    /// joined by dots (`logits`, `losses.0`); the position where there is no such name.
    pub output_names: Vec<String>,
    /// Every value, at the index of its [`ValueId`].
    pub values: Vec<Value>,
    /// What the export knew about symbolic sizes, by the name in [`Dim::Symbolic`].
    pub ranges: BTreeMap<String, SizeRange>,
}

/// Where a program came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A `.pt2` archive written by `torch.export.save`.
    Pt2,
    /// A layer list.
    Layers,
}

/// The sizes a symbolic dimension may have, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    /// Smallest size, if bounded.
    pub min: Option<i64>,
    /// Largest size, if bounded.
    pub max: Option<i64>,
}

/// The index of a value in [`Program::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The index, for use with a `Vec` that is as long as [`Program::values`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One value: a tensor, or a number computed while the program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Name in the exported graph, for messages.
    pub name: String,
    /// What it is.
    pub kind: ValueKind,
}

impl Value {
    /// A tensor.
    #[must_use]
    pub fn tensor(name: String, meta: TensorMeta) -> Self {
        Self { name, kind: ValueKind::Tensor(meta) }
    }

    /// An integer.
    #[must_use]
    pub fn int(name: String) -> Self {
        Self { name, kind: ValueKind::Int }
    }

    /// Type and shape of a tensor; `None` for a number.
    #[must_use]
    pub fn meta(&self) -> Option<&TensorMeta> {
        match &self.kind {
            ValueKind::Tensor(meta) => Some(meta),
            ValueKind::Int | ValueKind::Float | ValueKind::Bool => None,
        }
    }
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueKind {
    /// A tensor of this type and shape.
    Tensor(TensorMeta),
    /// An integer, as a rule computed from sizes.
    Int,
    /// A float.
    Float,
    /// A truth value.
    Bool,
}

/// Type and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMeta {
    /// Element type.
    pub dtype: DType,
    /// Size of every dimension.
    pub shape: Vec<Dim>,
}

/// For messages: `float32 [s77, 64]`.
impl fmt::Display for TensorMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{} [{}]", self.dtype, sizes.join(", "))
    }
}

/// The size of one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A size that is always the same.
    Static(i64),
    /// A size that varies: the name of a symbol (`s77`), or an expression over symbols as the export wrote it; for the
    /// inputs of a program [`crate::Expression::parse`] reads either.
    Symbolic {
        /// Name or expression.
        name: String,
    },
}

impl Dim {
    /// The size, unless it varies.
    #[must_use]
    pub fn as_static(&self) -> Option<i64> {
        match self {
            Self::Static(size) => Some(*size),
            Self::Symbolic { .. } => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(size) => write!(f, "{size}"),
            Self::Symbolic { name } => f.write_str(name),
        }
    }
}

/// A tensor the caller feeds. Dimension 0 counts rows.
#[derive(Debug, Clone)]
pub struct Input {
    /// The value it becomes.
    pub value: ValueId,
    /// Name of the model's argument.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape with the batch first; at least one dimension.
    pub shape: Vec<Dim>,
}

/// A tensor the optimizer moves, unless it is frozen.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The value it becomes.
    pub value: ValueId,
    /// Name in the model's state, for example `encoder.0.weight`.
    pub name: String,
    /// Further names of the same tensor in the model's state (tied weights).
    pub aliases: Vec<String>,
    /// Whether it is trained.
    pub requires_grad: bool,
    /// The first value.
    pub tensor: TensorData,
}

/// A tensor that nodes change in place.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// The value it becomes.
    pub value: ValueId,
    /// Name in the model's state, for example `bn.running_mean`.
    pub name: String,
    /// Further names of the same tensor in the model's state (shared modules).
    pub aliases: Vec<String>,
    /// Whether it belongs to the model's saved state.
    pub persistent: bool,
    /// The first value.
    pub tensor: TensorData,
}

/// A tensor that nothing changes.
#[derive(Debug, Clone)]
pub struct Constant {
    /// The value it becomes.
    pub value: ValueId,
    /// Name in the archive.
    pub name: String,
    /// The value.
    pub tensor: TensorData,
}

/// One operator call.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name in the exported graph, for messages.
    pub name: String,
    /// What is called.
    pub target: Target,
    /// Arguments by the names of the operator's schema, in its order. One left out has the schema's default.
    pub args: Vec<(String, Arg)>,
    /// One entry per return of the operator's schema, in order.
    pub outputs: Vec<Output>,
    /// Where it stands.
    pub scope: Scope,
    /// The module that called it, by its path in the model (`encoder.layers.0.self_attn`), where the archive says so; of a
    /// layer list the layer, by its name or, in a sequence, its number.
    pub module: Option<Arc<str>>,
}

impl Node {
    /// The argument of that name, unless it was left out.
    #[must_use]
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|(key, _)| key == name).map(|(_, arg)| arg)
    }

    /// The operator's name without overload, if it is an ATen operator: `aten::linear`.
    #[must_use]
    pub fn aten(&self) -> Option<&str> {
        match &self.target {
            Target::Aten { name, .. } => Some(name),
            Target::Scalar(_) | Target::Cond { .. } => None,
        }
    }

    /// Whether the operator changes its first argument in place, by ATen's convention of a trailing underscore, or Python's of
    /// `__iand__`.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.aten().is_some_and(|name| (name.ends_with('_') && !name.ends_with("__")) || name.starts_with("aten::__i"))
    }
}

/// What a node calls.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// An operator of the ATen library, as its dispatcher names it.
    Aten {
        /// `aten::linear`.
        name: String,
        /// `Tensor`, `int`, …; empty for the default overload.
        overload: String,
    },
    /// Arithmetic on numbers. Arguments are literal numbers or values that are numbers; the one output is a number.
    Scalar(ScalarOp),
    /// `torch.cond`: runs the first block if the one argument, `predicate` (a tensor of one element, or a truth value),
    /// is true, and else the second.
    Cond {
        /// What runs if the predicate is true, and what runs if it is not.
        blocks: Box<[Block; 2]>,
    },
}

/// Nodes that run together, and what comes of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Block {
    /// The nodes, in the order in which they run.
    pub nodes: Vec<Node>,
    /// One for each output of the node that holds the block: a tensor, a number, or [`Arg::None`].
    pub results: Vec<Arg>,
}

/// An argument of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// A tensor.
    Tensor(ValueId),
    /// A list of tensors.
    Tensors(Vec<ValueId>),
    /// A list of tensors with gaps, such as the indices of `x[:, i]`.
    OptionalTensors(Vec<Option<ValueId>>),
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// An integer computed while the program runs.
    SymInt(SymInt),
    /// A list of integers of which at least one is computed while the program runs.
    SymInts(Vec<SymInt>),
    /// A number.
    Float(f64),
    /// A list of numbers.
    Floats(Vec<f64>),
    /// A float computed while the program runs.
    SymFloat(ValueId),
    /// A list of floats of which at least one is computed while the program runs.
    SymFloats(Vec<SymFloat>),
    /// A truth value.
    Bool(bool),
    /// A truth value computed while the program runs.
    SymBool(ValueId),
    /// A list of truth values.
    Bools(Vec<bool>),
    /// No value, for an optional argument.
    None,
    /// A text, such as an equation of `einsum`.
    Str(String),
    /// An element type.
    Dtype(DType),
    /// A memory layout.
    Layout(Layout),
    /// A memory format.
    MemoryFormat(MemoryFormat),
    /// The device of the machine that exported the program (`cpu`, `cuda:0`): a runner puts its own in its place.
    Device(String),
}

/// An integer that is a value of the program, or a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SymInt {
    /// Computed by an earlier node.
    Value(ValueId),
    /// Written in the program.
    Const(i64),
}

/// A float that is a value of the program, or a literal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SymFloat {
    /// Computed by an earlier node.
    Value(ValueId),
    /// Written in the program.
    Const(f64),
}

/// What becomes of one return of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The return is a tensor.
    Tensor(ValueId),
    /// The return is one list of tensors, of exactly this length (`split`, `unbind`).
    Tensors(Vec<ValueId>),
    /// The return is an integer (`sym_size`).
    Int(ValueId),
    /// The return is a float (`item` of a float tensor).
    Float(ValueId),
    /// The return is a truth value (`item` of a bool tensor).
    Bool(ValueId),
    /// The return is no tensor, or an undefined one; nothing uses it.
    None,
}

impl Output {
    /// The values it defines.
    #[must_use]
    pub fn values(&self) -> &[ValueId] {
        match self {
            Self::Tensor(value) | Self::Int(value) | Self::Float(value) | Self::Bool(value) => {
                std::slice::from_ref(value)
            }
            Self::Tensors(values) => values,
            Self::None => &[],
        }
    }
}

impl Program {
    /// A value's name and meta; `None` if the id belongs to another program.
    #[must_use]
    pub fn value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.index())
    }

    /// A value's type and shape; `None` if it is a number.
    #[must_use]
    pub fn meta(&self, id: ValueId) -> Option<&TensorMeta> {
        self.value(id).and_then(Value::meta)
    }
}
