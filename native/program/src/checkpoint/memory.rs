//! What the nodes of a program keep for backward, and which of it could be computed again: an estimate from the archive's
//! shapes, and an analysis of what is changed in place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use crate::ir::{Dim, GradMode, Node, Program, ValueId};
use crate::mutation;

/// What a size that varies is taken for. Sizes that vary together cancel in comparisons.
const VARYING: u64 = 16;

/// See the file.
#[derive(Debug)]
pub(super) struct Memory {
    /// Bytes saved by the nodes before each one, and by all.
    before: Vec<u64>,
    /// For every node, the tensors it makes (not views of others): their bytes, and the last node that reads them or a
    /// view of them.
    made: Vec<Vec<Made>>,
    /// For every node at which a segment might begin: the first node from there on that no such segment may hold.
    bar: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Made {
    bytes: u64,
    last_use: usize,
}

impl Memory {
    pub(super) fn of(program: &Program) -> Self {
        let nodes = &program.nodes;
        let roots = Roots::of(program);
        let last_use = last_uses(program, &roots);
        let graded = with_gradients(program);
        let mut before = vec![0];
        let mut total = 0_u64;
        let mut made = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let own: Vec<(ValueId, u64)> =
                node.defines().filter(|value| roots.own(*value)).map(|value| (value, bytes(program, value))).collect();
            let saves = node.defines().any(|value| graded.contains(&value));
            // Dropout keeps its mask beside its result.
            let times = if saves { 1 + u64::from(node.arg("train").is_some()) } else { 0 };
            total = own.iter().fold(total, |total, (_, bytes)| total.saturating_add(bytes.saturating_mul(times)));
            before.push(total);
            let made_here = |(value, bytes): (ValueId, u64)| Made {
                bytes,
                last_use: last_use.get(&value).copied().unwrap_or(index),
            };
            made.push(own.into_iter().map(made_here).collect());
        }
        Self { before, made, bar: bars(program, &roots) }
    }

    /// The number of nodes.
    pub(super) fn nodes(&self) -> usize {
        self.made.len()
    }

    /// Bytes that these nodes save.
    pub(super) fn saved(&self, nodes: Range<usize>) -> u64 {
        let at = |index: usize| self.before.get(index).copied().unwrap_or(0);
        at(nodes.end).saturating_sub(at(nodes.start))
    }

    /// Bytes that these nodes make and nodes after them read: what stays if they are a segment.
    pub(super) fn kept(&self, nodes: &Range<usize>) -> u64 {
        let made = self.made.get(nodes.clone()).unwrap_or_default().iter().flatten();
        made.filter(|made| made.last_use >= nodes.end).map(|made| made.bytes).fold(0, u64::saturating_add)
    }

    /// Whether running this segment again gives the values of the first time.
    pub(super) fn repeats(&self, segment: &Range<usize>) -> bool {
        self.bar.get(segment.start).is_some_and(|&bar| segment.end <= bar)
    }

    /// Bytes that a step keeps at once, when backward has just computed the largest segment again.
    pub(super) fn peak(&self, segments: &[Range<usize>]) -> u64 {
        let whole = self.saved(0..self.nodes());
        let inside = segments.iter().map(|segment| self.saved(segment.clone()));
        let kept = segments.iter().map(|segment| self.kept(segment)).fold(0, u64::saturating_add);
        let outside = whole.saturating_sub(inside.clone().fold(0, u64::saturating_add));
        // The stretch after the last segment is gone before that is computed again.
        let tail = segments.last().map_or(whole, |last| self.saved(last.end..self.nodes()));
        outside.saturating_sub(tail).saturating_add(kept).saturating_add(inside.max().unwrap_or(0).max(tail))
    }
}

fn bytes(program: &Program, value: ValueId) -> u64 {
    let Some(meta) = program.meta(value) else { return 0 };
    meta.shape.iter().map(size).fold(meta.dtype.size() as u64, u64::saturating_mul)
}

fn size(dim: &Dim) -> u64 {
    match dim {
        Dim::Static(size) => u64::try_from(*size).unwrap_or(0),
        // A product of a symbol and integers, as sympy writes it.
        Dim::Symbolic { name } if name.starts_with("Mul(") => name
            .split("Integer(")
            .skip(1)
            .filter_map(|rest| rest.split(')').next()?.parse::<u64>().ok())
            .fold(VARYING, u64::saturating_mul),
        Dim::Symbolic { .. } => VARYING,
    }
}

