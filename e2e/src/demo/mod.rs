//! `make demo`: a canary split over mesh TLS between real processes, shown live, measured from outside.
//!
//! `world.rs` makes the pods, `scenario.rs` is what happens to them, `screen.rs` what is seen meanwhile, `report.rs` what
//! it comes to. Every figure is read from what the apps wrote down and from a packet capture; the mesh is not asked how
//! well it did.
//!
//! Ctrl-C ends this process; the pipe that keeps the namespaces alive closes with it, and all is gone (`sandbox.rs`).

mod report;
mod scenario;
mod screen;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::Context;
use crate::{Result, tools};

/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Switch a feature off, to see that the demo notices.
    #[arg(long = "break", env = "BREAK", value_name = "FEATURE")]
    broken: Option<Broken>,
    /// Leave everything running at the end and tell how to look into it.
    #[arg(long, env = "HOLD", value_parser = clap::builder::BoolishValueParser::new())]
    hold: bool,
    /// Requests per second.
    #[arg(long, default_value_t = 600)]
    rate: u32,
    /// Requests under the 90/10 split, at least.
    #[arg(long, default_value_t = 20_400)]
    requests: u32,
    /// Where the figures go.
    #[arg(long, default_value = "target/demo.json")]
    json: PathBuf,
}

/// A feature that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Broken {
    /// No retries: the requests that a killed process held fail.
    Retries,
    /// The control plane is not told that pods speak mesh TLS: traffic goes in plain text.
    Mtls,
    /// No ejection: a dead endpoint is tried again and again.
    Eject,
}

/// Runs it; success means that everything held.
pub fn run(args: &DemoArgs) -> ExitCode {
    end_on_ctrl_c();
    match play(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &DemoArgs) -> Result<bool> {
    tools::require(&[&tools::WORLD[..], &tools::APPS[..]].concat())?;
    let mut world = world::World::new(args)?;
    let figures = scenario::play(args, &mut world)?;
    let report = report::Report::new(args, figures);
    if let Some(folder) = args.json.parent() {
        std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
    }
    std::fs::write(&args.json, report.json()).context(|| format!("writing {}", args.json.display()))?;
    println!("{report}");
    if args.hold {
        world.hold();
    }
    Ok(report.holds())
}

fn end_on_ctrl_c() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            eprintln!("\ndemo: interrupted, everything it made is gone");
            std::process::exit(130);
        }
    });
}
