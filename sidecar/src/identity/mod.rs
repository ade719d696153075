//! Who this proxy is and who its peers are (SEMANTICS.md §1 "mesh TLS", §4).
//!
//! - `certify.rs` obtains the SVID: a fresh P-256 key, a CSR, the control plane's answer checked; renewed at 50–70 % of
//!   its life and kept until it ends when renewal fails.
//! - `tls.rs` turns an SVID and roots into rustls configurations, `verify.rs` says whom they believe, `handshake.rs`
//!   runs them and hands out a [`Peer`].
//! - `control_plane.rs` dials the control plane, for this room and for `config/`.
//! - `schedule.rs` says when.
//!
//! [`IdentityManager`] is the handle the rest of the proxy holds. Readers load one generation (SVID + roots) without a
//! lock; writers, which are a renewal, a trust bundle or an edited roots file, build the next one and swap it in, so a
//! rotation drops no connection. Keys live in memory only: nothing here prints or serializes one.

mod certify;
mod control_plane;
mod crypto;
mod handshake;
mod schedule;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use weft_proto::SpiffeId;

pub use certify::CertifyError;
pub use control_plane::{ControlPlane, ControlPlaneError, Dial, Dialling, InvalidAddress, Io, TcpDial};
pub use handshake::{HANDSHAKE_TIMEOUT, HandshakeError, Peer, refused_by_peer};
pub use schedule::{Backoff, left, renew_after, usable_for, within_remaining};
pub use tls::MeshProtocol;
pub use verify::{PeerError, Roots, RootsError, VerifiedLeaf, peer_identity};

use tls::MeshTls;

/// Where an identity comes from.
#[derive(Debug, Clone)]
pub struct IdentitySettings {
    /// Who we are: the control plane certifies this or nothing.
    pub identity: SpiffeId,
    /// PEM file of roots to verify the control plane with, read again when it changes.
    pub ca_roots: PathBuf,
    /// File with the token that proves us, read anew for each request.
    pub join_token: PathBuf,
}

/// An identity and its proof.
pub struct Svid {
    identity: SpiffeId,
    issued: SystemTime,
    not_after: SystemTime,
    /// Chain and key. Private: the key leaves only inside a rustls configuration.
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Who we are.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When we received it.
    pub fn issued(&self) -> SystemTime {
        self.issued
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The certificates shown to peers, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", &self.identity)
            .field("issued", &self.issued)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Roots by where they came from.
#[derive(Default)]
struct KnownRoots {
    /// From the roots file.
    file: Option<Arc<Roots>>,
    /// From the last `Certify` answer: used for peers until a trust bundle arrives.
    certified: Option<Arc<Roots>>,
    /// The trust bundle: what peers are verified with.
    bundle: Option<Arc<Roots>>,
}

impl KnownRoots {
    fn for_peers(&self) -> Option<&Arc<Roots>> {
        self.bundle.as_ref().or(self.certified.as_ref()).or(self.file.as_ref())
    }

    /// All of them: a proxy that comes back during a root rotation may hold an old file or an old bundle.
    fn for_control_plane(&self) -> Option<Arc<Roots>> {
        [&self.file, &self.certified, &self.bundle].into_iter().flatten().fold(None, |all: Option<Arc<Roots>>, more| {
            Some(match all {
                None => Arc::clone(more),
                Some(all) => Arc::new(all.and(more)),
            })
        })
    }
}

struct Inner {
    settings: IdentitySettings,
    /// The generation in use; `None` until the first SVID.
    current: ArcSwapOption<MeshTls>,
    /// Writers only, and never across an await: swapping in a generation and choosing its roots is one step.
    roots: Mutex<KnownRoots>,
    svid: watch::Sender<Option<Arc<Svid>>>,
}

/// The handle: cheap to clone, safe to read from any thread.
#[derive(Clone)]
pub struct IdentityManager(Arc<Inner>);

impl IdentityManager {
    /// Without an SVID yet: [`Self::run`] obtains it.
    pub fn new(settings: IdentitySettings) -> Self {
        Self(Arc::new(Inner {
            settings,
            current: ArcSwapOption::empty(),
            roots: Mutex::new(KnownRoots::default()),
            svid: watch::Sender::new(None),
        }))
    }

    /// Who we are, proven or not.
    pub fn identity(&self) -> &SpiffeId {
        &self.0.settings.identity
    }

    /// The SVID in use. It may have expired, when renewal kept failing.
    pub fn svid(&self) -> Option<Arc<Svid>> {
        self.0.current.load().as_ref().map(|tls| Arc::clone(&tls.svid))
    }

    /// Follows the SVID through its renewals.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Svid>>> {
        self.0.svid.subscribe()
    }

    /// Waits until there is an SVID.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn ready(&self) {
        // The sender lives as long as `self`: an error is not possible.
        let _ = self.watch().wait_for(Option::is_some).await;
    }

    /// What inbound mesh connections are accepted with; `None` before the first SVID. Load it per connection.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.0.current.load().as_ref().map(|tls| Arc::clone(&tls.server))
    }

    /// What a connection to `expected` is made with; `None` before the first SVID.
    pub fn client_config(&self, expected: &SpiffeId, protocol: MeshProtocol) -> Option<Arc<ClientConfig>> {
        let current = self.0.current.load();
        let tls = current.as_ref()?;
        tls.client(expected, protocol)
            .inspect_err(|error| tracing::error!(%error, "mesh TLS cannot be configured"))
            .ok()
    }

    /// Takes a trust bundle: from now on it alone says which peers are believed.
    ///
    /// # Errors
    /// When there is no root or one does not parse; what was in use stays.
    pub fn set_roots(&self, certificates: Vec<CertificateDer<'static>>) -> Result<(), RootsError> {
        let roots = self.parse_roots(certificates)?;
        self.change_roots(|known| known.bundle = Some(roots));
        Ok(())
    }

    /// The roots peers are verified with.
    pub fn roots(&self) -> Option<Arc<Roots>> {
        self.0.roots.lock().for_peers().cloned()
    }

    fn parse_roots(&self, certificates: Vec<CertificateDer<'static>>) -> Result<Arc<Roots>, RootsError> {
        Roots::new(self.identity().trust_domain(), certificates).map(Arc::new)
    }

    fn change_roots(&self, change: impl FnOnce(&mut KnownRoots)) {
        let mut known = self.0.roots.lock();
        change(&mut known);
        let Some(roots) = known.for_peers() else { return };
        let Some(tls) = self.0.current.load_full() else { return };
        if *tls.roots != **roots {
            self.swap_in(Arc::clone(&tls.svid), Arc::clone(roots));
        }
    }

    /// Takes a new SVID, whose chain the caller has verified.
    fn install(&self, svid: Arc<Svid>) {
        let known = self.0.roots.lock();
        let Some(roots) = known.for_peers() else { return };
        self.swap_in(Arc::clone(&svid), Arc::clone(roots));
        self.0.svid.send_replace(Some(svid));
    }

    /// The caller holds the lock on `roots`.
    fn swap_in(&self, svid: Arc<Svid>, roots: Arc<Roots>) {
        match MeshTls::new(svid, roots) {
            Ok(tls) => self.0.current.store(Some(Arc::new(tls))),
            Err(error) => tracing::error!(%error, "mesh TLS cannot be configured; the one in use stays"),
        }
    }
}

impl fmt::Debug for IdentityManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityManager({})", self.identity())
    }
}
