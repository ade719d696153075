//! `weft`, the command line. Only a shell for now: commands come with the Kubernetes issue.

use clap::Parser;

/// Weft, a service mesh for Kubernetes.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {}

fn main() {
    Cli::parse();
}
