//! The control plane's own SVID: issued by its own authority at start, renewed at 50 to 70 % of its life while it runs and
//! at once when another root begins to sign, handed to each new handshake. A failed renewal keeps the old one and is tried again after 0.5 s doubling to 150 s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rand::Rng as _;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use weft_proto::SpiffeId;

use super::{Authority, Error, csr};

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(150);

/// What port 15012 shows to proxies.
#[derive(Debug)]
pub struct OwnSvid {
    id: SpiffeId,
    ttl: Duration,
    current: ArcSwap<Current>,
    /// As it was before the first one was issued, so that no change is missed.
    issuer: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    not_after: SystemTime,
}

impl OwnSvid {
    /// Issues the first one.
    ///
    /// # Errors
    /// When the authority cannot sign.
    pub fn issue(authority: &dyn Authority, id: SpiffeId, ttl: Duration, now: SystemTime) -> Result<Self, Error> {
        let issuer = authority.issuer();
        let current = ArcSwap::from_pointee(Current::issue(authority, &id, ttl, now)?);
        Ok(Self { id, ttl, current, issuer })
    }

    /// Its end.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// Leaf first.
    #[cfg(test)]
    pub(super) fn chain(&self) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        self.current.load().key.cert.clone()
    }

    /// Renews it for ever.
    pub async fn keep(self: Arc<Self>, authority: Arc<dyn Authority>) {
        let mut backoff = None;
        let mut issuer = self.issuer.clone();
        loop {
            let left = self.not_after().duration_since(SystemTime::now()).unwrap_or_default();
            // Drawn in thousandths, because a `ThreadRng` must not live across an await.
            let part = rand::rng().random_range(500..700_u32);
            let wait = backoff.unwrap_or_else(|| (left * part / 1000).max(FIRST_BACKOFF));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // An authority that is gone changes no more.
                () = async { if issuer.changed().await.is_err() { std::future::pending().await } } => {}
            }
            match Current::issue(&*authority, &self.id, self.ttl, SystemTime::now()) {
                Ok(next) => {
                    self.current.store(Arc::new(next));
                    backoff = None;
                    tracing::debug!(identity = %self.id, "renewed the control plane's own SVID");
                }
                Err(error) => {
                    tracing::error!(%error, "cannot renew the control plane's own SVID; keeping the old one");
                    backoff = Some(backoff.map_or(FIRST_BACKOFF, |last| (last * 2).min(LAST_BACKOFF)));
                }
            }
        }
    }
}

/// Towards other replicas.
impl ResolvesClientCert for OwnSvid {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for OwnSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

impl Current {
    fn issue(authority: &dyn Authority, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        let request = params.serialize_request(&key)?;
        // The same gate as for everybody else.
        let request = csr::check(request.der(), id).map_err(|refusal| Error::Tls(refusal.to_string()))?;
        let issued = authority.sign(&request, ttl, now)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = any_supported_type(&key).map_err(|e| Error::Tls(e.to_string()))?;
        Ok(Self { key: Arc::new(CertifiedKey::new(issued.chain, key)), not_after: issued.not_after })
    }
}
