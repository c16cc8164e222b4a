//! Compiles the libtorch shim against the headers of the libtorch that torch-sys found.
//!
//! torch-sys hands its library folder to direct dependents (`DEP_TCH_LIBTORCH_LIB`); the headers lie beside it.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo::error=torch-sys did not say where libtorch is; set LIBTORCH to the torch folder");
        return;
    };
    let include = lib.join("../include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .files([
            "shim/autocast.cpp",
            "shim/checkpoint.cpp",
            "shim/device.cpp",
            "shim/gradients.cpp",
            "shim/heap.cpp",
            "shim/hooks.cpp",
            "shim/norm.cpp",
            "shim/shim.cpp",
        ])
        .include("shim")
        // gcc 12 takes libtorch's null for a pointer that is read, in a destructor that checks for it.
        .flag_if_supported("-Wno-stringop-overflow")
        // System headers: their warnings are not ours.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .flag("-fvisibility=hidden")
        .compile("kindling_shim");
}
