//! The roots that a ConfigMap `weft-ca-roots` distributes, read for people: fingerprint and validity. Pure.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

/// Earlier than that an operator should plan a rotation.
pub(crate) const EXPIRES_SOON: Duration = Duration::from_secs(90 * 24 * 3600);

/// One root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Root {
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub(crate) fingerprint: String,
    /// Its subject.
    pub(crate) subject: String,
    /// From when it is good.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) not_before: SystemTime,
    /// Until when.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) not_after: SystemTime,
}

impl Root {
    /// The start of the fingerprint, enough to tell two apart.
    pub(crate) fn short(&self) -> &str {
        self.fingerprint.get(..23).unwrap_or(&self.fingerprint)
    }
}

/// Reads all certificates of `pem`, in their order.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(pem: &str) -> Result<Vec<Root>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| format!("not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    certificates.iter().map(one).collect()
}

fn one(certificate: &CertificateDer<'_>) -> Result<Root, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| format!("no certificate: {error}"))?;
    let validity = parsed.validity();
    Ok(Root {
        fingerprint: fingerprint(certificate),
        subject: parsed.subject().to_string(),
        not_before: instant(validity.not_before),
        not_after: instant(validity.not_after),
    })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    let mut text = String::new();
    for byte in digest.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{byte:02X}", if text.is_empty() { "" } else { ":" });
    }
    text
}

fn instant(time: ASN1Time) -> SystemTime {
    SystemTime::from(time.to_datetime())
}

/// As Kubernetes writes times.
pub(crate) fn rfc3339<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    use time::format_description::well_known::Rfc3339;
    let text = time::OffsetDateTime::from(*at).format(&Rfc3339).map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&text)
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A root good from day 1 of 1970 until that day.
    pub(crate) fn root_until(days: u64) -> String {
        let mut params = CertificateParams::default();
        params.not_before = time::OffsetDateTime::UNIX_EPOCH;
        params.not_after = time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn roots_are_read_in_their_order() {
        let (first, second) = (root_until(20_000), root_until(10_000));
        let roots = read(&(first.clone() + &second)).unwrap();
        let day = |root: &Root| root.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
        assert_eq!(roots.iter().map(day).collect::<Vec<_>>(), [20_000, 10_000]);
        assert_eq!(roots[0].fingerprint.len(), 95, "{}", roots[0].fingerprint);
        assert_eq!(roots[0].short().len(), 23);
        assert_ne!(roots[0].fingerprint, roots[1].fingerprint);
        assert_eq!(read(&first).unwrap()[0], roots[0]);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for (text, expected) in [
            ("", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate: "),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "not PEM"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
