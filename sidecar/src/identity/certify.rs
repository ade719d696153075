//! Obtaining and renewing the SVID (SEMANTICS.md §4): key → CSR → `Certify` with the join token → answer checked →
//! installed; again at 50–70 % of its life.
//!
//! An answer is believed only when its chain leads to a root, names us, fits the key we just made, and has not ended.
//! Who renews shows the SVID in use, because the control plane keeps room for those it knows (SEMANTICS.md §4); where that
//! does not help (its roots have changed, say), the token alone must do. When renewal fails the SVID in use stays until its
//! end, and the back-off (0.5 s to 150 s) shrinks with the life that is left. Without one the pod cannot start, so nobody
//! waits longer than [`LONGEST_WITHOUT`]; a file that is still to come (a ConfigMap being written, a token being projected) is
//! looked for every [`LOOK_FOR_FILE`]. The key pair is new each time and never leaves memory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use weft_proto::identity::v1::identity_client::IdentityClient;
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse};

use super::control_plane::{ControlPlane, ControlPlaneError};
use super::schedule::{Backoff, renew_after, within_remaining};
use super::tls::certified_key;
use super::verify::{PeerError, Role, Roots, RootsError, verify_peer};
use super::{IdentityManager, Svid};

/// One `Certify` call, from dialling to the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Of these, for the call that shows the SVID in use.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(150);
/// Before the first SVID.
const LONGEST_WITHOUT: Duration = Duration::from_secs(5);
const LOOK_FOR_FILE: Duration = Duration::from_millis(500);
/// How often it is said again that a file is waited for.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How often the roots file is looked at, and the longest sleep before the wall clock is asked again (a suspended
/// machine's monotonic clock stands still).
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A roots file or token larger than this is none.
const MAX_FILE: u64 = 1 << 20;

