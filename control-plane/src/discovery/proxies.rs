//! The proxies connected now, for `/debug/proxies`: who they are and how far they are. A proxy is listed while its stream
//! lives; its guard takes it off again. Beside the list stand the tables of who has which version (`acks.rs`).
//! Bound: one entry per stream, and what `acks.rs` says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use weft_proto::SpiffeId;
use weft_proto::v1::{Progress, ServiceQuestion};

use super::acks::{Acks, Moved};
use super::{Counts, Nack};

/// All connected proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    next: AtomicU64,
    entries: Mutex<BTreeMap<u64, ProxyInfo>>,
    acks: Mutex<Acks>,
}

/// One connected proxy.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyInfo {
    /// Its pod's address.
    pub address: IpAddr,
    /// Its pod, `namespace/name`.
    pub pod: String,
    /// Its verified identity.
    pub identity: SpiffeId,
    /// Since when, seconds since 1970.
    pub connected_at: u64,
    /// By type; types never asked for are left out.
    pub types: BTreeMap<&'static str, Counts>,
    /// NACKs since the stream began.
    pub nacks: u64,
    /// The latest of them.
    pub last_nack: Option<Nack>,
}

/// Keeps a proxy listed.
#[derive(Debug)]
pub(super) struct Listed {
    proxies: Arc<Proxies>,
    id: u64,
}

impl ProxyInfo {
    pub(super) fn new(address: IpAddr, pod: String, identity: SpiffeId, now: SystemTime) -> Self {
        let connected_at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { address, pod, identity, connected_at, types: BTreeMap::new(), nacks: 0, last_nack: None }
    }
}

impl Proxies {
    /// Those connected now, oldest stream first.
    pub fn list(&self) -> Vec<ProxyInfo> {
        self.entries.lock().values().cloned().collect()
    }

    /// How far the proxies connected here are with a Service.
    pub fn service_progress(&self, question: &ServiceQuestion) -> Progress {
        self.acks.lock().service(question)
    }

    /// How far the proxies connected here are with the trust bundle of this version.
    pub fn trust_progress(&self, version: &str) -> Progress {
        self.acks.lock().trust_bundle(version)
    }

    pub(super) fn enter(self: &Arc<Self>, info: ProxyInfo) -> Listed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.acks.lock().enter(id, &info.pod, info.identity.namespace());
        self.entries.lock().insert(id, info);
        Listed { proxies: Arc::clone(self), id }
    }
}

impl Listed {
    pub(super) fn update(&self, change: impl FnOnce(&mut ProxyInfo)) {
        if let Some(info) = self.proxies.entries.lock().get_mut(&self.id) {
            change(info);
        }
    }

    pub(super) fn on_moved(&self, moved: Vec<Moved>) {
        if !moved.is_empty() {
            let mut acks = self.proxies.acks.lock();
            moved.into_iter().for_each(|moved| acks.on_moved(self.id, moved));
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.proxies.entries.lock().remove(&self.id);
        self.proxies.acks.lock().leave(self.id);
    }
}
