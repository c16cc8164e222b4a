//! A program as `torch.export` would have written it.
//!
//! For programs that were no archive before. Weights come out contiguous, under their own names; the model takes its
//! inputs as plain arguments and returns its output, or a tuple of several. Results between nodes are described as
//! row-major: torch works their strides out again wherever it uses them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

use serde_json::{Map, Value as Json, json};

use super::RECORDS;
use super::size::{Size, row_major};
use super::trained::Trained;
use super::zip::Zip;
use crate::dtype::{DType, Layout};
use crate::error::Error;
use crate::ir::{Arg, Dim, Node, Output, Program, Scope, SymInt, Target, TensorMeta, ValueId};
use crate::pt2::{DIALECT, OPSET, SCHEMA_MAJOR};
use crate::tensor::TensorData;

/// The oldest minor version of the schema that has every word used here; readers skip what they do not know.
const SCHEMA_MINOR: i64 = 8;
/// `torch.export.load` tells programs of torch before 2.4 by the lack of this.
const TORCH: &str = "2.11.0";

pub(super) fn write<W: Write>(program: &Program, trained: &Trained<'_>, zip: &mut Zip<W>) -> Result<(), Error> {
    let writer = Writer::new(program)?;
    let mut weights = Folder::new("data/weights", "weight_");
    let mut constants = Folder::new("data/constants", "tensor_");
    for parameter in &program.parameters {
        let names = std::iter::once(&parameter.name).chain(&parameter.aliases);
        let value = trained.values(&parameter.name);
        weights.add(zip, names, &parameter.tensor, value, Some(parameter.requires_grad))?;
    }
    for buffer in &program.buffers {
        let names = std::iter::once(&buffer.name).chain(&buffer.aliases);
        let folder = if buffer.persistent { &mut weights } else { &mut constants };
        folder.add(zip, names, &buffer.tensor, trained.values(&buffer.name), None)?;
    }
    for constant in &program.constants {
        constants.add(zip, std::iter::once(&constant.name), &constant.tensor, None, None)?;
    }
    zip.entry("data/weights/model_weights_config.json", &weights.config()?)?;
    zip.entry("data/constants/model_constants_config.json", &constants.config()?)?;
    zip.entry("models/model.json", &text(&writer.model()?)?)?;
    // No example inputs: torch.export.load takes nothing for none.
    zip.entry("data/sample_inputs/model.pt", &[])?;
    zip.entry("archive_format", b"pt2")?;
    zip.entry("archive_version", b"0")?;
    zip.entry(".data/version", RECORDS)?;
    zip.entry("byteorder", b"little")
}

fn text(json: &Json) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(json).map_err(|error| unwritable(error.to_string()))
}

fn unwritable(problem: String) -> Error {
    Error::Unwritable { problem }
}

/// The storages of one folder, and their list.
struct Folder {
    path: &'static str,
    prefix: &'static str,
    config: Map<String, Json>,
    files: usize,
}

impl Folder {
    fn new(path: &'static str, prefix: &'static str) -> Self {
        Self { path, prefix, config: Map::new(), files: 0 }
    }

    /// Writes a tensor; `requires_grad` is given for a parameter.
    fn add<'n, W: Write>(
        &mut self,
        zip: &mut Zip<W>,
        names: impl Iterator<Item = &'n String>,
        tensor: &TensorData,
        trained: Option<&[u8]>,
        requires_grad: Option<bool>,
    ) -> Result<(), Error> {
        let file = format!("{}{}", self.prefix, self.files);
        self.files += 1;
        let sizes: Vec<Size> = tensor.sizes.iter().copied().map(Size::Number).collect();
        let meta = meta_json(tensor.dtype, &sizes, requires_grad.unwrap_or(false))?;
        let mut last = None;
        for name in names {
            let is_param = requires_grad.is_some();
            let entry = json!({"path_name": file, "is_param": is_param, "use_pickle": false, "tensor_meta": meta});
            if self.config.insert(in_module(name), entry).is_some() {
                return Err(unwritable(format!("two weights would be named {}", in_module(name))));
            }
            last = Some(name);
        }
        let Some(values) = trained.or_else(|| tensor.contiguous_bytes()) else {
            return Err(unwritable(format!("{} is not contiguous", last.map_or("a constant", String::as_str))));
        };
        zip.entry(&format!("{}/{file}", self.path), values)
    }

    fn config(self) -> Result<Vec<u8>, Error> {
        text(&json!({"config": self.config}))
    }
}

