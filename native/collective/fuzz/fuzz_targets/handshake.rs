//! Any bytes as a hello, a proof and a verdict, under a secret that is known.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(wrong) = kindling_collective::fuzzing::handshake(bytes) {
        panic!("{wrong}");
    }
});
