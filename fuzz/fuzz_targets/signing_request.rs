//! Signing requests of workloads. What must hold is said in `weft_control_plane::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_control_plane::fuzzing::signing_request(data));
