//! Segments by name: every module, or layer of a layer list, that a pattern names is one.

use std::collections::BTreeSet;
use std::ops::Range;

use super::memory::Memory;
use crate::error::Error;
use crate::ir::{Node, Program};

pub(super) fn segments(program: &Program, memory: &Memory, patterns: &[String]) -> Result<Vec<Range<usize>>, Error> {
    let failed = |problem: String| Err(Error::Checkpointing { problem });
    let modules: BTreeSet<&str> = program.nodes.iter().filter_map(|node| node.module.as_deref()).collect();
    if modules.is_empty() {
        return failed(
            "the program does not say which modules its nodes belong to (an archive exported without nn_module_stack), so none \
             can be named: use \"auto\" or a number of segments"
                .to_owned(),
        );
    }
    let paths = || modules.iter().flat_map(|module| prefixes(module));
    if let Some(unmatched) = patterns.iter().find(|pattern| !paths().any(|path| matches(pattern, path))) {
        let some: Vec<&str> = modules.iter().copied().take(8).collect();
        return failed(format!("no module matches \"{unmatched}\"; the program has {}, …", some.join(", ")));
    }
    let mut segments: Vec<(&str, Range<usize>)> = Vec::new();
    for (index, node) in program.nodes.iter().enumerate() {
        // The outermost module that a pattern names; a node of no module goes with what stands around it.
        let Some(name) = outermost(node, patterns) else { continue };
        match segments.last_mut() {
            Some((open, range)) if *open == name && between(program, range.end..index) => range.end = index + 1,
            _ => segments.push((name, index..index + 1)),
        }
    }
    let segments: Vec<Range<usize>> = segments.into_iter().map(|(_, range)| range).collect();
    match segments.iter().find(|segment| !memory.repeats(segment)) {
        Some(segment) => failed(format!(
            "the module {} cannot be computed again, as a tensor that it reads is changed in place afterwards; name modules \
             around that change, or use \"auto\"",
            program.nodes.get(segment.start).and_then(|node| node.module.as_deref()).unwrap_or_default()
        )),
        None => Ok(segments),
    }
}

fn outermost<'p>(node: &'p Node, patterns: &[String]) -> Option<&'p str> {
    prefixes(node.module.as_deref()?).find(|path| patterns.iter().any(|pattern| matches(pattern, path)))
}

/// Whether these nodes belong to no module.
fn between(program: &Program, nodes: Range<usize>) -> bool {
    program.nodes.get(nodes).unwrap_or_default().iter().all(|node| node.module.is_none())
}

/// `a`, `a.b`, `a.b.c` of `a.b.c`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('.').map(|(at, _)| at).chain([path.len()]).filter_map(|end| path.get(..end))
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).filter_map(|skip| tail.get(skip..)).any(|tail| matches(rest, tail))),
    }
}
