//! Higher-order operators: nodes that hold a graph of their own.
//!
//! Regions of the source (gradients off, autocast, a checkpointed segment) are dissolved: the graph's nodes take the place
//! of the node and carry the [`Scope`] they stand in. The two graphs of a `cond` become blocks. A graph sees its operands
//! only, by position.

use super::graph::{Bound, Graph, Kind, User, unsupported};
use super::schema::{self, Argument, NamedArgument};
use super::target::Region;
use crate::dtype::DType;
use crate::error::Error;
use crate::ir::{Arg, AutocastMode, Block, GradMode, Node, Scalar, Scope, Target};

impl<'a> Graph<'a> {
    /// Converts a node that holds one graph or two.
    pub(super) fn region(
        &mut self,
        region: Region,
        name: &str,
        raw: &'a schema::Node,
        nodes: &mut Vec<Node>,
    ) -> Result<(), Error> {
        // Keywords are settings of the operator (a checkpoint's use_reentrant); operands and graphs come by position.
        let inputs: Vec<&'a NamedArgument> = raw.inputs.iter().filter(|input| input.name.is_empty()).collect();
        let (settings, rest): (&[_], &[_]) = match inputs.iter().position(|input| input.arg.graph().is_some()) {
            Some(first) => inputs.split_at_checked(first).unwrap_or_default(),
            None => return Err(broken(name, "has no graph")),
        };
        let outside = self.scope;
        match (region, settings, rest) {
            (Region::Cond, [predicate], [yes, no, operands @ ..]) => {
                return self.cond(name, raw, predicate, [yes, no], operands, nodes);
            }
            (Region::GradMode, [enabled], [graph, operands @ ..]) => {
                let Argument::Bool(enabled) = enabled.arg else { return Err(broken(name, "does not say its mode")) };
                self.scope.grad = if enabled { GradMode::On } else { GradMode::Off };
                self.dissolve(name, raw, graph, operands, nodes)?;
            }
            (Region::Autocast, [device, dtype, enabled, ..], [graph, operands @ ..]) => {
                self.scope = self.autocast(name, [device, dtype, enabled])?;
                self.dissolve(name, raw, graph, operands, nodes)?;
            }
            (Region::Checkpoint, [], [graph, operands @ ..]) => {
                // A checkpoint within a checkpoint is computed again with the one around it.
                if self.scope.segment.is_none() {
                    self.scope.segment = Some(self.segments);
                    self.segments = self.segments.saturating_add(1);
                }
                self.dissolve(name, raw, graph, operands, nodes)?;
            }
            // After the graph comes its identifier, a text.
            (Region::Nested, [], [graph, _, operands @ ..]) => self.dissolve(name, raw, graph, operands, nodes)?,
            _ => return Err(broken(name, "has other arguments than torch.export gives it")),
        }
        self.scope = outside;
        Ok(())
    }

    /// The scope within an autocast region that asks for these settings.
    fn autocast(&mut self, node: &str, settings: [&NamedArgument; 3]) -> Result<Scope, Error> {
        let [device, dtype, enabled] = settings.map(|setting| &setting.arg);
        let (Argument::Str(device), Argument::Bool(enabled)) = (device, enabled) else {
            return Err(broken(node, "does not name its device and mode"));
        };
        if device != self.device {
            // Autocast of a device that the program does not run on changes nothing, in PyTorch too.
            return Ok(self.scope);
        }
        let mode = match (enabled, dtype) {
            (false, _) => AutocastMode::Off,
            (true, Argument::None) => AutocastMode::On(None),
            (true, Argument::ScalarType(code)) => match DType::from_schema(*code) {
                Ok(dtype @ (DType::Float16 | DType::BFloat16)) => AutocastMode::On(Some(dtype)),
                _ => return Err(broken(node, "asks for autocast to a type other than float16 and bfloat16")),
            },
            (true, _) => return Err(broken(node, "does not name its type")),
        };
        Ok(Scope { autocast: Some(mode), ..self.scope })
    }

