//! Which signing requests are fit to sign (PKCS#10, RFC 2986; SPIFFE X.509-SVID §2, §5.2). Of a request we take two things,
//! the public key and the name, and check both; everything else in it is left behind.

use rcgen::{CertificateSigningRequestParams, PublicKey, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use weft_proto::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use super::Refusal;

/// Ours are about 300 bytes.
const MAX_REQUEST: usize = 8 << 10;
/// An uncompressed P-256 point: 0x04, x, y.
const POINT: usize = 65;

/// A request that may be signed: its key proved possession, and its name is what the caller proved to be. Made only by
/// [`check`], and the only thing an [`Authority`](super::Authority) signs.
#[derive(Debug)]
pub struct CheckedRequest {
    pub(super) id: SpiffeId,
    pub(super) key: PublicKey,
}

impl CheckedRequest {
    /// For whom.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

/// Checks `der`, sent by a caller who proved to be `proven`.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(der: &[u8], proven: &SpiffeId) -> Result<CheckedRequest, Refusal> {
    if der.len() > MAX_REQUEST {
        return Err(Refusal::UnreadableRequest);
    }
    let (_, parsed) = X509CertificationRequest::from_der(der).map_err(|_| Refusal::UnreadableRequest)?;
    // rcgen infers the key's type from the *signature's*, so the key is looked at here.
    let spki = &parsed.certification_request_info.subject_pki;
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let point = spki.subject_public_key.data.as_ref();
    if spki.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
        || curve != Some(OID_EC_P256)
        || point.len() != POINT
        || point.first() != Some(&4)
    {
        return Err(Refusal::WrongKey);
    }
    let request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der)).map_err(|e| match e {
            rcgen::Error::InvalidCertificationRequestSignature => Refusal::UnsignedRequest,
            rcgen::Error::UnsupportedSignatureAlgorithm => Refusal::WrongKey,
            _ => Refusal::UnreadableRequest,
        })?;
    if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(Refusal::WrongKey);
    }
    let asked = match &request.params.subject_alt_names[..] {
        [SanType::URI(uri)] => {
            uri.as_str().parse::<SpiffeId>().map_err(|invalid| Refusal::WrongName(invalid.to_string()))?
        }
        [other] => return Err(Refusal::WrongName(format!("it carries {}", kind(other)))),
        names => return Err(Refusal::WrongName(format!("it carries {}", names.len()))),
    };
    if asked != *proven {
        return Err(Refusal::NotYours { asked, proven: proven.clone() });
    }
    Ok(CheckedRequest { id: asked, key: request.public_key })
}

fn kind(name: &SanType) -> &'static str {
    match name {
        SanType::DnsName(_) => "a DNS name",
        SanType::IpAddress(_) => "an IP address",
        SanType::Rfc822Name(_) => "an e-mail address",
        _ => "something else",
    }
}
