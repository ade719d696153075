//! `weft check`: is this cluster ready for Weft, or Weft well, and what to do if not.
//!
//! `gather.rs` collects [facts], and each check is a function from them to findings, with `now` the API server's clock. A
//! fact that one may not read costs the checks that need it, not the others.
//!
//! | file | what it judges |
//! |---|---|
//! | `kubernetes.rs` | API server, clocks, kubelets, the Gateway API |
//! | `before.rs` | permissions, what others left or have installed (`--pre`) |
//! | `control_plane.rs` | replicas, versions, Service, leader |
//! | `identity.rs` | the root, the trust bundle, a rotation |
//! | `injection.rs` | the webhook, and a dry run that asks it |
//! | `workloads.rs` | pods without, with broken, with old sidecars |
//! | `objects.rs` | routes that are not in effect, objects that are not enforced |
//! | `routes/` | `weft check routes`: the same of routes, each with its count of proxies |

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::args::{CheckArgs, CheckCommand, Target};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::names::Mesh;
use crate::output::{self, Colours, Progress};
use crate::seen::Seen;

mod before;
mod control_plane;
mod facts;
mod finding;
#[cfg(test)]
mod fixtures;
mod gather;
mod identity;
mod injection;
mod kubernetes;
mod objects;
mod pods;
mod routes;
mod show;
mod workloads;

pub(crate) use control_plane::running_versions;
pub(crate) use finding::{Report, count, some};
pub(crate) use pods::PodFacts;

/// Between two looks while waiting.
const PAUSE: Duration = Duration::from_secs(1);

/// `weft check`.
///
/// # Errors
/// When there is no kubeconfig, or nobody takes the output.
pub(crate) async fn run(target: &Target, args: &CheckArgs) -> Result<ExitCode, Error> {
    if let Some(CheckCommand::Routes(args)) = &args.command {
        return Box::pin(routes::run(target, args)).await;
    }
    let (cluster, mesh) = (Cluster::of(target).await?, target.mesh());
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let mut progress = Progress::default();
    let report = loop {
        let report = if args.pre {
            before(&cluster, &mesh).await
        } else {
            after(&cluster, &mesh, args.namespace.as_deref()).await
        };
        let late = deadline.is_none_or(|deadline| Instant::now() + PAUSE > deadline);
        if report.ok || late {
            break report;
        }
        progress.show(&format!("waiting: {}", report.first_error()));
        sleep(PAUSE).await;
    };
    progress.clear();
    output::print_as(args.output.output, &report, |colours: &Colours| show::show(&report, *colours))?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The preflight.
pub(crate) async fn before(cluster: &Cluster, mesh: &Mesh) -> Report {
    let facts = gather::facts(cluster, mesh).await;
    let mut findings = kubernetes::check(&facts);
    if facts.server.found().is_some() {
        let permissions = gather::permissions(&cluster.client, mesh).await;
        findings.extend(before::check(&facts, &permissions));
    }
    Report::new(findings)
}

/// Whether Weft is well.
pub(crate) async fn after(cluster: &Cluster, mesh: &Mesh, only: Option<&str>) -> Report {
    let facts = gather::facts(cluster, mesh).await;
    let mut findings = kubernetes::check(&facts);
    // Without an answer every other check would say the same again.
    if facts.server.found().is_none() {
        return Report::new(findings);
    }
    let health = gather::health(cluster, &facts, only).await;
    findings.extend(control_plane::check(&facts, &health));
    if matches!(facts.deployment, Seen::Absent) {
        return Report::new(findings);
    }
    let versions = health.pods.found().map(|pods| running_versions(pods)).unwrap_or_default();
    // While it is being rolled out there is no one version to compare with.
    let version = versions.keys().next().filter(|_| versions.len() == 1);
    findings.extend(identity::check(&facts, &health));
    findings.extend(injection::check(&facts, &health));
    findings.extend(workloads::check(&facts, &health, version.map(String::as_str)));
    findings.extend(objects::check(&facts, &health));
    Report::new(findings)
}

/// Whether Weft itself is well, whatever its users did: what `weft install --wait` waits for.
pub(crate) async fn own(cluster: &Cluster, mesh: &Mesh) -> Report {
    // Narrowed to its own namespace: a large cluster is not to be listed twice a second.
    let mut report = after(cluster, mesh, Some(&mesh.namespace)).await;
    report.checks.retain(|finding| finding.group <= finding::Group::Injection);
    Report::new(report.checks)
}

/// The report as `weft install` shows it: what is not well, and a summary.
pub(crate) fn brief(report: &Report, colours: Colours) -> String {
    let mut report = report.clone();
    report.checks.retain(|finding| finding.level != finding::Level::Ok);
    if report.checks.is_empty() { String::new() } else { show::show(&report, colours) }
}
