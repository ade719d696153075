//! `make demo`.
use std::process::ExitCode;
/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {}
/// Runs it.
pub fn run(_: &DemoArgs) -> ExitCode { ExitCode::FAILURE }
