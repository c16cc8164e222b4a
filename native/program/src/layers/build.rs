//! From a layer list to a program: the nodes `torch.export` would write for the same `torch.nn.Sequential`.

use super::initial::{Fans, Initial};
use super::spec::{Activation, LayerList, LayerSpec, Padding};
use crate::dtype::DType;
use crate::error::Error;
use crate::ir::{
    Arg, Buffer, Dim, Input, Node, Output, Parameter, Program, SizeRange, Source, SymInt, Target, TensorMeta, Value,
    ValueId,
};
use crate::tensor::{Bytes, TensorData};

/// The name of the batch dimension's symbol.
const BATCH: &str = "batch";

pub(crate) fn read(json: &[u8]) -> Result<Program, Error> {
    let list = LayerList::parse(json)?;
    let Some(first) = list.layers.first() else { return Err(Error::NoLayers) };
    let dtype = if matches!(first, LayerSpec::Embedding { .. }) { DType::Int64 } else { DType::Float32 };
    let mut build = Build::start(list.input_shape, dtype, list.seed)?;
    for (index, layer) in list.layers.iter().enumerate() {
        build.index = index;
        build.layer = layer.name();
        build.add(layer)?;
    }
    Ok(build.finish())
}

/// A program under construction. `value` is what the next layer is given.
struct Build {
    program: Program,
    value: ValueId,
    /// The shape of one row of `value`.
    shape: Vec<i64>,
    seed: i64,
    /// Where the build stands, for names and messages.
    index: usize,
    layer: &'static str,
}

impl Build {
    fn start(shape: Vec<i64>, dtype: DType, seed: i64) -> Result<Self, Error> {
        if product(&shape).is_none_or(|elements| elements <= 0) || shape.iter().any(|&size| size <= 0) {
            return Err(Error::InputShape { shape, problem: "must have sizes above 0 and fewer than 2^63 elements" });
        }
        let program = Program {
            source: Source::Layers,
            inputs: Vec::new(),
            parameters: Vec::new(),
            buffers: Vec::new(),
            constants: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            values: Vec::new(),
            ranges: [(BATCH.to_owned(), SizeRange { min: Some(1), max: None })].into(),
        };
        let mut build = Self { program, value: ValueId(0), shape, seed, index: 0, layer: "input" };
        let meta = build.row_meta(dtype);
        build.value = build.define("input".into(), Some(meta.clone()));
        build.program.inputs.push(Input { value: build.value, name: "input".into(), dtype, shape: meta.shape });
        Ok(build)
    }

    fn finish(mut self) -> Program {
        self.program.outputs.push(self.value);
        self.program
    }

    fn add(&mut self, layer: &LayerSpec) -> Result<(), Error> {
        match layer {
            LayerSpec::Dense { units, activation, use_bias } => {
                self.dense(*units, *use_bias)?;
                self.activation(*activation);
            }
            LayerSpec::Conv2d { filters, kernel_size, strides, padding, activation, use_bias } => {
                self.conv2d(*filters, kernel_size.0, strides.0, *padding, *use_bias)?;
                self.activation(*activation);
            }
            LayerSpec::Relu {} => self.activation(Activation::Relu),
            LayerSpec::Gelu {} => self.activation(Activation::Gelu),
            LayerSpec::Tanh {} => self.activation(Activation::Tanh),
            LayerSpec::Sigmoid {} => self.activation(Activation::Sigmoid),
            LayerSpec::Softmax {} => self.activation(Activation::Softmax),
            LayerSpec::Dropout { rate } => self.dropout(*rate)?,
            LayerSpec::BatchNorm { momentum, epsilon } => self.batch_norm(*momentum, *epsilon)?,
            LayerSpec::LayerNorm { epsilon } => self.layer_norm(*epsilon)?,
            LayerSpec::Embedding { input_dim, output_dim } => self.embedding(*input_dim, *output_dim)?,
            LayerSpec::Flatten {} => self.flatten()?,
            LayerSpec::Reshape { target_shape } => self.reshape(target_shape)?,
        }
        self.row_elements().map(|_| ())
    }