/// The memory that values live in: the values that a value may be a view of.
pub(super) struct Roots {
    of: HashMap<ValueId, BTreeSet<ValueId>>,
    /// What is changed in place, by the node (at the top level) that does.
    written: Vec<(usize, ValueId)>,
    /// What has other views than the results of changing it in place.
    viewed: HashSet<ValueId>,
}

impl Roots {
    pub(super) fn of(program: &Program) -> Self {
        let mut roots = Self { of: HashMap::new(), written: Vec::new(), viewed: HashSet::new() };
        for (index, node) in program.nodes.iter().enumerate() {
            roots.follow(index, node);
        }
        roots
    }

    fn follow(&mut self, index: usize, node: &Node) {
        for written in mutation::writes(node) {
            self.written.extend(self.roots(written).into_iter().map(|root| (index, root)));
        }
        let shared: BTreeSet<ValueId> =
            mutation::shares(node).into_iter().flat_map(|value| self.roots(value)).collect();
        if !shared.is_empty() {
            if !node.is_in_place() {
                self.viewed.extend(&shared);
            }
            for value in node.defines() {
                self.of.insert(value, shared.clone());
            }
        }
        for block in node.blocks() {
            for inner in &block.nodes {
                self.follow(index, inner);
            }
            for (output, result) in node.outputs.iter().zip(&block.results) {
                let handed: BTreeSet<ValueId> =
                    result.values().into_iter().flat_map(|value| self.roots(value)).collect();
                for &value in output.values() {
                    self.of.entry(value).or_default().extend(&handed);
                }
            }
        }
    }

    pub(super) fn roots(&self, value: ValueId) -> BTreeSet<ValueId> {
        self.of.get(&value).cloned().unwrap_or_else(|| BTreeSet::from([value]))
    }

    /// What is changed in place anywhere.
    pub(super) fn changed(&self) -> HashSet<ValueId> {
        self.written.iter().map(|&(_, root)| root).collect()
    }

    /// Whether the value has memory of its own.
    fn own(&self, value: ValueId) -> bool {
        !self.of.contains_key(&value)
    }
}

/// The last node that reads a root or a view of it; one past the last node for what the program returns.
fn last_uses(program: &Program, roots: &Roots) -> HashMap<ValueId, usize> {
    let mut last = HashMap::new();
    let reads =
        program.nodes.iter().enumerate().flat_map(|(index, node)| node.uses().into_iter().map(move |v| (index, v)));
    let returned = program.outputs.iter().map(|&value| (program.nodes.len(), value));
    for (index, value) in reads.chain(returned) {
        for root in roots.roots(value) {
            last.insert(root, index);
        }
    }
    last
}

/// The values on the way from a trained parameter to the outputs.
fn with_gradients(program: &Program) -> HashSet<ValueId> {
    let trained = program.parameters.iter().filter(|parameter| parameter.requires_grad);
    let mut graded: HashSet<ValueId> = trained.map(|parameter| parameter.value).collect();
    for node in &program.nodes {
        if node.scope.grad != GradMode::Off && node.uses().iter().any(|value| graded.contains(value)) {
            graded.extend(node.defines());
        }
    }
    graded
}

/// See [`Memory::bar`]. A segment that begins at `start` may not read what lives outside and is changed at `start` or later.
fn bars(program: &Program, roots: &Roots) -> Vec<usize> {
    let end = program.nodes.len();
    // A runner copies a buffer as one tensor; views of it would not see what is written to the copy.
    let whole = program.buffers.iter().map(|buffer| buffer.value).filter(|value| !roots.viewed.contains(value));
    let buffers: HashSet<ValueId> = whole.collect();
    let mut last_write: BTreeMap<ValueId, usize> = BTreeMap::new();
    for &(index, root) in roots.written.iter().filter(|(_, root)| !buffers.contains(root)) {
        last_write.insert(root, index);
    }
    let mut bar = vec![end; end];
    let mut defined: HashMap<ValueId, usize> = HashMap::new();
    for (index, node) in program.nodes.iter().enumerate() {
        defined.extend(node.defines().map(|value| (value, index + 1)));
        let read: BTreeSet<ValueId> = node.uses().into_iter().flat_map(|value| roots.roots(value)).collect();
        for root in read {
            let Some(&written) = last_write.get(&root) else { continue };
            // Parameters, constants and inputs are there from the start.
            let first = defined.get(&root).copied().unwrap_or(0);
            for start in first..=written.min(index) {
                if let Some(bar) = bar.get_mut(start) {
                    *bar = (*bar).min(index);
                }
            }
        }
    }
    bar
}
