//! The `weft-sidecar` binary.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
// Not called from here: with it the program is linked, and the compiler's copies are its calls.
use weft_memcpy as _;
use weft_proto::ports;
use weft_sidecar::redirect::{self, RedirectArgs};
use weft_sidecar::runtime;
use weft_sidecar::settings::{RunArgs, Settings};

/// Each request makes and drops a handful of things of a few kilobytes, which the C library's allocator keeps merging and
/// splitting; and the static binary's (musl) has one lock for all workers. Without transparent huge pages (`no_thp`): there is
/// a sidecar in every pod, and a megabyte that is spread over pages of two megabytes is resident many times over.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Weft's sidecar proxy: intercepts a pod's traffic, authenticates, encrypts, routes and measures it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy.
    Run(Box<RunArgs>),
    /// Program the redirection of this pod's traffic (needs NET_ADMIN), or remove it.
    Redirect(RedirectArgs),
    /// Block until the proxy in this pod is ready.
    Wait(WaitArgs),
    /// Start draining the proxy in this pod, and return at once (a `preStop` hook).
    Drain,
}

#[derive(Args)]
struct WaitArgs {
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-sidecar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Run(args) => Ok(runtime::run(Settings::check(*args)?)?),
        Command::Redirect(args) => Ok(redirect::run(args)?),
        Command::Wait(args) => wait(Duration::from_secs(args.timeout)),
        Command::Drain => match ask("POST", "/drain")? {
            (200, _) => Ok(()),
            (status, text) => Err(format!("the proxy answered {status}: {}", text.trim()).into()),
        },
    }
}

fn wait(at_most: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    // Asked ever less often: whoever is slow to start has too little of the CPU that asking takes.
    let mut pause = Duration::from_millis(50);
    loop {
        let last = match ask("GET", "/ready") {
            Ok((200, _)) => return Ok(()),
            Ok((_, text)) => text.trim().to_owned(),
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= at_most {
            return Err(format!("not ready after {at_most:?}: {last}").into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(400));
    }
}

/// One exchange with this pod's admin interface: status and body.
fn ask(method: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", ports::ADMIN))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut text = String::new();
    stream.take(64 * 1024).read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}
