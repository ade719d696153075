//! Weft in the cluster: installed with Helm as users install it, its control plane looked at from outside, and removed.
//!
//! The first test that needs it installs it; what `helm install` takes is measured by the test that says so. Bound: one
//! installation per cluster.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_proto::ports;

use super::{Cluster, PATIENCE};
use crate::error::Context;
use crate::{Error, Result, stats};

/// Where it is installed.
pub const SYSTEM: &str = "weft-system";
/// What tests set of the chart's values.
pub const VALUES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/values.yaml");

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/weft");
const CONTROL_PLANE: &str = "deployment/weft-control-plane";
/// Lines of each kind that are shown of a test that failed.
const COMPLAINTS: usize = 12;
/// One installs, the others wait.
static INSTALLING: Mutex<()> = Mutex::new(());

/// An installed Weft.
#[derive(Debug, Clone)]
pub struct Weft {
    /// Where.
    pub cluster: Cluster,
}

impl Weft {
    /// Weft, installed now if it is not yet.
    ///
    /// # Errors
    /// When `helm` fails, or the control plane does not come up.
    pub fn installed() -> Result<Self> {
        let cluster = Cluster::of_environment()?;
        let _only_one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if !cluster.attempt("helm", &["-n", SYSTEM, "status", "weft"], "")?.success {
            cluster.gateway_api()?;
            return cluster.install().map(|(weft, _)| weft);
        }
        Ok(Self { cluster })
    }

    /// Its pods that are not on their way out.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn control_plane(&self) -> Result<Vec<Value>> {
        let list = self.cluster.get(&["-n", SYSTEM, "pods"])?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let ours = |pod: &Value| {
            let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            name.starts_with("weft-control-plane-") && pod.pointer("/metadata/deletionTimestamp").is_none()
        };
        Ok(pods.into_iter().filter(ours).collect())
    }

    /// A page of the admin port, of every control-plane pod that runs.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn admin(&self, path: &str) -> Result<Vec<String>> {
        let running = |pod: &Value| pod.pointer("/status/phase").and_then(Value::as_str) == Some("Running");
        let pods = self.control_plane()?;
        pods.iter()
            .filter(|pod| running(pod))
            .filter_map(address_of)
            .map(|address| {
                let address = SocketAddr::new(address, ports::CONTROL_PLANE_ADMIN);
                match self.cluster.get_from_node(address, path)? {
                    Some(answer) if answer.status == 200 => Ok(answer.body().to_owned()),
                    other => {
                        let output = other.map_or_else(String::new, |answer| answer.text);
                        Err(Error::Command { what: format!("http://{address}{path}"), output })
                    }
                }
            })
            .collect()
    }

    /// A metric, summed over the control plane's pods and the samples whose labels contain all of `labels`.
    ///
    /// # Errors
    /// When a pod does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let pages = self.admin("/metrics")?;
        Ok(pages.iter().map(|text| stats::metric(text, name, labels)).sum())
    }

    /// What the control plane's pods logged in the last `since`.
    ///
    /// # Errors
    /// When a log cannot be had.
    pub fn log(&self, since: Duration) -> Result<String> {
        let since = format!("--since={}s", since.as_secs() + 1);
        let mut all = String::new();
        for pod in self.control_plane()? {
            let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            all += &self.cluster.kubectl(&["-n", SYSTEM, "logs", name, &since])?;
        }
        Ok(all)
    }

    /// How many replicas there should be; waits until there are so many, and none too many.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn scale(&self, replicas: usize) -> Result<()> {
        self.cluster.kubectl(&["-n", SYSTEM, "scale", CONTROL_PLANE, &format!("--replicas={replicas}")])?;
        self.cluster.rolled_out(SYSTEM, CONTROL_PLANE, PATIENCE)?;
        self.cluster.wait_for("the other control-plane pods' end", PATIENCE, || {
            let list = self.cluster.get(&["-n", SYSTEM, "pods"])?;
            let pods = list["items"].as_array().map_or(0, Vec::len);
            Ok((pods <= replicas).then_some(()))
        })
    }

    /// `helm upgrade` with one value set beside the tests' own.
    ///
    /// # Errors
    /// When `helm` fails, or the control plane does not come up again.
    pub fn upgrade(&self, set: &[&str]) -> Result<()> {
        let mut arguments = vec!["upgrade", "weft", CHART, "-n", SYSTEM, "-f", VALUES, "--wait", "--timeout=90s"];
        arguments.extend(set.iter().flat_map(|value| ["--set", value]));
        self.cluster.helm(&arguments).map(drop)
    }

    /// A metric of a pod's sidecar, summed over the samples whose labels contain all of `labels`; 0 from one that does
    /// not answer.
    ///
    /// # Errors
    /// When the node is gone.
    pub fn sidecar_metric(&self, pod: &Value, name: &str, labels: &[&str]) -> Result<f64> {
        let Some(address) = address_of(pod) else { return Ok(0.0) };
        let answer = self.cluster.get_from_node(SocketAddr::new(address, ports::METRICS), "/metrics")?;
        Ok(answer.map_or(0.0, |answer| stats::metric(answer.body(), name, labels)))
    }
}

/// A pod's address, once it has one.
fn address_of(pod: &Value) -> Option<IpAddr> {
    pod.pointer("/status/podIP")?.as_str()?.parse().ok()
}

