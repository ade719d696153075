//! The first bytes of any client. What must hold is said in `weft_sidecar::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_sidecar::fuzzing::detect(data));
