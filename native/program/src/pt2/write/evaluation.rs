//! The graph of an archive with evaluation's literals in it.
//!
//! What changes is what differs between the program and its [`Program::evaluation`]: literal arguments of nodes, calls
//! that became others, and nodes that are gone. Everything else is copied byte for byte; a parsed and rewritten number might come out different.

use std::collections::BTreeMap;

use serde_json::json;
use serde_json::value::RawValue;

use super::super::graph::node_name;
use super::super::schema;
use super::model;
use crate::error::Error;
use crate::ir::{Arg, Node, Program, ScalarOp, Target, ValueId};

/// The JSON in `entry`, from which `program` was read, as the program that predicts.
pub(super) fn model(entry: &str, json: &[u8], program: &Program) -> Result<Vec<u8>, Error> {
    let broken = |source| Error::Json { entry: entry.to_owned(), source };
    let evaluation = program.evaluation();
    let mut changes = Changes::between(program, &evaluation);
    let model: &RawValue = serde_json::from_slice(json).map_err(broken)?;
    let rewritten = within(model, "graph_module", |module| within(module, "graph", |raw| graph(raw, &mut changes)));
    let rewritten = rewritten.map_err(broken)?;
    match (changes.left.next(), changes.lost) {
        (None, None) => Ok(rewritten.get().as_bytes().to_vec()),
        (Some(change), _) => Err(Error::NoEvaluation { node: change.node.name.clone() }),
        (None, Some(node)) => Err(Error::NoEvaluation { node }),
    }
}

/// What becomes of the nodes of a program, in their order.
struct Changes<'p> {
    program: &'p Program,
    left: std::iter::Peekable<std::vec::IntoIter<Change<'p>>>,
    /// A node of the evaluation program that is none of the training program's.
    lost: Option<String>,
}

struct Change<'p> {
    node: &'p Node,
    fate: Fate<'p>,
}

enum Fate<'p> {
    Stays,
    Goes,
    Gets(Vec<(&'p str, &'p Arg)>),
    Becomes(&'p Node),
}

impl<'p> Changes<'p> {
    fn between(program: &'p Program, evaluation: &'p Program) -> Self {
        let mut after = evaluation.all_nodes().into_iter().peekable();
        let mut fate = |node: &'p Node| match after.next_if(|next| next.name == node.name) {
            None => Fate::Goes,
            Some(next) if !calls_alike(next, node) => Fate::Becomes(next),
            Some(next) => {
                let differs = |(name, arg): &&(String, Arg)| node.arg(name) != Some(arg);
                let args: Vec<_> = next.args.iter().filter(differs).map(|(name, arg)| (name.as_str(), arg)).collect();
                if args.is_empty() { Fate::Stays } else { Fate::Gets(args) }
            }
        };
        let left: Vec<_> = program.all_nodes().into_iter().map(|node| Change { node, fate: fate(node) }).collect();
        let lost = after.next().map(|node| node.name.clone());
        Self { program, left: left.into_iter().peekable(), lost }
    }

    /// What becomes of this node; `None` for one that is no part of the program, such as an assertion.
    fn of(&mut self, raw: &schema::Node) -> Option<Fate<'p>> {
        let same = |change: &Change<'_>| change.node.name == node_name(raw) && calls(change.node, &raw.target);
        self.left.next_if(same).map(|change| change.fate)
    }
}

/// Whether two nodes call the same with arguments of the same names; the blocks of a `cond` are compared node by node.
fn calls_alike(one: &Node, other: &Node) -> bool {
    let names = |node: &Node| node.args.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    names(one) == names(other)
        && (one.target == other.target
            || matches!((&one.target, &other.target), (Target::Cond { .. }, Target::Cond { .. })))
}

/// Whether a node is what the archive calls so.
fn calls(node: &Node, target: &str) -> bool {
    match &node.target {
        Target::Aten { name, overload } => {
            let overload = if overload.is_empty() { "default" } else { overload };
            target.strip_prefix("torch.ops.aten.").and_then(|rest| rest.strip_suffix(overload))
                == name.strip_prefix("aten::").map(|name| format!("{name}.")).as_deref()
        }
        Target::Scalar(op) => ScalarOp::from_target(target) == Some(*op),
        Target::Cond { .. } => target.ends_with(".cond"),
    }
}

/// A graph's nodes in the order in which the program has them: a graph inside a node follows it.
fn graph(raw: &RawValue, changes: &mut Changes<'_>) -> serde_json::Result<Box<RawValue>> {
    within(raw, "nodes", |nodes| each(nodes, |raw| node(raw, changes)))
}

/// A node with its new arguments; `None` if it goes.
fn node(raw: &RawValue, changes: &mut Changes<'_>) -> serde_json::Result<Option<Box<RawValue>>> {
    let fate = changes.of(&serde_json::from_str(raw.get())?);
    let name = |value: ValueId| changes.program.value(value).map_or("", |value| value.name.as_str());
    let literals = match fate {
        Some(Fate::Goes) => return Ok(None),
        Some(Fate::Becomes(node)) => {
            let input = |(key, arg): &(String, Arg)| json!({"name": key, "arg": model::argument_json(arg, &name), "kind": null});
            let inputs: Vec<_> = node.args.iter().map(input).collect();
            let target = model::target_name(&node.target);
            let called = within(raw, "target", |_| serde_json::value::to_raw_value(&target))?;
            return within(&called, "inputs", |_| serde_json::value::to_raw_value(&inputs)).map(Some);
        }
        Some(Fate::Gets(literals)) => literals,
        Some(Fate::Stays) | None => Vec::new(),
    };
    let argument = |raw: &RawValue, changes: &mut Changes<'_>| {
        let named: Named = serde_json::from_str(raw.get())?;
        if let Some((_, literal)) = literals.iter().find(|(name, _)| *name == named.name) {
            return within(raw, "arg", |_| serde_json::value::to_raw_value(&model::argument_json(literal, &|_| "")));
        }
        within(raw, "arg", |arg| within(arg, "as_graph", |block| within(block, "graph", |raw| graph(raw, changes))))
    };
    within(raw, "inputs", |inputs| each(inputs, |raw| argument(raw, changes).map(Some))).map(Some)
}

#[derive(serde::Deserialize)]
struct Named {
    name: String,
}

/// The object with another value under `key`, if it has one there.
fn within(
    object: &RawValue,
    key: &str,
    change: impl FnOnce(&RawValue) -> serde_json::Result<Box<RawValue>>,
) -> serde_json::Result<Box<RawValue>> {
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(object.get())?;
    let Some(value) = fields.get(key) else { return Ok(object.to_owned()) };
    let value = change(value)?;
    fields.insert(key.to_owned(), &value);
    serde_json::value::to_raw_value(&fields)
}

/// The list with every element changed, or left out.
fn each(
    list: &RawValue,
    mut change: impl FnMut(&RawValue) -> serde_json::Result<Option<Box<RawValue>>>,
) -> serde_json::Result<Box<RawValue>> {
    let elements: Vec<&RawValue> = serde_json::from_str(list.get())?;
    let mut kept = Vec::with_capacity(elements.len());
    for element in elements {
        kept.extend(change(element)?);
    }
    serde_json::value::to_raw_value(&kept)
}
