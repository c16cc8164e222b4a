//! The fuzz targets' corpus, without a fuzzer: every file, every truncation of it and every bit of it turned over.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, also in its helpers")]

use kindling_collective::fuzzing;
use std::path::Path;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

/// Every file goes through both targets: what is a frame to one side may reach another that expects a hello.
fn check(target: &str, least: usize) {
    let files = corpus(target);
    assert!(files.len() >= least, "{} files for {target}", files.len());
    for (name, bytes) in files {
        for check in [fuzzing::frame, fuzzing::handshake] {
            for cut in 0..=bytes.len() {
                assert_eq!(check(&bytes[..cut]), Ok(()), "{name}, the first {cut} bytes");
            }
            for bit in 0..bytes.len() * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(check(&other), Ok(()), "{name}, bit {bit}");
            }
        }
    }
}

#[test]
fn every_frame_of_the_corpus_is_taken_as_it_was_written_or_refused() {
    check("frame", 20);
}

#[test]
fn nothing_of_the_corpus_is_believed_that_was_not_made_with_the_secret() {
    check("handshake", 20);
}