/// What the JSON of a program is made of.
struct Writer<'p> {
    program: &'p Program,
    /// A name of every value, fit for Python and given once.
    names: Vec<String>,
    /// The symbols by their names in the program.
    symbols: HashMap<&'p str, String>,
    /// What the integers among the values are.
    integers: HashMap<ValueId, Size>,
}

impl<'p> Writer<'p> {
    fn new(program: &'p Program) -> Result<Self, Error> {
        let symbols = program.ranges.keys().enumerate().map(|(n, name)| (name.as_str(), format!("s{n}"))).collect();
        let mut writer = Self { program, names: names(program), symbols, integers: HashMap::new() };
        for node in &program.nodes {
            writer.work_out(node)?;
        }
        Ok(writer)
    }

    /// Notes the integer that a node computes, if it does, and refuses what has no form here.
    fn work_out(&mut self, node: &Node) -> Result<(), Error> {
        if node.scope != Scope::default() || !node.blocks().is_empty() {
            return Err(unwritable(format!("node {} stands in a region of its own", node.name)));
        }
        if node.outputs.iter().any(|output| matches!(output, Output::Float(_) | Output::Bool(_))) {
            return Err(unwritable(format!("node {} computes a number that is no size", node.name)));
        }
        let [Output::Int(value)] = node.outputs.as_slice() else { return Ok(()) };
        let size = match &node.target {
            Target::Scalar(op) => {
                let args = node.args.iter().map(|(_, arg)| self.integer(node, arg)).collect::<Result<Vec<_>, _>>()?;
                Size::apply(*op, &args)?
            }
            Target::Aten { name, .. } if name == "aten::sym_size" => self.size_of(node)?,
            _ => return Err(unwritable(format!("node {} computes an unknown integer", node.name))),
        };
        self.integers.insert(*value, size);
        Ok(())
    }

    fn integer(&self, node: &Node, arg: &Arg) -> Result<Size, Error> {
        let known = match arg {
            Arg::Int(number) | Arg::SymInt(SymInt::Const(number)) => Some(Size::Number(*number)),
            Arg::SymInt(SymInt::Value(value)) => self.integers.get(value).cloned(),
            _ => None,
        };
        known.ok_or_else(|| unwritable(format!("node {} takes an unknown integer", node.name)))
    }

    /// What `sym_size(self, dim)` gives.
    fn size_of(&self, node: &Node) -> Result<Size, Error> {
        let (Some(Arg::Tensor(tensor)), Some(Arg::Int(dim))) = (node.arg("self"), node.arg("dim")) else {
            return Err(unwritable(format!("node {} asks for an unknown size", node.name)));
        };
        let shape = self.program.meta(*tensor).map(|meta| meta.shape.as_slice()).unwrap_or_default();
        let index = if *dim < 0 { *dim + shape.len() as i64 } else { *dim };
        let dim = usize::try_from(index).ok().and_then(|index| shape.get(index));
        dim.ok_or_else(|| unwritable(format!("node {} asks for an unknown size", node.name)))
            .and_then(|dim| self.dim(dim))
    }

    fn dim(&self, dim: &Dim) -> Result<Size, Error> {
        match dim {
            Dim::Static(size) => Ok(Size::Number(*size)),
            Dim::Symbolic { name } => match self.symbols.get(name.as_str()) {
                Some(symbol) => Ok(Size::symbol(symbol)),
                None => Err(unwritable(format!("nothing is known of the size {name}"))),
            },
        }
    }

    fn name(&self, value: ValueId) -> &str {
        self.names.get(value.index()).map_or("", String::as_str)
    }

    fn tensor(&self, value: ValueId) -> Json {
        json!({"as_tensor": {"name": self.name(value)}})
    }

