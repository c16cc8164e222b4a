//! The JSON of `models/<name>.json` and of the weight lists, as `torch/_export/serde/schema.py` defines it.
//!
//! Only what a program needs is read. Within one major version PyTorch adds fields and kinds: unknown *fields* are
//! skipped, as its own reader does, but an unknown *kind* of argument, input or output is kept by name, so that it can
//! be refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

#[derive(Debug, Deserialize)]
pub(super) struct ExportedProgram {
    pub(super) graph_module: GraphModule,
    #[serde(default)]
    pub(super) opset_version: BTreeMap<String, i64>,
    #[serde(default)]
    pub(super) range_constraints: BTreeMap<String, RangeConstraint>,
    #[serde(default)]
    pub(super) verifiers: Vec<String>,
}

/// Read first and alone: everything else may differ in another major version.
#[derive(Debug, Deserialize)]
pub(super) struct Versioned {
    pub(super) schema_version: SchemaVersion,
}

#[derive(Debug, Deserialize)]
pub(super) struct SchemaVersion {
    pub(super) major: i64,
    pub(super) minor: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct RangeConstraint {
    pub(super) min_val: Option<i64>,
    pub(super) max_val: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct GraphModule {
    pub(super) graph: Graph,
    pub(super) signature: Signature,
    #[serde(default)]
    pub(super) module_call_graph: Vec<ModuleCall>,
    #[serde(default)]
    pub(super) treespec_namedtuple_fields: BTreeMap<String, NamedTuple>,
}

/// How a module of the model is called; the one without a name is the model.
#[derive(Debug, Deserialize)]
pub(super) struct ModuleCall {
    pub(super) fqn: String,
    pub(super) signature: Option<CallSignature>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CallSignature {
    pub(super) out_spec: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedTuple {
    pub(super) field_names: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    #[serde(default)]
    pub(super) inputs: Vec<Argument>,
    #[serde(default)]
    pub(super) outputs: Vec<Argument>,
    pub(super) nodes: Vec<Node>,
    pub(super) tensor_values: BTreeMap<String, TensorMeta>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) target: String,
    pub(super) inputs: Vec<NamedArgument>,
    pub(super) outputs: Vec<Argument>,
    pub(super) name: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

/// What the exporter notes beside a node; all but this is for Python.
#[derive(Debug, Default, Deserialize)]
struct Metadata {
    /// The modules around the call, outermost first: `key,path,type;key,path,type`.
    #[serde(default)]
    nn_module_stack: String,
}

impl Node {
    /// The path of the innermost module, without the count of its calls (`layers.0@1`).
    pub(super) fn module(&self) -> Option<Arc<str>> {
        let innermost = self.metadata.nn_module_stack.rsplit(';').next()?;
        let path = innermost.split(',').nth(1)?.split('@').next()?;
        // A node that no module called is marked by a word of the exporter's own.
        (!path.is_empty() && !path.starts_with("_empty_nn_module_stack")).then(|| path.into())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedArgument {
    pub(super) name: String,
    pub(super) arg: Argument,
}

#[derive(Debug, Deserialize)]
pub(super) struct Signature {
    pub(super) input_specs: Vec<InputSpec>,
    pub(super) output_specs: Vec<OutputSpec>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TensorMeta {
    pub(super) dtype: i64,
    pub(super) sizes: Vec<Size>,
    #[serde(default)]
    pub(super) requires_grad: bool,
    pub(super) strides: Vec<Size>,
    pub(super) storage_offset: Size,
    pub(super) layout: i64,
    pub(super) device: Option<Device>,
}

#[derive(Debug, Deserialize)]
pub(super) enum Size {
    #[serde(rename = "as_expr")]
    Expression { expr_str: String },
    #[serde(rename = "as_int")]
    Int(i64),
}

#[derive(Debug, Deserialize)]
pub(super) struct Name {
    pub(super) name: String,
}

/// `data/weights/<name>_weights_config.json` and its sister for constants.
#[derive(Debug, Deserialize)]
pub(super) struct PayloadConfig {
    pub(super) config: BTreeMap<String, Payload>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    pub(super) path_name: String,
    #[serde(default)]
    pub(super) use_pickle: bool,
    pub(super) tensor_meta: Option<TensorMeta>,
}

/// One of PyTorch's tagged unions: an object with exactly one key, its kind.
trait Union: Sized {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error>;
}

struct UnionVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Union> Visitor<'de> for UnionVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one key, its kind")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let kind: String = map.next_key()?.ok_or_else(|| A::Error::custom("an empty union"))?;
        let value = T::read(&kind, &mut map)?;
        match map.next_key::<String>()? {
            None => Ok(value),
            Some(second) => Err(A::Error::custom(format_args!("a union of kind {kind} that is also {second}"))),
        }
    }
}

macro_rules! union {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(UnionVisitor(std::marker::PhantomData))
            }
        }
    )*};
}

union!(Argument, InputSpec, OutputSpec);

/// A node's argument or result. A kind Kindling has no use for keeps only its name.
#[derive(Debug)]
pub(super) enum Argument {
    None,
    Tensor(String),
    Tensors(Vec<String>),
    OptionalTensor(Option<String>),
    OptionalTensors(Vec<Option<String>>),
    Int(i64),
    Ints(Vec<i64>),
    SymInt(SymInt),
    SymInts(Vec<SymInt>),
    Float(f64),
    Floats(Vec<f64>),
    SymFloat(SymFloat),
    SymFloats(Vec<SymFloat>),
    Bool(bool),
    Bools(Vec<bool>),
    SymBool(SymBool),
    Str(String),
    ScalarType(i64),
    MemoryFormat(i64),
    Layout(i64),
    Device(Device),
    Graph(Box<Graph>),
    Other(String),
}

impl Argument {
    /// The kind as the archive names it.
    pub(super) fn kind(&self) -> &str {
        match self {
            Self::None => "as_none",
            Self::Tensor(_) => "as_tensor",
            Self::Tensors(_) => "as_tensors",
            Self::OptionalTensor(_) => "as_optional_tensor",
            Self::OptionalTensors(_) => "as_optional_tensors",
            Self::Int(_) => "as_int",
            Self::Ints(_) => "as_ints",
            Self::SymInt(_) => "as_sym_int",
            Self::SymInts(_) => "as_sym_ints",
            Self::Float(_) => "as_float",
            Self::Floats(_) => "as_floats",
            Self::SymFloat(_) => "as_sym_float",
            Self::SymFloats(_) => "as_sym_floats",
            Self::Bool(_) => "as_bool",
            Self::Bools(_) => "as_bools",
            Self::SymBool(_) => "as_sym_bool",
            Self::Str(_) => "as_string",
            Self::ScalarType(_) => "as_scalar_type",
            Self::MemoryFormat(_) => "as_memory_format",
            Self::Layout(_) => "as_layout",
            Self::Device(_) => "as_device",
            Self::Graph(_) => "as_graph",
            Self::Other(kind) => kind,
        }
    }

