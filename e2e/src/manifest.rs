//! The Kubernetes YAML a world is described by: the same objects a cluster would have, in a directory the control plane
//! watches.
//!
//! Bound: only the fields Weft reads; anything else is written out by the test that needs it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::Result;
use crate::error::Context;

/// A directory of manifests. Files are replaced by renaming, so that the control plane never reads half of one.
#[derive(Debug, Clone)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// The directory `folder`, which exists.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes `NAME.yaml`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(format!("{name}.yaml"));
        let draft = self.folder.join(format!(".{name}.draft"));
        std::fs::write(&draft, text).context(|| format!("writing {}", draft.display()))?;
        std::fs::rename(&draft, &path).context(|| format!("writing {}", path.display()))
    }

    /// Removes `NAME.yaml`, if it is there.
    pub fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.folder.join(format!("{name}.yaml")));
    }
}

/// A Namespace.
pub fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n---\n")
}

/// A Node in a zone.
pub fn node(name: &str, zone: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{topology.kubernetes.io/zone: {zone}}}\n---\n"
    )
}

/// One port of a Service or container.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The Service's port.
    pub port: u16,
    /// The container's port.
    pub target: u16,
    /// `appProtocol`, or none for detection.
    pub app_protocol: Option<&'static str>,
}

impl Port {
    /// A port that says nothing about its protocol.
    pub fn new(name: &str, port: u16, target: u16) -> Self {
        Self { name: name.to_owned(), port, target, app_protocol: None }
    }

    /// The same, declared.
    pub fn speaking(self, app_protocol: &'static str) -> Self {
        Self { app_protocol: Some(app_protocol), ..self }
    }
}

/// A Service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster IPs.
    pub vips: (Ipv4Addr, Ipv6Addr),
    /// Its ports.
    pub ports: Vec<Port>,
    /// Which pods answer.
    pub selector: BTreeMap<String, String>,
}

impl Service {
    /// The Service as YAML.
    pub fn yaml(&self) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  type: ClusterIP\n  \
             clusterIP: {v4}\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: \
             PreferDualStack\n",
            self.name,
            self.namespace,
            v4 = self.vips.0,
            v6 = self.vips.1
        );
        map(&mut text, "  ", "selector", &self.selector);
        text.push_str("  ports:\n");
        for Port { name, port, target, app_protocol } in &self.ports {
            let _ = writeln!(
                text,
                "    - name: {name}\n      port: {port}\n      targetPort: {target}\n      protocol: TCP"
            );
            if let Some(app_protocol) = app_protocol {
                let _ = writeln!(text, "      appProtocol: {app_protocol}");
            }
        }
        text.push_str("---\n");
        text
    }
}

/// How far a Pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    /// Running and ready.
    Ready,
    /// Running, not ready.
    NotReady,
    /// Being deleted: `deletionTimestamp` is set, it still serves.
    Terminating,
}

/// A Pod with its status, as the API server would show it.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its service account.
    pub service_account: &'a str,
    /// Its node.
    pub node: &'a str,
    /// Its addresses.
    pub addresses: (Ipv4Addr, Ipv6Addr),
    /// How far it is.
    pub state: PodState,
}

impl Pod<'_> {
    /// The Pod as YAML.
    pub fn yaml(&self) -> String {
        let mut text =
            format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n", self.name, self.namespace);
        if self.state == PodState::Terminating {
            text.push_str("  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n");
        }
        map(&mut text, "  ", "labels", self.labels);
        let ready = if self.state == PodState::NotReady { "False" } else { "True" };
        let _ = write!(
            text,
            "spec:\n  serviceAccountName: {}\n  nodeName: {}\n  containers:\n    - name: app\n      image: app\n\
             status:\n  phase: Running\n  podIP: {v4}\n  podIPs:\n    - ip: {v4}\n    - ip: \"{v6}\"\n  conditions:\n    - type: Ready\n      \
             status: \"{ready}\"\n---\n",
            self.service_account,
            self.node,
            v4 = self.addresses.0,
            v6 = self.addresses.1
        );
        text
    }
}

/// An HTTPRoute that splits a Service's traffic over others by weight.
pub fn split(namespace: &str, name: &str, parent: &str, port: u16, weights: &[(&str, u32)]) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  parentRefs:\n    - group: \"\"\n      kind: Service\n      name: {parent}\n      port: {port}\n  rules:\n    - \
         backendRefs:\n"
    );
    for (backend, weight) in weights {
        let _ = writeln!(text, "        - name: {backend}\n          port: {port}\n          weight: {weight}");
    }
    text.push_str("---\n");
    text
}

/// A PeerAuthentication for the pods with these labels, or for the whole namespace.
pub fn peer_authentication(namespace: &str, name: &str, selector: &BTreeMap<String, String>, mode: &str) -> String {
    let mut text = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n"
    );
    if !selector.is_empty() {
        text.push_str("  selector:\n");
        map(&mut text, "    ", "matchLabels", selector);
    }
    let _ = writeln!(text, "  mtls:\n    mode: {mode}\n---");
    text
}

/// Labels from pairs.
pub fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn map(text: &mut String, indent: &str, name: &str, entries: &BTreeMap<String, String>) {
    if entries.is_empty() {
        return;
    }
    let _ = writeln!(text, "{indent}{name}:");
    for (key, value) in entries {
        let _ = writeln!(text, "{indent}  {key}: \"{value}\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_its_parent_and_every_share() {
        let text = split("demo", "reviews", "reviews", 80, &[("reviews-v1", 90), ("reviews-v2", 10)]);
        for line in
            ["kind: HTTPRoute", "- name: reviews-v1", "weight: 90", "weight: 10", "name: reviews\n      port: 80"]
        {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_terminating_pod_says_so_and_stays_ready() {
        let labels = labels([("app", "a")]);
        let pod = Pod {
            namespace: "demo",
            name: "a",
            labels: &labels,
            service_account: "a",
            node: "node-1",
            addresses: (Ipv4Addr::new(10, 244, 0, 2), Ipv6Addr::LOCALHOST),
            state: PodState::Terminating,
        };
        let text = pod.yaml();
        assert!(text.contains("deletionTimestamp") && text.contains("status: \"True\""), "{text}");
        assert!(!Pod { state: PodState::Ready, ..pod }.yaml().contains("deletionTimestamp"));
    }
}
