//! Compiles the gRPC services of our apps.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["proto/echo.proto", "proto/health.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
