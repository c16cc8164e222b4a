//! What a program's prediction already is: logits, probabilities or log-probabilities.

use crate::ir::{Arg, Block, Node, Program, ValueId};

/// Operators that hand elements on as they are: moved, copied, picked or converted.
const PASS_ON: &[&str] = &[
    "_to_copy",
    "_unsafe_view",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "flatten",
    "movedim",
    "moveaxis",
    "narrow",
    "permute",
    "ravel",
    "reshape",
    "reshape_as",
    "select",
    "slice",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "to",
    "transpose",
    "type_as",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
];

impl Program {
    /// The activation that made the first output: `softmax`, `log_softmax`, `sigmoid` or `log_sigmoid`.
    ///
    /// Looks back from the output through operators that only move, pick or convert elements. `None` means that the
    /// output is something else, as a rule logits.
    ///
    /// ```
    /// use kindling_program::Program;
    ///
    /// let layers = r#"{"inputShape": [4], "layers": [{"type": "dense", "units": 3, "activation": "softmax"}]}"#;
    /// assert_eq!(Program::read(layers.as_bytes().to_vec())?.final_activation(), Some("softmax"));
    /// # Ok::<(), kindling_program::Error>(())
    /// ```
    #[must_use]
    pub fn final_activation(&self) -> Option<&str> {
        self.activation(*self.outputs.first()?)
    }

    /// The activation that made a value, as [`Self::final_activation`] finds it.
    #[must_use]
    pub fn activation(&self, value: ValueId) -> Option<&str> {
        activation_of(value, &self.nodes)
    }
}

/// The activation that made `value`, if it is one of these nodes.
fn activation_of(mut value: ValueId, mut nodes: &[Node]) -> Option<&str> {
    loop {
        let (index, node) = last_writer(nodes, value)?;
        nodes = nodes.get(..index)?;
        if let [first, second] = node.blocks() {
            // Either may have run: both must end in it, within the block.
            let position = node.outputs.iter().position(|output| output.values().contains(&value))?;
            let result = |block: &Block| match block.results.get(position) {
                Some(Arg::Tensor(result)) => Some(*result),
                _ => None,
            };
            let activation = activation_of(result(first)?, &first.nodes)?;
            return (activation_of(result(second)?, &second.nodes) == Some(activation)).then_some(activation);
        }
        match node.aten()?.strip_prefix("aten::")?.trim_end_matches('_') {
            "softmax" | "_softmax" | "_safe_softmax" | "special_softmax" => return Some("softmax"),
            "log_softmax" | "_log_softmax" | "special_log_softmax" => return Some("log_softmax"),
            "sigmoid" | "special_expit" => return Some("sigmoid"),
            "log_sigmoid" => return Some("log_sigmoid"),
            op if PASS_ON.contains(&op) => {}
            _ => return None,
        }
        value = node.args.iter().find_map(|(_, arg)| match arg {
            Arg::Tensor(value) => Some(*value),
            _ => None,
        })?;
    }
}

/// The last of the nodes that defines the value or changes it in place.
fn last_writer(nodes: &[Node], value: ValueId) -> Option<(usize, &Node)> {
    nodes.iter().enumerate().rev().find(|(_, node)| {
        let defines = node.defines().any(|defined| defined == value);
        let changes =
            node.is_in_place() && matches!(node.args.first(), Some((_, Arg::Tensor(first))) if *first == value);
        defines || changes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Target;

    fn activation(layers: &str) -> Option<String> {
        let program = Program::read(format!(r#"{{"inputShape": [4], "layers": [{layers}]}}"#).into_bytes()).unwrap();
        program.final_activation().map(str::to_owned)
    }

    #[test]
    fn an_activation_is_found_through_reshapes_and_not_through_a_layer() {
        let (dense, softmax) = (r#"{"type": "dense", "units": 4}"#, r#"{"type": "softmax"}"#);
        let (reshape, sigmoid) = (r#"{"type": "reshape", "targetShape": [2, 2]}"#, r#"{"type": "sigmoid"}"#);
        assert_eq!(activation(dense), None);
        assert_eq!(activation(&format!("{dense}, {softmax}")).as_deref(), Some("softmax"));
        assert_eq!(activation(&format!("{dense}, {sigmoid}, {reshape}")).as_deref(), Some("sigmoid"));
        assert_eq!(activation(&format!("{softmax}, {dense}")), None);
        assert_eq!(activation(&format!("{softmax}, {{\"type\": \"relu\"}}")), None);
    }

    #[test]
    fn an_output_changed_in_place_afterwards_counts_as_what_it_became() {
        let layers = r#"{"inputShape": [4], "layers": [{"type": "dense", "units": 4}, {"type": "sigmoid"}]}"#;
        let mut program = Program::read(layers.as_bytes().to_vec()).unwrap();
        program.outputs = program.nodes[0].outputs[0].values().to_vec();
        assert_eq!(program.final_activation(), None);
        program.nodes[1].target = Target::Aten { name: "aten::sigmoid_".into(), overload: String::new() };
        assert_eq!(program.final_activation(), Some("sigmoid"));
    }
}
