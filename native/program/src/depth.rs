//! Stochastic depth in evaluation.
//!
//! Stochastic depth multiplies a branch by a random 0 or 1 per row, over the probability that it stays, in training
//! only. The `if self.training` around it is gone from an exported graph, and the operators have no switch. But they
//! come in few shapes, and these are told by every one of their nodes:
//!
//! * `bernoulli_(p)` on a new tensor, then `div_(p)`: torchvision, timm. The tensor is filled with `p` instead, so that
//!   the division makes exactly 1 of it.
//! * `floor_(rand + p)`, times something over `p`: HuggingFace. The product is that something, copied.
//!
//! Anything else that is random stays and is named by [`Program::random_nodes`].

use std::collections::{HashMap, HashSet};

use crate::ir::{Arg, Node, Program, Target, ValueId};

/// Takes the noise of stochastic depth out of the top level of `program`.
pub(crate) fn settle(program: &mut Program) {
    let graph = Graph::of(program);
    let mut filled = Vec::new();
    let mut copied = Vec::new();
    let mut dropped = HashSet::new();
    for (index, node) in program.nodes.iter().enumerate() {
        if let Some(value) = graph.filled(program, node) {
            filled.push((index, value));
        }
        if let Some((source, noise)) = graph.floored(program, node) {
            copied.push((index, source));
            dropped.extend(noise);
        }
    }
    for (index, probability) in filled {
        if let Some(node) = program.nodes.get_mut(index) {
            node.target = aten("fill_", "Scalar");
            node.args.retain(|(name, _)| name == "self");
            node.args.push(("value".to_owned(), Arg::Float(probability)));
        }
    }
    for (index, source) in copied {
        if let Some(node) = program.nodes.get_mut(index) {
            node.target = aten("clone", "");
            node.args = vec![("self".to_owned(), Arg::Tensor(source))];
        }
    }
    let mut index = 0;
    program.nodes.retain(|_| {
        index += 1;
        !dropped.contains(&(index - 1))
    });
}

fn aten(name: &str, overload: &str) -> Target {
    Target::Aten { name: format!("aten::{name}"), overload: overload.to_owned() }
}

/// Who makes and who uses the values of a program.
struct Graph {
    made: HashMap<ValueId, usize>,
    /// The one top-level node that uses a value; `None` if there are more, or the program returns it.
    used: HashMap<ValueId, Option<usize>>,
}

impl Graph {
    fn of(program: &Program) -> Graph {
        let (mut made, mut used) = (HashMap::new(), HashMap::new());
        for (index, node) in program.nodes.iter().enumerate() {
            made.extend(node.defines().map(|value| (value, index)));
            for value in node.uses() {
                used.entry(value).and_modify(|user| *user = None).or_insert(Some(index));
            }
        }
        used.extend(program.outputs.iter().map(|&value| (value, None)));
        Graph { made, used }
    }

    /// The index of the node that alone uses what `node` makes.
    fn only_user(&self, node: &Node) -> Option<usize> {
        let mut values = node.defines();
        match (values.next(), values.next()) {
            (Some(value), None) => self.used.get(&value).copied().flatten(),
            _ => None,
        }
    }

    /// The probability of a `bernoulli_` that is divided by it and otherwise unused.
    fn filled(&self, program: &Program, node: &Node) -> Option<f64> {
        let probability = number(node, "aten::bernoulli_", "p")?;
        let user = program.nodes.get(self.only_user(node)?)?;
        (number(user, "aten::div_", "other")? == probability && tensor(user, "self") == node.defines().next())
            .then_some(probability)
    }

    /// For the product of something over p with `floor_(rand + p)`: that something, and the nodes of the noise.
    fn floored(&self, program: &Program, node: &Node) -> Option<(ValueId, [usize; 3])> {
        if node.aten() != Some("aten::mul") {
            return None;
        }
        let (one, other) = (tensor(node, "self")?, tensor(node, "other")?);
        [(one, other), (other, one)].into_iter().find_map(|(scaled, noise)| {
            let maker =
                |value: ValueId| self.made.get(&value).and_then(|&index| Some((index, program.nodes.get(index)?)));
            let (_, division) = maker(scaled)?;
            let probability = number(division, "aten::div", "other")?;
            let (floor, floored) = maker(noise).filter(|(_, node)| node.aten() == Some("aten::floor_"))?;
            let (sum, added) = maker(tensor(floored, "self")?)?;
            let (rand, random) = maker(tensor(added, "self")?)?;
            let alone = [floored, added, random].into_iter().all(|node| self.only_user(node).is_some());
            let same = number(added, "aten::add", "other")? == probability && added.arg("alpha").is_none();
            (alone && same && random.aten() == Some("aten::rand"))
                .then_some((tensor(division, "self")?, [floor, sum, rand]))
        })
    }
}

