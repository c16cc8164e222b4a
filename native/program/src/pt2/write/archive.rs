//! An archive with other weights in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

use super::super::archive::Archive;
use super::super::weights::{Folder, Stored, Weights};
use super::evaluation;
use super::storage;
use super::trained::Trained;
use super::zip::Zip;
use super::{Mode, RECORDS};
use crate::error::Error;
use crate::ir::Program;
use crate::tensor::Bytes;

/// Files of the user's own that `torch.export.save` was given.
const EXTRA: &str = "extra/";

pub(super) fn write<W: Write>(
    bytes: Bytes,
    program: &Program,
    trained: &Trained<'_>,
    mode: Mode,
    zip: &mut Zip<W>,
) -> Result<(), Error> {
    let archive = Archive::open(bytes)?;
    let name = archive.program()?;
    let mut weights = Weights::open(&archive, &name)?;
    write_folder(&archive, &mut weights, Folder::Weights, &name, zip, &|name| trained.values(name))?;
    // What is no part of the saved state keeps its first values, in `transform` too.
    write_folder(&archive, &mut weights, Folder::Constants, &name, zip, &|_| None)?;

    let entry = format!("models/{name}.json");
    let model = archive.read(&entry)?;
    match mode {
        Mode::Training => zip.entry("models/model.json", &model)?,
        Mode::Evaluation => zip.entry("models/model.json", &evaluation::model(&entry, &model, program)?)?,
    }
    zip.entry("data/sample_inputs/model.pt", &[])?;
    for path in archive.paths().filter(|path| path.starts_with(EXTRA)) {
        if !path.split('/').all(is_plain) {
            return Err(strange(path));
        }
        zip.entry(path, &archive.read(path)?)?;
    }
    for (path, usual) in [
        ("archive_format", &b"pt2"[..]),
        ("archive_version", b"0"),
        (".data/version", RECORDS),
        ("byteorder", b"little"),
    ] {
        let content = if archive.has(path) { Cow::Owned(archive.read(path)?.to_vec()) } else { Cow::Borrowed(usual) };
        zip.entry(path, &content)?;
    }
    Ok(())
}

/// Writes the storages of one folder, with the values that `trained` has for a name, and the list of its tensors.
fn write_folder<'t, W: Write>(
    archive: &Archive,
    weights: &mut Weights<'_>,
    folder: Folder,
    program: &str,
    zip: &mut Zip<W>,
    trained: &dyn Fn(&str) -> Option<&'t [u8]>,
) -> Result<(), Error> {
    let mut files = BTreeMap::<String, Vec<(Stored, Option<&[u8]>)>>::new();
    let names: Vec<String> = weights.names(folder).map(str::to_owned).collect();
    for name in names {
        let stored = weights.load(folder, &name)?;
        if !stored.file.split('/').all(is_plain) {
            return Err(strange(&stored.file));
        }
        files.entry(stored.file.clone()).or_default().push((stored, trained(&name)));
    }
    for (file, views) in &files {
        let Some((first, _)) = views.first() else { continue };
        let changed: Vec<_> = views.iter().filter_map(|(view, values)| Some((&view.tensor, (*values)?))).collect();
        zip.entry(file, &storage::filled(&first.tensor.bytes, &changed))?;
    }
    // PyTorch gives the state dict the order of this list, so it is copied as it is.
    zip.entry(&folder.config("model"), &archive.read(&folder.config(program))?)
}

/// Whether a part of a path is a plain name; anything else could lead out of the folder an archive is unpacked in.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', ':'])
}

fn strange(path: &str) -> Error {
    Error::BrokenEntry { entry: path.to_owned(), problem: "its name could lead out of a folder".into() }
}
