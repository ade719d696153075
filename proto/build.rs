//! Compiles the `.proto` files in Rust (`protox`), so that no `protoc` has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let protos =
        ["proto/weft/v1/resources.proto", "proto/weft/v1/replicas.proto", "proto/weft/identity/v1/identity.proto"];
    for proto in protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(protos, ["proto"])?;
    // Rare and large: whatever holds a policy would have room for it.
    let rare = ["tls", "retry_budget", "session"].map(|field| format!(".weft.v1.BackendPolicy.{field}"));
    let config = rare.into_iter().fold(tonic_prost_build::configure(), |config, field| config.boxed(field));
    config.compile_fds(descriptors)?;
    Ok(())
}
