//! The region of the model's source that a node stands in: what `torch.no_grad`, `torch.autocast` and
//! `torch.utils.checkpoint` mean for it.
//!
//! Export keeps such regions as graphs within the graph. Here they are dissolved: the nodes stand in the one straight line
//! and each says where it stands. A runner switches when the scope of the next node differs from the last one's.

use crate::dtype::DType;

/// What surrounds a node. The default is nothing: the node runs as the caller runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scope {
    /// Whether gradients are recorded.
    pub grad: GradMode,
    /// What the innermost `torch.autocast` region of the device that the program runs on asks for, if there is one.
    pub autocast: Option<AutocastMode>,
    /// The checkpointed segment, if any: nodes with one number ran under one outermost `torch.utils.checkpoint`, and
    /// backward may compute them again instead of keeping what they saved. Running them as any other node gives the same
    /// gradients. The nodes of a segment stand together.
    pub segment: Option<u32>,
}

/// Whether gradients are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GradMode {
    /// As around the program.
    #[default]
    Inherit,
    /// `torch.no_grad()`.
    Off,
    /// `torch.enable_grad()`: recorded even if the caller runs the program without gradients, as in PyTorch.
    On,
}

/// What an autocast region asks for. Not whether the low-precision copy of a weight is kept for its next use in the region
/// (`cache_enabled`): a weight is cast for every use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AutocastMode {
    /// `enabled=False`: operators run in the types of their arguments, whatever surrounds the program.
    Off,
    /// Operators that autocast lists run in this type; `None` is the device's own default.
    On(Option<DType>),
}
