//! The proxies connected now, for `/debug/proxies`: who they are and how far they are. A proxy is listed while its stream
//! lives; its guard takes it off again. Bound: one entry per stream.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use weft_proto::SpiffeId;

use super::{Counts, Nack};

/// All connected proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    next: AtomicU64,
    entries: Mutex<BTreeMap<u64, ProxyInfo>>,
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

    pub(super) fn enter(self: &Arc<Self>, info: ProxyInfo) -> Listed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
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
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.proxies.entries.lock().remove(&self.id);
    }
}