/// Why there is no new SVID.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// A file that proves us, or the control plane, cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        why: io::Error,
    },
    /// The token file is empty or holds what no header can carry.
    #[error("{}: not a token", .0.display())]
    Token(PathBuf),
    /// The roots file is not PEM certificates.
    #[error("{}: not PEM: {why}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Roots, from the file or the answer, that cannot be used.
    #[error("roots: {0}")]
    Roots(#[from] RootsError),
    /// Key or CSR could not be made.
    #[error("the certificate request could not be made: {0}")]
    Request(#[from] rcgen::Error),
    /// No connection.
    #[error(transparent)]
    ControlPlane(#[from] ControlPlaneError),
    /// The control plane said no.
    #[error("the control plane did not certify us: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// No answer in time.
    #[error("the control plane did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer's chain is empty, leads nowhere or is not ours.
    #[error("the control plane's answer: {0}")]
    Answer(#[from] PeerError),
    /// The answer certifies another key.
    #[error("the control plane's answer does not fit our key: {0}")]
    Key(rustls::Error),
}

impl CertifyError {
    /// Whether asking without a certificate would come to the same: nobody was reached, or the control plane itself answered.
    fn is_final(&self) -> bool {
        match self {
            // A connection that broke, perhaps because our certificate is not believed, has a cause; an answer has none.
            Self::Refused(status) => std::error::Error::source(&**status).is_none(),
            Self::ControlPlane(ControlPlaneError::Name(_) | ControlPlaneError::Connect { .. }) => true,
            _ => false,
        }
    }

    /// The file that is not there yet, if that is what is wrong.
    fn missing_file(&self) -> Option<&Path> {
        match self {
            Self::File { path, why } if why.kind() == io::ErrorKind::NotFound => Some(path),
            _ => None,
        }
    }
}

impl IdentityManager {
    /// Keeps this proxy's SVID and roots fresh. Never returns; drop it to stop.
    pub async fn run(&self, control_plane: &ControlPlane) {
        let mut backoff = Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF);
        let mut file = RootsFile::default();
        let mut say_next = Instant::now();
        loop {
            let wait = match self.renew(control_plane, &mut file).await {
                Ok(svid) => {
                    backoff.reset();
                    tracing::info!(identity = %svid.identity, "certified");
                    renew_after(svid.issued, svid.not_after, &mut rand::rng())
                }
                Err(error) => match (self.svid(), error.missing_file()) {
                    (None, Some(path)) => {
                        if Instant::now() >= say_next {
                            let path = path.display();
                            tracing::warn!(%path, "waiting for a file that is not there yet: is the control plane running?");
                            say_next = Instant::now() + SAY_EVERY;
                        }
                        LOOK_FOR_FILE
                    }
                    (svid, _) => {
                        let mut wait = backoff.after_failure(&mut rand::rng());
                        wait = match svid {
                            None => wait.min(LONGEST_WITHOUT),
                            Some(svid) => {
                                let left = svid.not_after.duration_since(SystemTime::now()).unwrap_or_default();
                                within_remaining(wait, left)
                            }
                        };
                        tracing::warn!(%error, ?wait, "no new certificate; trying again");
                        wait
                    }
                },
            };
            self.sleep_and_look(wait, &mut file).await;
        }
    }

    /// Sleeps, and follows the roots file meanwhile.
    async fn sleep_and_look(&self, wait: Duration, file: &mut RootsFile) {
        let (due, wall_due) = (Instant::now() + wait, SystemTime::now() + wait);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || SystemTime::now() >= wall_due {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
            self.look_at_roots(file).await;
        }
    }

    /// Takes the roots file if it has changed. That it cannot be used is said once.
    async fn look_at_roots(&self, file: &mut RootsFile) {
        match self.read_roots(file).await {
            Ok(()) => file.complained = false,
            // Without any roots `renew` says more.
            Err(error) => {
                if !std::mem::replace(&mut file.complained, true) && self.roots().is_some() {
                    tracing::warn!(%error, "the roots file cannot be used; the roots in use stay");
                }
            }
        }
    }

    pub(super) async fn renew(
        &self,
        control_plane: &ControlPlane,
        file: &mut RootsFile,
    ) -> Result<Arc<Svid>, CertifyError> {
        // A broken file must not keep a proxy from renewing with the roots it has.
        if self.0.roots.lock().for_control_plane().is_some() {
            self.look_at_roots(file).await;
        } else {
            self.read_roots(file).await?;
        }
        match tokio::time::timeout(CALL_TIMEOUT, self.certify(control_plane)).await {
            Ok(result) => result,
            Err(_) => Err(CertifyError::Timeout(CALL_TIMEOUT)),
        }
    }

    async fn certify(&self, control_plane: &ControlPlane) -> Result<Arc<Svid>, CertifyError> {
        let token = self.read_token().await?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.identity().as_str().try_into()?)];
        let csr = params.serialize_request(&key)?.der().to_vec();

        let ask = async |channel: Channel| {
            let mut request = tonic::Request::new(CertifyRequest { csr: csr.clone() });
            request.metadata_mut().insert("authorization", token.clone());
            let answer = IdentityClient::new(channel).certify(request).await;
            answer.map(tonic::Response::into_inner).map_err(|status| CertifyError::Refused(Box::new(status)))
        };
        let known = async { ask(control_plane.channel().await?).await };
        let answer = match self.renewing(known).await {
            Some(answer) => answer?,
            None => ask(control_plane.anonymous_channel().await?).await?,
        };

        let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let roots = match certificates(answer.roots) {
            none if none.is_empty() => self.0.roots.lock().for_control_plane().ok_or(ControlPlaneError::NoRoots)?,
            roots => {
                let roots = self.parse_roots(roots)?;
                self.change_roots(|known| known.certified = Some(Arc::clone(&roots)));
                roots
            }
        };
        let svid = self.check(certificates(answer.chain), &key, &roots)?;
        self.install(Arc::clone(&svid));
        Ok(svid)
    }

    /// What came of `known`, the call that shows the SVID in use, if there is one and it says anything about the token.
    async fn renewing(
        &self,
        known: impl Future<Output = Result<CertifyResponse, CertifyError>>,
    ) -> Option<Result<CertifyResponse, CertifyError>> {
        self.svid().filter(|svid| svid.not_after > SystemTime::now())?;
        match tokio::time::timeout(RENEWAL_TIMEOUT, known).await {
            Ok(Err(error)) if !error.is_final() => {
                tracing::debug!(%error, "the certificate in use did not help to renew it; asking without");
                None
            }
            Ok(said) => Some(said),
            Err(_) => None,
        }
    }

    fn check(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
        roots: &Roots,
    ) -> Result<Arc<Svid>, CertifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        let us = Some(self.identity());
        // We are a server to some and a client to others.
        verify_peer(leaf, intermediates, roots, Role::Client, us, UnixTime::now())?;
        let leaf = verify_peer(leaf, intermediates, roots, Role::Server, us, UnixTime::now())?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = certified_key(chain, der).map_err(CertifyError::Key)?;
        Ok(Arc::new(Svid {
            identity: leaf.identity().clone(),
            issued: SystemTime::now(),
            not_after: leaf.not_after(),
            certified,
        }))
    }

    async fn read_token(&self) -> Result<MetadataValue<Ascii>, CertifyError> {
        let path = &self.0.settings.join_token;
        let not_a_token = || CertifyError::Token(path.clone());
        let text = String::from_utf8(read(path).await?).map_err(|_| not_a_token())?;
        let token = text.trim();
        if token.is_empty() {
            return Err(not_a_token());
        }
        let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| not_a_token())?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn read_roots(&self, file: &mut RootsFile) -> Result<(), CertifyError> {
        let path = &self.0.settings.ca_roots;
        let pem = read(path).await?;
        if file.contents.as_ref() == Some(&pem) {
            return Ok(());
        }
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| CertifyError::Pem { path: path.clone(), why: why.to_string() })?;
        let roots = self.parse_roots(certificates)?;
        self.change_roots(|known| known.file = Some(roots));
        file.contents = Some(pem);
        Ok(())
    }
}

/// What the roots file held when it was last taken.
#[derive(Default)]
pub(super) struct RootsFile {
    contents: Option<Vec<u8>>,
    /// It has been said that it cannot be used.
    complained: bool,
}

async fn read(path: &Path) -> Result<Vec<u8>, CertifyError> {
    let failed = |why| CertifyError::File { path: path.to_owned(), why };
    let length = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(failed(io::Error::other("larger than 1 MiB")));
    }
    tokio::fs::read(path).await.map_err(failed)
}
