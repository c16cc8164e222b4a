//! The inputs of an exported graph: what the caller feeds, and the state the model brings along.
//!
//! One tensor under several names (a tied weight, a module used twice) becomes one value with aliases, so that an
//! optimizer moves it once. Weights that share memory in any other way are refused: Kindling gives every weight memory
//! of its own, and then training one would no longer move the other.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::graph::Graph;
use super::schema::{Argument, InputSpec};
use super::weights::{Folder, Identity, Stored, Weights};
use crate::error::Error;
use crate::expression::Expression;
use crate::ir::{Buffer, Constant, Dim, Input, Parameter, TensorMeta, ValueId};
use crate::tensor::TensorData;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) inputs: Vec<Input>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) buffers: Vec<Buffer>,
    pub(super) constants: Vec<Constant>,
}

/// Which list of [`State`] a tensor stands in, and where.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Parameter(usize),
    Buffer(usize),
}

pub(super) fn read<'g>(
    graph: &mut Graph<'g>,
    weights: &mut Weights<'_>,
    specs: &'g [InputSpec],
) -> Result<State, Error> {
    let mut reader = Reader { graph, weights, state: State::default(), known: HashMap::new(), views: Vec::new() };
    let mut named = HashSet::new();
    for (index, spec) in specs.iter().enumerate() {
        match spec {
            InputSpec::User(Argument::Tensor(name)) => reader.input(name)?,
            InputSpec::User(other) => {
                return Err(Error::UnsupportedInput { index, kind: other.kind().to_owned() });
            }
            InputSpec::Parameter { value, name } => {
                named.insert(name.as_str());
                reader.parameter(value, name)?;
            }
            InputSpec::Buffer { value, name, persistent } => {
                named.insert(name.as_str());
                reader.buffer(value, name, *persistent)?;
            }
            InputSpec::Constant { value, name } => reader.constant(value, name)?,
            InputSpec::Baked => {}
            InputSpec::Other(kind) => return Err(Error::UnsupportedInput { index, kind: kind.clone() }),
        }
    }
    reader.names_outside_the_graph(&named)?;
    check_sharing(&reader.views)?;
    if reader.state.inputs.is_empty() { Err(Error::NoInput) } else { Ok(reader.state) }
}

struct Reader<'r, 'g, 'w> {
    graph: &'r mut Graph<'g>,
    weights: &'r mut Weights<'w>,
    state: State,
    /// Tensors of the model's state already met.
    known: HashMap<Identity, (ValueId, Slot)>,
    views: Vec<View>,
}

impl<'g> Reader<'_, 'g, '_> {
    fn input(&mut self, name: &'g str) -> Result<(), Error> {
        let value = self.graph.define_tensor(name)?;
        let Some(TensorMeta { dtype, shape }) = self.graph.meta(value).cloned() else {
            return Err(Error::MissingMeta { value: name.to_owned() });
        };
        let input = name.to_owned();
        match shape.first() {
            None => return Err(Error::ScalarInput { input }),
            Some(Dim::Static(size)) => return Err(Error::StaticBatch { input, size: *size }),
            Some(Dim::Symbolic { .. }) => {}
        }
        for (dimension, dim) in shape.iter().enumerate() {
            let Dim::Symbolic { name } = dim else { continue };
            match Expression::parse(name) {
                Some(Expression::Symbol(_)) => {}
                Some(expression) if dimension == 0 => {
                    return Err(Error::ConstrainedBatch { input, expression: expression.to_string() });
                }
                Some(_) => {}
                None => return Err(Error::UnsupportedSize { input, dimension, expression: name.clone() }),
            }
        }
        self.state.inputs.push(Input { value, name: input, dtype, shape });
        Ok(())
    }

    fn parameter(&mut self, value: &'g str, name: &str) -> Result<(), Error> {
        let stored = self.weights.load(Folder::Weights, name)?;
        let identity = stored.identity();
        if let Some(&(id, slot @ Slot::Parameter(_))) = identity.as_ref().and_then(|identity| self.known.get(identity))
        {
            self.add_alias(slot, name);
            return self.graph.alias(value, id);
        }
        let id = self.define(value, name, &stored)?;
        if stored.tensor.overlaps_itself() {
            let TensorData { dtype, sizes, strides, offset, .. } = stored.tensor;
            let problem = "has elements that share memory, so it cannot be trained; clone it before exporting";
            return Err(Error::TensorLayout {
                name: name.to_owned(),
                sizes,
                strides,
                offset,
                dtype,
                problem: problem.into(),
            });
        }
        if let Some(identity) = identity {
            self.known.insert(identity, (id, Slot::Parameter(self.state.parameters.len())));
        }
        self.views.push(View::new(name, &stored, true));
        self.state.parameters.push(Parameter {
            value: id,
            name: name.to_owned(),
            aliases: Vec::new(),
            requires_grad: stored.requires_grad,
            tensor: stored.tensor,
        });
        Ok(())
    }