    pub(super) fn graph(&self) -> Option<&Graph> {
        match self {
            Self::Graph(graph) => Some(graph),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
struct NamedGraph {
    graph: Box<Graph>,
}

impl Union for Argument {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        Ok(match kind {
            "as_none" => map.next_value::<IgnoredAny>().map(|_| Self::None)?,
            "as_tensor" => Self::Tensor(map.next_value::<Name>()?.name),
            "as_tensors" => Self::Tensors(map.next_value::<Vec<Name>>()?.into_iter().map(|name| name.name).collect()),
            "as_optional_tensor" => Self::OptionalTensor(map.next_value::<OptionalTensor>()?.into()),
            "as_optional_tensors" => {
                Self::OptionalTensors(map.next_value::<Vec<OptionalTensor>>()?.into_iter().map(Into::into).collect())
            }
            "as_int" => Self::Int(map.next_value()?),
            "as_ints" => Self::Ints(map.next_value()?),
            "as_sym_int" => Self::SymInt(map.next_value()?),
            "as_sym_ints" => Self::SymInts(map.next_value()?),
            "as_float" => Self::Float(map.next_value::<Float>()?.0),
            "as_floats" => Self::Floats(map.next_value::<Vec<Float>>()?.into_iter().map(|float| float.0).collect()),
            "as_sym_float" => Self::SymFloat(map.next_value()?),
            "as_sym_floats" => Self::SymFloats(map.next_value()?),
            "as_bool" => Self::Bool(map.next_value()?),
            "as_bools" => Self::Bools(map.next_value()?),
            "as_sym_bool" => Self::SymBool(map.next_value()?),
            "as_string" => Self::Str(map.next_value()?),
            "as_scalar_type" => Self::ScalarType(map.next_value()?),
            "as_memory_format" => Self::MemoryFormat(map.next_value()?),
            "as_layout" => Self::Layout(map.next_value()?),
            "as_device" => Self::Device(map.next_value()?),
            "as_graph" => Self::Graph(map.next_value::<NamedGraph>()?.graph),
            other => map.next_value::<IgnoredAny>().map(|_| Self::Other(other.to_owned()))?,
        })
    }
}

#[derive(Debug, Deserialize)]
enum OptionalTensor {
    #[serde(rename = "as_tensor")]
    Tensor(Name),
    #[serde(rename = "as_none")]
    None(IgnoredAny),
}

impl From<OptionalTensor> for Option<String> {
    fn from(tensor: OptionalTensor) -> Self {
        match tensor {
            OptionalTensor::Tensor(name) => Some(name.name),
            OptionalTensor::None(_) => None,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) enum SymInt {
    #[serde(rename = "as_name")]
    Name(String),
    #[serde(rename = "as_int")]
    Int(i64),
}

#[derive(Debug, Deserialize)]
pub(super) enum SymFloat {
    #[serde(rename = "as_name")]
    Name(String),
    #[serde(rename = "as_float")]
    Float(Float),
}

#[derive(Debug, Deserialize)]
pub(super) enum SymBool {
    #[serde(rename = "as_name")]
    Name(String),
    #[serde(rename = "as_bool")]
    Bool(bool),
}

#[derive(Debug, Deserialize)]
pub(super) struct Device {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) index: Option<i64>,
}

/// A number; JSON has no word for the infinite ones, so PyTorch writes them as strings.
#[derive(Debug)]
pub(super) struct Float(pub(super) f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FloatVisitor;

        impl Visitor<'_> for FloatVisitor {
            type Value = Float;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"Infinity\", \"-Infinity\" or \"NaN\"")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Float, E> {
                Ok(Float(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Float, E> {
                match value {
                    "Infinity" => Ok(Float(f64::INFINITY)),
                    "-Infinity" => Ok(Float(f64::NEG_INFINITY)),
                    "NaN" => Ok(Float(f64::NAN)),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }
        }

        deserializer.deserialize_any(FloatVisitor)
    }
}

/// What an input of the graph stands for.
#[derive(Debug)]
pub(super) enum InputSpec {
    User(Argument),
    Parameter {
        value: String,
        name: String,
    },
    Buffer {
        value: String,
        name: String,
        persistent: bool,
    },
    Constant {
        value: String,
        name: String,
    },
    /// A Python value, baked into the graph when the program was exported.
    Baked,
    Other(String),
}

impl Union for InputSpec {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        struct User {
            arg: Argument,
        }
        #[derive(Deserialize)]
        struct Parameter {
            arg: Name,
            parameter_name: String,
        }
        #[derive(Deserialize)]
        struct Buffer {
            arg: Name,
            buffer_name: String,
            persistent: bool,
        }
        #[derive(Deserialize)]
        struct Constant {
            arg: Name,
            tensor_constant_name: String,
        }
        Ok(match kind {
            "user_input" => Self::User(map.next_value::<User>()?.arg),
            "parameter" => {
                let Parameter { arg, parameter_name } = map.next_value()?;
                Self::Parameter { value: arg.name, name: parameter_name }
            }
            "buffer" => {
                let Buffer { arg, buffer_name, persistent } = map.next_value()?;
                Self::Buffer { value: arg.name, name: buffer_name, persistent }
            }
            "tensor_constant" => {
                let Constant { arg, tensor_constant_name } = map.next_value()?;
                Self::Constant { value: arg.name, name: tensor_constant_name }
            }
            "constant_input" => map.next_value::<IgnoredAny>().map(|_| Self::Baked)?,
            other => map.next_value::<IgnoredAny>().map(|_| Self::Other(other.to_owned()))?,
        })
    }
}

/// What an output of the graph stands for.
#[derive(Debug)]
pub(super) enum OutputSpec {
    User(Argument),
    Other(String),
}

impl Union for OutputSpec {
    fn read<'de, A: MapAccess<'de>>(kind: &str, map: &mut A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        struct User {
            arg: Argument,
        }
        Ok(match kind {
            "user_output" => Self::User(map.next_value::<User>()?.arg),
            other => map.next_value::<IgnoredAny>().map(|_| Self::Other(other.to_owned()))?,
        })
    }
}