    fn dense(&mut self, units: i64, use_bias: bool) -> Result<(), Error> {
        self.positive("units", units)?;
        let Some(&features) = self.shape.last() else {
            return Err(self.misfit("a row needs at least one dimension"));
        };
        let fans = Fans { input: features, output: units };
        let weight = self.parameter("weight", vec![units, features], Initial::Glorot(fans))?;
        let bias = self.bias(use_bias, units)?;
        if let Some(last) = self.shape.last_mut() {
            *last = units;
        }
        self.call("linear", "", "", vec![("weight", Arg::Tensor(weight)), ("bias", bias)]);
        Ok(())
    }

    fn conv2d(
        &mut self,
        filters: i64,
        kernel: [i64; 2],
        strides: [i64; 2],
        padding: Padding,
        use_bias: bool,
    ) -> Result<(), Error> {
        self.positive("filters", filters)?;
        for (name, sizes) in [("kernelSize", kernel), ("strides", strides)] {
            for size in sizes {
                self.positive(name, size)?;
            }
        }
        let &[channels, height, width] = self.shape.as_slice() else {
            return Err(self.misfit("a row must be an image of channels, height and width"));
        };
        let axis = |size, kernel, stride| Axis::new(padding, size, kernel, stride);
        let axes = (axis(height, kernel[0], strides[0]), axis(width, kernel[1], strides[1]));
        let (Some(rows), Some(columns)) = axes else {
            return Err(self.misfit(format!("the kernel {kernel:?} is larger than the image")));
        };
        let field = product(&kernel).ok_or_else(|| self.misfit("the kernel is too large"))?;
        let (Some(input), Some(output)) = (channels.checked_mul(field), filters.checked_mul(field)) else {
            return Err(self.misfit("the kernel is too large"));
        };
        let sizes = vec![filters, channels, kernel[0], kernel[1]];
        let weight = self.parameter("weight", sizes, Initial::Glorot(Fans { input, output }))?;
        let bias = self.bias(use_bias, filters)?;

        // aten::conv2d pads both sides alike; Keras' "same" may need one more at the end.
        let mut both_sides = vec![rows.before, columns.before];
        if rows.before != rows.after || columns.before != columns.after {
            both_sides = vec![0, 0];
            let (padded_height, padded_width) =
                (height + rows.before + rows.after, width + columns.before + columns.after);
            self.shape = vec![channels, padded_height, padded_width];
            let pad = vec![columns.before, columns.after, rows.before, rows.after];
            self.call("constant_pad_nd", "", "pad", vec![("pad", Arg::Ints(pad)), ("value", Arg::Float(0.0))]);
        }
        self.shape = vec![filters, rows.size, columns.size];
        let args = vec![
            ("weight", Arg::Tensor(weight)),
            ("bias", bias),
            ("stride", Arg::Ints(strides.to_vec())),
            ("padding", Arg::Ints(both_sides)),
            ("dilation", Arg::Ints(vec![1, 1])),
            ("groups", Arg::Int(1)),
        ];
        self.call("conv2d", "", "", args);
        Ok(())
    }

    fn activation(&mut self, activation: Activation) {
        // Channels of an image, features of anything else.
        let features = if self.shape.len() == 3 { 1 } else { -1 };
        match activation {
            Activation::Linear => {}
            Activation::Relu => self.call("relu", "", "relu", vec![]),
            Activation::Gelu => self.call("gelu", "", "gelu", vec![("approximate", Arg::Str("none".into()))]),
            Activation::Tanh => self.call("tanh", "", "tanh", vec![]),
            Activation::Sigmoid => self.call("sigmoid", "", "sigmoid", vec![]),
            Activation::Softmax => self.call("softmax", "int", "softmax", vec![("dim", Arg::Int(features))]),
        }
    }

