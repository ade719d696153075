//! The other end of the control plane's port 15012, written from the contract (`proto/`) and not from the sidecar: whoever
//! tests the control plane by it, or attacks it, says exactly what they want to say.
//!
//! | file | what lives there |
//! |---|---|
//! | `mod.rs` | asking for a certificate; opening a discovery stream |
//! | `proxy.rs` | a proxy that does as the delta protocol says |
//! | `tls.rs` | the TLS of both |
//!
//! Bound: one connection per call of [`certify`] and per [`Proxy`].

mod proxy;
mod tls;

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::transport::{Channel, Endpoint};
use weft_proto::identity::v1::CertifyRequest;
use weft_proto::identity::v1::identity_client::IdentityClient;

pub use proxy::Proxy;
pub use tls::{Once, dial};

/// Why the control plane did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No connection, or one that TLS refused.
    #[error("{0}")]
    Tls(String),
    /// A request that cannot be made.
    #[error("{0}")]
    Request(String),
    /// What it answered.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
}

impl From<tonic::Status> for WireError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl WireError {
    /// The gRPC code's name, or `Tls`, or `Request`.
    pub fn code(&self) -> String {
        match self {
            Self::Tls(_) => "Tls".to_owned(),
            Self::Request(_) => "Request".to_owned(),
            Self::Status(status) => format!("{:?}", status.code()),
        }
    }
}

/// The roots by which the control plane is believed.
pub type Roots = Vec<CertificateDer<'static>>;

/// Roots from PEM.
///
/// # Errors
/// When it is none.
pub fn roots_of(pem: &[u8]) -> Result<Roots, WireError> {
    let roots: Result<Roots, _> = CertificateDer::pem_slice_iter(pem).collect();
    match roots {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        Ok(_) => Err(WireError::Request("there is no certificate in it".to_owned())),
        Err(error) => Err(WireError::Request(error.to_string())),
    }
}

/// A certificate, its key, and whom it believes.
#[derive(Clone)]
pub struct Svid {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom its owner believes.
    pub roots: Roots,
    /// The leaf's private key, PKCS #8.
    pub key: Vec<u8>,
}

impl Svid {
    /// One that nobody but its owner believes, for `id`.
    ///
    /// # Errors
    /// When `id` is no URI.
    pub fn self_signed(id: &str, roots: Roots) -> Result<Self, WireError> {
        let (key, params) = unsigned(id)?;
        let leaf = params.self_signed(&key).map_err(request)?;
        Ok(Self { chain: vec![leaf.der().clone()], roots, key: key.serialize_der() })
    }
}

fn request(error: impl std::fmt::Display) -> WireError {
    WireError::Request(error.to_string())
}

fn unsigned(id: &str) -> Result<(KeyPair, CertificateParams), WireError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(request)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().map_err(request)?)];
    Ok((key, params))
}

/// A key, and a request to have it certified for `id`.
///
/// # Errors
/// When `id` is no URI.
pub fn signing_request(id: &str) -> Result<(KeyPair, Vec<u8>), WireError> {
    let (key, params) = unsigned(id)?;
    let csr = params.serialize_request(&key).map_err(request)?.der().to_vec();
    Ok((key, csr))
}

/// Asks for a certificate for `id`, proving what `token` proves.
///
/// # Errors
/// What the control plane answered, or why it could not be asked.
pub async fn certify(address: SocketAddr, roots: &Roots, token: &str, id: &str) -> Result<Svid, WireError> {
    let (key, csr) = signing_request(id)?;
    let mut message = tonic::Request::new(CertifyRequest { csr });
    message.metadata_mut().insert("authorization", format!("Bearer {token}").parse().map_err(request)?);
    let mut client = IdentityClient::new(channel(address, roots, None).await?);
    let answer = client.certify(message).await?.into_inner();
    let certificates = |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
    Ok(Svid { chain: certificates(answer.chain), roots: certificates(answer.roots), key: key.serialize_der() })
}

async fn channel(address: SocketAddr, roots: &Roots, svid: Option<&Svid>) -> Result<Channel, WireError> {
    let tls = tls::dial(address, roots.clone(), svid).await.map_err(WireError::Tls)?;
    Endpoint::from_static("http://control-plane")
        .connect_with_connector(tls::Once(Some(TokioIo::new(tls))))
        .await
        .map_err(|error| WireError::Tls(error.to_string()))
}
