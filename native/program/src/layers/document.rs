//! The JSON of a whole network, in either of its two forms, and the walk over its layers.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value};

use super::build::{Build, Place, Problem, Rows};
use super::kinds::{AnyLayer, Kind, Settings};
use super::settings::{DataFormat, elements};
use crate::dtype::DType;
use crate::error::Error;
use crate::ir::Program;

/// The document. `inputShape` makes it a sequence, `inputs` and `outputs` a graph.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    // Read one by one, so that a message can say which layer it is about.
    layers: Vec<Value>,
    input_shape: Option<Vec<i64>>,
    inputs: Option<Vec<InputSpec>>,
    outputs: Option<Vec<String>>,
    #[serde(default)]
    seed: i64,
    /// What layers take that do not say.
    #[serde(default)]
    data_format: DataFormat,
}

/// An input of a graph.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputSpec {
    name: String,
    shape: Vec<i64>,
    #[serde(default)]
    dtype: InputType,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InputType {
    #[default]
    Float32,
    Int32,
    Int64,
}

impl From<InputType> for DType {
    fn from(dtype: InputType) -> Self {
        match dtype {
            InputType::Float32 => Self::Float32,
            InputType::Int32 => Self::Int32,
            InputType::Int64 => Self::Int64,
        }
    }
}

pub(crate) fn read(json: &[u8]) -> Result<Program, Error> {
    let document: Document = serde_json::from_slice(json).map_err(|source| Error::LayerList { source })?;
    let refused = |problem: &str| Error::LayerList { source: serde_json::Error::custom(problem) };
    match (document.input_shape, document.inputs, document.outputs) {
        (Some(_), _, _) if document.layers.is_empty() => Err(Error::NoLayers),
        (Some(shape), None, None) => sequence(&document.layers, shape, Build::new(document.seed, document.data_format)),
        (None, Some(inputs), Some(outputs)) => {
            graph(&document.layers, inputs, &outputs, Build::new(document.seed, document.data_format))
        }
        (Some(_), _, _) => Err(refused("inputShape is for a sequence of layers, inputs and outputs are for a graph")),
        (None, _, _) => Err(refused("give inputShape for a sequence of layers, or inputs and outputs for a graph")),
    }
}

/// One entry of `layers`, with what all layers have taken out of it.
struct Entry<'a> {
    index: usize,
    kind: String,
    name: Option<&'a str>,
    inputs: Option<Vec<&'a str>>,
    trainable: bool,
    settings: Map<String, Value>,
}

