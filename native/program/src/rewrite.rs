//! From the training program to the one that predicts.
//!
//! In an exported training program, train mode is a literal argument of the operators that know it. Prediction is the
//! same graph with those literals turned over, as `module.eval()` does in PyTorch:
//!
//! * `train` and `training` become false: dropout does nothing, batch norm uses its running statistics. A batch norm
//!   without running statistics keeps using the batch's, in PyTorch too.
//! * `use_input_stats` of instance norm becomes false where there are running statistics.
//! * `dropout_p` of attention becomes 0.
//! * Batch norm's count of batches stands still: its `add_` is removed.
//! * A buffer that is overwritten (`copy_`) and not looked at afterwards, as running statistics are that a model keeps by
//!   itself, stays as training left it: the `copy_` is removed.
//!
//! A literal is turned over whoever wrote it: dropout that a model asks for in evaluation too (`training=True` in its
//! own call) looks the same in the graph and is switched off.
//!
//! Random operators without such a switch (`bernoulli`, `rand_like`, …) stay, because the graph does not say what they
//! are for, unless they have the shape of stochastic depth ([`crate::depth`]); [`Program::random_nodes`] names them.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::ir::{Arg, Node, Program, ValueId};
use crate::{allow, depth};

impl Program {
    /// The program that predicts: same weights, same values, evaluation instead of training behaviour.
    #[must_use]
    pub fn evaluation(&self) -> Self {
        let counts = self.batch_counts();
        let mut program = self.clone();
        program.retain_nodes(&|node| !counts_batches(node, &counts));
        program.nodes.iter_mut().for_each(|node| node.walk_mut(&mut switch_off_training));
        depth::settle(&mut program);
        program.leave_buffers();
        program
    }

    /// Removes what overwrites a buffer and matters to the next run only.
    fn leave_buffers(&mut self) {
        let behind = self.buffers_behind();
        let indices = |value: &ValueId| behind.get(value).into_iter().flatten().copied();
        let mut used: HashSet<ValueId> = self.outputs.iter().copied().collect();
        // Buffers that something later looks at, itself or through a view.
        let mut seen: BTreeSet<usize> = used.iter().flat_map(indices).collect();
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            // The write may go through a view or a conversion that changes nothing, as Keras' does.
            let buffers = overwritten(&node).and_then(|value| behind.get(&value)).filter(|buffers| !buffers.is_empty());
            if buffers.is_some_and(|buffers| buffers.is_disjoint(&seen))
                && !node.defines().any(|value| used.contains(&value))
            {
                continue;
            }
            let uses = node.uses();
            seen.extend(uses.iter().flat_map(indices));
            used.extend(uses);
            kept.push(node);
        }
        kept.reverse();
        self.nodes = kept;
    }

    /// The names of the nodes that draw random numbers in [`Self::evaluation`] too.
    ///
    /// Empty for nearly every model. Noise of the model's own was exported without its `if self.training`, so its
    /// predictions would be random: a caller should warn. It is [`Self::evaluation`]'s result that should be asked, as
    /// that takes out what it knows.
    #[must_use]
    pub fn random_nodes(&self) -> Vec<&str> {
        let random = |node: &&Node| node.aten().is_some_and(allow::is_random);
        self.all_nodes().into_iter().filter(random).map(|node| node.name.as_str()).collect()
    }

    /// The values that batch norm modules count batches in and nothing reads: the buffers, and what `add_` makes of
    /// them (a module used twice counts on from the first result). Each with its buffer.
    pub(crate) fn batch_counts(&self) -> HashMap<ValueId, ValueId> {
        let is_counter = |name: &String| name.rsplit('.').next() == Some("num_batches_tracked");
        // Every count with the buffer it lives in.
        let mut counts: HashMap<ValueId, ValueId> = self
            .buffers
            .iter()
            .filter(|buffer| std::iter::once(&buffer.name).chain(&buffer.aliases).any(is_counter))
            .map(|buffer| (buffer.value, buffer.value))
            .collect();
        let mut read: HashSet<ValueId> = self.outputs.iter().copied().collect();
        for node in self.all_nodes() {
            match counted(node).and_then(|value| counts.get(&value).copied()) {
                Some(buffer) => {
                    counts.extend(node.defines().map(|result| (result, buffer)));
                }
                None => read.extend(node.args.iter().flat_map(|(_, arg)| arg.values())),
            }
            // What a block hands out is read by whoever uses the node's outputs.
            read.extend(node.blocks().iter().flat_map(|block| &block.results).flat_map(Arg::values));
        }
        // Reading the buffer itself is fine: it reads as the last training step left it.
        let kept: HashSet<ValueId> =
            read.iter().filter_map(|value| counts.get(value).filter(|buffer| *buffer != value)).copied().collect();
        counts.into_iter().filter(|(_, buffer)| !kept.contains(buffer)).collect()
    }
}

