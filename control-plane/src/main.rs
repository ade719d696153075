//! The `weft-control-plane` binary.
fn main() {}
