//! Whether a server's certificate is what a policy asks for (BackendTLSPolicy `validation`).
//!
//! Names of a policy: an exact DNS name is looked for as TLS clients do (a certificate for `*.b` is one for `a.b`); `*.b` is
//! in a certificate that has `*.b` itself, or a name of one label under `b`; a URI is compared as it is.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use weft_proto::v1;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// One of a policy's `subjectAltNames`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// Exact.
    Dns(ServerName<'static>),
    /// `.b` of `*.b`, lower case.
    Under(Box<str>),
    /// As it is.
    Uri(Box<str>),
}

impl Name {
    pub(super) fn new(wire: &v1::SubjectName) -> Option<Self> {
        let dns = |name: &str| match ServerName::try_from(name.to_owned()) {
            Ok(name @ ServerName::DnsName(_)) => Some(name),
            _ => None,
        };
        match wire.kind.as_ref()? {
            v1::subject_name::Kind::Dns(name) => match name.strip_prefix("*.") {
                Some(parent) => dns(parent).map(|_| Self::Under(format!(".{}", parent.to_ascii_lowercase()).into())),
                None => dns(name).map(Self::Dns),
            },
            v1::subject_name::Kind::Uri(uri) => uri.contains(':').then(|| Self::Uri(uri.as_str().into())),
        }
    }

    fn is_in(&self, certificate: &ParsedCertificate<'_>, names: &[GeneralName<'_>]) -> bool {
        match self {
            Self::Dns(name) => verify_server_name(certificate, name).is_ok(),
            Self::Under(parent) => names.iter().any(|name| match name {
                GeneralName::DNSName(name) => {
                    let name = name.to_ascii_lowercase();
                    name.strip_suffix(&**parent).is_some_and(|label| !label.is_empty() && !label.contains('.'))
                }
                _ => false,
            }),
            Self::Uri(uri) => names.iter().any(|name| matches!(name, GeneralName::URI(has) if *has == &**uri)),
        }
    }
}

/// The certificate has none of the names that the policy lists.
#[derive(Debug, thiserror::Error)]
#[error("it has none of the policy's subjectAltNames")]
struct NoneOfTheNames;

/// Verifies servers by one policy.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) roots: Arc<RootCertStore>,
    /// Empty: the server name.
    pub(super) names: Box<[Name]>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        if self.names.is_empty() {
            verify_server_name(&certificate, server_name)?;
        } else {
            let encoding = || Error::InvalidCertificate(CertificateError::BadEncoding);
            let (_, parsed) = X509Certificate::from_der(end_entity).map_err(|_| encoding())?;
            let names = parsed.subject_alternative_name().map_err(|_| encoding())?;
            let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
            if !self.names.iter().any(|name| name.is_in(&certificate, names)) {
                return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NoneOfTheNames)))));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