    fn model(&self) -> Result<Json, Error> {
        let program = self.program;
        let argument = |value: ValueId| json!({"name": self.name(value)});
        let mut inputs = Vec::new();
        for p in &program.parameters {
            inputs.push((
                p.value,
                json!({"parameter": {"arg": argument(p.value), "parameter_name": in_module(&p.name)}}),
            ));
        }
        for b in &program.buffers {
            let spec = json!({"arg": argument(b.value), "buffer_name": in_module(&b.name), "persistent": b.persistent});
            inputs.push((b.value, json!({"buffer": spec})));
        }
        for c in &program.constants {
            let spec = json!({"arg": argument(c.value), "tensor_constant_name": in_module(&c.name)});
            inputs.push((c.value, json!({"tensor_constant": spec})));
        }
        for input in &program.inputs {
            inputs.push((input.value, json!({"user_input": {"arg": self.tensor(input.value)}})));
        }
        let outputs: Vec<Json> = program.outputs.iter().map(|&value| self.tensor(value)).collect();
        let output_specs: Vec<Json> = outputs.iter().map(|output| json!({"user_output": {"arg": output}})).collect();
        let ranges: BTreeMap<&str, Json> = program
            .ranges
            .iter()
            .filter_map(|(name, range)| {
                Some((self.symbols.get(name.as_str())?.as_str(), json!({"min_val": range.min, "max_val": range.max})))
            })
            .collect();
        Ok(json!({
            "graph_module": {
                "graph": {
                    "inputs": inputs.iter().map(|(value, _)| self.tensor(*value)).collect::<Vec<_>>(),
                    "outputs": outputs,
                    "nodes": program.nodes.iter().map(|node| self.node(node)).collect::<Vec<_>>(),
                    "tensor_values": self.metas()?,
                    "sym_int_values": self.integers.iter().map(|(value, size)| (self.name(*value), size.json()))
                        .collect::<BTreeMap<_, _>>(),
                    "sym_bool_values": {},
                    "is_single_tensor_return": false,
                    "custom_obj_values": {},
                    "sym_float_values": {},
                },
                "signature": {
                    "input_specs": inputs.iter().map(|(_, spec)| spec).collect::<Vec<_>>(),
                    "output_specs": output_specs,
                },
                "module_call_graph": [{"fqn": "", "signature": self.calling()?}],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": OPSET},
            "range_constraints": ranges,
            "schema_version": {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR},
            "verifiers": [DIALECT],
            "torch_version": TORCH,
            "guards_code": [],
        }))
    }

    /// How Python calls the model: every input by position, and the output, or a tuple of several.
    fn calling(&self) -> Result<Json, Error> {
        let leaf = json!({"type": null, "context": null, "children_spec": []});
        let tuple =
            |children: Vec<Json>| json!({"type": "builtins.tuple", "context": "null", "children_spec": children});
        let arguments = tuple(vec![leaf.clone(); self.program.inputs.len()]);
        let keywords = json!({"type": "builtins.dict", "context": "[]", "children_spec": []});
        let result = match self.program.outputs.len() {
            1 => leaf,
            several => tuple(vec![leaf; several]),
        };
        // A tree is a text in the text.
        let spec = |tree: Json| text(&json!([1, tree])).map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(json!({
            "inputs": [],
            "outputs": [],
            "in_spec": spec(tuple(vec![arguments, keywords]))?,
            "out_spec": spec(result)?,
            "forward_arg_names": self.program.inputs.iter().map(|input| self.name(input.value)).collect::<Vec<_>>(),
        }))
    }

    fn metas(&self) -> Result<BTreeMap<&str, Json>, Error> {
        let grads: HashSet<ValueId> =
            self.program.parameters.iter().filter(|p| p.requires_grad).map(|p| p.value).collect();
        let mut metas = BTreeMap::new();
        for (index, name) in self.names.iter().enumerate() {
            let id = ValueId(u32::try_from(index).unwrap_or(u32::MAX));
            if let Some(TensorMeta { dtype, shape }) = self.program.meta(id) {
                let sizes = shape.iter().map(|dim| self.dim(dim)).collect::<Result<Vec<_>, _>>()?;
                metas.insert(name.as_str(), meta_json(*dtype, &sizes, grads.contains(&id))?);
            }
        }
        Ok(metas)
    }

    fn node(&self, node: &Node) -> Json {
        // Without a kind, torch takes what the operator's schema has no default for by position, and the rest by name.
        let inputs: Vec<Json> = node
            .args
            .iter()
            .map(
                |(name, arg)| json!({"name": name, "arg": argument_json(arg, &|value| self.name(value)), "kind": null}),
            )
            .collect();
        // torch names the call of several results apart from them.
        let name = match node.outputs.as_slice() {
            [Output::Tensor(value) | Output::Int(value)] => self.name(*value).to_owned(),
            _ => format!("call_{}", identifier(&node.name)),
        };
        json!({
            "target": target_name(&node.target),
            "inputs": inputs,
            "outputs": node.outputs.iter().map(|output| self.output(output)).collect::<Vec<_>>(),
            // torch.export.unflatten asks every node for the module that it stands in: here there is one.
            "metadata": {"nn_module_stack": "L__self__,,torch.nn.modules.module.Module"},
            "is_hop_single_tensor_return": null,
            "name": name,
        })
    }

    fn output(&self, output: &Output) -> Json {
        match output {
            Output::Tensor(value) => self.tensor(*value),
            Output::Tensors(values) => {
                json!({"as_tensors": values.iter().map(|value| json!({"name": self.name(*value)})).collect::<Vec<_>>()})
            }
            Output::Int(value) | Output::Float(value) | Output::Bool(value) => {
                json!({"as_sym_int": {"as_name": self.name(*value)}})
            }
            Output::None => json!({"as_none": true}),
        }
    }
}

/// What the schema calls a target. A `cond` has no such name: [`Writer::work_out`] refuses it.
pub(super) fn target_name(target: &Target) -> String {
    match target {
        Target::Aten { name, overload } => {
            let overload = if overload.is_empty() { "default" } else { overload };
            format!("torch.ops.aten.{}.{overload}", name.trim_start_matches("aten::"))
        }
        Target::Scalar(op) => op.name().to_owned(),
        Target::Cond { .. } => String::new(),
    }
}

/// An argument, with the names that values have in the graph.
pub(super) fn argument_json<'n>(arg: &Arg, name: &dyn Fn(ValueId) -> &'n str) -> Json {
    let named = |value: &ValueId| json!({"name": name(*value)});
    let sym_int = |number: &SymInt| match number {
        SymInt::Value(value) => json!({"as_name": name(*value)}),
        SymInt::Const(number) => json!({"as_int": number}),
    };
    match arg {
        Arg::Tensor(value) => json!({"as_tensor": named(value)}),
        Arg::Tensors(values) => json!({"as_tensors": values.iter().map(named).collect::<Vec<_>>()}),
        Arg::OptionalTensors(values) => {
            let optional = |value: &Option<ValueId>| match value {
                Some(value) => json!({"as_tensor": named(value)}),
                None => json!({"as_none": true}),
            };
            json!({"as_optional_tensors": values.iter().map(optional).collect::<Vec<_>>()})
        }
        Arg::SymInt(number) => json!({"as_sym_int": sym_int(number)}),
        Arg::SymInts(numbers) => json!({"as_sym_ints": numbers.iter().map(sym_int).collect::<Vec<_>>()}),
        literal => literal_json(literal),
    }
}

