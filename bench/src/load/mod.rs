//! Puts a load on a subject, from its client's pod, and reads what the load generator says of it.

mod h2load;
mod wrk;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use weft_e2e::{APP_UID, Pod, Process, probe as ask};

use crate::apps::Outcome;
use crate::apps::handshakes::Group;
use crate::case::{App, Load};
use crate::error::{Error, Result};
use crate::subject::Family;
use crate::world::proof::MARKER;
use crate::world::{Stage, group};

/// How long a load may go on after its time.
const GRACE: Duration = Duration::from_secs(20);

/// The load of the stage's case, for `seconds`.
///
/// # Errors
/// When the generator fails as a whole; single failures are in the outcome.
pub(crate) fn run(stage: &Stage, seconds: f64) -> Result<Outcome> {
    let whole = format!("{}", seconds.ceil().max(1.0));
    let url = stage.url();
    match stage.plan.load {
        Load::Wrk => {
            let said =
                tool(stage, "wrk", &["-t1", "-c64", "--timeout", "5s", "-d", &format!("{whole}s"), &url], seconds)?;
            wrk::read(&said)
        }
        Load::H2load => {
            let said = tool(stage, "h2load", &["-t1", "-c16", "-m32", "-D", &whole, &url], seconds)?;
            h2load::read(&said)
        }
        Load::OpenLoop(rate) => own(stage, "open-loop", &[format!("--rate={rate}")], seconds),
        Load::Streams => own(stage, "streams", &[], seconds),
        Load::Stalled => {
            let args = ["--connections=1", "--streams=99", "--stalled=1", "--pace-ms=20"].map(str::to_owned);
            own(stage, "streams", &args, seconds)
        }
        Load::Connections => own(stage, "connections", &[], seconds),
        Load::Bulk => own(stage, "bulk", &[], seconds),
        Load::Handshakes => own(stage, "handshakes", &handshake_args(stage), seconds),
        Load::Memory => Err(Error::Machine("memory is no load over time".to_owned())),
    }
}

/// One exchange through all of it, with [`MARKER`] in it.
///
/// # Errors
/// When there is no good answer yet.
pub(crate) fn probe(stage: &Stage) -> Result<()> {
    let path = format!("/{MARKER}");
    let target = stage.target.into();
    let good = match (stage.plan.load, stage.plan.client) {
        (Load::Handshakes, _) => return one(own(stage, "handshakes", &handshake_args(stage), 0.02)?),
        (_, App::Http1) => {
            let answer = stage.client.within(|| ask::get(target, &stage.target.ip().to_string(), &path))?;
            answer.is_some_and(|answer| answer.status == 200)
        }
        (_, App::Http2) => {
            let url = format!("http://{}{path}", stage.target);
            return one(h2load::read(&tool(stage, "h2load", &["-n1", "-c1", "-m1", &url], 1.0)?)?);
        }
        (_, App::Grpc) => {
            let args = ["--connections=1", "--streams=1", "--path", &path].map(str::to_owned);
            return one(own(stage, "streams", &args, 0.0)?);
        }
        (_, App::Tcp) => {
            let echo = stage.client.within(|| ask::raw(target, MARKER.as_bytes(), Duration::from_millis(500)).ok())?;
            echo.is_some_and(|echo| echo == MARKER.as_bytes())
        }
    };
    if good {
        Ok(())
    } else {
        Err(Error::Unreadable { tool: "the probe".to_owned(), output: "no good answer".to_owned() })
    }
}

fn one(outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome { failed: 0, operations: 1.., .. } => Ok(()),
        Outcome { detail, .. } => Err(Error::Unreadable { tool: "the probe".to_owned(), output: detail }),
    }
}

/// Starts one of our own programs in a pod.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn start_own(pod: &Pod, name: &str, args: &[String]) -> Result<Process> {
    let program = "/run/weft/bin/weft-bench".to_owned();
    let command: Vec<_> = [program, "app".to_owned(), name.to_owned()].iter().chain(args).cloned().collect();
    Ok(pod.spawn(&numbered(name), APP_UID, &command)?)
}

fn own(stage: &Stage, name: &str, more: &[String], seconds: f64) -> Result<Outcome> {
    let mut args = vec![format!("--target={}", stage.target), format!("--seconds={seconds}")];
    args.extend_from_slice(more);
    let said = start_own(&stage.client, name, &args)?.success(Duration::from_secs_f64(seconds) + GRACE)?;
    let line = said.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|_| Error::Unreadable { tool: name.to_owned(), output: said.clone() })
}

fn tool(stage: &Stage, program: &str, args: &[&str], seconds: f64) -> Result<String> {
    let command: Vec<_> = [program].iter().chain(args).copied().collect();
    let mut process = stage.client.spawn(&numbered(program), APP_UID, &command)?;
    Ok(process.success(Duration::from_secs_f64(seconds) + GRACE)?)
}

/// Each run has a log of its own.
fn numbered(name: &str) -> String {
    static RUN: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", RUN.fetch_add(1, Ordering::Relaxed))
}

fn handshake_args(stage: &Stage) -> Vec<String> {
    let Some((identity, roots)) = &stage.tls else { return Vec::new() };
    let variant = stage.subject.variant;
    let group = match group(stage.plan.way, variant) {
        Group::X25519 => "x25519",
        Group::Hybrid => "hybrid",
    };
    // What a sidecar of the same mesh would offer.
    let alpn = if stage.subject.family == Family::Weft { weft_proto::alpn::H2 } else { b"h2" };
    let mut args = vec![
        format!("--identity={identity}"),
        format!("--roots={roots}"),
        format!("--group={group}"),
        format!("--alpn={}", String::from_utf8_lossy(alpn)),
    ];
    if variant == crate::subject::Variant::Resumed {
        args.push("--resume".to_owned());
    }
    args
}