/// What a node gives other values, all of it.
fn overwritten(node: &Node) -> Option<ValueId> {
    match (node.aten(), node.arg("self")) {
        (Some("aten::copy_"), Some(Arg::Tensor(value))) => Some(*value),
        _ => None,
    }
}

/// What a node adds to in place.
pub(crate) fn counted(node: &Node) -> Option<ValueId> {
    match (node.aten(), node.arg("self")) {
        (Some("aten::add_"), Some(Arg::Tensor(value))) => Some(*value),
        _ => None,
    }
}

pub(crate) fn counts_batches(node: &Node, counts: &HashMap<ValueId, ValueId>) -> bool {
    counted(node).is_some_and(|value| counts.contains_key(&value))
}

fn switch_off_training(node: &mut Node) {
    // Only normalisations have the argument; without statistics of its own, one must go on using the batch's.
    let without_statistics = node.arg("running_mean").is_some_and(|mean| !matches!(mean, Arg::Tensor(_)));
    for (name, arg) in &mut node.args {
        match name.as_str() {
            "train" => *arg = Arg::Bool(false),
            "training" | "use_input_stats" if !without_statistics => *arg = Arg::Bool(false),
            "dropout_p" => *arg = Arg::Float(0.0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Output, Target};

    fn program(layers: &str) -> Program {
        Program::read(format!(r#"{{"inputShape": [4], "layers": [{layers}]}}"#).into_bytes()).unwrap()
    }

    fn node<'p>(program: &'p Program, op: &str) -> Option<&'p Node> {
        program.nodes.iter().find(|node| node.aten() == Some(op))
    }

    #[test]
    fn dropout_and_batch_norm_evaluate_and_the_batch_count_stands_still() {
        let training = program(r#"{"type": "batchNorm"}, {"type": "dropout", "rate": 0.5}"#);
        assert_eq!(node(&training, "aten::dropout").unwrap().arg("train"), Some(&Arg::Bool(true)));
        assert_eq!(node(&training, "aten::batch_norm").unwrap().arg("training"), Some(&Arg::Bool(true)));
        assert!(node(&training, "aten::add_").is_some());

        let evaluation = training.evaluation();
        assert_eq!(node(&evaluation, "aten::dropout").unwrap().arg("train"), Some(&Arg::Bool(false)));
        assert_eq!(node(&evaluation, "aten::batch_norm").unwrap().arg("training"), Some(&Arg::Bool(false)));
        assert!(node(&evaluation, "aten::add_").is_none());
        assert_eq!(evaluation.outputs, training.outputs);
        assert_eq!(evaluation.values, training.values);
    }

    #[test]
    fn a_count_that_something_reads_is_kept() {
        let mut training = program(r#"{"type": "batchNorm"}"#);
        let count = node(&training, "aten::add_").unwrap().outputs[0].values()[0];
        training.outputs.push(count);
        assert!(node(&training.evaluation(), "aten::add_").is_some());
    }

    #[test]
    fn a_batch_norm_used_twice_stops_counting_altogether() {
        let mut training = program(r#"{"type": "batchNorm"}"#);
        // The second use counts on from the first one's result, as exported programs do.
        let mut second = node(&training, "aten::add_").unwrap().clone();
        second.args[0].1 = Arg::Tensor(second.outputs[0].values()[0]);
        let result = ValueId(training.values.len() as u32);
        training.values.push(training.values[second.outputs[0].values()[0].index()].clone());
        second.outputs = vec![Output::Tensor(result)];
        training.nodes.push(second);
        assert!(node(&training.evaluation(), "aten::add_").is_none());

        training.outputs.push(result);
        let kept = training.evaluation().nodes.iter().filter(|node| node.aten() == Some("aten::add_")).count();
        assert_eq!(kept, 2);
    }

    #[test]
    fn a_batch_norm_without_running_statistics_keeps_the_batch_s() {
        let mut training = program(r#"{"type": "batchNorm"}"#);
        for (name, arg) in training.nodes.iter_mut().flat_map(|node| &mut node.args) {
            if name.starts_with("running_") {
                *arg = Arg::None;
            }
        }
        let evaluation = training.evaluation();
        assert_eq!(node(&evaluation, "aten::batch_norm").unwrap().arg("training"), Some(&Arg::Bool(true)));
    }

    #[test]
    fn a_buffer_is_not_overwritten_unless_something_looks_at_it_afterwards() {
        let mut training = program(r#"{"type": "batchNorm"}"#);
        let mean = training.buffers[0].value;
        let copy = Node {
            name: "copy_".into(),
            target: Target::Aten { name: "aten::copy_".into(), overload: String::new() },
            args: vec![("self".into(), Arg::Tensor(mean)), ("src".into(), Arg::Tensor(training.buffers[1].value))],
            outputs: vec![Output::None],
            ..training.nodes[0].clone()
        };
        training.nodes.push(copy);
        let evaluation = training.evaluation();
        assert!(node(&evaluation, "aten::copy_").is_none(), "only the next run would see it");
        assert!(evaluation.mutated_buffers().is_empty());

        // Before the batch norm, which reads the mean.
        training.nodes.rotate_right(1);
        assert!(node(&training.evaluation(), "aten::copy_").is_some());
        // After it, but the mean is an output.
        training.nodes.rotate_left(1);
        training.outputs.push(mean);
        assert!(node(&training.evaluation(), "aten::copy_").is_some());
    }

    #[test]
    fn a_buffer_is_not_overwritten_through_a_conversion_either() {
        let mut training = program(r#"{"type": "batchNorm"}"#);
        let (mean, variance) = (training.buffers[0].value, training.buffers[1].value);
        let converted = ValueId(training.values.len() as u32);
        training.values.push(training.values[mean.index()].clone());
        let call = |name: &str, args: Vec<(&str, ValueId)>, outputs| Node {
            name: name.into(),
            target: Target::Aten { name: format!("aten::{name}"), overload: String::new() },
            args: args.into_iter().map(|(name, value)| (name.into(), Arg::Tensor(value))).collect(),
            outputs,
            ..training.nodes[0].clone()
        };
        let to = call("to", vec![("self", mean)], vec![Output::Tensor(converted)]);
        let copy = call("copy_", vec![("self", converted), ("src", variance)], vec![Output::None]);
        training.nodes.extend([to, copy]);
        assert!(node(&training.evaluation(), "aten::copy_").is_none());

        // What was converted is an output: it must show what was written.
        training.outputs.push(converted);
        assert!(node(&training.evaluation(), "aten::copy_").is_some());
    }

    #[test]
    fn attention_loses_its_dropout_and_instance_norm_uses_its_statistics() {
        let mut training = program(r#"{"type": "batchNorm"}"#);
        let norm = training.nodes.iter_mut().find(|node| node.aten() == Some("aten::batch_norm")).unwrap();
        norm.target = Target::Aten { name: "aten::instance_norm".into(), overload: String::new() };
        for (name, _) in norm.args.iter_mut().filter(|(name, _)| name == "training") {
            *name = "use_input_stats".into();
        }
        norm.args.push(("dropout_p".into(), Arg::Float(0.1)));
        let evaluation = training.evaluation();
        let norm = node(&evaluation, "aten::instance_norm").unwrap();
        assert_eq!(norm.arg("use_input_stats"), Some(&Arg::Bool(false)));
        assert_eq!(norm.arg("dropout_p"), Some(&Arg::Float(0.0)));
    }

    #[test]
    fn operators_that_stay_random_are_named() {
        let mut training = program(r#"{"type": "dropout", "rate": 0.5}"#);
        assert!(training.random_nodes().is_empty());
        training.nodes[0].target = Target::Aten { name: "aten::rand_like".into(), overload: String::new() };
        assert_eq!(training.random_nodes(), [training.nodes[0].name.as_str()]);
    }
}
