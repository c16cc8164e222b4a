//! Finding NCCL and the CUDA runtime in this process or on this machine.
//!
//! The copies that libtorch has mapped come first: two CUDA runtimes in one process would not know each other's
//! streams. A library once taken is never closed: its threads and the GPU may use it until the process ends.

#![allow(unsafe_code, reason = "opens shared libraries")]

use super::api::Api;
use super::table::{CudaTable, NcclTable};
use crate::error::Error;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{OsStr, c_int};
use std::path::Path;

/// `RTLD_NOLOAD` of Linux: open only what the process has mapped already.
const ALREADY_MAPPED: c_int = 4;

const NCCL: &str = "libnccl.so.2";
/// CUDA 13 and 12.
const CUDART: [&str; 2] = ["libcudart.so.13", "libcudart.so.12"];

/// What newer versions have: 2.18, 2.27, 2.28 and 2.29.
const EXTRAS: [&str; 4] = ["ncclCommSplit", "ncclCommShrink", "ncclCommRevoke", "ncclCommGrow"];

/// The first NCCL with `ncclCommInitRankConfig`, and so with calls that do not block.
const OLDEST: i32 = 21_400;

/// What to do about it: the end of every sentence of this file.
const REMEDY: &str =
    "install NCCL 2.14 or newer (pip install nvidia-nccl-cu13, or the package libnccl2), or name the file";

impl Api {
    /// Finds both libraries; `nccl` is a file to try last.
    pub(super) fn load(nccl: Option<&Path>) -> Result<Api, Error> {
        let nccl = open(NCCL, nccl)
            .map_err(|why| Error::invalid(format!("NCCL cannot be used: {NCCL} was not found ({why}); {REMEDY}")))?;
        let cuda = CUDART.iter().find_map(|name| mapped(name)).map_or_else(open_cudart, Ok)?;
        Api::of(&nccl, &cuda).inspect(|_| {
            std::mem::forget(nccl);
            std::mem::forget(cuda);
        })
    }

    fn of(nccl: &Library, cuda: &Library) -> Result<Api, Error> {
        let table = NcclTable::read(nccl)
            .map_err(|symbol| Error::invalid(format!("NCCL cannot be used: {NCCL} lacks {symbol}; {REMEDY}")))?;
        let cuda = CudaTable::read(cuda).map_err(|symbol| {
            Error::invalid(format!("NCCL cannot be used: the CUDA runtime lacks {symbol}; install CUDA 12 or newer"))
        })?;
        // SAFETY: only the presence of the symbol is asked; it is not called.
        let has = |symbol: &&str| unsafe { nccl.get::<unsafe extern "C" fn()>(*symbol) }.is_ok();
        let extras = EXTRAS.into_iter().filter(has).collect();
        Api::checked(table, cuda, extras)
    }

    /// The tables as an interface, if NCCL is new enough.
    pub(super) fn checked(nccl: NcclTable, cuda: CudaTable, extras: Vec<&'static str>) -> Result<Api, Error> {
        let api = Api::new(nccl, cuda, extras)
            .map_err(|fault| Error::invalid(format!("NCCL cannot be used: it does not tell its version ({fault})")))?;
        if api.version() < OLDEST {
            let found = api.version_name();
            return Err(Error::invalid(format!("NCCL cannot be used: {NCCL} is version {found}; {REMEDY}")));
        }
        Ok(api)
    }
}

fn open(name: &str, file: Option<&Path>) -> Result<Library, String> {
    if let Some(library) = mapped(name) {
        return Ok(library);
    }
    load(name).or_else(|first| match file {
        Some(file) => load(file).map_err(|second| format!("{first}; {second}")),
        None => Err(first),
    })
}

fn open_cudart() -> Result<Library, Error> {
    let mut reasons = Vec::new();
    for name in CUDART {
        match load(name) {
            Ok(library) => return Ok(library),
            Err(why) => reasons.push(why),
        }
    }
    let why = reasons.join("; ");
    Err(Error::invalid(format!(
        "NCCL cannot be used: the CUDA runtime was not found ({why}); load a libtorch with CUDA first, or install CUDA"
    )))
}

fn mapped(name: &str) -> Option<Library> {
    // SAFETY: with this flag nothing is loaded and no initialiser runs.
    unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL | ALREADY_MAPPED) }.ok()
}

fn load(name: impl AsRef<OsStr>) -> Result<Library, String> {
    // SAFETY: the initialisers that run are those of NVIDIA's libraries, or of a file that the caller vouches for.
    unsafe { Library::open(Some(name.as_ref()), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        // The reason, with the file's name, is only in the source.
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_nccl_is_one_clear_sentence() {
        let library = load("libm.so.6").unwrap();
        let error = Api::of(&library, &library).err().unwrap().to_string();
        assert!(error.contains("libnccl.so.2 lacks ncclGetVersion; install NCCL 2.14 or newer"), "{error}");
    }

    #[test]
    fn a_missing_library_is_named_with_both_places_that_were_tried() {
        let why = open("libnothing-of-kindling.so.2", Some(Path::new("/nowhere/libnccl.so.2"))).err().unwrap();
        assert!(why.contains("libnothing-of-kindling.so.2") && why.contains("/nowhere/libnccl.so.2"), "{why}");
    }
}
