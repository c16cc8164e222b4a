//! A program under construction: what every layer is made of.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::initial::{Fans, Initializer, Shape};
use super::settings::{DataFormat, product};
use crate::dtype::DType;
use crate::error::Error;
use crate::ir::{
    Arg, Buffer, Constant, Dim, Input, Node, Output, Parameter, Program, Scope, SizeRange, Source, SymInt, Target,
    TensorMeta, Value, ValueId, ValueKind,
};
use crate::tensor::{Bytes, TensorData};

/// The name of the batch dimension's symbol.
const BATCH: &str = "batch";

/// A value that counts rows first, and the shape of one row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub(super) value: ValueId,
    pub(super) shape: Vec<i64>,
    pub(super) dtype: DType,
}

/// Why a layer cannot be built: a sentence about its settings, or what went wrong elsewhere.
pub(super) enum Problem {
    Misfit(String),
    Failed(Error),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Misfit(problem)
    }
}

impl From<&str> for Problem {
    fn from(problem: &str) -> Self {
        Self::Misfit(problem.to_owned())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) type Built<T = Rows> = Result<T, Problem>;

/// The layer that is being built.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What its nodes are called after.
    pub(super) node: String,
    /// What its weights are called after. A shared layer's second call has nodes of its own and the same weights.
    pub(super) weights: String,
    /// Whether its weights are trained.
    pub(super) trainable: bool,
}

/// A weight to be declared.
pub(super) struct Weight<'a> {
    name: &'a str,
    shape: Shape<'a>,
    /// ATen's shape, where it is not Keras' with the axes in another order.
    sizes: Option<Vec<i64>>,
    fans: Option<Fans>,
    initializer: &'a Initializer,
    /// Elements that start as ones whatever the initialiser says.
    ones: Option<Range<usize>>,
}

impl<'a> Weight<'a> {
    pub(super) fn vector(name: &'a str, size: i64, initializer: &'a Initializer) -> Self {
        Self::kernel(name, vec![size], &[0], initializer)
    }

    /// A weight that has the shape `keras` in Keras; ATen's has those axes in `order`.
    pub(super) fn kernel(name: &'a str, keras: Vec<i64>, order: &'a [usize], initializer: &'a Initializer) -> Self {
        Self { name, shape: Shape { keras, order }, sizes: None, fans: None, initializer, ones: None }
    }

    /// Seen in another shape of as many elements.
    pub(super) fn seen_as(mut self, sizes: Vec<i64>) -> Self {
        self.sizes = Some(sizes);
        self
    }

    pub(super) fn fans(mut self, fans: Fans) -> Self {
        self.fans = Some(fans);
        self
    }

    pub(super) fn ones(mut self, range: Range<usize>) -> Self {
        self.ones = Some(range);
        self
    }
}

pub(super) struct Build {
    program: Program,
    seed: i64,
    /// Where channels stand in layers that do not say.
    pub(super) data_format: DataFormat,
    place: Place,
    /// Every weight by its full name, so that a second call of a shared layer finds it.
    weights: HashMap<String, (ValueId, Vec<i64>)>,
    names: HashSet<String>,
    /// The number of rows, once somebody has asked for it.
    batch: Option<ValueId>,
}

impl Build {
    pub(super) fn new(seed: i64, data_format: DataFormat) -> Self {
        let program = Program {
            source: Source::Layers,
            inputs: Vec::new(),
            parameters: Vec::new(),
            buffers: Vec::new(),
            constants: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            output_names: Vec::new(),
            values: Vec::new(),
            ranges: [(BATCH.to_owned(), SizeRange { min: Some(1), max: None })].into(),
        };
        let place = Place { node: String::new(), weights: String::new(), trainable: true };
        Self { program, seed, data_format, place, weights: HashMap::new(), names: HashSet::new(), batch: None }
    }

    pub(super) fn input(&mut self, name: &str, shape: Vec<i64>, dtype: DType) -> Result<Rows, Error> {
        if product(&shape).is_none() || shape.iter().any(|&size| size <= 0) {
            return Err(Error::InputShape {
                input: name.to_owned(),
                shape,
                problem: "must have sizes above 0 and fewer than 2^63 elements",
            });
        }
        let name = self.unique(name.to_owned());
        let meta = row_meta(&shape, dtype);
        let value = self.define(name.clone(), Some(meta.clone()));
        self.program.inputs.push(Input { value, name, dtype, shape: meta.shape });
        Ok(Rows { value, shape, dtype })
    }

