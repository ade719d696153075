//! Certificates for the peers and for our own TLS client: signed by the root of the very mesh that Weft is measured in, in
//! the same shape as Weft's own, so that a handshake verifies the same chain with the same algorithms: a P-256 leaf with one
//! SPIFFE URI, a P-256 intermediate, a P-384 root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::error::{Context, Error, Result};

/// Signs as Weft's control plane would.
pub(crate) struct Authority {
    intermediate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Under the root in the control plane's state directory.
    ///
    /// # Errors
    /// When there is none, or not as expected.
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let file = state.join("root.pem");
        let pem = fs::read(&file).context(|| format!("reading {}", file.display()))?;
        let unusable = |error| Error::Machine(format!("{}: {error}", file.display()));
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(unusable)?;
        let root = Issuer::from_ca_cert_der(
            &CertificateDer::from_pem_slice(&pem).map_err(unusable)?,
            KeyPair::try_from(&key)?,
        )?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = template();
        params.distinguished_name.push(DnType::CommonName, "bench intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let intermediate = params.signed_by(&key, &root)?;
        Ok(Self { intermediate, issuer: Issuer::new(params, key) })
    }

    /// Issues an identity into `folder`: `NAME.pem` with the chain, leaf first, and the key. Everybody on this machine may
    /// read it, as the pods' users have to; it is good for a day, in one run's mesh.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn issue(&self, folder: &Path, name: &str, spiffe: &str) -> Result<PathBuf> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = template();
        params.subject_alt_names = vec![SanType::URI(spiffe.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let file = folder.join(format!("{name}.pem"));
        let text = format!("{}{}{}", leaf.pem(), self.intermediate.pem(), key.serialize_pem());
        let write = || {
            fs::write(&file, text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))
        };
        write().context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }
}

fn template() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(1);
    params.not_after = params.not_before + Duration::days(1);
    params
}
