//! What every authority of ours does with a root: reads it, issues an intermediate below it, and signs leaves with that.
//!
//! The intermediate is renewed after two thirds of its 90 days, so a control plane may run for as long as its root lives.
//! Bound: two key pairs and two certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::{CheckedRequest, Error, Issued};

const ROOT_LIFE: Duration = Duration::from_secs(3653 * 24 * 3600);
const ISSUER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks of a cluster differ; a certificate is good from a minute before it was made (SEMANTICS.md §4).
pub(super) const BACKDATE: Duration = Duration::from_secs(60);

/// A root at work: its intermediate is always there.
pub(super) struct Issuing {
    trust_domain: String,
    root: Root,
    intermediate: ArcSwap<Intermediate>,
}

/// A root's certificate and the key that fits it. Made only by [`Root::parse`].
pub(super) struct Root {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

struct Intermediate {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
    renew_at: SystemTime,
}

impl Issuing {
    /// Issues the first intermediate.
    pub(super) fn new(trust_domain: &str, root: Root, now: SystemTime) -> Result<Self, Error> {
        let intermediate = ArcSwap::from_pointee(root.intermediate(trust_domain, now)?);
        Ok(Self { trust_domain: trust_domain.to_owned(), root, intermediate })
    }

    /// The root's certificate.
    pub(super) fn root(&self) -> &CertificateDer<'static> {
        self.root.certificate()
    }

    /// As [`Authority::sign`](super::Authority::sign).
    pub(super) fn sign(&self, request: &CheckedRequest, ttl: Duration, now: SystemTime) -> Result<Issued, Error> {
        let issuer = self.intermediate(now)?;
        let not_after = (now + ttl).min(issuer.not_after);
        let mut params = template(now, not_after)?;
        let uri = request.id.as_str().try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().map(SerialNumber::to_string).unwrap_or_default();
        let leaf = params.signed_by(&request.key, &issuer.issuer)?;
        Ok(Issued { chain: vec![leaf.into(), issuer.certificate.clone()], serial, not_after })
    }

    fn intermediate(&self, now: SystemTime) -> Result<Arc<Intermediate>, Error> {
        let current = self.intermediate.load_full();
        if now < current.renew_at {
            return Ok(current);
        }
        // Two renewals that race make two good intermediates; the later one stays.
        let next = Arc::new(self.root.intermediate(&self.trust_domain, now)?);
        self.intermediate.store(Arc::clone(&next));
        Ok(next)
    }
}

impl Root {
    /// Its certificate.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Reads a root's key and certificate, in either order.
    ///
    /// # Errors
    /// What is wrong with `pem`, without quoting it.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| format!("no private key in it ({e})"))?;
        let key = KeyPair::try_from(&key).map_err(|e| format!("its private key cannot be read ({e})"))?;
        let certificate = CertificateDer::from_pem_slice(pem).map_err(|e| format!("no certificate in it ({e})"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|e| format!("its certificate: {e}"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("its certificate is for another key".to_owned());
        }
        if !parsed.is_ca() {
            return Err("its certificate is not a CA's".to_owned());
        }
        let not_after = SystemTime::from(parsed.validity().not_after.to_datetime());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| format!("its certificate: {e}"))?;
        Ok(Self { certificate, issuer, not_after })
    }

    fn intermediate(&self, trust_domain: &str, now: SystemTime) -> Result<Intermediate, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let not_after = (now + ISSUER_LIFE).min(self.not_after);
        let mut params = template(now, not_after)?;
        // A name of its own per intermediate, so that a verifier picks the right one by name.
        params.distinguished_name = name(trust_domain, &format!("Weft issuer {:016x}", rand::random::<u64>()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.into();
        let life = not_after.duration_since(now).unwrap_or_default();
        Ok(Intermediate { certificate, issuer: Issuer::new(params, key), not_after, renew_at: now + life * 2 / 3 })
    }
}

/// A new root: its key, then its certificate.
pub(super) fn make_root(trust_domain: &str, now: SystemTime) -> Result<Vec<u8>, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let mut params = template(now, now + ROOT_LIFE)?;
    params.distinguished_name = name(trust_domain, "Weft root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), pem_of(certificate.der())).into_bytes())
}

/// What every certificate of ours has: an empty subject (the name is the SAN), a random serial, and its time.
fn template(now: SystemTime, not_after: SystemTime) -> Result<CertificateParams, Error> {
    if not_after <= now {
        return Err(Error::Expired { not_after: OffsetDateTime::from(not_after).to_string() });
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(not_after);
    // 127 random bits: RFC 5280 §4.1.2.2 wants it positive and no longer than 20 octets.
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    serial[0] |= 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn name(trust_domain: &str, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain);
    name.push(DnType::CommonName, common_name);
    name
}

/// One certificate as PEM.
pub(super) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
