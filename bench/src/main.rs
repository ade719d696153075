//! `weft-bench`: Weft beside Envoy, haproxy, nginx and no proxy, on one core each. `bench/README.md` says what is measured,
//! how, and what the figures do not show.
//!
//! | file | what lives there |
//! |---|---|
//! | `case.rs`, `subject.rs`, `metric.rs` | what is measured, on whom, in which unit: all data |
//! | `world/` | the pods of a case, and the proof that they are what they are meant to be |
//! | `config/` | the peers' configurations |
//! | `load/` | load generators: starting them, reading them |
//! | `apps/` | our own servers and load generators |
//! | `cpu.rs` | cores, processor time, memory |
//! | `measure.rs`, `memory.rs` | taking turns |
//! | `train.rs` | the same work for a profile, nothing measured |
//! | `results.rs`, `goals.rs`, `report.rs`, `machine.rs` | what comes out |

mod apps;
mod case;
mod config;
mod cpu;
mod error;
mod goals;
mod interrupt;
mod load;
mod machine;
mod measure;
mod memory;
mod metric;
mod report;
mod results;
mod run;
mod subject;
mod train;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Weft beside Envoy, haproxy, nginx and no proxy, on one core each.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write the results.
    Run(run::RunArgs),
    /// Have a sidecar built with `-Cprofile-generate` write its profile: what `make pgo` does.
    Train(train::TrainArgs),
    /// The small programs that run in pods.
    #[command(hide = true, subcommand)]
    App(apps::App),
}

fn main() -> ExitCode {
    let outcome: Result<(), apps::AppError> = match Cli::parse().command {
        Command::Run(args) => run::run(&args).map_err(Into::into),
        Command::Train(args) => train::train(&args).map_err(Into::into),
        Command::App(app) => app.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
