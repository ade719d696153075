//! The leaf that this replica serves with: issued by the CA, handed to each new handshake.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::CertificateError;
use super::content::{Ca, Times};

/// The leaf at the moment.
#[derive(Debug)]
pub(super) struct Serving(ArcSwap<Current>);

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    /// The certificate of the CA that signed it.
    signer: String,
    renew_at: SystemTime,
}

impl Serving {
    /// Issues the first one.
    pub(super) fn issue(ca: &Ca, names: &[String], times: &Times, now: SystemTime) -> Result<Self, CertificateError> {
        Ok(Self(ArcSwap::from_pointee(Current::issue(ca, names, times, now)?)))
    }

    /// Issues another one if `ca` is another or two thirds of its life are over, and says when that will be.
    pub(super) fn renew(
        &self,
        ca: &Ca,
        names: &[String],
        times: &Times,
        now: SystemTime,
    ) -> Result<SystemTime, CertificateError> {
        let current = self.0.load();
        if now < current.renew_at && current.signer == ca.certificate_pem() {
            return Ok(current.renew_at);
        }
        let next = Current::issue(ca, names, times, now)?;
        let renew_at = next.renew_at;
        self.0.store(Arc::new(next));
        tracing::debug!("another certificate for the webhook");
        Ok(renew_at)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().key))
    }
}

impl Current {
    fn issue(ca: &Ca, names: &[String], times: &Times, now: SystemTime) -> Result<Self, CertificateError> {
        let leaf = ca.sign(names, times, now)?;
        let key = any_supported_type(&leaf.key).map_err(|error| CertificateError::Tls(error.to_string()))?;
        let life = leaf.not_after.duration_since(now).unwrap_or_default();
        let renew_at = now + life * 2 / 3;
        Ok(Self { key: Arc::new(CertifiedKey::new(leaf.chain, key)), signer: ca.certificate_pem(), renew_at })
    }
}

/// What port 15017 serves with. API servers are asked for no certificate: what we answer is no secret, and changes nothing.
pub(super) fn server_config(serving: Arc<Serving>) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| CertificateError::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
