//! The `weft-sidecar` binary.
fn main() {}
