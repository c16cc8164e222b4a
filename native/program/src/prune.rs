//! From a program that also computes its loss to the part that predicts.
//!
//! A program that returns its own loss takes the labels as inputs, which nobody has when predicting. [`Program::pruned`]
//! keeps what some outputs need: the nodes that lead to it and the inputs that those read. A size that is read off an
//! input that goes is read off one that stays and has the same symbol, such as the number of rows.
//!
//! Meant for evaluation: a node that only updates a buffer goes too.

use std::collections::{HashMap, HashSet};

use crate::ir::{Arg, Dim, Node, Program, ValueId};
use crate::mutation::{shares, writes as written};

impl Program {
    /// The program that returns the outputs at `indices` alone, in this order, without the nodes and inputs that none of
    /// them needs: the inputs are those that [`Program::needed_inputs`] says of each. Weights and values stay as they are.
    /// `None` if there is no such output.
    #[must_use]
    pub fn pruned(&self, indices: &[usize]) -> Option<Self> {
        let outputs: Vec<ValueId> =
            indices.iter().map(|&index| self.outputs.get(index).copied()).collect::<Option<_>>()?;
        let mut needs = Needs::of(self, &outputs);
        needs.inputs = indices.iter().flat_map(|&index| self.needed_inputs(index)).collect();
        needs.inputs.sort_unstable();
        needs.inputs.dedup();
        let mut program = self.clone();
        program.nodes = needs.nodes.iter().filter_map(|&at| self.nodes.get(at)).cloned().collect();
        for node in &mut program.nodes {
            needs.read_size_elsewhere(self, node);
        }
        program.inputs = needs.inputs.iter().filter_map(|&at| self.inputs.get(at)).cloned().collect();
        program.outputs = outputs;
        program.output_names = indices.iter().filter_map(|&index| self.output_names.get(index)).cloned().collect();
        Some(program)
    }

    /// The inputs, by position, that output `index` needs.
    #[must_use]
    pub fn needed_inputs(&self, index: usize) -> Vec<usize> {
        self.outputs.get(index).map_or_else(Vec::new, |&output| Needs::of(self, &[output]).inputs)
    }
}

/// What outputs need.
struct Needs {
    /// Positions of the nodes that stay, in order.
    nodes: Vec<usize>,
    /// Positions of the inputs that stay, in order; at least one, as it says how many rows there are.
    inputs: Vec<usize>,
}

impl Needs {
    fn of(program: &Program, outputs: &[ValueId]) -> Needs {
        let memory = memory(program);
        let place = |value: ValueId| memory.get(&value).copied().unwrap_or(value);
        let mut live: HashSet<ValueId> = outputs.iter().copied().collect();
        // Tensors of which some view is live: writing into one of them matters.
        let mut touched: HashSet<ValueId> = outputs.iter().map(|&output| place(output)).collect();
        let mut sizes = HashSet::new();
        let mut nodes = Vec::new();
        for (at, node) in program.nodes.iter().enumerate().rev() {
            let mut writes = false;
            node.walk(&mut |node| writes |= written(node).iter().any(|&value| touched.contains(&place(value))));
            if !writes && !node.defines().any(|value| live.contains(&value)) {
                continue;
            }
            nodes.push(at);
            if let Some(symbol) = size_of_input(program, node) {
                sizes.insert(symbol);
                continue;
            }
            for value in node.uses() {
                live.insert(value);
                touched.insert(place(value));
            }
        }
        nodes.reverse();
        let mut kept: Vec<bool> = program.inputs.iter().map(|input| live.contains(&input.value)).collect();
        for symbol in sizes {
            let has =
                |at: usize| program.inputs.get(at).is_some_and(|input| symbol_at(&input.shape, &symbol).is_some());
            if !(0..kept.len()).any(|at| kept.get(at) == Some(&true) && has(at))
                && let Some(slot) = (0..kept.len()).find(|&at| has(at)).and_then(|at| kept.get_mut(at))
            {
                *slot = true;
            }
        }
        if !kept.contains(&true)
            && let Some(first) = kept.first_mut()
        {
            *first = true;
        }
        let inputs = kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(at, _)| at).collect();
        Needs { nodes, inputs }
    }

    /// Points a size that was read off an input which goes to one that stays.
    fn read_size_elsewhere(&self, program: &Program, node: &mut Node) {
        let Some(symbol) = size_of_input(program, node) else { return };
        let stays = self.inputs.iter().filter_map(|&at| program.inputs.get(at));
        let found = stays.filter_map(|input| Some((input.value, symbol_at(&input.shape, &symbol)?))).next();
        let (Some((value, dim)), [(_, tensor), (_, index), ..]) = (found, node.args.as_mut_slice()) else { return };
        *tensor = Arg::Tensor(value);
        *index = Arg::Int(i64::try_from(dim).unwrap_or(0));
    }
}

/// For `sym_size` of an input: the symbol that is read.
fn size_of_input(program: &Program, node: &Node) -> Option<String> {
    let ("aten::sym_size", [(_, Arg::Tensor(tensor)), (_, Arg::Int(dim))]) = (node.aten()?, node.args.as_slice())
    else {
        return None;
    };
    let input = program.inputs.iter().find(|input| input.value == *tensor)?;
    match input.shape.get(usize::try_from(*dim).ok()?)? {
        Dim::Symbolic { name } => Some(name.clone()),
        Dim::Static(_) => None,
    }
}

fn symbol_at(shape: &[Dim], symbol: &str) -> Option<usize> {
    shape.iter().position(|dim| matches!(dim, Dim::Symbolic { name } if name == symbol))
}

