//! helm, as a program. Go templates are its business; ours is to say exactly what it is called with.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::args::Target;
use crate::error::Error;
use crate::names::Mesh;

/// What an installation is made from, beside the chart.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// Files, the last one wins.
    pub(super) files: Vec<String>,
    /// Single values, which win over files.
    pub(super) set: Vec<String>,
}

/// `helm template`.
pub(super) fn template(mesh: &Mesh, chart: &Path, values: &Values) -> Vec<String> {
    let mut arguments = vec!["template".to_owned(), mesh.release(), chart.display().to_string()];
    arguments.extend(["--namespace".to_owned(), mesh.namespace.clone()]);
    add_values(&mut arguments, mesh, values);
    arguments
}

/// `helm upgrade --install`.
pub(super) fn upgrade(target: &Target, mesh: &Mesh, chart: &Path, values: &Values) -> Vec<String> {
    let mut arguments = vec!["upgrade".to_owned(), "--install".to_owned(), mesh.release(), chart.display().to_string()];
    arguments.extend(["--namespace".to_owned(), mesh.namespace.clone(), "--create-namespace".to_owned()]);
    add_cluster(&mut arguments, target);
    add_values(&mut arguments, mesh, values);
    arguments
}

/// `helm uninstall`.
pub(super) fn uninstall(target: &Target, mesh: &Mesh) -> Vec<String> {
    let mut arguments = vec!["uninstall".to_owned(), mesh.release(), "--wait".to_owned()];
    arguments.extend(["--namespace".to_owned(), mesh.namespace.clone()]);
    add_cluster(&mut arguments, target);
    arguments
}

fn add_cluster(arguments: &mut Vec<String>, target: &Target) {
    if let Some(file) = &target.kubeconfig {
        arguments.extend(["--kubeconfig".to_owned(), file.display().to_string()]);
    }
    if let Some(context) = &target.context {
        arguments.extend(["--kube-context".to_owned(), context.clone()]);
    }
}

fn add_values(arguments: &mut Vec<String>, mesh: &Mesh, values: &Values) {
    for file in &values.files {
        arguments.extend(["--values".to_owned(), file.clone()]);
    }
    if !mesh.revision.is_empty() {
        arguments.extend(["--set-string".to_owned(), format!("revision={}", mesh.revision)]);
    }
    for value in &values.set {
        arguments.extend(["--set".to_owned(), value.clone()]);
    }
}

/// Runs helm to its end; what it printed. Its warnings and errors go straight to our stderr.
///
/// # Errors
/// When it is not there, or fails.
pub(super) async fn run(program: &str, arguments: &[String]) -> Result<String, Error> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::NoHelm { program: program.to_owned() },
        _ => Error::File { file: program.into(), source },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Helm { command: format!("{program} {}", arguments.join(" ")), status: output.status.to_string() })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn target() -> Target {
        Target {
            kubeconfig: Some(PathBuf::from("/k")),
            context: Some("c".to_owned()),
            weft_namespace: "weft-system".to_owned(),
            revision: None,
        }
    }

    #[test]
    fn helm_is_called_with_what_was_asked() {
        let mesh = target().mesh();
        let values = Values { files: vec!["a.yaml".to_owned(), "b.yaml".to_owned()], set: vec!["x=1".to_owned()] };
        assert_eq!(
            template(&mesh, Path::new("/chart"), &values).join(" "),
            "template weft /chart --namespace weft-system --values a.yaml --values b.yaml --set x=1"
        );
        assert_eq!(
            upgrade(&target(), &mesh, Path::new("/chart"), &values).join(" "),
            "upgrade --install weft /chart --namespace weft-system --create-namespace --kubeconfig /k --kube-context c \
             --values a.yaml --values b.yaml --set x=1"
        );
        let next = Mesh { revision: "next".to_owned(), ..mesh.clone() };
        assert_eq!(
            template(&next, Path::new("/chart"), &Values::default()).join(" "),
            "template weft-next /chart --namespace weft-system --set-string revision=next"
        );
        assert_eq!(
            uninstall(&target(), &mesh).join(" "),
            "uninstall weft --wait --namespace weft-system --kubeconfig /k --kube-context c"
        );
    }

    #[tokio::test]
    async fn a_helm_that_is_missing_or_fails_is_said() {
        for (program, says) in [("/none/helm", "pass --helm FILE"), ("false", "`false version` failed")] {
            let error = run(program, &["version".to_owned()]).await.unwrap_err().to_string();
            assert!(error.contains(says), "{program}: {error}");
        }
        assert_eq!(run("echo", &["done".to_owned()]).await.unwrap(), "done\n");
    }
}
