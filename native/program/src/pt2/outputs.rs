//! What the program returns: tensors with names, and whatever else, which is no output.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::graph::{Graph, User};
use super::schema::{Argument, GraphModule, NamedTuple, OutputSpec};
use crate::error::Error;
use crate::ir::ValueId;

/// Bytes of a name.
const LONGEST_NAME: usize = 256;

/// The tensors and their names, in the order of the model's return value.
pub(super) fn read(graph: &Graph<'_>, module: &GraphModule) -> Result<(Vec<ValueId>, Vec<String>), Error> {
    let specs = &module.signature.output_specs;
    let names = names(module).filter(|names| names.len() == specs.len());
    let names = names.unwrap_or_else(|| (0..specs.len()).map(|position| position.to_string()).collect());
    let (mut outputs, mut kept) = (Vec::new(), Vec::new());
    for (index, (spec, name)) in specs.iter().zip(names).enumerate() {
        let argument = match spec {
            OutputSpec::User(argument) => argument,
            OutputSpec::Other(kind) => return Err(Error::UnsupportedOutput { index, kind: kind.clone() }),
        };
        match argument {
            Argument::Tensor(value) | Argument::OptionalTensor(Some(value)) => {
                outputs.push(graph.tensor(User::Output { index }, value)?);
                kept.push(name);
            }
            // Nothing that rows could be predicted or judged by.
            Argument::None
            | Argument::OptionalTensor(None)
            | Argument::Int(_)
            | Argument::SymInt(_)
            | Argument::Float(_)
            | Argument::SymFloat(_)
            | Argument::Bool(_)
            | Argument::SymBool(_)
            | Argument::Str(_) => {}
            other => return Err(Error::UnsupportedOutput { index, kind: other.kind().to_owned() }),
        }
    }
    if outputs.is_empty() { Err(Error::NoOutput) } else { Ok((outputs, kept)) }
}

/// A tree of containers, as `torch.utils._pytree` writes it.
#[derive(Deserialize)]
struct Tree {
    #[serde(rename = "type")]
    kind: Option<String>,
    /// JSON again: the keys of a dict, the fields of a dataclass.
    context: Option<String>,
    children_spec: Vec<Tree>,
}

/// A name for every leaf of the return value; `None` if its structure is not stated or not understood.
fn names(module: &GraphModule) -> Option<Vec<String>> {
    let entry = module.module_call_graph.iter().find(|entry| entry.fqn.is_empty())?;
    let (version, tree): (i64, Tree) = serde_json::from_str(&entry.signature.as_ref()?.out_spec).ok()?;
    if version != 1 {
        return None;
    }
    let mut names = Vec::new();
    name_leaves(&tree, "", &module.treespec_namedtuple_fields, &mut names)?;
    Some(names)
}

/// `None` if a name would be longer than anybody's: every leaf below a long key repeats it.
fn name_leaves(tree: &Tree, path: &str, tuples: &BTreeMap<String, NamedTuple>, names: &mut Vec<String>) -> Option<()> {
    if path.len() > LONGEST_NAME {
        return None;
    }
    if tree.kind.is_none() {
        names.push(if path.is_empty() { "0".to_owned() } else { path.to_owned() });
        return Some(());
    }
    let keys = keys(tree, tuples);
    for (index, child) in tree.children_spec.iter().enumerate() {
        let key = keys.as_ref().and_then(|keys| keys.get(index).cloned()).unwrap_or_else(|| index.to_string());
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        name_leaves(child, &path, tuples, names)?;
    }
    Some(())
}

/// The names of a container's children, if they have any.
fn keys(tree: &Tree, tuples: &BTreeMap<String, NamedTuple>) -> Option<Vec<String>> {
    use serde_json::Value;
    let context: Value = serde_json::from_str(tree.context.as_deref()?).ok()?;
    let list = match &context {
        Value::Array(list) => list,
        // A named tuple is registered under a name.
        Value::String(name) => {
            return tuples
                .get(name)
                .map(|tuple| tuple.field_names.clone())
                .filter(|keys| keys.len() == tree.children_spec.len());
        }
        _ => return None,
    };
    // A dataclass that the user registered: its fields, and those that were None.
    let list = match list.first() {
        Some(Value::Array(fields)) => fields,
        _ => list,
    };
    let key = |key: &Value| match key {
        Value::String(key) => Some(key.clone()),
        Value::Number(key) => Some(key.to_string()),
        _ => None,
    };
    list.iter().map(key).collect::<Option<Vec<_>>>().filter(|keys| keys.len() == tree.children_spec.len())
}
