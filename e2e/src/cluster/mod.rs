//! The Kubernetes that the cluster tests run against: started by `e2e/kubernetes/up.sh` (see there what it is made of and
//! how it leaves the machine untouched), spoken to through `kubectl` and `helm`, as users do.
//!
//! | file | what lives there |
//! |---|---|
//! | `mod.rs` | `kubectl` and `helm`, and waiting |
//! | `node.rs` | the machine below: its network, its processes, etcd |
//! | `workload.rs` | Deployments and the like of our apps, as objects |
//! | `records.rs` | what those apps wrote down |
//! | `weft.rs` | Weft in the cluster: installed, looked at, removed |
//! | `watch.rs` | programs that go on; `kubectl get --watch`, with the time of every change |
//! | `figures.rs` | what was measured |
//! | `suite.rs` | the order of the tests, and which run at once |
//!
//! Not here: what is tested (`tests/cluster/`). Bound: every wait has an end, and says what it saw last.

mod figures;
mod node;
mod records;
mod suite;
mod watch;
mod weft;
mod workload;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::Context;
use crate::stats::Got;
use crate::{Error, Result};

pub use figures::{figure, figure_within, write_figures};
pub use node::Memory;
pub use records::Records;
pub use suite::{Phase, Test, run};
pub use watch::{Background, Seen, Watch};
pub use weft::{SYSTEM, VALUES, Weft};
pub use workload::{Workload, cron_job, namespace, service};

/// How long anything may take that is not itself measured: a pod's start on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks through `kubectl`, which takes a tenth of a second of CPU itself.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// A running cluster. It outlives this value: whoever started it ends it.
#[derive(Debug, Clone)]
pub struct Cluster {
    folder: PathBuf,
}

/// What a command came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Whether it ended well.
    pub success: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Cluster {
    /// The cluster whose folder `WEFT_CLUSTER` names, as `make test-cluster` has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_environment() -> Result<Self> {
        let folder = std::env::var_os("WEFT_CLUSTER").map(PathBuf::from);
        match folder.filter(|folder| folder.join("ready").is_file()) {
            Some(folder) => Ok(Self { folder }),
            None => Err(Error::Missing("these tests need a cluster: run them with `make test-cluster`".to_owned())),
        }
    }

    /// Its folder on this machine.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs `kubectl` to its end; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments, "")
    }

    /// Runs `helm` to its end; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.run("helm", arguments, "")
    }

    /// `kubectl apply` of `manifests`.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.run("kubectl", &["apply", "-f", "-"], manifests).map(drop)
    }

    /// `kubectl apply` of objects, all at once.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())
    }

    /// A fresh namespace of that name: a former run's is removed first.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn fresh_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=60s"])?;
        self.apply_all(&[namespace(name, labels)])?;
        // Pods are refused until it is there.
        self.wait_for("the default service account", PATIENCE, || {
            self.kubectl(&["-n", name, "get", "serviceaccount", "default"]).map(Some)
        })?;
        Ok(())
    }

    /// Ends a namespace and everything in it, without waiting for that.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn remove_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["delete", "namespace", name, "--wait=false"]).map(drop)
    }

    /// An object, or a list of them, as JSON.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|error| Error::Command {
            what: format!("kubectl get {}", arguments.join(" ")),
            output: format!("no JSON ({error}): {text}"),
        })
    }

    /// The pods of a namespace whose label `app` is this, by name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn pods(&self, namespace: &str, app: &str) -> Result<Vec<Value>> {
        let selector = format!("app={app}");
        let list = self.get(&["-n", namespace, "pods", "-l", &selector, "--sort-by=.metadata.name"])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Runs one of our apps' subcommands in the app container of `target`; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn exec(&self, namespace: &str, target: &str, arguments: &[&str]) -> Result<String> {
        let begin = ["-n", namespace, "exec", target, "-c", "app", "--", "/weft-e2e"];
        self.kubectl(&[&begin, arguments].concat())
    }

    /// `weft-e2e get` in the app container of `target`.
    ///
    /// # Errors
    /// When it cannot be run there; an answer that did not come is no error of this kind.
    pub fn ask(&self, namespace: &str, target: &str, arguments: &[&str]) -> Result<Vec<Got>> {
        let text = self.exec(namespace, target, &[&["get"], arguments].concat())?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits until `done` gives a value; the error of a `done` that gave none in time.
    ///
    /// # Errors
    /// [`Error::Timeout`] with what was seen last.
    pub fn wait_for<T>(&self, what: &str, within: Duration, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let began = Instant::now();
        loop {
            let seen = done();
            if let Ok(Some(value)) = seen {
                return Ok(value);
            }
            if began.elapsed() > within {
                let hint = seen.err().map_or_else(String::new, |error| format!(": {error}"));
                return Err(Error::Timeout { what: what.to_owned(), after: within, hint });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits for the rollout of a Deployment or StatefulSet; on failure says what its pods are doing.
    ///
    /// # Errors
    /// When it is not there in time.
    pub fn rolled_out(&self, namespace: &str, workload: &str, within: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        match self.kubectl(&["-n", namespace, "rollout", "status", workload, &timeout]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let pods = self.kubectl(&["-n", namespace, "describe", "pods"]).unwrap_or_default();
                Err(Error::Command { what: format!("rollout of {workload}"), output: format!("{error}\n{pods}") })
            }
        }
    }

    /// Applies `objects` and waits for the rollout of each that has one.
    ///
    /// # Errors
    /// When the API server refuses one, or one is not there in time.
    pub fn deploy(&self, objects: &[Value]) -> Result<()> {
        self.apply_all(objects)?;
        for object in objects {
            if let Some(kind @ ("Deployment" | "StatefulSet")) = object["kind"].as_str() {
                let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let workload = format!("{}/{}", kind.to_lowercase(), text("/metadata/name"));
                self.rolled_out(text("/metadata/namespace"), &workload, PATIENCE)?;
            }
        }
        Ok(())
    }

    /// Runs a program of the cluster's folder to its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ends is the caller's to judge.
    pub fn attempt(&self, program: &str, arguments: &[&str], input: &str) -> Result<Outcome> {
        let what = || format!("{program} {}", arguments.join(" "));
        let mut child = self.command(program).args(arguments).stdin(Stdio::piped()).spawn().context(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading all of it says why below.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().context(what)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Outcome { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) })
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let outcome = self.attempt(program, arguments, input)?;
        if outcome.success {
            return Ok(outcome.stdout);
        }
        let what = format!("{program} {}", arguments.join(" "));
        Err(Error::Command { what, output: outcome.stderr.trim().to_owned() })
    }

    /// A program of the cluster's folder, to be started.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}
