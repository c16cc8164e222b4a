//! Any bytes as the JSON of an archive: read and sound, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(wrong) = kindling_program::fuzzing::model(bytes) {
        panic!("{wrong}");
    }
});
