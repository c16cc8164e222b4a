//! Going through the nodes of a program, those in the blocks of a `cond` included.
//!
//! A rewrite that looks at `program.nodes` alone misses what stands in blocks: use these.

use crate::ir::{Arg, Block, Node, Output, Program, SymFloat, SymInt, Target, ValueId};

impl Arg {
    /// The values it names.
    #[must_use]
    pub fn values(&self) -> Vec<ValueId> {
        let int = |number: &SymInt| match number {
            SymInt::Value(value) => Some(*value),
            SymInt::Const(_) => None,
        };
        let float = |number: &SymFloat| match number {
            SymFloat::Value(value) => Some(*value),
            SymFloat::Const(_) => None,
        };
        match self {
            Self::Tensor(value) | Self::SymFloat(value) | Self::SymBool(value) => vec![*value],
            Self::Tensors(values) => values.clone(),
            Self::OptionalTensors(values) => values.iter().flatten().copied().collect(),
            Self::SymInt(number) => int(number).into_iter().collect(),
            Self::SymInts(numbers) => numbers.iter().filter_map(int).collect(),
            Self::SymFloats(numbers) => numbers.iter().filter_map(float).collect(),
            Self::Int(_)
            | Self::Ints(_)
            | Self::Float(_)
            | Self::Floats(_)
            | Self::Bool(_)
            | Self::Bools(_)
            | Self::None
            | Self::Str(_)
            | Self::Dtype(_)
            | Self::Layout(_)
            | Self::MemoryFormat(_)
            | Self::Device(_) => Vec::new(),
        }
    }
}

impl Node {
    /// The blocks of a `cond`; none for any other node.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        match &self.target {
            Target::Cond { blocks } => blocks.as_slice(),
            Target::Aten { .. } | Target::Scalar(_) => &[],
        }
    }

    /// As [`Self::blocks`], to change.
    pub fn blocks_mut(&mut self) -> &mut [Block] {
        match &mut self.target {
            Target::Cond { blocks } => blocks.as_mut_slice(),
            Target::Aten { .. } | Target::Scalar(_) => &mut [],
        }
    }

    /// The values it uses. For a `cond` that is every value its blocks name, those they define themselves included.
    #[must_use]
    pub fn uses(&self) -> Vec<ValueId> {
        let mut uses: Vec<ValueId> = self.args.iter().flat_map(|(_, arg)| arg.values()).collect();
        for block in self.blocks() {
            uses.extend(block.nodes.iter().flat_map(Self::uses));
            uses.extend(block.results.iter().flat_map(Arg::values));
        }
        uses
    }

    /// The values it defines for the nodes after it.
    pub fn defines(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flat_map(Output::values).copied()
    }

    /// Calls `visit` with this node and every node in its blocks, in the order in which they stand.
    pub fn walk<'n>(&'n self, visit: &mut impl FnMut(&'n Self)) {
        visit(self);
        for node in self.blocks().iter().flat_map(|block| &block.nodes) {
            node.walk(visit);
        }
    }

    /// As [`Self::walk`], to change.
    pub fn walk_mut(&mut self, visit: &mut impl FnMut(&mut Self)) {
        visit(self);
        for node in self.blocks_mut().iter_mut().flat_map(|block| &mut block.nodes) {
            node.walk_mut(visit);
        }
    }
}

impl Program {
    /// Every node, those in blocks after the node that holds them.
    #[must_use]
    pub fn all_nodes(&self) -> Vec<&Node> {
        let mut all = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            node.walk(&mut |node| all.push(node));
        }
        all
    }

    /// Removes the nodes for which `keep` is false, wherever they stand.
    pub(crate) fn retain_nodes(&mut self, keep: &impl Fn(&Node) -> bool) {
        fn retain(nodes: &mut Vec<Node>, keep: &impl Fn(&Node) -> bool) {
            nodes.retain(|node| keep(node));
            for block in nodes.iter_mut().flat_map(Node::blocks_mut) {
                retain(&mut block.nodes, keep);
            }
        }
        retain(&mut self.nodes, keep);
    }
}
