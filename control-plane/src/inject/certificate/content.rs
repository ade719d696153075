//! The webhook's CA, what the Secret holds, and which step of a renewal follows when. Pure.
//!
//! ```text
//!            2/3 of its life         settle          settle + a leaf's life
//! current ─────────────────► + next ────────► + previous ────────► current
//! trusted:  a                 a, b             b, a                 b
//! signs:    a                 a                b (a where unseen)   b
//! ```
//!
//! | key | what |
//! |---|---|
//! | `ca.pem` | the CA that signs: key and certificate in one, so that they cannot disagree |
//! | `next.pem` | while the next one becomes trusted: its key and certificate |
//! | `previous.pem` | while the one before is still trusted: its certificate. Its key is gone |
//!
//! The certificates' own times say when each step is due, so there is nothing else to keep.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::CertificateError;

const CURRENT: &str = "ca.pem";
const NEXT: &str = "next.pem";
const PREVIOUS: &str = "previous.pem";
/// More than any of them holds.
const MAX_PEM: usize = 16 << 10;
/// Clocks of a cluster differ; a certificate is good from a minute before it was made.
const BACKDATE: Duration = Duration::from_secs(60);

/// The times of the CA and of what it signs. Not flags: each is right for every cluster, and tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Of a CA. Default a year.
    pub life: Duration,
    /// From the moment a CA is in the Secret until every API server trusts it and every replica has seen it. Default 10 min:
    /// replicas read the Secret every minute, and API servers learn of a configuration within seconds.
    pub settle: Duration,
    /// Of a leaf. Default 24 h; renewed at two thirds.
    pub leaf: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self { life: hours(365 * 24), settle: Duration::from_secs(600), leaf: hours(24) }
    }
}

/// A CA's key and certificate, which fit and are good now. Has no `Debug`: it holds a key.
#[derive(Clone)]
pub(super) struct Ca {
    pem: Vec<u8>,
    certificate: CertificateDer<'static>,
    made: SystemTime,
    not_after: SystemTime,
}

/// A leaf and its key.
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) not_after: SystemTime,
}

impl Ca {
    /// A new one.
    pub(super) fn make(now: SystemTime, times: &Times) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = template(now, now + times.life);
        // A name of its own, so that a verifier that has two picks the right one.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Weft webhook {:016x}", rand::random::<u64>()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        let pem = format!("{}{}", key.serialize_pem(), pem_of(certificate.der())).into_bytes();
        // Certificates count in seconds.
        Self::read(pem, now).map_err(|_| rcgen::Error::CouldNotParseCertificate)
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    fn read(pem: Vec<u8>, now: SystemTime) -> Result<Self, String> {
        if pem.len() > MAX_PEM {
            return Err(format!("it is larger than {MAX_PEM} bytes"));
        }
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|e| format!("no certificate in it ({e})"))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|e| format!("its certificate: {e}"))?;
        let instant = |at: x509_parser::time::ASN1Time| SystemTime::from(at.to_datetime());
        let (made, not_after) =
            (instant(parsed.validity().not_before) + BACKDATE, instant(parsed.validity().not_after));
        if !parsed.is_ca() {
            return Err("its certificate is not a CA's".to_owned());
        }
        if not_after <= now {
            return Err("its certificate is past its end".to_owned());
        }
        let public = parsed.public_key().subject_public_key.data.to_vec();
        let ca = Self { pem, certificate: certificate.clone(), made, not_after };
        if ca.key()?.public_key_raw() != public {
            return Err("its certificate is for another key".to_owned());
        }
        Ok(ca)
    }

    fn key(&self) -> Result<KeyPair, String> {
        let key = PrivateKeyDer::from_pem_slice(&self.pem).map_err(|e| format!("no private key in it ({e})"))?;
        KeyPair::try_from(&key).map_err(|e| format!("its private key cannot be read ({e})"))
    }

    /// Its certificate, in PEM.
    pub(super) fn certificate_pem(&self) -> String {
        pem_of(&self.certificate)
    }

    /// A leaf for those names, never past the CA's own end.
    pub(super) fn sign(&self, names: &[String], times: &Times, now: SystemTime) -> Result<Leaf, CertificateError> {
        let failed = |why: String| CertificateError::Tls(why);
        let issuer = Issuer::from_ca_cert_der(&self.certificate, self.key().map_err(failed)?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let not_after = (now + times.leaf).min(self.not_after);
        let mut params = template(now, not_after);
        params.distinguished_name = DistinguishedName::new();
        let names = names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        params.subject_alt_names = names.collect::<Result<_, rcgen::Error>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let chain = vec![params.signed_by(&key, &issuer)?.into()];
        Ok(Leaf { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()), not_after })
    }
}

