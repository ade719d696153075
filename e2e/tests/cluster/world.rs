//! A namespace of a test's own, opted in or not, with the records of its apps; and the verdict over those records.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;
use weft_e2e::cluster::{Cluster, PATIENCE, Records, Weft, Workload};
use weft_e2e::stats::{self, Got, Sent};

/// How a sidecar is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An init container that stays: what the tests' Kubernetes gets by default.
    Native,
    /// A container like others.
    Classic,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Classic => "classic",
        }
    }
}

/// A namespace.
pub(crate) struct World {
    pub(crate) weft: Weft,
    pub(crate) namespace: String,
    pub(crate) records: Records,
}

impl World {
    /// Opted in: its pods get sidecars.
    pub(crate) fn meshed(name: &str) -> Self {
        Self::new(name, &[("weft.dev/inject", "enabled")])
    }

    /// As if there were no mesh.
    pub(crate) fn plain(name: &str) -> Self {
        Self::new(name, &[])
    }

    /// In a cluster without Weft.
    pub(crate) fn without_weft(name: &str) -> Self {
        Self::of(Weft { cluster: Cluster::of_environment().unwrap() }, name, &[])
    }

    fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        Self::of(Weft::installed().unwrap(), name, labels)
    }

    fn of(weft: Weft, name: &str, labels: &[(&str, &str)]) -> Self {
        weft.cluster.fresh_namespace(name, labels).unwrap();
        let records = weft.cluster.records(name).unwrap();
        Self { weft, namespace: name.to_owned(), records }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.weft.cluster
    }

    /// `kubectl` in this namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster().kubectl(&[&["-n", &self.namespace], arguments].concat()).unwrap()
    }

    pub(crate) fn deploy(&self, objects: &[Value]) {
        self.cluster().deploy(objects).unwrap();
    }

    /// `weft-e2e get` in the Deployment `client`.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Vec<Got> {
        self.cluster().ask(&self.namespace, "deployment/client", arguments).unwrap()
    }

    /// One answer.
    pub(crate) fn ask_one(&self, url: &str) -> Got {
        self.ask(&[url]).pop().unwrap()
    }

    /// Asks until it is answered 200: what is new takes a moment to get around.
    pub(crate) fn until_answered(&self, url: &str) {
        let mut last = Got::default();
        let waited = self.cluster().wait_for(&format!("an answer from {url}"), Duration::from_secs(20), || {
            last = self.ask_one(url);
            Ok((last.status == 200).then_some(()))
        });
        assert!(waited.is_ok(), "{url} is not answered; last: {last:?}");
    }

    /// Asks until so many servers have answered, which may take some asking: one that was slow once, as on a busy machine, rests for
    /// up to a second. Their names.
    pub(crate) fn until_all_answer(&self, url: &str, count: usize) -> BTreeSet<String> {
        let mut servers = BTreeSet::new();
        let waited = self.cluster().wait_for(&format!("answers of {count} servers"), Duration::from_secs(20), || {
            let answers = self.cluster().ask(&self.namespace, "deployment/client", &[url, "--repeat", "40"])?;
            servers.extend(answers.into_iter().filter(|got| got.status == 200).map(|got| got.server));
            Ok((servers.len() == count).then_some(()))
        });
        assert!(waited.is_ok(), "{url}: {count} servers should answer, and these did: {servers:?}");
        servers
    }

    /// Waits until Kubernetes says of a Service's endpoint that its pod is on its way out, or says nothing more of it.
    pub(crate) fn until_terminating(&self, service: &str, pod: &str) {
        let selector = format!("kubernetes.io/service-name={service}");
        let said = || {
            let slices = self.cluster().kubectl(&[
                "-n",
                &self.namespace,
                "get",
                "endpointslices",
                "-l",
                &selector,
                "-o",
                "json",
            ])?;
            let slices: Value = serde_json::from_str(&slices).unwrap_or_default();
            let slices = slices["items"].as_array().cloned().unwrap_or_default();
            let mut endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
            let lives =
                endpoints.any(|one| text(one, "/targetRef/name") == pod && one["conditions"]["terminating"] != true);
            Ok((!slices.is_empty() && !lives).then_some(()))
        };
        self.cluster().wait_for(&format!("the end of {pod} in an EndpointSlice"), PATIENCE, said).unwrap();
    }

    pub(crate) fn pods(&self, app: &str) -> Vec<Value> {
        self.cluster().pods(&self.namespace, app).unwrap()
    }

    /// Waits until there are exactly so many pods of an app, ended ones not counted.
    pub(crate) fn until_pods(&self, app: &str, count: usize) {
        self.cluster()
            .wait_for(&format!("{count} pods of {app}"), PATIENCE, || {
                let pods = self.cluster().pods(&self.namespace, app)?;
                Ok((pods.len() == count).then_some(()))
            })
            .unwrap();
    }

    /// The only pod of an app.
    pub(crate) fn pod(&self, app: &str) -> Value {
        self.pods(app).into_iter().next().unwrap_or_else(|| panic!("there is no pod of {app}"))
    }

    pub(crate) fn remove(&self) {
        self.cluster().remove_namespace(&self.namespace).unwrap();
    }
}

/// With a sidecar of this mode.
pub(crate) fn in_mode(workload: Workload, mode: Mode) -> Workload {
    match mode {
        Mode::Native => workload,
        Mode::Classic => workload.annotation("weft.dev/sidecar-mode", "classic"),
    }
}

pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether tests run at full length.
pub(crate) fn slow() -> bool {
    std::env::var_os("WEFT_E2E_SLOW").is_some_and(|value| !value.is_empty())
}

/// What the records of a load come to.
pub(crate) struct Totals {
    pub(crate) sent: usize,
    pub(crate) posts: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) slowest_ms: f64,
}

/// Nothing failed in any client's own log, and every POST ran exactly once. `when` names what was going on at a time.
pub(crate) fn flawless(records: &Records, at_least: usize, when: impl Fn(u64) -> String) -> Totals {
    let sent: Vec<Sent> = records.sent();
    let failed: Vec<String> = sent
        .iter()
        .filter(|one| !one.ok())
        .map(|one| {
            let took = one.micros / 1000;
            format!("{} {} at {} ({}), after {took} ms: {}", one.method, one.id, one.at_ms, when(one.at_ms), one.error)
        })
        .collect();
    let some = failed.iter().take(20).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(failed.is_empty(), "{} of {} requests failed:\n  {some}", failed.len(), sent.len());

    let mut runs: HashMap<String, Vec<(u64, String)>> = HashMap::new();
    for served in records.served() {
        if served.method == "POST" {
            runs.entry(served.id).or_default().push((served.at_ms, served.server));
        }
    }
    let posts: Vec<&Sent> = sent.iter().filter(|one| one.method == "POST").collect();
    let wrong: Vec<String> = posts
        .iter()
        .filter_map(|one| match runs.get(&one.id).map_or(&[][..], Vec::as_slice) {
            [_] => None,
            other => Some(format!("{} ({}): {other:?}", one.id, when(one.at_ms))),
        })
        .take(20)
        .collect();
    assert!(wrong.is_empty(), "POSTs that did not run exactly once:\n  {}", wrong.join("\n  "));
    assert!(sent.len() >= at_least, "only {} requests were sent, not {at_least}", sent.len());

    let mut micros: Vec<u64> = sent.iter().map(|one| one.micros).collect();
    let mut ms = |q| stats::quantile(&mut micros, q) as f64 / 1000.0;
    Totals { sent: sent.len(), posts: posts.len(), p50_ms: ms(0.5), p99_ms: ms(0.99), slowest_ms: ms(1.0) }
}
