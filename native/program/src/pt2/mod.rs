//! Reads a `.pt2` archive, what `torch.export.save` writes, and writes one ([`write`]).
//!
//! The steps: open the zip ([`archive`]), check versions and parse the JSON ([`schema`]), give every parameter, buffer,
//! constant and input a value and its tensor ([`state`], [`weights`]), then number the nodes ([`graph`], [`target`],
//! [`region`]) and name the results ([`outputs`]). Weights are never copied: they stay ranges of the archive's bytes.

mod archive;
mod graph;
mod outputs;
mod region;
mod schema;
mod state;
mod target;
#[cfg(test)]
mod tests;
mod weights;
mod write;

use std::collections::BTreeMap;

use crate::error::Error;
use crate::ir::{Program, SizeRange, Source};
use crate::tensor::Bytes;
use graph::Graph;
pub(crate) use write::zip;
pub use write::{Mode, write_pt2};

/// The major version of the export schema that this module reads (torch 2.4 and later write 8).
const SCHEMA_MAJOR: i64 = 8;
/// The version of ATen's operators; it has not moved since torch 1.13.
const OPSET: i64 = 10;
/// The dialect `torch.export.export` returns. Lowered programs name others.
const DIALECT: &str = "TRAINING";

pub(crate) fn read(bytes: Bytes) -> Result<Program, Error> {
    let archive = archive::Archive::open(bytes)?;
    if archive.has("byteorder") {
        let order = archive.read("byteorder")?;
        if &*order != b"little" {
            return Err(Error::ByteOrder { found: String::from_utf8_lossy(&order).into_owned() });
        }
    }
    let name = archive.program()?;
    let exported = parse(&archive, &name)?;
    let graph_module = &exported.graph_module;

    let mut graph = Graph::new(&graph_module.graph);
    let mut weights = weights::Weights::open(&archive, &name)?;
    let state = state::read(&mut graph, &mut weights, &graph_module.signature.input_specs)?;

    let mut nodes = Vec::with_capacity(graph_module.graph.nodes.len());
    graph.nodes(&graph_module.graph.nodes, &mut nodes)?;
    let (outputs, output_names) = outputs::read(&graph, graph_module)?;
    let mut program = Program {
        source: Source::Pt2,
        inputs: state.inputs,
        parameters: state.parameters,
        buffers: state.buffers,
        constants: state.constants,
        nodes,
        outputs,
        output_names,
        values: graph.into_values(),
        ranges: ranges(&exported.range_constraints),
    };
    program.drop_unused_arithmetic();
    Ok(program)
}

fn parse(archive: &archive::Archive, name: &str) -> Result<schema::ExportedProgram, Error> {
    let entry = format!("models/{name}.json");
    let schema::SchemaVersion { major, minor } = archive.json::<schema::Versioned>(&entry)?.schema_version;
    if major != SCHEMA_MAJOR {
        return Err(Error::SchemaVersion { major, minor, supported: SCHEMA_MAJOR });
    }
    let program: schema::ExportedProgram = archive.json(&entry)?;
    match program.opset_version.get("aten") {
        Some(&found) if found != OPSET => return Err(Error::OpsetVersion { found, supported: OPSET }),
        _ => {}
    }
    if !program.verifiers.is_empty() && !program.verifiers.iter().any(|dialect| dialect == DIALECT) {
        return Err(Error::Decomposed { dialect: program.verifiers.join(", ") });
    }
    Ok(program)
}

fn ranges(raw: &BTreeMap<String, schema::RangeConstraint>) -> BTreeMap<String, SizeRange> {
    raw.iter().map(|(name, range)| (name.clone(), SizeRange { min: range.min_val, max: range.max_val })).collect()
}