/// The Secret's content, checked.
#[derive(Clone)]
pub(super) struct Content {
    /// Signs.
    pub(super) current: Ca,
    /// Will sign.
    next: Option<Ca>,
    /// Has signed.
    previous: Option<CertificateDer<'static>>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before then.
    Wait(SystemTime),
    /// Make the next CA, and let it be trusted.
    Prepare,
    /// Sign with it.
    Switch,
    /// Trust the one before no longer.
    Retire,
}

impl Content {
    /// A new one.
    pub(super) fn new(times: &Times, now: SystemTime) -> Result<Self, rcgen::Error> {
        Ok(Self { current: Ca::make(now, times)?, next: None, previous: None })
    }

    /// Reads `secret`. What is only good for later or was good before is left out where it cannot be read.
    ///
    /// # Errors
    /// Why it cannot be signed by it.
    pub(super) fn read(secret: &Secret, now: SystemTime) -> Result<Self, String> {
        let value = |key: &str| secret.data.as_ref()?.get(key).map(|ByteString(bytes)| bytes.clone());
        let current = Ca::read(value(CURRENT).ok_or_else(|| format!("{CURRENT} is missing"))?, now);
        let current = current.map_err(|why| format!("{CURRENT}: {why}"))?;
        let next = value(NEXT).and_then(|pem| Ca::read(pem, now).ok());
        let previous = value(PREVIOUS).and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
        Ok(Self { current, next, previous })
    }

    /// Writes it into `secret`, whose other keys, labels and annotations stay.
    pub(super) fn write(&self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        put(data, CURRENT, Some(self.current.pem.clone()));
        put(data, NEXT, self.next.as_ref().map(|next| next.pem.clone()));
        put(data, PREVIOUS, self.previous.as_ref().map(|old| pem_of(old).into_bytes()));
    }

    /// The CAs to trust, in PEM, the one that signs first.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| &next.certificate);
        [Some(&self.current.certificate), next, self.previous.as_ref()].into_iter().flatten().map(pem_of).collect()
    }

    /// What follows.
    pub(super) fn next(&self, now: SystemTime, times: &Times) -> Step {
        let life = self.current.not_after.duration_since(self.current.made).unwrap_or_default();
        let (due, step) = match (&self.next, &self.previous) {
            (Some(next), _) => (next.made + times.settle, Step::Switch),
            // It was switched to `settle` after it was made, and everybody had seen that another `settle` later.
            (None, Some(_)) => (self.current.made + times.settle * 2 + times.leaf, Step::Retire),
            (None, None) => (self.current.made + life * 2 / 3, Step::Prepare),
        };
        if now < due { Step::Wait(due) } else { step }
    }

    /// What it will hold after `step`.
    pub(super) fn after(&self, step: Step, times: &Times, now: SystemTime) -> Result<Self, rcgen::Error> {
        let mut content = self.clone();
        match step {
            Step::Wait(_) => {}
            Step::Prepare => content.next = Some(Ca::make(now, times)?),
            Step::Switch => {
                if let Some(next) = content.next.take() {
                    content.previous = Some(std::mem::replace(&mut content.current, next).certificate);
                }
            }
            Step::Retire => content.previous = None,
        }
        Ok(content)
    }
}

fn put(map: &mut BTreeMap<String, ByteString>, key: &str, value: Option<Vec<u8>>) {
    match value {
        Some(value) => drop(map.insert(key.to_owned(), ByteString(value))),
        None => drop(map.remove(key)),
    }
}