impl<'a> Entry<'a> {
    fn read(index: usize, json: &'a Value) -> Result<Self, Error> {
        let refused = |problem: &str| Error::LayerJson { layer: index.to_string(), problem: problem.to_owned() };
        let Value::Object(object) = json else {
            return Err(refused(r#"it is not an object such as {"type": "dense", "units": 10}"#));
        };
        let Some(Value::String(kind)) = object.get("type") else {
            return Err(refused(r#"it has no "type", a text such as "dense""#));
        };
        let name = match object.get("name") {
            None => None,
            // Weights are called layer.weight, and nodes after the layer.
            Some(Value::String(name)) if !name.is_empty() && !name.contains(['.', '/']) => Some(name.as_str()),
            Some(_) => return Err(refused("its name must be a text without . and /")),
        };
        let inputs = match object.get("inputs") {
            None => None,
            Some(Value::String(input)) => Some(vec![input.as_str()]),
            Some(Value::Array(inputs)) => Some(
                inputs
                    .iter()
                    .map(|input| input.as_str().ok_or_else(|| refused("its inputs must be names")))
                    .collect::<Result<_, _>>()?,
            ),
            Some(_) => return Err(refused("its inputs must be a list of names")),
        };
        let trainable = match object.get("trainable") {
            None => true,
            Some(Value::Bool(trainable)) => *trainable,
            Some(_) => return Err(refused("trainable must be true or false")),
        };
        let own = |(key, _): &(&String, &Value)| !["type", "name", "inputs", "trainable"].contains(&key.as_str());
        let settings = object.iter().filter(own).map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { index, kind: kind.clone(), name, inputs, trainable, settings })
    }

    /// How messages call it: `1 (dense)`, or `1 (dense "head")`.
    fn title(&self) -> String {
        match self.name {
            Some(name) => format!("{} ({} {name:?})", self.index, self.kind),
            None => format!("{} ({})", self.index, self.kind),
        }
    }

    fn refused(&self, problem: impl Into<String>) -> Error {
        Error::LayerJson { layer: self.title(), problem: problem.into() }
    }

    fn layer(&mut self) -> Result<AnyLayer, Error> {
        let settings = Settings(std::mem::take(&mut self.settings));
        let kind = Kind::named(&self.kind).map_err(|problem| self.refused(problem))?;
        (kind.read)(settings).map_err(|problem| self.refused(problem))
    }

    fn build(&self, b: &mut Build, place: Place, layer: &AnyLayer, inputs: &[Rows]) -> Result<Rows, Error> {
        b.enter(place);
        let takes = match layer {
            AnyLayer::Layer(_) => 1..=1,
            AnyLayer::Join(join) => join.takes(),
        };
        if !takes.contains(&inputs.len()) {
            let count = match (*takes.start(), *takes.end()) {
                (low, high) if low == high => low.to_string(),
                (low, usize::MAX) => format!("{low} or more"),
                (low, high) => format!("{low} to {high}"),
            };
            return Err(self.refused(format!("it takes {count} inputs and is given {}", inputs.len())));
        }
        let built = match (layer, inputs) {
            (AnyLayer::Layer(layer), [x, ..]) => layer.build(b, x),
            (AnyLayer::Layer(_), []) => Err("it is given no input".into()),
            (AnyLayer::Join(join), inputs) => join.build(b, inputs),
        };
        built.and_then(|rows| elements(&rows.shape).map(|_| rows).map_err(Problem::from)).map_err(|problem| {
            match problem {
                Problem::Failed(error) => error,
                Problem::Misfit(problem) => Error::Layer {
                    layer: self.title(),
                    shapes: inputs.iter().map(|rows| rows.shape.clone()).collect(),
                    problem,
                },
            }
        })
    }
}

/// Each layer is given what the one before it gave.
fn sequence(layers: &[Value], shape: Vec<i64>, mut b: Build) -> Result<Program, Error> {
    let entries = layers.iter().enumerate().map(|(index, json)| Entry::read(index, json));
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    // Ids are integers: what an embedding looks up reaches it as the input gave it, if only its shape was changed.
    let first = entries.iter().map(|entry| entry.kind.as_str()).find(|kind| !super::reshaping::moves_only(kind));
    let ids = first.is_some_and(|kind| Kind::named(kind).is_ok_and(|kind| kind.class == "Embedding"));
    let mut rows = b.input("input", shape, if ids { DType::Int64 } else { DType::Float32 })?;
    let mut names = HashMap::new();
    for entry in &mut entries {
        if entry.inputs.is_some() {
            return Err(entry.refused("inputs are for a graph: in a sequence each layer follows the one before it"));
        }
        let name = entry.name.map_or_else(|| entry.index.to_string(), str::to_owned);
        if let Some(other) = names.insert(name.clone(), entry.index) {
            return Err(entry.refused(format!("layer {other} is called {name} too: names must differ")));
        }
        let node = entry.name.map_or_else(|| format!("{}_{}", entry.kind, entry.index), str::to_owned);
        let layer = entry.layer()?;
        let place = Place { node, weights: name, trainable: entry.trainable };
        rows = entry.build(&mut b, place, &layer, &[rows])?;
    }
    Ok(b.finish(vec![("0".to_owned(), rows)]))
}

/// A second call of an earlier layer: the same settings, the same weights.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shared {
    layer: String,
}

/// Each layer names what it is given.
fn graph(layers: &[Value], inputs: Vec<InputSpec>, outputs: &[String], mut b: Build) -> Result<Program, Error> {
    let refused = |problem: String| Error::LayerList { source: serde_json::Error::custom(problem) };
    if inputs.is_empty() || outputs.is_empty() {
        return Err(refused("a graph needs at least one input and one output".into()));
    }
    let mut values: HashMap<String, Rows> = HashMap::new();
    for input in inputs {
        if input.name.is_empty() || values.contains_key(&input.name) {
            return Err(refused(format!("the input {:?} needs a name of its own", input.name)));
        }
        let rows = b.input(&input.name, input.shape, input.dtype.into())?;
        values.insert(input.name, rows);
    }
    let mut known: HashMap<String, (AnyLayer, Place)> = HashMap::new();
    for (index, json) in layers.iter().enumerate() {
        let mut entry = Entry::read(index, json)?;
        let Some(name) = entry.name.map(str::to_owned) else {
            return Err(entry.refused("in a graph every layer needs a name"));
        };
        if values.contains_key(&name) {
            return Err(entry.refused("an input or an earlier layer has this name too: names must differ"));
        }
        let find = |input: &&str| {
            values.get(*input).cloned().ok_or_else(|| {
                entry.refused(format!("its input {input:?} is neither an input of the graph nor an earlier layer"))
            })
        };
        let given = entry.inputs.iter().flatten().map(find).collect::<Result<Vec<_>, _>>()?;
        let rows = if entry.kind == "shared" {
            let settings = Settings(std::mem::take(&mut entry.settings));
            if !entry.trainable {
                return Err(entry.refused("trainable belongs to the layer it shares"));
            }
            let shared: Shared = settings.read().map_err(|problem| entry.refused(problem))?;
            let Some((layer, place)) = known.get(&shared.layer) else {
                return Err(entry.refused(format!("it shares {:?}, which is no earlier layer", shared.layer)));
            };
            let place = Place { node: name.clone(), ..place.clone() };
            entry.build(&mut b, place, layer, &given)?
        } else {
            let layer = entry.layer()?;
            let place = Place { node: name.clone(), weights: name.clone(), trainable: entry.trainable };
            let rows = entry.build(&mut b, place.clone(), &layer, &given)?;
            known.insert(name.clone(), (layer, place));
            rows
        };
        values.insert(name, rows);
    }
    let find = |name: &String| {
        let rows = values.get(name).cloned();
        let rows = rows.ok_or_else(|| refused(format!("the output {name:?} is no layer of the graph")))?;
        Ok((name.clone(), rows))
    };
    let outputs = outputs.iter().map(find).collect::<Result<Vec<_>, Error>>()?;
    Ok(b.finish(outputs))
}
