//! `weft inject` and `weft uninject`: what the webhook does, offline, by the same code. Manifests in, manifests out, so that
//! they fit between `kustomize build` and `kubectl apply`; what there is to say about them goes to stderr.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use crate::args::{InjectArgs, Target, UninjectArgs};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::names::INJECTION_KEY;
use crate::output;

mod offline;

/// More than any `injection.yaml` or manifest is: a file that is larger is not meant.
const MAX_INPUT: u64 = 64 << 20;

/// `weft inject`.
///
/// # Errors
/// When a file cannot be read or makes no sense, or the settings cannot be had.
pub(crate) async fn inject(target: &Target, args: &InjectArgs) -> Result<ExitCode, Error> {
    let (settings, from) = match (&args.config, args.defaults) {
        (Some(file), _) => (read(file)?, file.display().to_string()),
        (None, true) => (String::new(), "the defaults".to_owned()),
        (None, false) => of_cluster(target).await?,
    };
    for file in &args.filename {
        let done = offline::inject(&read(file)?, &settings)
            .map_err(|why| Error::Input { file: format!("{} (settings: {from})", name(file)), why })?;
        for note in &done.notes {
            output::say(&format!("{}: {note}", name(file)));
        }
        output::print(&separated(done.yaml, args.filename.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `weft uninject`.
///
/// # Errors
/// When a file cannot be read or makes no sense.
pub(crate) fn uninject(args: &UninjectArgs) -> Result<ExitCode, Error> {
    for file in &args.filename {
        let yaml = offline::uninject(&read(file)?).map_err(|why| Error::Input { file: name(file), why })?;
        output::print(&separated(yaml, args.filename.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Between files there must be a `---`; one alone stays as it is.
fn separated(yaml: String, files: usize) -> String {
    if files > 1 && !yaml.starts_with("---") { format!("---\n{yaml}") } else { yaml }
}

async fn of_cluster(target: &Target) -> Result<(String, String), Error> {
    let mesh = target.mesh();
    let name = mesh.injection();
    let cluster = Cluster::of(target).await.map_err(|error| match error {
        Error::NoKubeconfig => Error::Input {
            file: "the settings of injection".to_owned(),
            why: "no kubeconfig to read them by: pass --defaults, or --config FILE".to_owned(),
        },
        other => other,
    })?;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), &mesh.namespace);
    let found = maps.get_opt(&name).await;
    let found = found.map_err(|error| {
        let what = format!("read ConfigMap {}/{name} (--defaults and --config do without)", mesh.namespace);
        cluster.failed(what, &error)
    })?;
    let settings = found.and_then(|map| map.data?.remove(INJECTION_KEY));
    match settings {
        Some(settings) => Ok((settings, format!("ConfigMap {}/{name}", mesh.namespace))),
        None => Err(Error::NotInstalled { what: format!("ConfigMap {name}"), namespace: mesh.namespace }),
    }
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
    fn a_missing_file_is_named() {
        let error = read(Path::new("/none/x.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /none/x.yaml: "), "{error}");
    }
}