fn template(now: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(not_after);
    // 127 random bits: RFC 5280 §4.1.2.2 wants it positive and no longer than 20 octets.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::UnixTime;

    use super::*;

    const TIMES: Times =
        Times { life: Duration::from_secs(3000), settle: Duration::from_secs(10), leaf: Duration::from_secs(100) };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
    }

    /// As an API server does with `caBundle`.
    fn verify(leaf: &Leaf, bundle: &str, now: SystemTime) -> Result<(), String> {
        let roots: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>().unwrap();
        let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
        let end = webpki::EndEntityCert::try_from(&leaf.chain[0]).unwrap();
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        end.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &leaf.chain[1..],
            now,
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| error.to_string())?;
        let name = "weft-control-plane.weft-system.svc".try_into().unwrap();
        end.verify_is_valid_for_subject_name(&name).map_err(|error| error.to_string())
    }

    fn names() -> Vec<String> {
        super::super::Names::new("weft-system", "").dns()
    }

    #[test]
    fn every_leaf_is_trusted_for_its_whole_life_through_a_renewal() {
        let mut content = Content::new(&TIMES, at(0)).unwrap();
        let mut leaves: Vec<(Leaf, SystemTime)> = Vec::new();
        let mut steps = Vec::new();
        // Another replica sees each step up to `settle` late, and signs until its leaf's end.
        let mut other = content.clone();
        for second in (0..6000).step_by(5) {
            let now = at(second);
            match content.next(now, &TIMES) {
                Step::Wait(due) => assert!(due > now),
                step => {
                    other = content.clone();
                    content = content.after(step, &TIMES, now).unwrap();
                    steps.push((second, step));
                }
            }
            // What is in the Secret is what was written.
            let mut secret = Secret::default();
            content.write(&mut secret);
            content = Content::read(&secret, now).unwrap();
            for signer in [&content.current, &other.current] {
                if signer.not_after > now {
                    leaves.push((signer.sign(&names(), &TIMES, now).unwrap(), now));
                }
            }
            leaves.retain(|(leaf, made)| leaf.not_after > now && now <= *made + TIMES.leaf);
            if second % 50 == 0 {
                for (leaf, made) in &leaves {
                    verify(leaf, &content.bundle(), now).unwrap_or_else(|why| panic!("{second}: {made:?}: {why}"));
                }
            }
            other = if second % 10 == 0 { content.clone() } else { other };
        }
        let expected = [Step::Prepare, Step::Switch, Step::Retire, Step::Prepare, Step::Switch, Step::Retire];
        assert_eq!(steps.iter().map(|(_, step)| *step).collect::<Vec<_>>(), expected, "{steps:?}");
    }

    #[test]
    fn what_cannot_be_signed_by_says_why() {
        let good = Content::new(&TIMES, at(0)).unwrap();
        let other = Content::new(&TIMES, at(0)).unwrap();
        let secret = |pem: Vec<u8>| Secret {
            data: Some(BTreeMap::from([(CURRENT.to_owned(), ByteString(pem))])),
            ..Secret::default()
        };
        let key_of = |content: &Content| content.current.key().unwrap().serialize_pem();
        let leaf = good.current.sign(&names(), &TIMES, at(0)).unwrap();
        let rows = [
            ("nothing", Vec::new(), at(0), "no certificate"),
            ("not PEM", b"hello".to_vec(), at(0), "no certificate"),
            ("no key", good.current.certificate_pem().into_bytes(), at(0), "no private key"),
            (
                "another's key",
                (key_of(&other) + &good.current.certificate_pem()).into_bytes(),
                at(0),
                "for another key",
            ),
            ("a leaf", (key_of(&good) + &pem_of(&leaf.chain[0])).into_bytes(), at(0), "not a CA's"),
            ("past its end", good.current.pem.clone(), at(3000), "past its end"),
            ("too large", vec![b'a'; MAX_PEM + 1], at(0), "larger than"),
        ];
        for (what, pem, now, part) in rows {
            let Err(why) = Content::read(&secret(pem), now) else { panic!("{what}") };
            assert!(why.contains(part), "{what}: {why}");
        }
        let Err(why) = Content::read(&Secret::default(), at(0)) else { panic!() };
        assert_eq!(why, "ca.pem is missing");
        // What is for later only is made anew when its time comes.
        let mut damaged = secret(good.current.pem.clone());
        put(damaged.data.as_mut().unwrap(), NEXT, Some(b"garbage".to_vec()));
        put(damaged.data.as_mut().unwrap(), PREVIOUS, Some(b"garbage".to_vec()));
        assert_eq!(Content::read(&damaged, at(0)).unwrap_or_else(|why| panic!("{why}")).bundle(), good.bundle());
    }

    #[test]
    fn a_leaf_is_for_the_name_that_api_servers_use() {
        let content = Content::new(&TIMES, at(0)).unwrap();
        let leaf = content.current.sign(&names(), &TIMES, at(0)).unwrap();
        verify(&leaf, &content.bundle(), at(1)).unwrap();
        assert!(verify(&leaf, &Content::new(&TIMES, at(0)).unwrap().bundle(), at(1)).is_err(), "another's bundle");
        let canary = super::super::Names::new("weft-system", "canary");
        assert_eq!(canary.dns()[0], "weft-control-plane-canary.weft-system.svc");
        assert_eq!(
            (canary.secret.as_str(), canary.configuration.as_str()),
            ("weft-webhook-canary", "weft-injector-canary")
        );
        let leaf = content.current.sign(&canary.dns(), &TIMES, at(0)).unwrap();
        assert!(verify(&leaf, &content.bundle(), at(1)).is_err(), "another revision's name");
    }
}
