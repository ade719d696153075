//! `weft install` and `weft uninstall`: the embedded chart, through helm, with our own checks before and after.

use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tokio::time::{Instant, sleep};
use weft_control_plane::identity::SECRET;

use crate::args::{InstallArgs, Target, UninstallArgs};
use crate::check::{self, PodFacts, Seen, list};
use crate::cluster::Cluster;
use crate::duration;
use crate::error::Error;
use crate::names::{INJECT, MESH_TLS, Mesh};
use crate::output::{self, Colours, Progress};

mod chart;
mod helm;

use chart::Chart;
use helm::Values;

/// Between two looks while waiting.
const PAUSE: Duration = Duration::from_millis(500);

/// `weft install`.
///
/// # Errors
/// When the cluster is not ready, helm fails, or Weft is not ready in time.
pub(crate) async fn install(target: &Target, args: &InstallArgs) -> Result<ExitCode, Error> {
    let target = &Target { weft_namespace: namespace(target, args.namespace.as_ref()), ..target.clone() };
    let mesh = target.mesh();
    let chart = Chart::unpack()?;
    let mut values = Values { files: Vec::new(), set: args.set.clone() };
    if args.ha {
        values.files.push(chart.high_availability()?.display().to_string());
    }
    // The user's own come after ours, so they win.
    values.files.extend(args.values.iter().cloned());
    if args.render {
        output::print(&helm::run(&args.helm.helm, &helm::template(&mesh, chart.path(), &values)).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cluster = Cluster::of(target).await?;
    if !args.skip_checks {
        let report = check::before(&cluster, &mesh).await;
        output::print(&check::brief(&report, Colours::of_stdout()))?;
        if !report.ok {
            return Err(Error::NotReady);
        }
    }
    output::say(&format!("installing release {} in namespace {}", mesh.release(), mesh.namespace));
    helm::run(&args.helm.helm, &helm::upgrade(target, &mesh, chart.path(), &values)).await?;
    if let Some(within) = args.wait {
        ready(&cluster, &mesh, within).await?;
    }
    output::print(&next(&mesh))?;
    Ok(ExitCode::SUCCESS)
}

fn next(mesh: &Mesh) -> String {
    let label = if mesh.revision.is_empty() {
        format!("{INJECT}=enabled")
    } else {
        format!("weft.dev/revision={}", mesh.revision)
    };
    format!(
        "Weft is installed. Next:\n  weft check\n  kubectl label namespace NAMESPACE {label}\n  kubectl -n NAMESPACE rollout \
         restart deployment\n"
    )
}

/// Waits until the control plane is ready and injection works.
async fn ready(cluster: &Cluster, mesh: &Mesh, within: Duration) -> Result<(), Error> {
    let began = Instant::now();
    let mut progress = Progress::default();
    loop {
        let report = check::own(cluster, mesh).await;
        if report.ok {
            progress.clear();
            output::say(&format!("ready after {:.1} s", began.elapsed().as_secs_f64()));
            return Ok(());
        }
        if began.elapsed() + PAUSE > within {
            progress.clear();
            output::print(&check::brief(&report, Colours::of_stdout()))?;
            return Err(Error::Late {
                what: "becoming ready".to_owned(),
                within: duration::show(within),
                last: report.first_error().to_owned(),
            });
        }
        progress.show(&format!("waiting: {}", report.first_error()));
        sleep(PAUSE).await;
    }
}

/// `weft uninstall`.
///
/// # Errors
/// When pods still have sidecars, or helm fails.
pub(crate) async fn uninstall(target: &Target, args: &UninstallArgs) -> Result<ExitCode, Error> {
    let target = &Target { weft_namespace: namespace(target, args.namespace.as_ref()), ..target.clone() };
    let mesh = target.mesh();
    let cluster = Cluster::of(target).await?;
    if !args.force {
        let pods = Api::<Pod>::all(cluster.client.clone());
        let pods = list(pods, ListParams::default().labels(MESH_TLS), |pod| PodFacts::of(&pod)).await;
        let meshed: Vec<String> = match &pods {
            Seen::Found(pods) => {
                pods.iter().filter(|pod| pod.sidecar.is_some() && !pod.over).map(PodFacts::full_name).collect()
            }
            Seen::Absent => Vec::new(),
            Seen::Unknown(why) => {
                return Err(Error::Api {
                    what: "see which pods have sidecars (--force does without)".to_owned(),
                    why: why.clone(),
                });
            }
        };
        // With another revision beside this one, its pods go on as they are.
        if !meshed.is_empty() && mesh.revision.is_empty() {
            return Err(Error::StillMeshed { pods: meshed.len(), some: check::some(&meshed, 5) });
        }
    }
    helm::run(&args.helm.helm, &helm::uninstall(target, &mesh)).await?;
    if args.purge {
        purge(&cluster, &mesh).await?;
        output::print(&format!("Weft is uninstalled, with its root and namespace {}.\n", mesh.namespace))?;
    } else {
        output::print(&format!(
            "Weft is uninstalled. The mesh's root is kept (Secret {}/{SECRET}): weft uninstall --purge deletes it, too.\n",
            mesh.namespace
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn purge(cluster: &Cluster, mesh: &Mesh) -> Result<(), Error> {
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), &mesh.namespace);
    // Deleting answers with what was deleted: a key, which is dropped unseen.
    gone(secrets.delete(SECRET, &DeleteParams::default()).await.map(drop))
        .map_err(|error| cluster.failed(format!("delete Secret {}/{SECRET}", mesh.namespace), &error))?;
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    gone(namespaces.delete(&mesh.namespace, &DeleteParams::default()).await.map(drop))
        .map_err(|error| cluster.failed(format!("delete namespace {}", mesh.namespace), &error))
}

/// What is gone already is no error.
fn gone(outcome: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

fn namespace(target: &Target, given: Option<&String>) -> String {
    given.unwrap_or(&target.weft_namespace).clone()
}