/// An argument that names no value; one that does is none.
fn literal_json(arg: &Arg) -> Json {
    match arg {
        Arg::Int(number) => json!({"as_int": number}),
        Arg::Ints(numbers) => json!({"as_ints": numbers}),
        Arg::Float(number) => json!({"as_float": float(*number)}),
        Arg::Floats(numbers) => json!({"as_floats": numbers.iter().copied().map(float).collect::<Vec<_>>()}),
        Arg::Bool(truth) => json!({"as_bool": truth}),
        Arg::Bools(truths) => json!({"as_bools": truths}),
        Arg::Str(text) => json!({"as_string": text}),
        Arg::Dtype(dtype) => json!({"as_scalar_type": dtype.to_schema()}),
        Arg::Layout(layout) => json!({"as_layout": layout.to_schema()}),
        Arg::MemoryFormat(format) => json!({"as_memory_format": format.to_schema()}),
        Arg::Device(device) => {
            let (kind, index) = device.split_once(':').unwrap_or((device, ""));
            json!({"as_device": {"type": kind, "index": index.parse::<i64>().ok()}})
        }
        Arg::None
        | Arg::Tensor(_)
        | Arg::Tensors(_)
        | Arg::OptionalTensors(_)
        | Arg::SymInt(_)
        | Arg::SymInts(_)
        | Arg::SymFloat(_)
        | Arg::SymFloats(_)
        | Arg::SymBool(_) => {
            json!({"as_none": true})
        }
    }
}