    fn dropout(&mut self, rate: f64) -> Result<(), Error> {
        if !(0.0..1.0).contains(&rate) {
            return Err(self.misfit(format!("rate is {rate}, it must be at least 0 and below 1")));
        }
        self.call("dropout", "", "", vec![("p", Arg::Float(rate)), ("train", Arg::Bool(true))]);
        Ok(())
    }

    fn batch_norm(&mut self, momentum: f64, epsilon: f64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&momentum) {
            return Err(self.misfit(format!("momentum is {momentum}, it must be from 0 to 1")));
        }
        self.positive_real("epsilon", epsilon)?;
        let Some(&channels) = self.shape.first() else {
            return Err(self.misfit("a row needs at least one dimension"));
        };
        let weight = self.parameter("weight", vec![channels], Initial::Constant(1.0))?;
        let bias = self.parameter("bias", vec![channels], Initial::Constant(0.0))?;
        let mean = self.running("running_mean", channels, Initial::Constant(0.0))?;
        let var = self.running("running_var", channels, Initial::Constant(1.0))?;
        let batches = self.batch_counter()?;
        self.count_batch(batches);
        let args = vec![
            ("weight", Arg::Tensor(weight)),
            ("bias", Arg::Tensor(bias)),
            ("running_mean", Arg::Tensor(mean)),
            ("running_var", Arg::Tensor(var)),
            ("training", Arg::Bool(true)),
            // Keras' momentum is what is kept, ATen's what is taken from the batch.
            ("momentum", Arg::Float(1.0 - momentum)),
            ("eps", Arg::Float(epsilon)),
            ("cudnn_enabled", Arg::Bool(true)),
        ];
        self.call("batch_norm", "", "", args);
        Ok(())
    }

    fn layer_norm(&mut self, epsilon: f64) -> Result<(), Error> {
        self.positive_real("epsilon", epsilon)?;
        let Some(&features) = self.shape.last() else {
            return Err(self.misfit("a row needs at least one dimension"));
        };
        let weight = self.parameter("weight", vec![features], Initial::Constant(1.0))?;
        let bias = self.parameter("bias", vec![features], Initial::Constant(0.0))?;
        let args = vec![
            ("normalized_shape", Arg::Ints(vec![features])),
            ("weight", Arg::Tensor(weight)),
            ("bias", Arg::Tensor(bias)),
            ("eps", Arg::Float(epsilon)),
        ];
        self.call("layer_norm", "", "", args);
        Ok(())
    }

    fn embedding(&mut self, rows: i64, features: i64) -> Result<(), Error> {
        if self.index != 0 {
            return Err(self.misfit("an embedding takes integers, so it must be the first layer"));
        }
        self.positive("inputDim", rows)?;
        self.positive("outputDim", features)?;
        let weight = self.parameter("weight", vec![rows, features], Initial::Uniform { limit: 0.05 })?;
        self.shape.push(features);
        // The weight comes first in this operator's schema.
        let args = vec![("weight", Arg::Tensor(weight)), ("indices", Arg::Tensor(self.value))];
        self.emit("embedding", "", "", args);
        Ok(())
    }

    fn flatten(&mut self) -> Result<(), Error> {
        // A row that is one number becomes a row of one.
        if self.shape.is_empty() {
            return self.reshape(&[1]);
        }
        self.shape = vec![self.row_elements()?];
        self.call("flatten", "using_ints", "", vec![("start_dim", Arg::Int(1)), ("end_dim", Arg::Int(-1))]);
        Ok(())
    }

    fn reshape(&mut self, target: &[i64]) -> Result<(), Error> {
        let elements = self.row_elements()?;
        let misfit = || self.misfit(format!("targetShape {target:?} does not hold the {elements} elements of a row"));
        let known: Vec<i64> = target.iter().copied().filter(|&size| size != -1).collect();
        if known.iter().any(|&size| size <= 0) {
            return Err(misfit());
        }
        let known_elements = product(&known).ok_or_else(misfit)?;
        let shape: Vec<i64> = match target.len() - known.len() {
            0 if known_elements == elements => target.to_vec(),
            1 if elements % known_elements == 0 => {
                target.iter().map(|&size| if size == -1 { elements / known_elements } else { size }).collect()
            }
            _ => return Err(misfit()),
        };
        let batch = self.batch_size();
        let sizes = std::iter::once(SymInt::Value(batch)).chain(shape.iter().copied().map(SymInt::Const)).collect();
        self.shape = shape;
        self.call("reshape", "", "", vec![("shape", Arg::SymInts(sizes))]);
        Ok(())
    }
}

