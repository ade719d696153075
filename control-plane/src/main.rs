//! The `weft-control-plane` binary: settings, logging, signals; the rest is the library's.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weft_control_plane::cleanup;
use weft_control_plane::helm_test::HelmTest;
use weft_control_plane::identity::JoinTokens;
use weft_control_plane::run::ControlPlane;
use weft_control_plane::settings::{CleanupFlags, Cli, Command, JoinTokenFlags, Logging, RunFlags};

/// As clap's own for a bad command line.
const BAD_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::JoinToken(flags)) => join_token(&flags),
        Some(Command::Cleanup(flags)) => cleanup(&flags),
        Some(Command::HelmTest(app)) => helm_test(&app),
        Some(Command::Run(flags)) => run(&flags),
        None => run(&cli.run),
    }
}

fn run(flags: &RunFlags) -> ExitCode {
    let (settings, logging) = match flags.settings() {
        Ok(settings) => settings,
        Err(bad) => return fail(BAD_SETTINGS, &bad),
    };
    log_to_stderr(logging);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => return fail(1, &error),
        };
        let mut control_plane = match ControlPlane::start(&settings).await {
            Ok(control_plane) => control_plane,
            Err(error) => return fail(1, &error),
        };
        tokio::select! {
            error = control_plane.failed() => return fail(1, &error),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
        control_plane.stop().await;
        ExitCode::SUCCESS
    })
}

fn join_token(flags: &JoinTokenFlags) -> ExitCode {
    let settings = match flags.settings() {
        Ok(settings) => settings,
        Err(bad) => return fail(BAD_SETTINGS, &bad),
    };
    match JoinTokens::open(&settings.state_dir) {
        Ok(tokens) => {
            println!("{}", tokens.issue(&settings.id, settings.ttl, SystemTime::now()));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, &error),
    }
}

fn cleanup(flags: &CleanupFlags) -> ExitCode {
    let settings = match flags.settings() {
        Ok(settings) => settings,
        Err(bad) => return fail(BAD_SETTINGS, &bad),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let cleaned = runtime.block_on(async {
        let client =
            kube::Client::try_default().await.map_err(|error| format!("cannot reach the API server: {error}"))?;
        cleanup::run(client, &settings).await
    });
    match cleaned {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => fail(1, &failed),
    }
}

fn helm_test(app: &HelmTest) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let told = runtime.block_on(async {
        let mut terminate = match signal(SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => return Err(error.to_string()),
        };
        let shutdown = async {
            let _ = terminate.recv().await;
        };
        app.run(shutdown).await.map_err(|error| error.to_string())
    });
    match told {
        Ok(text) => {
            text.iter().for_each(|text| println!("{text}"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("weft-control-plane: {error}");
    ExitCode::from(code)
}

fn log_to_stderr(logging: Logging) {
    let log = tracing_subscriber::fmt().with_env_filter(logging.filter).with_writer(std::io::stderr);
    if logging.json {
        log.json().flatten_event(true).init();
    } else {
        log.with_ansi(false).init();
    }
}
