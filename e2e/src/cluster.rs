//! The Kubernetes that the cluster tests run against: started by `e2e/kubernetes/up.sh` (see there what it is made of and
//! how it leaves the machine untouched), spoken to through `kubectl`, as users do.
//!
//! Not here: what is tested (`tests/cluster/`). Bound: every wait has an end, and says what it saw last.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::Context;
use crate::{Error, Result};

/// A running cluster. It outlives this value: whoever started it ends it.
#[derive(Debug, Clone)]
pub struct Cluster {
    folder: PathBuf,
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
            std::thread::sleep(Duration::from_millis(50));
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

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let what = || format!("{program} {}", arguments.join(" "));
        let mut child = Command::new(self.folder.join(program))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading all of it says why below.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().context(what)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Command { what: what(), output: said })
    }
}
