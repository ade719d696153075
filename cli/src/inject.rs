//! `weft inject` and `weft uninject`: what the webhook does, offline, by the same code. Manifests in, manifests out, so that
//! they fit between `kustomize build` and `kubectl apply`; what there is to say about them goes to stderr.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use weft_control_plane::inject::cluster::Version;
use weft_control_plane::inject::manifest::Options;
use weft_control_plane::inject::{ClusterFacts, InjectSettings};

use crate::args::{InjectArgs, Target, UninjectArgs};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::names::INJECTION_KEY;
use crate::output;
use crate::seen::{Seen, list};

mod offline;

use offline::Done;

/// More than any `injection.yaml` or manifest is: a file that is larger is not meant.
const MAX_INPUT: u64 = 64 << 20;

/// `weft inject`.
///
/// # Errors
/// When a file cannot be read or makes no sense, or the settings cannot be had. Then nothing is printed, so nothing is applied.
pub(crate) async fn inject(target: &Target, args: &InjectArgs) -> Result<ExitCode, Error> {
    let (settings, cluster) = match (&args.config, args.defaults) {
        (Some(file), _) => (parse(&read(file)?, &name(file))?, ClusterFacts::SUPPORTED),
        (None, true) => (defaults(target)?, ClusterFacts::SUPPORTED),
        (None, false) => of_cluster(target).await?,
    };
    let options = Options { settings, cluster, namespace: args.namespace.clone() };
    each(&args.filename, |yaml| offline::inject(yaml, &options))
}

/// `weft uninject`.
///
/// # Errors
/// When a file cannot be read or makes no sense. Then nothing is printed.
pub(crate) fn uninject(args: &UninjectArgs) -> Result<ExitCode, Error> {
    each(&args.filename, offline::uninject)
}

/// All files or none: half of a pipe's manifests, applied, are worse than none.
fn each(files: &[PathBuf], change: impl Fn(&str) -> Result<Done, String>) -> Result<ExitCode, Error> {
    let mut text = String::new();
    for file in files {
        let done = change(&read(file)?).map_err(|why| Error::Input { file: name(file), why })?;
        for note in &done.notes {
            output::say(&format!("{}: {note}", name(file)));
        }
        text.push_str(&separated(done.yaml, files.len()));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Between files there must be a `---`; one alone stays as it is.
fn separated(yaml: String, files: usize) -> String {
    if files > 1 && !yaml.starts_with("---") { format!("---\n{yaml}") } else { yaml }
}

fn parse(settings: &str, from: &str) -> Result<InjectSettings, Error> {
    InjectSettings::parse(settings).map_err(|bad| Error::Input { file: from.to_owned(), why: bad.to_string() })
}

/// As a default installation of the mesh that `target` names would have it.
fn defaults(target: &Target) -> Result<InjectSettings, Error> {
    let mesh = target.mesh();
    // JSON is YAML, and quotes what must be.
    parse(&json!({"namespace": mesh.namespace, "revision": mesh.revision}).to_string(), "--defaults")
}

async fn of_cluster(target: &Target) -> Result<(InjectSettings, ClusterFacts), Error> {
    let mesh = target.mesh();
    let map = mesh.injection();
    let cluster = Cluster::of(target).await.map_err(|error| match error {
        Error::NoKubeconfig => Error::Input {
            file: "the settings of injection".to_owned(),
            why: "no kubeconfig to read them by: pass --defaults, or --config FILE".to_owned(),
        },
        other => other,
    })?;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &mesh.namespace);
    let found = maps.get_opt(&map).await.map_err(|error| {
        let what = format!("read ConfigMap {}/{map} (--defaults and --config do without)", mesh.namespace);
        cluster.failed(what, &error)
    })?;
    let settings = found.and_then(|map| map.data?.remove(INJECTION_KEY));
    let Some(settings) = settings else {
        return Err(Error::NotInstalled { what: format!("ConfigMap {map}"), namespace: mesh.namespace });
    };
    let settings = parse(&settings, &format!("ConfigMap {}/{map}", mesh.namespace))?;
    Ok((settings, versions(&cluster).await))
}

/// What says whether sidecars are native. The webhook knows the nodes; who may not see them here is told what is assumed.
async fn versions(cluster: &Cluster) -> ClusterFacts {
    let server = cluster.server().await.ok().and_then(|server| Version::parse(&server.version));
    let nodes = Api::<Node>::all(cluster.client.clone());
    let kubelets = list(nodes, ListParams::default(), |node: Node| {
        node.status.and_then(|status| Version::parse(&status.node_info?.kubelet_version))
    });
    let oldest_kubelet = match kubelets.await {
        Seen::Found(kubelets) => kubelets.into_iter().flatten().min(),
        Seen::Absent => None,
        Seen::Unknown(why) => {
            output::say(&format!("cannot see the nodes, so kubelets are taken to be as new as the API server: {why}"));
            None
        }
    };
    ClusterFacts { server, oldest_kubelet }
}

fn name(file: &Path) -> String {
    if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() }
}

fn read(file: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { file: PathBuf::from(name(file)), source };
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(file).map_err(failed)?.take(MAX_INPUT).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_apart() {
        assert_eq!(separated("kind: A\n".to_owned(), 1), "kind: A\n");
        assert_eq!(separated("kind: A\n".to_owned(), 2), "---\nkind: A\n");
        assert_eq!(separated("---\nkind: A\n".to_owned(), 2), "---\nkind: A\n");
    }

    #[test]
    fn the_defaults_are_those_of_the_mesh_that_is_named() {
        let target = |namespace: &str, revision: Option<&str>| Target {
            kubeconfig: None,
            context: None,
            weft_namespace: namespace.to_owned(),
            revision: revision.map(str::to_owned),
        };
        for (namespace, revision, expected) in [
            ("weft-system", None, "weft-control-plane.weft-system.svc:15012"),
            ("mesh", Some("next"), "weft-control-plane-next.mesh.svc:15012"),
        ] {
            assert_eq!(defaults(&target(namespace, revision)).unwrap().control_plane, expected);
        }
        assert!(defaults(&target("No Name", None)).unwrap_err().to_string().starts_with("--defaults: "));
    }

    #[test]
    fn what_was_injected_is_uninjected_to_the_same_object() {
        let web = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: app\n    image: app:1\n";
        let options = Options {
            settings: InjectSettings::default(),
            cluster: ClusterFacts::SUPPORTED,
            namespace: "shop".to_owned(),
        };
        let injected = offline::inject(web, &options).unwrap();
        assert!(injected.yaml.contains("weft-sidecar"), "{}", injected.yaml);
        assert!(injected.notes[0].starts_with("Pod shop/web: injected (native)"), "{:?}", injected.notes);
        assert_eq!(offline::inject(&injected.yaml, &options).unwrap().yaml, injected.yaml);
        let objects = |yaml: &str| serde_saphyr::from_str::<serde_json::Value>(yaml).unwrap();
        assert_eq!(objects(&offline::uninject(&injected.yaml).unwrap().yaml), objects(web));
        assert!(offline::inject("kind: [", &options).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/none/x.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /none/x.yaml: "), "{error}");
    }
}