    fn buffer(&mut self, value: &'g str, name: &str, persistent: bool) -> Result<(), Error> {
        let folder = if persistent { Folder::Weights } else { Folder::Constants };
        let stored = self.weights.load(folder, name)?;
        let identity = stored.identity();
        if let Some(&(id, slot @ Slot::Buffer(_))) = identity.as_ref().and_then(|identity| self.known.get(identity)) {
            self.add_alias(slot, name);
            return self.graph.alias(value, id);
        }
        let id = self.define(value, name, &stored)?;
        if let Some(identity) = identity {
            self.known.insert(identity, (id, Slot::Buffer(self.state.buffers.len())));
        }
        self.views.push(View::new(name, &stored, true));
        let (name, tensor) = (name.to_owned(), stored.tensor);
        self.state.buffers.push(Buffer { value: id, name, aliases: Vec::new(), persistent, tensor });
        Ok(())
    }

    fn constant(&mut self, value: &'g str, name: &str) -> Result<(), Error> {
        let stored = self.weights.load(Folder::Constants, name)?;
        let id = self.define(value, name, &stored)?;
        self.views.push(View::new(name, &stored, false));
        self.state.constants.push(Constant { value: id, name: name.to_owned(), tensor: stored.tensor });
        Ok(())
    }

    /// Names of the saved state that the graph does not mention, but which are the same tensor as one it does: the
    /// trained weights must be saved under them too. Other unmentioned names have nothing to do with this program.
    fn names_outside_the_graph(&mut self, named: &HashSet<&str>) -> Result<(), Error> {
        let others: Vec<String> =
            self.weights.names(Folder::Weights).filter(|name| !named.contains(name)).map(str::to_owned).collect();
        for name in others {
            let identity = self.weights.load(Folder::Weights, &name)?.identity();
            if let Some(&(_, slot)) = identity.as_ref().and_then(|identity| self.known.get(identity)) {
                self.add_alias(slot, &name);
            }
        }
        Ok(())
    }

    fn add_alias(&mut self, slot: Slot, name: &str) {
        let aliases = match slot {
            Slot::Parameter(index) => self.state.parameters.get_mut(index).map(|parameter| &mut parameter.aliases),
            Slot::Buffer(index) => self.state.buffers.get_mut(index).map(|buffer| &mut buffer.aliases),
        };
        if let Some(aliases) = aliases {
            aliases.push(name.to_owned());
        }
    }

    /// A value for a stored tensor, which must be what the graph says it is.
    fn define(&mut self, value: &'g str, name: &str, stored: &Stored) -> Result<ValueId, Error> {
        let id = self.graph.define_tensor(value)?;
        let TensorData { dtype, sizes, .. } = &stored.tensor;
        match self.graph.meta(id) {
            Some(meta)
                if meta.dtype == *dtype
                    && meta.shape.len() == sizes.len()
                    && meta.shape.iter().zip(sizes).all(|(dim, size)| dim.as_static() == Some(*size)) =>
            {
                Ok(id)
            }
            meta => Err(Error::WeightMismatch {
                name: name.to_owned(),
                stored: format!("{dtype} {sizes:?}"),
                expected: meta.map_or_else(String::new, ToString::to_string),
            }),
        }
    }
}

/// The bytes of a storage that one weight occupies.
#[derive(Debug)]
struct View {
    name: String,
    file: String,
    start: i64,
    end: i64,
    /// Whether training may change it.
    changes: bool,
}

impl View {
    fn new(name: &str, stored: &Stored, changes: bool) -> Self {
        let extent = stored.tensor.extent();
        // Checked against the file's length when the tensor was made: no overflow.
        let size = stored.tensor.dtype.size() as i64;
        let (start, end) = (extent.start.saturating_mul(size), extent.end.saturating_mul(size));
        Self { name: name.to_owned(), file: stored.file.clone(), start, end, changes }
    }
}

/// Refuses two weights that share bytes, unless nothing changes either. Ties have become aliases before.
fn check_sharing(views: &[View]) -> Result<(), Error> {
    let mut files = BTreeMap::<&str, Vec<&View>>::new();
    for view in views.iter().filter(|view| view.start < view.end) {
        files.entry(&view.file).or_default().push(view);
    }
    for views in files.values_mut() {
        views.sort_by_key(|view| view.start);
        // The views that reach furthest so far: of all, and of those that change.
        let (mut furthest, mut furthest_changing): (Option<&View>, Option<&View>) = (None, None);
        for view in views.iter().copied() {
            let before = if view.changes { furthest } else { furthest_changing };
            if let Some(before) = before.filter(|before| before.end > view.start) {
                return Err(Error::SharedStorage { first: before.name.clone(), second: view.name.clone() });
            }
            if furthest.is_none_or(|before| before.end < view.end) {
                furthest = Some(view);
            }
            if view.changes && furthest_changing.is_none_or(|before| before.end < view.end) {
                furthest_changing = Some(view);
            }
        }
    }
    Ok(())
}
