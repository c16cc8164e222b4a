//! Any bytes as frames: parsed, written again and compared.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(wrong) = kindling_collective::fuzzing::frame(bytes) {
        panic!("{wrong}");
    }
});