impl Cluster {
    /// The Gateway API's kinds, which are not the chart's to bring.
    ///
    /// # Errors
    /// When they cannot be applied.
    pub fn gateway_api(&self) -> Result<()> {
        let folder = self.folder().join("programs/crds");
        let folder = folder.canonicalize().context(|| format!("reading {}", folder.display()))?;
        // Too large for the annotation that a client-side apply keeps.
        self.kubectl(&["apply", "--server-side", "-f", &folder.display().to_string()])?;
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/grpcroutes.gateway.networking.k8s.io",
            "crd/httproutes.gateway.networking.k8s.io",
            "--timeout=30s",
        ])
        .map(drop)
    }

    /// `helm install`, and how long it took until everything was ready.
    ///
    /// # Errors
    /// When `helm` says so, with what the pods are doing.
    pub fn install(&self) -> Result<(Weft, Duration)> {
        let began = Instant::now();
        let arguments = ["install", "weft", CHART, "-n", SYSTEM, "--create-namespace", "-f", VALUES, "--wait"];
        match self.helm(&[&arguments[..], &["--timeout=90s"]].concat()) {
            Ok(_) => Ok((Weft { cluster: self.clone() }, began.elapsed())),
            Err(error) => {
                let mut output = error.to_string();
                for what in [&["describe", "pods"][..], &["logs", CONTROL_PLANE, "--tail=50"]] {
                    let said = self.kubectl(&[&["-n", SYSTEM], what].concat());
                    let _ = write!(output, "\n{}", said.unwrap_or_else(|error| error.to_string()));
                }
                Err(Error::Command { what: "helm install".to_owned(), output })
            }
        }
    }

    /// Keeps what the cluster has to say about a test that failed: its pods, events and logs, in a folder of their own.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn keep_evidence(&self, test: &str) -> Result<PathBuf> {
        let folder = self.folder().join("failures").join(test.replace("::", "-"));
        let written = || format!("writing {}", folder.display());
        fs::create_dir_all(&folder).context(written)?;
        let keep = |name: &str, arguments: &[&str]| {
            let said = self.attempt("kubectl", arguments, "").map(|outcome| outcome.stdout + &outcome.stderr);
            fs::write(folder.join(name), said.unwrap_or_else(|error| error.to_string())).context(written)
        };
        keep("pods.txt", &["get", "pods", "-A", "-o", "wide"])?;
        keep("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"])?;
        keep("objects.yaml", &["get", "pods,services,endpointslices,deployments", "-A", "-o", "yaml"])?;
        // Those of pods that are gone as well.
        copy_logs(&self.folder().join(KEPT_LOGS), &folder.join("logs")).context(written)?;
        Ok(folder)
    }
}

impl Cluster {
    /// The same in short, for whoever has only the tests' output: pods that are not well, warnings, and what the control
    /// plane complained about last.
    pub fn complaints(&self) -> String {
        let said = |arguments: &[&str]| {
            let outcome = self.attempt("kubectl", arguments, "");
            outcome.map_or_else(|error| error.to_string(), |outcome| outcome.stdout + &outcome.stderr)
        };
        let mut text = String::new();
        let mut part = |title: &str, lines: Vec<&str>| {
            let last = lines.len().saturating_sub(COMPLAINTS);
            for line in &lines[last..] {
                let short: String = line.chars().take(400).collect();
                let _ = writeln!(text, "       {title}: {short}");
            }
        };
        let pods = said(&["get", "pods", "-A", "--no-headers"]);
        let well = |line: &&str| {
            let mut columns = line.split_whitespace().skip(2);
            let ready = columns.next().and_then(|ready| ready.split_once('/')).is_some_and(|(some, all)| some == all);
            (ready && columns.next() == Some("Running")) || line.contains("Completed")
        };
        part("pod", pods.lines().filter(|line| !well(line)).collect());
        let format = "-o=custom-columns=:.involvedObject.namespace,:.involvedObject.name,:.reason,:.message";
        let arguments = ["get", "events", "-A", "--no-headers", "--field-selector=type=Warning"];
        let events = said(&[&arguments[..], &["--sort-by=.lastTimestamp", format]].concat());
        part("event", events.lines().collect());
        let kept = self.folder().join(KEPT_LOGS);
        let lost = lines_with(&kept, &["may have read", "cannot be told", "could not be written"]);
        part("not tried again", lost.iter().map(String::as_str).collect());
        let logs = said(&["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=weft-control-plane", "--tail=200"]);
        let bad = |line: &&str| ["WARN", "ERROR", "panicked", "rror"].iter().any(|word| line.contains(word));
        part("control plane", logs.lines().filter(bad).collect());
        text
    }
}

/// Where `run-cluster-tests.sh` keeps the logs of all pods that there were.
const KEPT_LOGS: &str = "kept-logs";

/// Copies `NAMESPACE_POD_UID/CONTAINER/N.log` into one folder.
fn copy_logs(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for (name, log) in logs(from) {
        // One that goes while we look is not missed.
        let _ = fs::copy(log, to.join(name));
    }
    Ok(())
}

/// The lines with one of these words, of all logs, each after the name of its pod.
fn lines_with(folder: &Path, words: &[&str]) -> Vec<String> {
    let of = |(name, log): (String, PathBuf)| {
        let text = fs::read_to_string(log).unwrap_or_default();
        let found = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        found.map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
    };
    logs(folder).into_iter().flat_map(of).collect()
}

/// All of `NAMESPACE_POD_UID/CONTAINER/N.log`, and a name for each.
fn logs(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for pod in fs::read_dir(folder).into_iter().flatten().flatten() {
        for container in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            for log in fs::read_dir(container.path()).into_iter().flatten().flatten() {
                let parts = [pod.file_name(), container.file_name(), log.file_name()];
                found.push((parts.map(|part| part.to_string_lossy().into_owned()).join("_"), log.path()));
            }
        }
    }
    found
}
