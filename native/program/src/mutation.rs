//! Which buffers a program writes into.
//!
//! A node writes a buffer if it is an in-place operator on the buffer or on a view of it, or a normalisation that updates
//! its running statistics. Views are followed generously: any tensor that an operator with a view's name makes of a
//! buffer counts as the buffer. So a buffer may be named that is only copied, never the other way round.

use std::collections::{BTreeSet, HashMap};

use crate::ir::{Arg, Node, Program, ValueId};

/// Operators whose result may share memory with their input.
const VIEWS: &[&str] = &[
    "adjoint",
    "alias",
    "as_strided",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_tensors",
    "broadcast_to",
    "cartesian_prod",
    "chain_matmul",
    "chunk",
    "contiguous",
    "detach",
    "diagonal",
    "dsplit",
    "expand",
    "expand_as",
    "flatten",
    "hsplit",
    "lift",
    "lift_fresh",
    "linalg_diagonal",
    "mH",
    "mT",
    "matrix_H",
    "meshgrid",
    "moveaxis",
    "movedim",
    "narrow",
    "numpy_T",
    "permute",
    "positive",
    "ravel",
    "reshape",
    "reshape_as",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "sum_to_size",
    "swapaxes",
    "swapdims",
    "t",
    "tensor_split",
    "to",
    "transpose",
    "type_as",
    "unbind",
    "unflatten",
    "unfold",
    "unsafe_chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsqueeze",
    "view",
    "view_as",
    "vsplit",
    "_reshape_alias",
    "_to_copy",
    "_unsafe_view",
    "float",
    "double",
];

impl Program {
    /// Indices of the buffers that running this program may change.
    #[must_use]
    pub fn mutated_buffers(&self) -> Vec<usize> {
        self.memory().written.into_iter().collect()
    }

    /// The buffers, by their indices, that each value may be or be a view of.
    pub(crate) fn buffers_behind(&self) -> HashMap<ValueId, BTreeSet<usize>> {
        self.memory().roots
    }

    fn memory(&self) -> Memory {
        let own = self.buffers.iter().enumerate().map(|(index, buffer)| (buffer.value, BTreeSet::from([index])));
        let mut memory = Memory { roots: own.collect(), written: BTreeSet::new() };
        memory.follow(&self.nodes);
        memory
    }
}

/// What is known of the buffers' memory.
struct Memory {
    /// The buffers that a value may be, or be a view of.
    roots: HashMap<ValueId, BTreeSet<usize>>,
    written: BTreeSet<usize>,
}

impl Memory {
    fn follow(&mut self, nodes: &[Node]) {
        for node in nodes {
            if node.blocks().is_empty() { self.call(node) } else { self.branch(node) }
        }
    }

    fn call(&mut self, node: &Node) {
        for value in writes(node) {
            let written = self.roots.get(&value).cloned().unwrap_or_default();
            self.written.extend(written);
        }
        let shared: BTreeSet<usize> =
            shares(node).iter().filter_map(|value| self.roots.get(value)).flatten().copied().collect();
        if !shared.is_empty() {
            for value in node.defines() {
                self.roots.entry(value).or_default().extend(&shared);
            }
        }
    }

    /// Either block may run: what a `cond` returns may be what either hands out.
    fn branch(&mut self, node: &Node) {
        for block in node.blocks() {
            self.follow(&block.nodes);
            for (output, result) in node.outputs.iter().zip(&block.results) {
                let roots = self.roots_of(result);
                for &value in output.values() {
                    self.roots.entry(value).or_default().extend(&roots);
                }
            }
        }
    }

    fn roots_of(&self, arg: &Arg) -> BTreeSet<usize> {
        tensor(arg).and_then(|value| self.roots.get(&value)).cloned().unwrap_or_default()
    }
}

fn tensor(arg: &Arg) -> Option<ValueId> {
    match arg {
        Arg::Tensor(value) => Some(*value),
        _ => None,
    }
}

/// The values that a call changes in place, itself or through a view of them.
pub(crate) fn writes(node: &Node) -> Vec<ValueId> {
    let first = node.args.first().filter(|_| node.is_in_place()).and_then(|(_, arg)| tensor(arg));
    let named = |name| node.arg(name).and_then(tensor);
    let statistics = ["running_mean", "running_var"].into_iter().filter(|_| updates_statistics(node)).filter_map(named);
    // What rrelu_with_noise draws it leaves in its argument.
    let noise = node.aten().filter(|name| name.starts_with("aten::rrelu_with_noise")).and_then(|_| named("noise"));
    first.into_iter().chain(statistics).chain(noise).collect()
}

/// The values whose memory the results of a call may share.
pub(crate) fn shares(node: &Node) -> Vec<ValueId> {
    let Some(name) = node.aten().and_then(|name| name.strip_prefix("aten::")) else { return Vec::new() };
    // Dropout hands its input on where it does nothing.
    let idle = matches!(node.arg("train"), Some(Arg::Bool(false))) || matches!(node.arg("p"), Some(Arg::Float(0.0)));
    let views = node.is_in_place() || VIEWS.contains(&name) || (idle && name.ends_with("dropout"));
    match node.args.as_slice() {
        // What only permutes or takes a diagonal is a view.
        [_, (_, Arg::Tensors(operands)), ..] if name == "einsum" => operands.clone(),
        [(_, arg @ (Arg::Tensor(_) | Arg::Tensors(_))), ..] if views => arg.values(),
        _ => Vec::new(),
    }
}

/// Batch and instance norm update their running statistics when they normalise by the batch's.
fn updates_statistics(node: &Node) -> bool {
    ["training", "train", "use_input_stats"].iter().any(|name| matches!(node.arg(name), Some(Arg::Bool(true))))
}

#[cfg(test)]
mod tests {
    use crate::Program;

    #[test]
    fn batch_norm_writes_its_buffers_in_training_and_nothing_in_evaluation() {
        let layers = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"dense","units":3},{"type":"batchNorm"}]}"#;
        let program = Program::read(layers.as_bytes().to_vec()).unwrap();
        let names: Vec<&str> = program.mutated_buffers().iter().map(|&i| program.buffers[i].name.as_str()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(program.evaluation().mutated_buffers().is_empty());
    }
}
