//! Link arguments of `libkindling.so`.
//!
//! torch-sys names every library of libtorch it finds; the linker's `--as-needed` (rustc's default) keeps the two we
//! use, `libtorch_cpu.so` and `libc10.so`. The JVM loads both by absolute path before this library and the dynamic
//! linker then matches them by name, so a release carries no run path.

#![allow(clippy::expect_used, reason = "a build script reports by failing")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").expect("cargo sets the target") != "linux" {
        return;
    }
    // Rust gives a cdylib no name of its own; crash reports and packagers look for one.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libkindling.so");
    // A symbol nobody defines should fail here and not in an executor.
    println!("cargo::rustc-cdylib-link-arg=-Wl,--no-undefined");
    // A JVM unloads a library with its class loader; libtorch's threads and our statics may still need the code.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
