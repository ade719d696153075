//! `weft install` and `weft uninstall`: the embedded chart, through helm, with our own checks before and after.

use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tokio::time::{Instant, sleep};

use crate::args::{InstallArgs, Target, UninstallArgs};
use crate::check::{self, PodFacts, count};
use crate::cluster::Cluster;
use crate::duration;
use crate::error::Error;
use crate::names::{INJECT, MESH_TLS, Mesh};
use crate::output::{self, Colours, Progress};
use crate::seen::{Seen, list};

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
    if args.purge {
        alone(&cluster, &mesh).await?;
    }
    installed(&cluster, &mesh).await?;
    if !args.force {
        nobody_needs_it(&cluster, &mesh).await?;
    }
    helm::run(&args.helm.helm, &helm::uninstall(target, &mesh)).await?;
    if args.purge {
        purge(&cluster, &mesh).await?;
        output::print(&format!("Weft is uninstalled, and namespace {} is being deleted.\n", mesh.namespace))?;
    } else {
        output::print(&format!(
            "Weft is uninstalled. Left: namespace {} and the Gateway API's CRDs, which others may use.\n",
            mesh.namespace
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses where helm knows of no release: it would say so itself, but not what to do. Who may not look is let on to helm.
async fn installed(cluster: &Cluster, mesh: &Mesh) -> Result<(), Error> {
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), &mesh.namespace);
    // As metadata only: a release holds every value that was ever set.
    let releases = ListParams::default().labels(&format!("owner=helm,name={}", mesh.release())).limit(1);
    match secrets.list_metadata(&releases).await {
        Ok(found) if found.items.is_empty() => Err(Error::NotInstalled {
            what: format!("Helm release {}", mesh.release()),
            namespace: mesh.namespace.clone(),
        }),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(cluster.failed(format!("list Secrets in namespace {}", mesh.namespace), &error)),
    }
}

/// Refuses while pods have sidecars of this control plane.
async fn nobody_needs_it(cluster: &Cluster, mesh: &Mesh) -> Result<(), Error> {
    let pods = Api::<Pod>::all(cluster.client.clone());
    let pods = list(pods, ListParams::default().labels(MESH_TLS), |pod| PodFacts::of(&pod)).await;
    let pods = pods_of(pods, "see which pods have sidecars (--force does without)")?;
    let meshed: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.over && pod.sidecar.as_ref().is_some_and(|sidecar| sidecar.revision == mesh.revision))
        .map(PodFacts::full_name)
        .collect();
    if meshed.is_empty() {
        return Ok(());
    }
    Err(Error::StillMeshed { pods: count(meshed.len(), "pod"), some: check::some(&meshed, 5) })
}

/// Refuses where the namespace has other pods than this control plane's: those of another revision, say.
async fn alone(cluster: &Cluster, mesh: &Mesh) -> Result<(), Error> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &mesh.namespace);
    let pods = pods_of(
        list(pods, ListParams::default(), |pod| PodFacts::of(&pod)).await,
        "see what else runs in the namespace (leave out --purge)",
    )?;
    let others = strangers(&pods, mesh);
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::Shared { namespace: mesh.namespace.clone(), others: check::some(&others, 5) })
}

fn strangers(pods: &[PodFacts], mesh: &Mesh) -> Vec<String> {
    let ours = |pod: &&PodFacts| {
        pod.owner.as_ref().is_some_and(|owner| owner.kind == "deployment" && owner.name == mesh.control_plane())
    };
    pods.iter().filter(|pod| !pod.over && !ours(pod)).map(|pod| pod.name.clone()).collect()
}

fn pods_of(seen: Seen<Vec<PodFacts>>, what: &str) -> Result<Vec<PodFacts>, Error> {
    match seen {
        Seen::Found(pods) => Ok(pods),
        Seen::Absent => Ok(Vec::new()),
        Seen::Unknown(why) => Err(Error::Api { what: what.to_owned(), why }),
    }
}

async fn purge(cluster: &Cluster, mesh: &Mesh) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_with_others_pods_is_not_purged() {
        let mesh = Mesh { namespace: "weft-system".to_owned(), revision: String::new() };
        let pod = |name: &str, replica_set: &str, phase: &str| {
            let pod = json!({
                "metadata": {"name": name, "labels": {"pod-template-hash": "7d9f"}, "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set, "uid": "u", "controller": true},
                ]},
                "status": {"phase": phase},
            });
            PodFacts::of(&serde_json::from_value(pod).unwrap())
        };
        let pods = [
            pod("ours", "weft-control-plane-7d9f", "Running"),
            pod("another-revision", "weft-control-plane-next-7d9f", "Running"),
            pod("a-stranger", "web-7d9f", "Pending"),
            pod("ended", "web-7d9f", "Succeeded"),
        ];
        assert_eq!(strangers(&pods, &mesh), ["another-revision", "a-stranger"]);
        assert!(strangers(&pods[..1], &mesh).is_empty());
    }

    #[test]
    fn what_comes_next_names_the_label_that_opts_in() {
        let mesh = |revision: &str| Mesh { namespace: "weft-system".to_owned(), revision: revision.to_owned() };
        assert!(next(&mesh("")).contains("label namespace NAMESPACE weft.dev/inject=enabled\n"));
        assert!(next(&mesh("next")).contains("label namespace NAMESPACE weft.dev/revision=next\n"));
    }
}
