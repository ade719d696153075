//! `weft version`: which version runs where. A cluster without Weft is an answer, not an error; one that cannot be asked is
//! an error, after this program's own version.

use std::collections::BTreeMap;
use std::process::ExitCode;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use crate::args::{Target, VersionArgs};
use crate::check::{PodFacts, running_versions};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::names::{MESH_TLS, Mesh};
use crate::output::{self, Table};
use crate::seen::{Seen, list};

const OWN: &str = env!("CARGO_PKG_VERSION");

/// Which version runs where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: String,
    /// Version, and the replicas that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<BTreeMap<String, usize>>,
    /// Version, and the pods that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sidecars: Option<BTreeMap<String, usize>>,
}

/// `weft version`. What is known is printed, also when the rest cannot be had.
///
/// # Errors
/// When the API server cannot be asked.
pub(crate) async fn run(target: &Target, args: &VersionArgs) -> Result<ExitCode, Error> {
    let mut versions = Versions { client: OWN.to_owned(), control_plane: None, sidecars: None };
    let asked = if args.client { Ok(()) } else { ask(target, &mut versions).await };
    output::print_as(args.output.output, &versions, |_| show(&versions))?;
    match asked {
        // Without any kubeconfig there is no cluster to be wrong about.
        Err(Error::NoKubeconfig) => output::say("no kubeconfig, so this program's version is all there is to say"),
        asked => asked?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(target: &Target, versions: &mut Versions) -> Result<(), Error> {
    let cluster = Cluster::of(target).await?;
    versions.control_plane = Some(control_plane(&cluster, &target.mesh()).await?);
    versions.sidecars = Some(sidecars(&cluster).await?);
    Ok(())
}

async fn control_plane(cluster: &Cluster, mesh: &Mesh) -> Result<BTreeMap<String, usize>, Error> {
    Ok(running_versions(&control_plane_pods(cluster, mesh).await?))
}

/// The pods of the control plane; none where Weft is not installed.
///
/// # Errors
/// When the API server does not say.
pub(crate) async fn control_plane_pods(cluster: &Cluster, mesh: &Mesh) -> Result<Vec<Pod>, Error> {
    let deployments = Api::<Deployment>::namespaced(cluster.client.clone(), &mesh.namespace);
    let name = mesh.control_plane();
    let found = deployments.get_opt(&name).await;
    let found =
        found.map_err(|error| cluster.failed(format!("look at Deployment {}/{name}", mesh.namespace), &error))?;
    let labels = found.and_then(|found| found.spec?.selector.match_labels);
    let Some(labels) = labels else { return Ok(Vec::new()) };
    let selector = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &mesh.namespace);
    found_or(list(pods, ListParams::default().labels(&selector), |pod| pod).await, "list pods")
}

async fn sidecars(cluster: &Cluster) -> Result<BTreeMap<String, usize>, Error> {
    let pods = Api::<Pod>::all(cluster.client.clone());
    let pods = list(pods, ListParams::default().labels(MESH_TLS), |pod| PodFacts::of(&pod)).await;
    Ok(by_version(&found_or(pods, "list pods of all namespaces")?))
}

fn by_version(pods: &[PodFacts]) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for sidecar in pods.iter().filter(|pod| !pod.over).filter_map(|pod| pod.sidecar.as_ref()) {
        *versions.entry(sidecar.version.clone()).or_default() += 1;
    }
    versions
}

fn found_or<T: Default>(seen: Seen<T>, what: &str) -> Result<T, Error> {
    match seen {
        Seen::Found(value) => Ok(value),
        Seen::Absent => Ok(T::default()),
        Seen::Unknown(why) => Err(Error::Api { what: what.to_owned(), why }),
    }
}

fn show(versions: &Versions) -> String {
    let mut table = Table::new(&["PART", "VERSION", "RUNNING"]);
    table.row(["weft".to_owned(), versions.client.clone()]);
    for (part, found) in [("control plane", &versions.control_plane), ("sidecars", &versions.sidecars)] {
        let Some(found) = found else { continue };
        if found.is_empty() {
            table.row([part.to_owned(), "none".to_owned()]);
        }
        for (version, count) in found {
            table.row([part.to_owned(), version.clone(), count.to_string()]);
        }
    }
    table.render(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_its_row() {
        let versions = Versions {
            client: "0.2.0".to_owned(),
            control_plane: Some([("0.2.0".to_owned(), 2)].into()),
            sidecars: Some([("0.1.0".to_owned(), 3), ("0.2.0".to_owned(), 41)].into()),
        };
        assert_eq!(
            show(&versions),
            "PART            VERSION   RUNNING\nweft            0.2.0\ncontrol plane   0.2.0     2\nsidecars        0.1.0     3\n\
             sidecars        0.2.0     41\n"
        );
        let none = Versions { control_plane: Some(BTreeMap::new()), sidecars: None, ..versions };
        assert!(show(&none).contains("control plane   none\n"), "{}", show(&none));
    }
}
