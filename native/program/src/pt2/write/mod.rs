//! Writes the `.pt2` archive of a trained model, which `torch.export.load` reads, and Kindling too.
//!
//! A model that came as an archive goes back as that archive with other weights: its graph, its calling convention and
//! its sizes are the exporter's own words, and much of them (how arguments nest, what is asserted, where in the source
//! a node stands) has no place in a [`Program`]. So the graph is copied, and evaluation changes exactly what
//! [`Program::evaluation`] changes ([`evaluation`]). A layer list has no archive, and gets one written from its program
//! ([`model`]).
//!
//! Weights keep type, sizes, strides and place; a storage that several share is written once ([`storage`]). Nothing
//! pickled is written: the example inputs, which `torch.export.load` would unpickle and which nothing needs, become an
//! empty entry. What was compiled from the old weights (AOTInductor, ExecuTorch) is left out.

mod archive;
mod evaluation;
mod model;
mod size;
mod storage;
mod trained;
mod zip;

use std::io::Write;

use crate::error::Error;
use crate::ir::{Program, Source};
use crate::tensor::Bytes;
use trained::Trained;
use zip::Zip;
pub(crate) use zip::zip;

/// The record that PyTorch's zip reader asks for; 6 is the version that `torch.export.save` writes.
const RECORDS: &[u8] = b"6\n";

/// What a written program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// It trains: dropout drops, batch norm uses and updates the statistics of the batch.
    Training,
    /// It predicts, as [`Program::evaluation`] does.
    Evaluation,
}

/// Writes the archive of the model in `model` (a `.pt2` archive or a layer list, as [`Program::read`] takes them) with
/// the values in `weights` (safetensors) in place of its own.
///
/// `out` is written from front to back, each weight in one piece straight from `weights` where it fills its storage.
///
/// # Errors
/// Every [`Error`] of [`Program::read`], [`Error::Trained`] for weights of another program, [`Error::Writing`] where
/// `out` takes no more.
pub fn write_pt2(
    model: impl AsRef<[u8]> + Send + Sync + 'static,
    weights: &[u8],
    mode: Mode,
    out: impl Write,
) -> Result<(), Error> {
    let bytes = Bytes::new(model);
    let program = Program::from_bytes(bytes.clone())?;
    let trained = Trained::read(&program, weights)?;
    let mut zip = Zip::new(out);
    match program.source {
        Source::Pt2 => archive::write(bytes, &program, &trained, mode, &mut zip)?,
        Source::Layers => {
            let program = if mode == Mode::Evaluation { program.evaluation() } else { program };
            model::write(&program, &trained, &mut zip)?;
        }
    }
    zip.finish()
}
