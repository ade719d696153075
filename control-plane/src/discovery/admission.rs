//! Whether a peer may have the stream it asks for (SEMANTICS.md §4): it says which pod it is (`node.id` is the pod's
//! address), and that pod must exist with the namespace and service account of the peer's verified SVID. So a stolen
//! certificate shows no more than its own pod sees, and a proxy cannot read another's `self`.

use std::net::IpAddr;

use weft_proto::SpiffeId;

use crate::translate::Translated;

/// Why there is no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The peer showed no certificate.
    #[error("discovery needs a client certificate: call weft.identity.v1.Identity/Certify first")]
    NoCertificate,
    /// `node.id` is missing or no address.
    #[error("node.id must be the pod's address, and is {0:?}: the sidecar must be told its pod's address")]
    NoAddress(String),
    /// No pod has that address; it may come.
    #[error(
        "no pod at {address} is known; a Pod in namespace {namespace} must have `status.podIP: {address}` and \
         `serviceAccountName: {account}` (without a cluster: in the manifests)",
        account = .id.service_account(), namespace = .id.namespace()
    )]
    UnknownPod {
        /// The address claimed.
        address: IpAddr,
        /// Who claims it.
        id: SpiffeId,
    },
    /// The pod at that address is somebody else.
    #[error(
        "the pod at {address} runs as {namespace}/{account}, and the certificate is for {id}: a proxy may only speak for \
         its own pod, whose serviceAccountName the certificate names"
    )]
    OtherPod {
        /// The address claimed.
        address: IpAddr,
        /// The pod's namespace.
        namespace: String,
        /// The pod's service account.
        account: String,
        /// Who claims it.
        id: SpiffeId,
    },
}

impl Denied {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Denied::NoCertificate => "no-certificate",
            Denied::NoAddress(_) => "no-address",
            Denied::UnknownPod { .. } => "unknown-pod",
            Denied::OtherPod { .. } => "other-pod",
        }
    }

    /// Whether waiting may help: manifests and pods come in any order, and so do what we watch and who connects.
    pub fn may_pass(&self) -> bool {
        matches!(self, Denied::UnknownPod { .. } | Denied::OtherPod { .. })
    }
}

/// The pod that `id`, who sent `node_id`, runs in.
///
/// # Errors
/// Why it may not have a stream.
pub fn admit(id: &SpiffeId, node_id: &str, translated: &Translated) -> Result<IpAddr, Denied> {
    let address: IpAddr = node_id.parse().map_err(|_| Denied::NoAddress(node_id.chars().take(64).collect()))?;
    let address = address.to_canonical();
    match translated.workload_by_address(address) {
        None => Err(Denied::UnknownPod { address, id: id.clone() }),
        Some(pod) if pod.namespace == id.namespace() && pod.service_account == id.service_account() => Ok(address),
        Some(pod) => Err(Denied::OtherPod {
            address,
            namespace: pod.namespace.clone(),
            account: pod.service_account.clone(),
            id: id.clone(),
        }),
    }
}
