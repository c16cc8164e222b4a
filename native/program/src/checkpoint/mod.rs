//! Activation checkpointing as a rewrite: which nodes backward computes again instead of keeping what they saved.
//!
//! A *segment* is a run of consecutive nodes with one number in their [`Scope`]. Of a segment, a runner keeps what it
//! reads from outside, and computes the rest again when backward reaches it. This file chooses segments; it promises that
//! running one again gives the values of the first time:
//!
//! * Nothing that a segment reads from outside is changed in place from the segment's first node on, buffers excepted: a
//!   runner keeps a copy of the buffers that a program writes.
//! * Random numbers and numbers computed from sizes are a runner's to repeat.
//!
//! What stands outside of segments runs as always. The last stretch of a program is never worth a segment: backward would
//! ask for it at once. `torch.utils.checkpoint.checkpoint_sequential` leaves it out too.

mod memory;
mod named;
mod plan;

use std::collections::HashSet;
use std::ops::Range;

use serde::{Deserialize, Deserializer};

use crate::error::Error;
use crate::ir::{Node, Program, Scope, ValueId};
use memory::{Memory, Roots};

/// What backward computes again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Checkpointing {
    /// What the program itself asks for (`torch.utils.checkpoint`), which is nothing for most.
    #[default]
    None,
    /// Segments that need the least memory, by an estimate.
    Auto,
    /// So many segments of which the last keeps everything, as `checkpoint_sequential` counts; at least 2.
    Segments(usize),
    /// Every module whose path matches one of these patterns is a segment: `encoder.layers.*`.
    Modules(Vec<String>),
}

/// As the configuration writes it: `"none"`, `"auto"`, a number, or a list of patterns.
impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Word(String),
            Number(u64),
            Patterns(Vec<String>),
        }
        let wrong = "activationCheckpointing is \"none\", \"auto\", a number of segments (at least 2) or a list of module patterns";
        match Raw::deserialize(deserializer) {
            Ok(Raw::Word(word)) if word == "none" => Ok(Self::None),
            Ok(Raw::Word(word)) if word == "auto" => Ok(Self::Auto),
            Ok(Raw::Number(number)) if number >= 2 => Ok(Self::Segments(usize::try_from(number).unwrap_or(usize::MAX))),
            Ok(Raw::Patterns(patterns)) if !patterns.is_empty() => Ok(Self::Modules(patterns)),
            Ok(_) | Err(_) => Err(serde::de::Error::custom(wrong)),
        }
    }
}

/// What was chosen, by an estimate that takes every size that varies for 16: the figures are good to compare with each
/// other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segments {
    /// How many.
    pub count: usize,
    /// Bytes of activations that a step keeps at once without segments.
    pub bytes_without: u64,
    /// The same with them.
    pub bytes_with: u64,
    /// Segments of the archive's own that cannot be computed again, by their first node: they run as other nodes do.
    pub dropped: Vec<String>,
}

impl Program {
    /// The program with the segments of `choice`, and what they save. Any choice but [`Checkpointing::None`] takes the
    /// place of the segments that the archive has.
    ///
    /// # Errors
    /// [`Error::Checkpointing`] if there are no such modules, or segments cannot be placed as asked.
    pub fn checkpointed(&self, choice: &Checkpointing) -> Result<(Self, Segments), Error> {
        let memory = Memory::of(self);
        let mut dropped = Vec::new();
        let chosen: Vec<Range<usize>> = match choice {
            Checkpointing::None => {
                let (kept, refused): (Vec<_>, Vec<_>) =
                    self.own_segments().into_iter().partition(|s| memory.repeats(s));
                let name = |segment: &Range<usize>| self.nodes.get(segment.start).map(|node| node.name.clone());
                dropped.extend(refused.iter().filter_map(name));
                kept
            }
            Checkpointing::Auto => plan::least(&memory),
            Checkpointing::Segments(count) => plan::counted(&memory, *count)?,
            Checkpointing::Modules(patterns) => named::segments(self, &memory, patterns)?,
        };
        let segments = Segments {
            count: chosen.len(),
            bytes_without: memory.saved(0..self.nodes.len()),
            bytes_with: memory.peak(&chosen),
            dropped,
        };
        let mut program = self.clone();
        for node in &mut program.nodes {
            node.scope.segment = None;
        }
        for (number, segment) in (0..).zip(chosen) {
            for node in program.nodes.get_mut(segment).unwrap_or_default() {
                node.scope = Scope { segment: Some(number), ..node.scope };
            }
        }
        Ok((program, segments))
    }

    /// The values that are buffers which running the program changes, or what a change in place returns of them.
    #[must_use]
    pub fn changing(&self) -> HashSet<ValueId> {
        let roots = Roots::of(self);
        let changed = roots.changed();
        let buffers: HashSet<ValueId> =
            self.buffers.iter().map(|buffer| buffer.value).filter(|value| changed.contains(value)).collect();
        let lives_there = |value: &ValueId| roots.roots(*value).iter().any(|root| buffers.contains(root));
        let defined = self.nodes.iter().flat_map(Node::defines).filter(lives_there);
        buffers.iter().copied().chain(defined).collect()
    }

    /// The segments that the nodes' scopes name, as ranges of nodes. Nodes of one number that do not stand together are
    /// segments of their own.
    #[must_use]
    pub fn own_segments(&self) -> Vec<Range<usize>> {
        let mut segments: Vec<Range<usize>> = Vec::new();
        let mut last = None;
        for (index, node) in self.nodes.iter().enumerate() {
            match segments.last_mut() {
                Some(open) if node.scope.segment.is_some() && node.scope.segment == last => open.end = index + 1,
                _ if node.scope.segment.is_some() => segments.push(index..index + 1),
                _ => {}
            }
            last = node.scope.segment;
        }
        segments
    }
}

/// Whether a value, or one that it is a view of, is changed in place anywhere in the program.
pub(crate) fn changed(program: &Program) -> impl Fn(ValueId) -> bool {
    let roots = Roots::of(program);
    let changed = roots.changed();
    move |value| roots.roots(value).iter().any(|root| changed.contains(root))
}

#[cfg(test)]
mod tests;
