//! Who signs: the [`Authority`] trait, and the authority whose root is a file in the state directory. The one whose root
//! is a Secret is in `cluster.rs`; an external CA goes behind the same trait.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::issuing::{Issuing, Root, make_root, pem_of};
use super::{CheckedRequest, Error, state};

/// Holds the root's key and certificate in one file, so that they cannot disagree.
const ROOT_FILE: &str = "root.pem";
/// The root certificates alone, for pods to trust.
const ROOTS_FILE: &str = "roots.pem";

/// The trust bundle: the roots to verify peers with, the one that signs first.
pub type Bundle = Arc<Vec<CertificateDer<'static>>>;

/// A certificate authority of the mesh.
pub trait Authority: Send + Sync + 'static {
    /// Signs a leaf for `request`, good for `ttl` from `now` and never past its issuer's end.
    ///
    /// # Errors
    /// [`Error::Expired`] when the issuer has ended, [`Error::Certificate`] when signing fails.
    fn sign(&self, request: &CheckedRequest, ttl: Duration, now: SystemTime) -> Result<Issued, Error>;

    /// The roots to verify peers with, now and whenever they change.
    fn bundle(&self) -> watch::Receiver<Bundle>;

    /// Changes whenever another root begins to sign: what was issued before should be issued again.
    fn issuer(&self) -> watch::Receiver<u64>;

    /// The roots to verify peers with: those in use and, during a rotation, the next one or the one before.
    fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.bundle().borrow().to_vec()
    }
}

/// A signed leaf.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's serial number in hexadecimal, for the audit log.
    pub serial: String,
    /// Its end.
    pub not_after: SystemTime,
}

/// The authority of files mode. Its root never changes.
pub struct FileAuthority {
    issuing: Issuing,
    roots_file: PathBuf,
    bundle: watch::Sender<Bundle>,
    issuer: watch::Sender<u64>,
}

impl FileAuthority {
    /// Opens the authority in `state_dir`, making its root if there is none, issues an intermediate, and writes
    /// `roots.pem` for pods.
    ///
    /// # Errors
    /// When the directory cannot be used, or what lies in it is damaged, exposed or past its end.
    pub fn open(state_dir: &Path, trust_domain: &str, now: SystemTime) -> Result<Self, Error> {
        let pem = state::secret(state_dir, ROOT_FILE, || make_root(trust_domain, now))?;
        let root = Root::parse(&pem).map_err(|why| Error::Damaged { path: state_dir.join(ROOT_FILE), why })?;
        let roots_file = state::publish(state_dir, ROOTS_FILE, pem_of(root.certificate()).as_bytes())?;
        let bundle = watch::Sender::new(Arc::new(vec![root.certificate().clone()]));
        let issuing = Issuing::new(trust_domain, root, now)?;
        Ok(Self { issuing, roots_file, bundle, issuer: watch::Sender::new(0) })
    }

    /// The file pods read roots from (`--ca-roots`).
    pub fn roots_file(&self) -> &Path {
        &self.roots_file
    }
}

impl Authority for FileAuthority {
    fn sign(&self, request: &CheckedRequest, ttl: Duration, now: SystemTime) -> Result<Issued, Error> {
        self.issuing.sign(request, ttl, now)
    }

    fn bundle(&self) -> watch::Receiver<Bundle> {
        self.bundle.subscribe()
    }

    fn issuer(&self) -> watch::Receiver<u64> {
        self.issuer.subscribe()
    }
}
