//! Compiles the `.proto` files in Rust (`protox`), so that no `protoc` has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let protos =
        ["proto/weft/v1/resources.proto", "proto/weft/v1/replicas.proto", "proto/weft/identity/v1/identity.proto"];
    for proto in protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(protos, ["proto"])?;
    let mut builder = tonic_prost_build::configure();
    // Rarely there: without a box of its own each would make every policy, and every target of every rule, twice as large.
    for rare in [
        "BackendPolicy.balancing",
        "BackendPolicy.tls",
        "BackendPolicy.retry_budget",
        "BackendPolicy.session",
        "BackendPolicy.limits",
        "OutlierDetection.envoy",
    ] {
        builder = builder.boxed(format!(".weft.v1.{rare}"));
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
