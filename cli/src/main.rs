//! `weft`, the command line users type: installs Weft, says whether it is well and what to do if not, injects offline,
//! shows and rotates the mesh's root.
//!
//! | file | what it does |
//! |---|---|
//! | `args.rs` | the commands and their flags; `docs/reference/cli.md` is made from it (`reference.rs`) |
//! | `cluster.rs` | the way to the API server, and what to say when there is none |
//! | `reach.rs` | the way to a port in a pod |
//! | `check/` | facts gathered, then judged: each check is a function from [facts](check::facts) to findings |
//! | `explain/` | what becomes of a request, asked of the client's sidecar |
//! | `install/` | the embedded chart, through helm |
//! | `identity/` | the root's state and rotation, without ever reading a key |
//! | `inject.rs` | the webhook's own code, offline |
//! | `versions.rs` | what runs where |
//! | `output/` | tables that line up, colours on a terminal, JSON and YAML |
//!
//! Exit code: 0 done, 1 something is wrong (said on stderr, or in the findings of `weft check`), 2 a bad command line.

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod check;
mod cluster;
mod completions;
mod duration;
mod error;
mod explain;
mod identity;
mod inject;
mod install;
mod names;
mod output;
mod reach;
#[cfg(test)]
mod reference;
mod roots;
mod seen;
mod versions;

use args::{Cli, Command, IdentityCommand};
use error::Error;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        // Whoever read our output has enough, as `head` does.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Error> {
    let target = &cli.target;
    match cli.command {
        Command::Install(args) => Box::pin(install::install(target, &args)).await,
        Command::Uninstall(args) => Box::pin(install::uninstall(target, &args)).await,
        Command::Check(args) => Box::pin(check::run(target, &args)).await,
        Command::Explain(args) => Box::pin(explain::run(target, &args)).await,
        Command::Version(args) => Box::pin(versions::run(target, &args)).await,
        Command::Inject(args) => Box::pin(inject::inject(target, &args)).await,
        Command::Uninject(args) => inject::uninject(&args),
        Command::Identity { command: IdentityCommand::Status(args) } => Box::pin(identity::status(target, &args)).await,
        Command::Identity { command: IdentityCommand::Rotate(args) } => Box::pin(identity::rotate(target, &args)).await,
        Command::Completions { shell } => completions::print(shell),
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    output::say(&format!("weft: {error}"));
    ExitCode::FAILURE
}
