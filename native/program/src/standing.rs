//! Which nodes do the same in every run: what a program computes of its constants and of the sizes of its inputs alone, such as
//! position numbers and causal masks. A runner computes it once for as long as the sizes stay the same.
//!
//! A node stands if it draws nothing, changes nothing in place, is in no checkpointed segment, reads only constants, buffers that
//! the program leaves alone, sizes of inputs, and what standing nodes make, and if nothing changes what it makes.

use std::collections::HashSet;

use crate::allow;
use crate::checkpoint::changed;
use crate::ir::{Arg, Node, Program, Target, ValueId};
use crate::mutation::writes;

/// Operators that look at the sizes and the type of their first argument only.
const OF_SIZES: &[&str] = &[
    "aten::full_like",
    "aten::new_full",
    "aten::new_ones",
    "aten::new_zeros",
    "aten::ones_like",
    "aten::sym_size",
    "aten::zeros_like",
];

impl Program {
    /// The same program with its standing nodes first, and how many they are. Both groups keep their order.
    #[must_use]
    pub fn standing_first(&self) -> (Program, usize) {
        let stands = self.standing();
        let mut program = self.clone();
        let of = |wanted: bool| {
            let nodes = self.nodes.iter().zip(&stands).filter(move |(_, stands)| **stands == wanted);
            nodes.map(|(node, _)| node.clone())
        };
        program.nodes = of(true).chain(of(false)).collect();
        (program, stands.iter().filter(|stands| **stands).count())
    }

    fn standing(&self) -> Vec<bool> {
        let changed = changed(self);
        let inputs: HashSet<ValueId> = self.inputs.iter().map(|input| input.value).collect();
        let buffers = self.buffers.iter().map(|buffer| buffer.value);
        let constants = self.constants.iter().map(|constant| constant.value);
        let mut standing: HashSet<ValueId> = buffers.chain(constants).filter(|value| !changed(*value)).collect();
        let mut stands = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let of_sizes = node.aten().is_some_and(|name| OF_SIZES.contains(&name));
            let known = |(index, (_, arg)): (usize, &(String, Arg))| {
                let of_input = index == 0 && of_sizes && matches!(arg, Arg::Tensor(value) if inputs.contains(value));
                of_input || arg.values().iter().all(|value| standing.contains(value))
            };
            let found = repeats(node) && node.args.iter().enumerate().all(known) && !node.defines().any(&changed);
            if found {
                standing.extend(node.defines());
            }
            stands.push(found);
        }
        stands
    }
}

/// Whether it does the same whenever its arguments are the same.
fn repeats(node: &Node) -> bool {
    let pure = match &node.target {
        Target::Aten { name, .. } => !allow::may_draw(name) && !node.is_in_place() && writes(node).is_empty(),
        Target::Scalar(_) => true,
        Target::Cond { .. } => false,
    };
    pure && node.scope.segment.is_none()
}

#[cfg(test)]
mod tests;