    pub(super) fn finish(mut self, outputs: Vec<(String, Rows)>) -> Program {
        (self.program.output_names, self.program.outputs) =
            outputs.into_iter().map(|(name, rows)| (name, rows.value)).unzip();
        self.program
    }

    /// Stands at the layer of that place from now on.
    pub(super) fn enter(&mut self, place: Place) {
        self.place = place;
    }

    /// Builds a layer within the layer, called `name` there.
    pub(super) fn within<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> Built<T>) -> Built<T> {
        let outer = self.place.clone();
        self.place.node = format!("{}_{name}", outer.node);
        self.place.weights = format!("{}.{name}", outer.weights);
        let built = build(self);
        self.place = outer;
        built
    }

    pub(super) fn trainable(&self) -> bool {
        self.place.trainable
    }

    fn define(&mut self, name: String, meta: Option<TensorMeta>) -> ValueId {
        // A layer list has a few hundred values.
        let id = ValueId(u32::try_from(self.program.values.len()).unwrap_or(u32::MAX));
        self.program.values.push(Value { name, kind: meta.map_or(ValueKind::Int, ValueKind::Tensor) });
        id
    }

    fn unique(&mut self, name: String) -> String {
        let mut free = name.clone();
        let mut count = 1;
        while !self.names.insert(free.clone()) {
            free = format!("{name}_{count}");
            count += 1;
        }
        free
    }

    /// Calls an operator, `name` or `name.overload`, that returns one tensor of floats whose rows have that shape.
    /// `step` names the node within the layer, if it is not all of it.
    pub(super) fn call(&mut self, step: &str, op: &str, args: Vec<(&str, Arg)>, shape: Vec<i64>) -> Rows {
        self.call_typed(step, op, args, shape, DType::Float32)
    }

    pub(super) fn call_typed(
        &mut self,
        step: &str,
        op: &str,
        args: Vec<(&str, Arg)>,
        shape: Vec<i64>,
        dtype: DType,
    ) -> Rows {
        let name = self.node_name(step);
        let value = self.define(name.clone(), Some(row_meta(&shape, dtype)));
        self.push_node(name, op, args, vec![Output::Tensor(value)]);
        Rows { value, shape, dtype }
    }

    /// As [`Self::call`], for a recurrent operator that returns its last states besides, each of one row of `units` per
    /// row of the batch.
    pub(super) fn call_recurrent(
        &mut self,
        op: &str,
        args: Vec<(&str, Arg)>,
        shape: Vec<i64>,
        states: &[&str],
        units: i64,
    ) -> Rows {
        let name = self.node_name("");
        let value = self.define(name.clone(), Some(row_meta(&shape, DType::Float32)));
        let mut outputs = vec![Output::Tensor(value)];
        for state in states {
            let name = self.node_name(state);
            let shape = std::iter::once(Dim::Static(1)).chain(row_meta(&[units], DType::Float32).shape).collect();
            outputs.push(Output::Tensor(self.define(name, Some(TensorMeta { dtype: DType::Float32, shape }))));
        }
        self.push_node(name, op, args, outputs);
        Rows { value, shape, dtype: DType::Float32 }
    }

    fn push_node(&mut self, name: String, op: &str, args: Vec<(&str, Arg)>, outputs: Vec<Output>) {
        let (op, overload) = op.split_once('.').unwrap_or((op, ""));
        self.program.nodes.push(Node {
            name,
            target: Target::Aten { name: format!("aten::{op}"), overload: overload.to_owned() },
            args: args.into_iter().map(|(name, arg)| (name.to_owned(), arg)).collect(),
            outputs,
            scope: Scope::default(),
            module: Some(self.place.weights.as_str().into()),
        });
    }

    fn node_name(&mut self, step: &str) -> String {
        let name = if step.is_empty() { self.place.node.clone() } else { format!("{}_{step}", self.place.node) };
        self.unique(name)
    }

    /// The row's axes in another order. Those that stand as they are cost nothing.
    pub(super) fn permute(&mut self, rows: &Rows, order: &[usize]) -> Rows {
        if order.iter().copied().eq(0..rows.shape.len()) {
            return rows.clone();
        }
        let shape = order.iter().filter_map(|&axis| rows.shape.get(axis).copied()).collect();
        let dims = std::iter::once(0).chain(order.iter().map(|&axis| dim_of(axis))).collect();
        let args = vec![("self", Arg::Tensor(rows.value)), ("dims", Arg::Ints(dims))];
        self.call_typed("permute", "permute", args, shape, rows.dtype)
    }

    /// The same elements in another shape, of which the caller knows that it holds as many.
    pub(super) fn reshape(&mut self, rows: &Rows, shape: Vec<i64>) -> Rows {
        if shape == rows.shape {
            return rows.clone();
        }
        let batch = self.batch_size(rows.value);
        let sizes = std::iter::once(SymInt::Value(batch)).chain(shape.iter().copied().map(SymInt::Const)).collect();
        let args = vec![("self", Arg::Tensor(rows.value)), ("shape", Arg::SymInts(sizes))];
        self.call_typed("reshape", "reshape", args, shape, rows.dtype)
    }

    /// Zeros with the batch of `like` in `before` its other sizes.
    pub(super) fn zeros(&mut self, like: &Rows, before: Option<i64>, shape: Vec<i64>) -> ValueId {
        let batch = self.batch_size(like.value);
        let sizes = (before.into_iter().map(SymInt::Const))
            .chain([SymInt::Value(batch)])
            .chain(shape.iter().copied().map(SymInt::Const))
            .collect();
        let args = vec![("self", Arg::Tensor(like.value)), ("size", Arg::SymInts(sizes))];
        let name = self.node_name("zeros");
        let dims = (before.into_iter().map(Dim::Static)).chain(row_meta(&shape, like.dtype).shape).collect();
        let value = self.define(name.clone(), Some(TensorMeta { dtype: like.dtype, shape: dims }));
        self.push_node(name, "new_zeros", args, vec![Output::Tensor(value)]);
        value
    }

    /// The number of rows in the batch, read off a value that has been computed.
    fn batch_size(&mut self, of: ValueId) -> ValueId {
        if let Some(batch) = self.batch {
            return batch;
        }
        let name = self.node_name("rows");
        let batch = self.define(name.clone(), None);
        let args = vec![("self", Arg::Tensor(of)), ("dim", Arg::Int(0))];
        self.push_node(name, "sym_size.int", args, vec![Output::Int(batch)]);
        self.batch = Some(batch);
        batch
    }

    /// Adds 1 to a buffer.
    pub(super) fn count_up(&mut self, counter: ValueId) {
        let name = self.node_name("count");
        let meta = TensorMeta { dtype: DType::Int64, shape: Vec::new() };
        let count = self.define(name.clone(), Some(meta));
        let args = vec![("self", Arg::Tensor(counter)), ("other", Arg::Int(1))];
        self.push_node(name, "add_.Tensor", args, vec![Output::Tensor(count)]);
    }

    /// A trained tensor; the one of that name if this layer has been called before.
    pub(super) fn parameter(&mut self, weight: &Weight<'_>) -> Built<Arg> {
        let requires_grad = self.place.trainable;
        let value = self.weight(weight, "p", |program, value, name, tensor| {
            program.parameters.push(Parameter { value, name, aliases: Vec::new(), requires_grad, tensor });
        })?;
        Ok(Arg::Tensor(value))
    }

    /// As [`Self::parameter`], or no value if it is not wanted.
    pub(super) fn optional(&mut self, wanted: bool, weight: &Weight<'_>) -> Built<Arg> {
        if wanted { self.parameter(weight) } else { Ok(Arg::None) }
    }

    /// A tensor of the model's state that nodes change in place.
    pub(super) fn buffer(&mut self, weight: &Weight<'_>) -> Built<Arg> {
        let value = self.weight(weight, "b", |program, value, name, tensor| {
            program.buffers.push(Buffer { value, name, aliases: Vec::new(), persistent: true, tensor });
        })?;
        Ok(Arg::Tensor(value))
    }

    /// A tensor of floats that nothing changes.
    pub(super) fn constant(&mut self, weight: &Weight<'_>) -> Built<ValueId> {
        self.weight(weight, "c", |program, value, name, tensor| {
            program.constants.push(Constant { value, name, tensor });
        })
    }

    /// A buffer of one integer that starts at 0.
    pub(super) fn counter(&mut self, name: &str) -> Built<ValueId> {
        let full = format!("{}.{name}", self.place.weights);
        if let Some((value, _)) = self.weights.get(&full) {
            return Ok(*value);
        }
        let tensor = TensorData::contiguous(&full, DType::Int64, Vec::new(), Bytes::new(0_i64.to_le_bytes()))?;
        let meta = TensorMeta { dtype: DType::Int64, shape: Vec::new() };
        let value = self.define(format!("b_{}", full.replace('.', "_")), Some(meta));
        self.weights.insert(full.clone(), (value, Vec::new()));
        self.program.buffers.push(Buffer { value, name: full, aliases: Vec::new(), persistent: true, tensor });
        Ok(value)
    }

    fn weight(
        &mut self,
        weight: &Weight<'_>,
        prefix: &str,
        add: impl FnOnce(&mut Program, ValueId, String, TensorData),
    ) -> Built<ValueId> {
        let full = format!("{}.{}", self.place.weights, weight.name);
        let sizes = weight.sizes.clone().unwrap_or_else(|| weight.shape.sizes());
        if let Some((value, known)) = self.weights.get(&full) {
            return if *known == sizes {
                Ok(*value)
            } else {
                Err(format!("its weight {full} has the shape {known:?} where it was called before, here {sizes:?}")
                    .into())
            };
        }
        let keras = &weight.shape.keras;
        let initializer = weight.initializer;
        initializer.check(keras).map_err(|problem| format!("the initializer of {full} does not fit: {problem}"))?;
        let fans = match weight.fans {
            Some(fans) => fans,
            // Sizes beyond 64 bits have no memory either, which is the better sentence.
            None => Fans::of(keras).unwrap_or(Fans { input: 1, output: 1 }),
        };
        let mut bytes = initializer.values(self.seed, &full, &weight.shape, fans)?;
        if let Some(ones) = &weight.ones {
            bytes = with_ones(&bytes, ones);
        }
        let meta = TensorMeta { dtype: DType::Float32, shape: sizes.iter().copied().map(Dim::Static).collect() };
        let tensor = TensorData::contiguous(&full, DType::Float32, sizes.clone(), bytes)?;
        let value = self.define(format!("{prefix}_{}", full.replace('.', "_")), Some(meta));
        self.weights.insert(full.clone(), (value, sizes));
        add(&mut self.program, value, full, tensor);
        Ok(value)
    }
}

/// ATen's number of a row's axis: the batch comes before it.
pub(super) fn dim_of(axis: usize) -> i64 {
    i64::try_from(axis).unwrap_or(i64::MAX - 1) + 1
}

fn row_meta(shape: &[i64], dtype: DType) -> TensorMeta {
    let batch = Dim::Symbolic { name: BATCH.to_owned() };
    TensorMeta { dtype, shape: std::iter::once(batch).chain(shape.iter().copied().map(Dim::Static)).collect() }
}

fn with_ones(bytes: &[u8], ones: &Range<usize>) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (index, float) in bytes.chunks_exact_mut(size_of::<f32>()).enumerate() {
        if ones.contains(&index) {
            float.copy_from_slice(&1.0_f32.to_le_bytes());
        }
    }
    Bytes::new(bytes)
}

/// What two rows of numbers become when one is stretched over the other, as NumPy does with sizes of 1.
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Option<Vec<i64>> {
    if a.len() != b.len() {
        return None;
    }
    let one = |(&a, &b): (&i64, &i64)| match (a, b) {
        (a, b) if a == b => Some(a),
        (1, size) | (size, 1) => Some(size),
        _ => None,
    };
    a.iter().zip(b).map(one).collect()
}
