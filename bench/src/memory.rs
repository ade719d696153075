//! Resident memory of the client's sidecar: idle, with idle connections, and with many services in use.
//!
//! *Idle* is after one request and a moment's rest, certificates in hand. An *idle connection* is one of a thousand
//! keep-alive connections from the application that were used once. *In use* means that each of 1,000 services of 5
//! endpoints was called ten times: what a proxy loads on demand it has loaded. Each repeat starts everything anew.

use std::path::Path;
use std::time::Duration;

use weft_e2e::{Process, probe};

use crate::case::Case;
use crate::error::{Error, Result};
use crate::load;
use crate::measure::{Runs, progress};
use crate::metric::Metric;
use crate::subject::Subject;
use crate::world::{Stage, World, many};

const CONNECTIONS: u32 = 1000;
/// Allocators give back what they do not need within a moment, if at all.
const REST: Duration = Duration::from_millis(1500);

/// Measures everybody `repeats` times.
///
/// # Errors
/// When a request fails.
pub(crate) fn measure(case: Case, subjects: &[Subject], repeats: u32, envoy: &Path) -> Result<Runs> {
    let mut runs = Runs::new();
    for repeat in 1..=repeats {
        let world = World::start(case, subjects, envoy, load::probe)?;
        for stage in &world.stages {
            let metrics = if stage.spec.many { services(stage)? } else { idle(stage)? };
            for (metric, value) in metrics {
                progress(format_args!(
                    "{} {repeat}/{repeats}: {:<14} {} {value:.2}",
                    case.name(),
                    stage.subject.to_string(),
                    metric.name()
                ));
                runs.entry((stage.subject, metric)).or_default().push(value);
            }
        }
    }
    Ok(runs)
}

fn idle(stage: &Stage) -> Result<Vec<(Metric, f64)>> {
    std::thread::sleep(REST);
    let idle = stage.rss_kib();
    let args = [format!("--target={}", stage.target), format!("--connections={CONNECTIONS}")];
    let _open = hold(stage, &args)?;
    std::thread::sleep(REST);
    let with_connections = stage.rss_kib();
    let each = with_connections.saturating_sub(idle) as f64 * 1.024 / f64::from(CONNECTIONS);
    Ok(vec![(Metric::RssIdle, megabytes(idle)), (Metric::RssPerConnection, each)])
}

fn services(stage: &Stage) -> Result<Vec<(Metric, f64)>> {
    let first = std::net::SocketAddrV4::new(many::FIRST_VIP, stage.target.port());
    let args = [format!("--target={first}"), format!("--services={}", many::SERVICES)];
    let _called = hold(stage, &args)?;
    std::thread::sleep(REST);
    Ok(vec![(Metric::RssServices, megabytes(stage.rss_kib()))])
}

/// Starts it and waits until it has done what it does before it sleeps.
fn hold(stage: &Stage, args: &[String]) -> Result<Process> {
    let mut process = load::start_own(&stage.client, "idle", args)?;
    let mut ended = false;
    probe::wait_until("idle connections", Duration::from_secs(120), || {
        ended = !process.is_running();
        ended || process.output().contains("ready")
    })?;
    if ended {
        return Err(Error::Unreadable { tool: "idle".to_owned(), output: process.errors() });
    }
    Ok(process)
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
