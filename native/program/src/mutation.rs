//! Which buffers a program writes into.
//!
//! A node writes a buffer if it is an in-place operator on the buffer or on a view of it, or a normalisation that updates
//! its running statistics. Views are followed generously: any tensor that an operator with a view's name makes of a
//! buffer counts as the buffer. So a buffer may be named that is only copied, never the other way round.

use std::collections::{HashMap, HashSet};

use crate::ir::{Arg, Node, Output, Program, ValueId};

/// Operators whose result may share memory with their input.
const VIEWS: &[&str] = &[
    "alias",
    "as_strided",
    "broadcast_to",
    "chunk",
    "contiguous",
    "detach",
    "diagonal",
    "expand",
    "expand_as",
    "flatten",
    "movedim",
    "narrow",
    "permute",
    "reshape",
    "reshape_as",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "tensor_split",
    "to",
    "transpose",
    "unbind",
    "unflatten",
    "unfold",
    "unsafe_chunk",
    "unsafe_split",
    "unsqueeze",
    "view",
    "view_as",
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
        let mut roots: HashMap<ValueId, usize> =
            self.buffers.iter().enumerate().map(|(index, buffer)| (buffer.value, index)).collect();
        let mut written = HashSet::new();
        for node in &self.nodes {
            let Some(name) = node.aten().and_then(|name| name.strip_prefix("aten::")) else { continue };
            let own = node.args.first().and_then(|(_, arg)| tensor(arg)).and_then(|value| roots.get(&value).copied());
            if node.is_in_place() {
                written.extend(own);
            }
            if updates_statistics(node) {
                let statistics = ["running_mean", "running_var"].into_iter().filter_map(|name| node.arg(name));
                written.extend(statistics.filter_map(tensor).filter_map(|value| roots.get(&value).copied()));
            }
            if let Some(index) = own
                && (node.is_in_place() || VIEWS.contains(&name))
            {
                roots.extend(node.outputs.iter().flat_map(Output::values).map(|&value| (value, index)));
            }
        }
        let mut written: Vec<usize> = written.into_iter().collect();
        written.sort_unstable();
        written
    }
}

fn tensor(arg: &Arg) -> Option<ValueId> {
    match arg {
        Arg::Tensor(value) => Some(*value),
        _ => None,
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
