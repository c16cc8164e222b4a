//! The intermediate representation: a straight line of operator calls over numbered values.
//!
//! A [`Program`] is what every source of models becomes and what every rewrite works on. It promises:
//!
//! * **Order.** A node uses only values that inputs, weights or earlier nodes define; every value is defined once.
//! * **Kinds.** A [`ValueId`] in a tensor position names a tensor, one in a [`SymInt`] names an integer.
//! * **Operators.** Every [`Target::Aten`] is on the list of [`crate::is_allowed`]; every [`Target::Scalar`] has the
//!   arguments its operation takes.
//! * **Memory.** Every [`TensorData`] fits its bytes, and no two weights share memory: names of one tied tensor are
//!   `aliases` of one parameter or buffer, with one value.
//! * **Batch.** Dimension 0 of every input is symbolic: it counts rows, and any number of rows fits.
//!
//! Values are dense (`0..program.values.len()`), so a runner can keep them in one `Vec`.

use std::collections::BTreeMap;
use std::fmt;

pub use crate::dtype::{DType, Layout, MemoryFormat};
pub use crate::scalar::ScalarOp;
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
    /// What the model returns; the first one is the prediction.
    pub outputs: Vec<ValueId>,
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

/// One value: a tensor, or an integer computed from sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Name in the exported graph, for messages.
    pub name: String,
    /// Type and shape of a tensor; `None` for an integer.
    pub meta: Option<TensorMeta>,
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
    /// A size that varies: the name of a symbol (`s77`), or an expression over symbols as the export wrote it.
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
            Target::Scalar(_) => None,
        }
    }

    /// Whether the operator changes its first argument in place, by ATen's convention of a trailing underscore.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.aten().is_some_and(|name| name.ends_with('_') && !name.ends_with("__"))
    }
}

/// What a node calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An operator of the ATen library, as its dispatcher names it.
    Aten {
        /// `aten::linear`.
        name: String,
        /// `Tensor`, `int`, …; empty for the default overload.
        overload: String,
    },
    /// Arithmetic on sizes. Arguments are [`Arg::Int`] or [`Arg::SymInt`], the one output is [`Output::Int`].
    Scalar(ScalarOp),
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
    /// A truth value.
    Bool(bool),
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

/// What becomes of one return of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The return is a tensor.
    Tensor(ValueId),
    /// The return is one list of tensors, of exactly this length (`split`, `unbind`).
    Tensors(Vec<ValueId>),
    /// The return is an integer (`sym_size`).
    Int(ValueId),
    /// The return is no tensor, or an undefined one; nothing uses it.
    None,
}

impl Output {
    /// The values it defines.
    #[must_use]
    pub fn values(&self) -> &[ValueId] {
        match self {
            Self::Tensor(value) | Self::Int(value) => std::slice::from_ref(value),
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

    /// A value's type and shape; `None` if it is an integer.
    #[must_use]
    pub fn meta(&self, id: ValueId) -> Option<&TensorMeta> {
        self.value(id).and_then(|value| value.meta.as_ref())
    }
}
