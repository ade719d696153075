//! A body of HTTP/1 in its framing. What must hold is said in `weft_sidecar::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_sidecar::fuzzing::h1_body(data));
