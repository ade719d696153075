//! What a control plane in a cluster has to know of itself. The chart sets all of it, by environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::parse::{dns_name, socket_address};
use super::{BadSettings, Wrong};

/// The flags of `--source kubernetes`, as written.
#[derive(Debug, Clone, Args)]
pub struct KubernetesFlags {
    /// The control plane's own namespace: its Secrets, Leases and configuration are there
    #[arg(long, env = "WEFT_NAMESPACE", default_value = "weft-system", value_name = "NAMESPACE")]
    pub namespace: String,
    /// This replica's pod, by which it holds Leases
    #[arg(long, env = "WEFT_POD", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// This replica's address, by which the others tell it from themselves
    #[arg(long, env = "WEFT_POD_ADDRESS", value_name = "ADDRESS")]
    pub pod_address: Option<String>,
    /// The service account it runs as, whose identity is given to nobody
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT", default_value = "weft-control-plane", value_name = "NAME")]
    pub service_account: String,
    /// Which of several control planes of one mesh this is, during an upgrade by revisions
    #[arg(long, env = "WEFT_REVISION", default_value = "", value_name = "NAME")]
    pub revision: String,
    /// How pods are injected (`injection.yaml`, read again when it changes); without it there is no webhook
    #[arg(long, env = "WEFT_INJECTION", value_name = "FILE")]
    pub injection: Option<PathBuf>,
    /// Where the API server asks about new pods
    #[arg(long, env = "WEFT_WEBHOOK_ADDRESS", default_value = "0.0.0.0:15017", value_name = "ADDRESS")]
    pub webhook_address: String,
}

/// What `--source kubernetes` needs, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// Our namespace.
    pub namespace: String,
    /// Our pod.
    pub pod_name: String,
    /// Our address.
    pub pod_address: IpAddr,
    /// Our service account.
    pub service_account: String,
    /// Our revision; empty where there is but one control plane.
    pub revision: String,
    /// `injection.yaml`
    pub injection: Option<PathBuf>,
    /// Port 15017.
    pub webhook_address: SocketAddr,
}

impl KubernetesFlags {
    pub(super) fn settings(&self, wrong: &mut Wrong) -> Option<KubernetesSettings> {
        let namespace = wrong.check("--namespace", dns_name(&self.namespace));
        let pod_name = self.pod_name.as_deref().ok_or("is required with --source kubernetes (WEFT_POD)".to_owned());
        let pod_name = wrong.check("--pod-name", pod_name.and_then(dns_name));
        let pod_address = self.pod_address.as_deref();
        let pod_address = pod_address.ok_or("is required with --source kubernetes (WEFT_POD_ADDRESS)".to_owned());
        let address = |text: &str| text.parse().map_err(|_| format!("`{text}` is no IP address"));
        let pod_address = wrong.check("--pod-address", pod_address.and_then(address));
        let service_account = wrong.check("--service-account", dns_name(&self.service_account));
        let revision = wrong.check("--revision", revision(&self.revision));
        let webhook_address = wrong.check("--webhook-address", socket_address(&self.webhook_address));
        Some(KubernetesSettings {
            namespace: namespace?,
            pod_name: pod_name?,
            pod_address: pod_address?,
            service_account: service_account?,
            revision: revision?,
            injection: self.injection.clone(),
            webhook_address: webhook_address?,
        })
    }
}

/// The flags of `cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupFlags {
    /// The control plane's own namespace
    #[arg(long, env = "WEFT_NAMESPACE", default_value = "weft-system", value_name = "NAMESPACE")]
    pub namespace: String,
    /// Which of several control planes of one mesh
    #[arg(long, env = "WEFT_REVISION", default_value = "", value_name = "NAME")]
    pub revision: String,
    /// Take only the webhook away: before the control plane goes, so that no new pod is refused
    #[arg(long)]
    pub webhook_only: bool,
}

/// What to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupSettings {
    /// The control plane's namespace.
    pub namespace: String,
    /// Its revision, or empty.
    pub revision: String,
    /// Nothing but the webhook.
    pub webhook_only: bool,
}

impl CleanupFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn settings(&self) -> Result<CleanupSettings, BadSettings> {
        let mut wrong = Wrong::default();
        let namespace = wrong.check("--namespace", dns_name(&self.namespace));
        let revision = wrong.check("--revision", revision(&self.revision));
        match (namespace, revision) {
            (Some(namespace), Some(revision)) => {
                Ok(CleanupSettings { namespace, revision, webhook_only: self.webhook_only })
            }
            _ => Err(BadSettings(wrong.0)),
        }
    }
}

fn revision(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    match dns_name(text) {
        // It becomes part of the names of objects.
        Ok(name) if name.len() <= 32 && !name.contains('.') => Ok(name),
        _ => Err(format!("`{text}` is not a name of at most 32 lower-case letters, digits and `-`")),
    }
}

/// `name` as the objects of `revision` have it.
pub fn of_revision(name: &str, revision: &str) -> String {
    if revision.is_empty() { name.to_owned() } else { format!("{name}-{revision}") }
}