    /// Puts the nodes of a graph in the place of the node that holds it.
    fn dissolve(
        &mut self,
        name: &str,
        raw: &'a schema::Node,
        graph: &'a NamedArgument,
        operands: &[&'a NamedArgument],
        nodes: &mut Vec<Node>,
    ) -> Result<(), Error> {
        let graph = graph.arg.graph().ok_or_else(|| broken(name, "has no graph"))?;
        let operands = self.operands(name, operands)?;
        self.open(name, graph, &operands)?;
        self.nodes(&graph.nodes, nodes)?;
        let user = User::Argument { node: name, name: "" };
        let mut results = Vec::new();
        for output in &graph.outputs {
            match output {
                Argument::Tensors(names) => {
                    for name in names {
                        results.push(Some(self.bound(user, name)?));
                    }
                }
                other => results.push(self.result(name, other)?),
            }
        }
        self.leave();
        let names = raw.outputs.iter().flat_map(named);
        let mut results = results.into_iter();
        for outer in names {
            match (outer, results.next()) {
                (Some(outer), Some(Some(bound))) => self.bind(outer, bound)?,
                (None, Some(_)) => {}
                _ => return Err(broken(name, "returns something else than its graph")),
            }
        }
        Ok(())
    }

    fn cond(
        &mut self,
        name: &str,
        raw: &'a schema::Node,
        predicate: &'a NamedArgument,
        graphs: [&'a NamedArgument; 2],
        operands: &[&'a NamedArgument],
        nodes: &mut Vec<Node>,
    ) -> Result<(), Error> {
        let predicate = match self.argument(name, predicate)? {
            predicate @ (Arg::Tensor(_) | Arg::SymBool(_) | Arg::Bool(_)) => predicate,
            _ => return Err(broken(name, "has a predicate that is neither a tensor nor a truth value")),
        };
        let operands = self.operands(name, operands)?;
        let [yes, no] = graphs;
        let mut block = |graph: &'a NamedArgument| {
            let graph = graph.arg.graph().ok_or_else(|| broken(name, "has not two graphs"))?;
            self.open(name, graph, &operands)?;
            let mut block = Block::default();
            self.nodes(&graph.nodes, &mut block.nodes)?;
            for output in &graph.outputs {
                let argument = self.value(User::Argument { node: name, name: "" }, output)?;
                block.results.push(argument.ok_or_else(|| unsupported(name, "result", "of a block", output.kind()))?);
            }
            self.leave();
            Ok::<_, Error>(block)
        };
        let blocks = Box::new([block(yes)?, block(no)?]);
        if blocks.iter().any(|block| block.results.len() != raw.outputs.len()) {
            return Err(broken(name, "returns something else than its graphs"));
        }
        let outputs = self.outputs(name, &raw.outputs)?;
        nodes.push(Node {
            name: name.to_owned(),
            target: Target::Cond { blocks },
            args: vec![("predicate".to_owned(), predicate)],
            outputs,
            scope: self.scope,
            module: raw.module(),
        });
        Ok(())
    }

    /// What a graph is given: single arguments and lists of them, one after the other.
    fn operands(&self, node: &str, raw: &[&NamedArgument]) -> Result<Vec<Option<Bound>>, Error> {
        let user = User::Argument { node, name: "" };
        let mut operands = Vec::new();
        for input in raw {
            match &input.arg {
                Argument::Tensors(names) => {
                    for name in names {
                        operands.push(Some(self.bound(user, name)?));
                    }
                }
                Argument::SymInts(numbers) => {
                    for number in numbers {
                        operands.push(Some(match number {
                            schema::SymInt::Name(name) => self.bound(user, name)?,
                            schema::SymInt::Int(number) => Bound::Literal(Scalar::Int(*number)),
                        }));
                    }
                }
                Argument::Ints(numbers) => {
                    operands.extend(numbers.iter().map(|&number| Some(Bound::Literal(Scalar::Int(number)))));
                }
                other => operands.push(self.result(node, other)?),
            }
        }
        Ok(operands)
    }

    /// A single argument as something that a name can be given to; `None` for no value.
    fn result(&self, node: &str, raw: &Argument) -> Result<Option<Bound>, Error> {
        let user = User::Argument { node, name: "" };
        Ok(Some(match self.value(user, raw)? {
            Some(Arg::Tensor(value)) => Bound::Value(value, Kind::Tensor),
            Some(Arg::SymInt(crate::ir::SymInt::Value(value))) => Bound::Value(value, Kind::Int),
            Some(Arg::SymFloat(value)) => Bound::Value(value, Kind::Float),
            Some(Arg::SymBool(value)) => Bound::Value(value, Kind::Bool),
            Some(Arg::Int(number)) => Bound::Literal(Scalar::Int(number)),
            Some(Arg::Float(number)) => Bound::Literal(Scalar::Float(number)),
            Some(Arg::Bool(truth)) => Bound::Literal(Scalar::Bool(truth)),
            Some(Arg::None) => return Ok(None),
            _ => return Err(unsupported(node, "argument", "of its graph", raw.kind())),
        }))
    }

    /// Opens a graph with its operands bound to the names it gives them.
    fn open(&mut self, node: &str, graph: &'a schema::Graph, operands: &[Option<Bound>]) -> Result<(), Error> {
        self.enter(graph);
        let names: Vec<Option<&'a str>> = graph.inputs.iter().flat_map(named).collect();
        if names.len() != operands.len() {
            return Err(broken(node, "gives its graph another number of operands than the graph takes"));
        }
        for (name, operand) in names.into_iter().zip(operands) {
            if let (Some(name), Some(bound)) = (name, operand) {
                self.bind(name, *bound)?;
            }
        }
        Ok(())
    }
}

/// The names in a graph's signature; `None` where a literal or nothing stands.
fn named(raw: &Argument) -> Vec<Option<&str>> {
    match raw {
        Argument::Tensor(name)
        | Argument::OptionalTensor(Some(name))
        | Argument::SymInt(schema::SymInt::Name(name))
        | Argument::SymFloat(schema::SymFloat::Name(name))
        | Argument::SymBool(schema::SymBool::Name(name)) => vec![Some(name)],
        Argument::Tensors(names) => names.iter().map(|name| Some(name.as_str())).collect(),
        _ => vec![None],
    }
}

fn broken(node: &str, problem: &'static str) -> Error {
    Error::BrokenRegion { node: node.to_owned(), problem }
}