/// One dimension of a convolution.
struct Axis {
    /// Padding before the image.
    before: i64,
    /// Padding after the image.
    after: i64,
    /// Size of the result.
    size: i64,
}

impl Axis {
    /// `None` if the kernel does not fit.
    fn new(padding: Padding, size: i64, kernel: i64, stride: i64) -> Option<Self> {
        match padding {
            Padding::Valid => {
                (kernel <= size).then(|| Self { before: 0, after: 0, size: (size - kernel) / stride + 1 })
            }
            Padding::Same => {
                // As many results as steps fit into the image; what padding that takes goes half before, the odd one after.
                let steps = (size - 1) / stride;
                let total = steps.checked_mul(stride)?.checked_add(kernel)?.saturating_sub(size).max(0);
                size.checked_add(total)?;
                Some(Self { before: total / 2, after: total - total / 2, size: steps + 1 })
            }
        }
    }
}

/// The pieces every layer is made of.
impl Build {
    fn define(&mut self, name: String, meta: Option<TensorMeta>) -> ValueId {
        // A layer list has a few dozen values.
        let id = ValueId(u32::try_from(self.program.values.len()).unwrap_or(u32::MAX));
        self.program.values.push(Value { name, meta });
        id
    }

    /// Calls an operator whose first argument is what the last layer gave, and makes its result the current value.
    /// `self.shape` must be the result's already. `step` names the node within the layer, if it is not all of it.
    fn call(&mut self, op: &str, overload: &str, step: &str, args: Vec<(&str, Arg)>) {
        let first = match op {
            "linear" | "conv2d" | "batch_norm" | "layer_norm" | "dropout" => "input",
            _ => "self",
        };
        let args = std::iter::once((first, Arg::Tensor(self.value))).chain(args).collect();
        self.emit(op, overload, step, args);
    }

    fn emit(&mut self, op: &str, overload: &str, step: &str, args: Vec<(&str, Arg)>) {
        let name = self.node_name(step);
        let meta = self.row_meta(DType::Float32);
        self.value = self.define(name.clone(), Some(meta));
        self.push_node(name, op, overload, args, Output::Tensor(self.value));
    }

    fn push_node(&mut self, name: String, op: &str, overload: &str, args: Vec<(&str, Arg)>, output: Output) {
        self.program.nodes.push(Node {
            name,
            target: Target::Aten { name: format!("aten::{op}"), overload: overload.to_owned() },
            args: args.into_iter().map(|(name, arg)| (name.to_owned(), arg)).collect(),
            outputs: vec![output],
        });
    }

    /// The number of rows in the current batch.
    fn batch_size(&mut self) -> ValueId {
        let name = self.node_name("rows");
        let rows = self.define(name.clone(), None);
        let args = vec![("self", Arg::Tensor(self.value)), ("dim", Arg::Int(0))];
        self.push_node(name, "sym_size", "int", args, Output::Int(rows));
        rows
    }

    fn count_batch(&mut self, batches: ValueId) {
        let name = self.node_name("count");
        let meta = TensorMeta { dtype: DType::Int64, shape: Vec::new() };
        let count = self.define(name.clone(), Some(meta));
        let args = vec![("self", Arg::Tensor(batches)), ("other", Arg::Int(1))];
        self.push_node(name, "add_", "Tensor", args, Output::Tensor(count));
    }