/// The literal number that `node` has for an argument, if it is a call of `op`.
fn number(node: &Node, op: &str, argument: &str) -> Option<f64> {
    match node.arg(argument) {
        Some(Arg::Float(number)) if node.aten() == Some(op) => Some(*number),
        _ => None,
    }
}

fn tensor(node: &Node, argument: &str) -> Option<ValueId> {
    match node.arg(argument) {
        Some(Arg::Tensor(value)) => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Output, Value};

    /// Operator, tensor arguments, numbers.
    type Call<'c> = (&'c str, &'c [(&'c str, usize)], &'c [(&'c str, f64)]);

    /// A dense layer, and what `nodes` make of its result.
    fn program(nodes: &[Call<'_>]) -> Program {
        let text = r#"{"inputShape": [4], "seed": 1, "layers": [{"type": "dense", "units": 4}]}"#;
        let mut program = Program::read(text.as_bytes().to_vec()).unwrap();
        let before = program.values.len();
        let template = program.nodes[0].clone();
        // Tensor 0 is the layer's result, tensor n the result of the n-th of `nodes`.
        let value =
            |n: usize, program: &Program| if n == 0 { program.outputs[0] } else { ValueId((before + n - 1) as u32) };
        for (index, (op, tensors, numbers)) in nodes.iter().enumerate() {
            let tensors = tensors.iter().map(|&(name, n)| (name.to_owned(), Arg::Tensor(value(n, &program))));
            let numbers = numbers.iter().map(|&(name, number)| (name.to_owned(), Arg::Float(number)));
            let args = tensors.chain(numbers).collect();
            let outputs = vec![Output::Tensor(ValueId((before + index) as u32))];
            program.nodes.push(Node {
                name: (*op).to_owned(),
                target: aten(op, ""),
                args,
                outputs,
                ..template.clone()
            });
            let meta = program.meta(program.outputs[0]).unwrap().clone();
            program.values.push(Value::tensor((*op).to_owned(), meta));
        }
        program.outputs = vec![ValueId((before + nodes.len() - 1) as u32)];
        program
    }

    fn ops(program: &Program) -> Vec<&str> {
        program.nodes.iter().filter_map(Node::aten).map(|op| op.trim_start_matches("aten::")).collect()
    }

    #[test]
    fn noise_by_bernoulli_is_one_in_evaluation() {
        let mut program = program(&[
            ("empty", &[], &[]),
            ("bernoulli_", &[("self", 1)], &[("p", 0.9)]),
            ("div_", &[("self", 2)], &[("other", 0.9)]),
            ("mul", &[("self", 0), ("other", 3)], &[]),
        ]);
        settle(&mut program);
        assert_eq!(ops(&program), ["linear", "empty", "fill_", "div_", "mul"]);
        assert_eq!(program.nodes[2].arg("value"), Some(&Arg::Float(0.9)));
        assert_eq!(program.nodes[2].arg("p"), None);
    }

    #[test]
    fn bernoulli_over_another_number_or_used_twice_stays_random() {
        for (divisor, second) in [(0.8, 3), (0.9, 2)] {
            let mut program = program(&[
                ("empty", &[], &[]),
                ("bernoulli_", &[("self", 1)], &[("p", 0.9)]),
                ("div_", &[("self", 2)], &[("other", divisor)]),
                ("mul", &[("self", 0), ("other", second)], &[]),
            ]);
            settle(&mut program);
            assert!(ops(&program).contains(&"bernoulli_"), "{divisor} {second}");
        }
    }

    #[test]
    fn noise_by_floor_of_rand_leaves_the_branch_as_it_is() {
        let drop_path = |kept: f64| {
            program(&[
                ("rand", &[], &[]),
                ("add", &[("self", 1)], &[("other", kept)]),
                ("floor_", &[("self", 2)], &[]),
                ("div", &[("self", 0)], &[("other", 0.9)]),
                ("mul", &[("self", 4), ("other", 3)], &[]),
            ])
        };
        let mut settled = drop_path(0.9);
        let branch = settled.nodes[4].arg("self").cloned();
        settle(&mut settled);
        assert_eq!(ops(&settled), ["linear", "div", "clone"]);
        assert_eq!(settled.nodes[2].arg("self").cloned(), branch);

        let mut other = drop_path(0.8);
        settle(&mut other);
        assert!(ops(&other).contains(&"rand"), "0.8 of the rows stay and the branch is over 0.9");
    }
}