/// JSON has no word for the infinite numbers; PyTorch writes them as strings.
fn float(number: f64) -> Json {
    if number.is_finite() {
        json!(number)
    } else if number.is_nan() {
        json!("NaN")
    } else if number > 0.0 {
        json!("Infinity")
    } else {
        json!("-Infinity")
    }
}

fn meta_json(dtype: DType, sizes: &[Size], requires_grad: bool) -> Result<Json, Error> {
    Ok(json!({
        "dtype": dtype.to_schema(),
        "sizes": sizes.iter().map(Size::json).collect::<Vec<_>>(),
        "requires_grad": requires_grad,
        "device": {"type": "cpu", "index": null},
        "strides": row_major(sizes)?.iter().map(Size::json).collect::<Vec<_>>(),
        "storage_offset": {"as_int": 0},
        "layout": Layout::Strided.to_schema(),
    }))
}

/// A Python identifier for every value. Those of results have an underscore, which keeps them apart from Python's own
/// words; torch would rename `sum`, and then not find it.
fn names(program: &Program) -> Vec<String> {
    let inputs: HashSet<ValueId> = program.inputs.iter().map(|input| input.value).collect();
    let mut given = HashSet::new();
    let mut names = Vec::with_capacity(program.values.len());
    for (index, value) in program.values.iter().enumerate() {
        let mut name = identifier(&value.name);
        let is_input = u32::try_from(index).is_ok_and(|index| inputs.contains(&ValueId(index)));
        if !is_input && !name.contains('_') {
            name.push('_');
        }
        while !given.insert(name.clone()) {
            name.push_str("_again");
        }
        names.push(name);
    }
    names
}

/// The name of a weight in a `torch.nn.Module`: parts that every module has for itself, such as `type`, which somebody may
/// name a layer, get an underscore.
fn in_module(name: &str) -> String {
    let part = |part: &str| if TAKEN.contains(&part) { format!("{part}_") } else { part.to_owned() };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// The attributes of a `torch.nn.Module`.
const TAKEN: &[&str] = &[
    "T_destination",
    "add_module",
    "apply",
    "bfloat16",
    "buffers",
    "call_super_init",
    "children",
    "compile",
    "cpu",
    "cuda",
    "double",
    "dump_patches",
    "eval",
    "extra_repr",
    "float",
    "forward",
    "get_buffer",
    "get_extra_state",
    "get_parameter",
    "get_submodule",
    "half",
    "ipu",
    "load_state_dict",
    "modules",
    "mtia",
    "named_buffers",
    "named_children",
    "named_modules",
    "named_parameters",
    "parameters",
    "register_backward_hook",
    "register_buffer",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook",
    "register_module",
    "register_parameter",
    "register_state_dict_post_hook",
    "register_state_dict_pre_hook",
    "requires_grad_",
    "set_extra_state",
    "set_submodule",
    "share_memory",
    "state_dict",
    "to",
    "to_empty",
    "train",
    "training",
    "type",
    "xpu",
    "zero_grad",
];

fn identifier(name: &str) -> String {
    let mut fit: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if fit.is_empty() || fit.starts_with(|first: char| first.is_ascii_digit()) {
        fit.insert_str(0, "v_");
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_not_named_like_an_attribute_of_every_module() {
        assert_eq!(in_module("0.forward.weight_ih"), "0.forward_.weight_ih");
        assert_eq!(in_module("forward_layer.type.bias"), "forward_layer.type_.bias");
    }

    #[test]
    fn names_of_values_are_identifiers_of_python() {
        assert_eq!(identifier("my-layer 1"), "my_layer_1");
        assert_eq!(identifier("0_dense"), "v_0_dense");
    }
}
