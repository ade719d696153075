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
    tonic_prost_build::configure().boxed(".weft.v1.BackendPolicy.tls").compile_fds(descriptors)?;
    Ok(())
}
