//! SyncBatchNorm as a rewrite: batch norms in training take the statistics of all ranks' rows.
//!
//! The node keeps its arguments and gets a number, `index`, by which ranks know which one they talk about. It is called
//! [`SYNC_BATCH_NORM`]: an operator that no archive can name, and that a runner runs with a group of ranks.

use crate::error::Error;
use crate::ir::{Arg, Node, Program, Target, ValueId};

/// What a synchronised batch norm calls: `aten::batch_norm` over the rows of all ranks.
pub const SYNC_BATCH_NORM: &str = "kindling::sync_batch_norm";

impl Program {
    /// The program whose batch norms in training are synchronised, and how many these are.
    ///
    /// # Errors
    /// [`Error::Synchronise`] for a batch norm in a form that only a decomposed program has.
    pub fn synchronised(&self) -> Result<(Self, usize), Error> {
        let decomposed = |node: &&&Node| {
            let name = node.aten().unwrap_or_default();
            trains(node) && name != "aten::batch_norm" && name.contains("batch_norm")
        };
        if let Some(node) = self.all_nodes().iter().find(decomposed) {
            return Err(Error::Synchronise { node: node.name.clone(), op: node.aten().unwrap_or_default().to_owned() });
        }
        let mut program = self.clone();
        let mut count = 0;
        let mut rewrite = |node: &mut Node| {
            if node.aten() == Some("aten::batch_norm") && trains(node) {
                node.target = Target::Aten { name: SYNC_BATCH_NORM.to_owned(), overload: String::new() };
                node.args.push(("index".to_owned(), Arg::Int(count)));
                count += 1;
            }
        };
        program.nodes.iter_mut().for_each(|node| node.walk_mut(&mut rewrite));
        Ok((program, usize::try_from(count).unwrap_or(0)))
    }

    /// The buffers in which batch norms count their batches, once for every time that a run counts.
    #[must_use]
    pub fn counted_buffers(&self) -> Vec<ValueId> {
        let counts = self.batch_counts();
        let adds = |node: &&Node| crate::rewrite::counts_batches(node, &counts);
        self.all_nodes()
            .into_iter()
            .filter(adds)
            .filter_map(|node| counts.get(&crate::rewrite::counted(node)?).copied())
            .collect()
    }
}

fn trains(node: &Node) -> bool {
    ["training", "train"].iter().any(|name| matches!(node.arg(name), Some(Arg::Bool(true))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        let layers = r#"{"inputShape":[4],"seed":1,"layers":[{"type":"batchNorm"},{"type":"dense","units":3},{"type":"batchNorm"}]}"#;
        Program::read(layers.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn batch_norms_in_training_are_numbered_and_renamed() {
        let (program, count) = program().synchronised().unwrap();
        let indices: Vec<_> = program
            .nodes
            .iter()
            .filter(|node| node.aten() == Some(SYNC_BATCH_NORM))
            .map(|node| node.arg("index").cloned().unwrap())
            .collect();
        assert_eq!((indices, count), (vec![Arg::Int(0), Arg::Int(1)], 2));
        assert!(program.nodes.iter().all(|node| node.aten() != Some("aten::batch_norm")));
        assert_eq!(program.counted_buffers().len(), 2);
        assert!(!crate::is_allowed(SYNC_BATCH_NORM), "no archive may name it");
    }

    #[test]
    fn evaluation_has_none_to_synchronise_and_a_decomposed_one_is_refused_by_name() {
        assert_eq!(program().evaluation().synchronised().unwrap().1, 0);
        let mut decomposed = program();
        let node = decomposed.nodes.iter_mut().find(|node| node.aten() == Some("aten::batch_norm")).unwrap();
        node.target = Target::Aten { name: "aten::native_batch_norm".into(), overload: String::new() };
        let name = node.name.clone();
        let error = decomposed.synchronised().unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains("native_batch_norm"), "{error}");
    }
}
