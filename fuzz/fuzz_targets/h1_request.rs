//! A client's bytes on an HTTP/1 connection. What must hold is said in `weft_sidecar::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_sidecar::fuzzing::h1_request(data));