/// For every value that may share memory with an earlier one: the first of them. Values that something may share memory with
/// together are taken for one.
fn memory(program: &Program) -> HashMap<ValueId, ValueId> {
    let mut memory: HashMap<ValueId, ValueId> = HashMap::new();
    for node in program.all_nodes() {
        let bases: Vec<ValueId> =
            shares(node).into_iter().map(|base| memory.get(&base).copied().unwrap_or(base)).collect();
        let Some((&first, others)) = bases.split_first() else { continue };
        for &other in others.iter().filter(|other| **other != first) {
            memory.values_mut().filter(|place| **place == other).for_each(|place| *place = first);
            memory.insert(other, first);
        }
        memory.extend(node.defines().map(|value| (value, first)));
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Input, Output, Target, TensorMeta, Value};

    /// Two dense layers, of which the second reads the first, and both are returned.
    fn program() -> Program {
        let layers = r#"{"inputShape": [4], "layers": [{"type": "dense", "units": 3}, {"type": "dense", "units": 2}]}"#;
        let mut program = Program::read(layers.as_bytes().to_vec()).unwrap();
        let first = program.nodes[0].outputs[0].values()[0];
        program.outputs.push(first);
        program.output_names.push("hidden".to_owned());
        program
    }

    fn value(program: &mut Program, name: &str, rows: &str) -> ValueId {
        let id = ValueId(u32::try_from(program.values.len()).unwrap());
        let meta = TensorMeta { dtype: crate::DType::Float32, shape: vec![Dim::Symbolic { name: rows.to_owned() }] };
        program.values.push(Value::tensor(name.to_owned(), meta));
        id
    }

    fn node(name: &str, args: Vec<(&str, Arg)>, output: Output) -> Node {
        let target = Target::Aten { name: format!("aten::{name}"), overload: String::new() };
        let args = args.into_iter().map(|(name, arg)| (name.to_owned(), arg)).collect();
        Node {
            name: name.to_owned(),
            target,
            args,
            outputs: vec![output],
            scope: crate::Scope::default(),
            module: None,
        }
    }

    #[test]
    fn what_the_output_does_not_need_goes() {
        let program = program();
        let pruned = program.pruned(&[1]).unwrap();
        assert_eq!(pruned.nodes.len(), 1);
        assert_eq!(pruned.output_names, ["hidden"]);
        assert_eq!(pruned.parameters.len(), program.parameters.len(), "weights are read by name all the same");
        assert_eq!(program.pruned(&[0]).unwrap().nodes, program.nodes);
        assert!(program.pruned(&[0, 2]).is_none());
    }

    #[test]
    fn several_outputs_keep_what_any_of_them_needs_in_the_order_they_are_asked_for() {
        let program = program();
        let both = program.pruned(&[1, 0]).unwrap();
        assert_eq!(both.nodes, program.nodes);
        assert_eq!(both.output_names, ["hidden", program.output_names[0].as_str()]);
        assert_eq!(both.outputs, [program.outputs[1], program.outputs[0]]);
    }

    #[test]
    fn an_input_that_only_feeds_the_loss_goes_and_a_size_read_off_it_is_read_elsewhere() {
        let mut program = program();
        let rows = match &program.inputs[0].shape[0] {
            Dim::Symbolic { name } => name.clone(),
            Dim::Static(_) => panic!("rows are symbolic"),
        };
        let label = value(&mut program, "label", &rows);
        let shape = vec![Dim::Symbolic { name: rows.clone() }];
        program.inputs.push(Input { value: label, name: "label".into(), dtype: crate::DType::Float32, shape });
        let size = value(&mut program, "size", &rows);
        let (loss, flat) = (value(&mut program, "loss", &rows), value(&mut program, "flat", &rows));
        let features = program.inputs[0].value;
        let hidden = program.outputs[1];
        program
            .nodes
            .insert(0, node("sym_size", vec![("self", Arg::Tensor(label)), ("dim", Arg::Int(0))], Output::Int(size)));
        program.nodes.push(node(
            "sub",
            vec![("self", Arg::Tensor(label)), ("other", Arg::Tensor(hidden))],
            Output::Tensor(loss),
        ));
        let sizes = Arg::SymInts(vec![crate::SymInt::Value(size), crate::SymInt::Const(3)]);
        program.nodes.push(node("view", vec![("self", Arg::Tensor(hidden)), ("size", sizes)], Output::Tensor(flat)));
        program.outputs = vec![loss, flat];
        program.output_names = vec!["loss".into(), "logits".into()];

        assert_eq!(program.needed_inputs(0), [0, 1]);
        assert_eq!(program.needed_inputs(1), [0]);
        let pruned = program.pruned(&[1]).unwrap();
        assert_eq!(pruned.inputs.len(), 1);
        let names: Vec<&str> = pruned.nodes.iter().filter_map(Node::aten).collect();
        assert_eq!(names, ["aten::sym_size", "aten::linear", "aten::view"]);
        assert_eq!(pruned.nodes[0].arg("self"), Some(&Arg::Tensor(features)));
    }

    #[test]
    fn a_write_into_a_view_of_what_is_needed_stays() {
        let mut program = program();
        let hidden = program.outputs[1];
        let (view, written) = (value(&mut program, "view", "s"), value(&mut program, "written", "s"));
        program.nodes.push(node("view", vec![("self", Arg::Tensor(hidden))], Output::Tensor(view)));
        program.nodes.push(node("relu_", vec![("self", Arg::Tensor(view))], Output::Tensor(written)));
        let pruned = program.pruned(&[1]).unwrap();
        let names: Vec<&str> = pruned.nodes.iter().filter_map(Node::aten).collect();
        assert_eq!(names, ["aten::linear", "aten::view", "aten::relu_"]);
    }
}
