//! Damaged archives and hostile programs: the fuzz targets' corpus without a fuzzer, and a whole archive cut and turned over
//! everywhere.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in its helpers"
)]

use std::path::Path;

use kindling_program::{Program, fuzzing};

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect()
}

/// The file itself, cut and with a bit turned over at up to `places` places each.
fn check(name: &str, bytes: &[u8], places: usize, read: fn(&[u8]) -> Result<(), String>) {
    assert_eq!(read(bytes), Ok(()), "{name}");
    let stride = (bytes.len() / places).max(1);
    for place in (0..bytes.len()).step_by(stride) {
        assert_eq!(read(&bytes[..place]), Ok(()), "{name}, the first {place} bytes");
        let mut other = bytes.to_vec();
        other[place] ^= 1 << (place / stride % 8);
        assert_eq!(read(&other), Ok(()), "{name}, byte {place}");
    }
}

#[test]
fn every_archive_of_the_corpus_is_refused_or_sound_and_so_is_whatever_is_cut_or_changed_in_it() {
    let files = corpus("archive");
    assert!(files.len() >= 20, "{}", files.len());
    for (name, bytes) in files {
        check(&name, &bytes, 1000, fuzzing::archive);
        assert_eq!(Program::read(bytes).is_ok(), name == "whole", "{name}");
    }
}

#[test]
fn every_program_of_the_corpus_is_refused_or_sound_and_so_is_whatever_is_cut_or_changed_in_it() {
    const READ: &[&str] = &[
        "whole",
        "no-gradients",
        "autocast",
        "checkpoint",
        "cond",
        "floats-of-sizes",
        "an-output-tree-nested-deeply",
        "an-output-tree-with-long-keys",
        "an-output-tree-of-nothing",
        "an-expression-of-many-terms",
        // Bytes like any others.
        "a-weight-whose-path-is-itself",
        // The run's own device takes its place.
        "unknown-device",
    ];
    let files = corpus("model");
    assert!(files.len() >= 40, "{}", files.len());
    for (name, bytes) in files {
        check(&name, &bytes, 400, fuzzing::model);
        let read = Program::read(fuzzing::around(&bytes).unwrap());
        assert_eq!(read.is_ok(), READ.contains(&name.as_str()), "{name}: {:?}", read.err());
    }
}

#[test]
fn an_archive_of_torch_cut_or_changed_anywhere_is_refused_or_sound() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration-tests/golden/unused_f32.pt2");
    let bytes = std::fs::read(path).unwrap();
    assert!(Program::read(bytes.clone()).is_ok());
    for cut in 0..bytes.len() {
        assert!(Program::read(bytes[..cut].to_vec()).is_err(), "the first {cut} bytes are read as a whole archive");
    }
    for place in 0..bytes.len() {
        let mut other = bytes.clone();
        other[place] ^= 1 << (place % 8);
        assert_eq!(fuzzing::archive(&other), Ok(()), "byte {place}");
    }
}