    fn parameter(&mut self, name: &str, sizes: Vec<i64>, initial: Initial) -> Result<ValueId, Error> {
        let (name, value, tensor) = self.weight("p", name, sizes, initial)?;
        let aliases = Vec::new();
        self.program.parameters.push(Parameter { value, name, aliases, requires_grad: true, tensor });
        Ok(value)
    }

    fn bias(&mut self, used: bool, size: i64) -> Result<Arg, Error> {
        if used { self.parameter("bias", vec![size], Initial::Constant(0.0)).map(Arg::Tensor) } else { Ok(Arg::None) }
    }

    fn running(&mut self, name: &str, size: i64, initial: Initial) -> Result<ValueId, Error> {
        let (name, value, tensor) = self.weight("b", name, vec![size], initial)?;
        self.program.buffers.push(Buffer { value, name, aliases: Vec::new(), persistent: true, tensor });
        Ok(value)
    }

    fn batch_counter(&mut self) -> Result<ValueId, Error> {
        let name = format!("{}.num_batches_tracked", self.index);
        let meta = TensorMeta { dtype: DType::Int64, shape: Vec::new() };
        let value = self.define(format!("b_{}_num_batches_tracked", self.index), Some(meta));
        let tensor = TensorData::contiguous(&name, DType::Int64, Vec::new(), Bytes::new(0_i64.to_le_bytes()))?;
        self.program.buffers.push(Buffer { value, name, aliases: Vec::new(), persistent: true, tensor });
        Ok(value)
    }

    /// A float tensor named as `torch.nn.Sequential` names it.
    fn weight(
        &mut self,
        prefix: &str,
        name: &str,
        sizes: Vec<i64>,
        initial: Initial,
    ) -> Result<(String, ValueId, TensorData), Error> {
        let full = format!("{}.{name}", self.index);
        let elements = product(&sizes).unwrap_or(i64::MAX);
        let bytes = initial.values(self.seed, &full, elements)?;
        let shape = sizes.iter().copied().map(Dim::Static).collect();
        let tensor = TensorData::contiguous(&full, DType::Float32, sizes, bytes)?;
        let value =
            self.define(format!("{prefix}_{}_{name}", self.index), Some(TensorMeta { dtype: DType::Float32, shape }));
        Ok((full, value, tensor))
    }

    fn node_name(&self, step: &str) -> String {
        // A layer that is nothing but its activation is named once.
        if step.is_empty() || step == self.layer {
            format!("{}_{}", self.layer, self.index)
        } else {
            format!("{}_{}_{step}", self.layer, self.index)
        }
    }

    fn row_meta(&self, dtype: DType) -> TensorMeta {
        let batch = Dim::Symbolic { name: BATCH.to_owned() };
        TensorMeta { dtype, shape: std::iter::once(batch).chain(self.shape.iter().copied().map(Dim::Static)).collect() }
    }

    fn row_elements(&self) -> Result<i64, Error> {
        product(&self.shape).ok_or_else(|| self.misfit("a row has more elements than 64 bits can count"))
    }

    fn positive(&self, name: &str, number: i64) -> Result<(), Error> {
        if number > 0 { Ok(()) } else { Err(self.misfit(format!("{name} is {number}, it must be above 0"))) }
    }

    fn positive_real(&self, name: &str, number: f64) -> Result<(), Error> {
        if number > 0.0 { Ok(()) } else { Err(self.misfit(format!("{name} is {number}, it must be above 0"))) }
    }

    fn misfit(&self, problem: impl Into<String>) -> Error {
        Error::Layer { index: self.index, layer: self.layer, shape: self.shape.clone(), problem: problem.into() }
    }
}

fn product(sizes: &[i64]) -> Option<i64> {
    sizes.iter().try_fold(1_i64, |product, &size| product.checked_mul(size))
}
