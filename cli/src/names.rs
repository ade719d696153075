//! What Weft's own objects are called: plain names, or with the revision behind them.

use std::collections::BTreeMap;

/// The mesh that a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// Where the control plane runs.
    pub(crate) namespace: String,
    /// Its revision; empty where there is only one.
    pub(crate) revision: String,
}

/// `enabled` or `disabled`, on namespaces and pods.
pub(crate) const INJECT: &str = "weft.dev/inject";
/// Picks the control plane of a revision.
pub(crate) const REVISION: &str = "weft.dev/revision";
/// Set on every pod that has a sidecar.
pub(crate) const MESH_TLS: &str = "weft.dev/mesh-tls";
/// What injection added.
pub(crate) const INJECTED: &str = "weft.dev/injected";
/// The sidecar's container.
pub(crate) const SIDECAR: &str = "weft-sidecar";
/// Pods there are never injected, whatever the labels say.
pub(crate) const NEVER_INJECTED: &str = "kube-system";
/// The key of the injection ConfigMap.
pub(crate) const INJECTION_KEY: &str = "injection.yaml";

impl Mesh {
    /// Deployment, Service, ServiceAccount, Lease.
    pub(crate) fn control_plane(&self) -> String {
        self.suffixed("weft-control-plane")
    }

    /// The MutatingWebhookConfiguration.
    pub(crate) fn webhook(&self) -> String {
        self.suffixed("weft-injector")
    }

    /// The ConfigMap that says what is injected.
    pub(crate) fn injection(&self) -> String {
        self.suffixed("weft-injection")
    }

    /// The Helm release.
    pub(crate) fn release(&self) -> String {
        self.suffixed("weft")
    }

    /// Whether a namespace or a pod with these labels asks for this mesh's sidecar; none where it says nothing.
    pub(crate) fn asked_by(&self, labels: &BTreeMap<String, String>) -> Option<bool> {
        let label = |name| labels.get(name).map(String::as_str);
        match (label(INJECT), label(REVISION)) {
            (Some("disabled"), _) => Some(false),
            (_, Some(revision)) => Some(revision == self.revision),
            (Some("enabled"), None) => Some(self.revision.is_empty()),
            _ => None,
        }
    }

    /// Whether pods of this namespace may have sidecars at all.
    pub(crate) fn may_inject(&self, namespace: &str) -> bool {
        namespace != NEVER_INJECTED && namespace != self.namespace
    }

    fn suffixed(&self, name: &str) -> String {
        if self.revision.is_empty() { name.to_owned() } else { format!("{name}-{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_asks_for_the_revision_it_names() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<bool>);
        let rows: &[Row<'_>] = &[
            ("", &[], None),
            ("", &[(INJECT, "enabled")], Some(true)),
            ("", &[(INJECT, "disabled")], Some(false)),
            ("", &[(INJECT, "yes")], None),
            ("", &[(REVISION, "next")], Some(false)),
            ("next", &[(INJECT, "enabled")], Some(false)),
            ("next", &[(REVISION, "next")], Some(true)),
            ("next", &[(REVISION, "next"), (INJECT, "enabled")], Some(true)),
            ("next", &[(REVISION, "next"), (INJECT, "disabled")], Some(false)),
        ];
        for (revision, labels, expected) in rows {
            let mesh = Mesh { namespace: "weft-system".to_owned(), revision: (*revision).to_owned() };
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(mesh.asked_by(&labels), *expected, "{revision:?} {labels:?}");
        }
    }
}
