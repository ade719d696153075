//! What the Secret `weft-ca` holds, read and written. Pure.
//!
//! | key | what |
//! |---|---|
//! | `root.pem` | the root that signs: key and certificate in one, so that they cannot disagree |
//! | `next.pem` | while the next one is distributed: its key and certificate |
//! | `previous.pem` | while the one before retires: its certificate. Its key is gone |
//!
//! The keys that are there say which step a rotation is in; annotations add when it began and tell an operator. So lost or
//! edited annotations (`kubectl apply` of an old copy) can make a rotation wait longer, never skip a wait.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Error;
use super::issuing::{Root, make_root, pem_of};
use super::rotation::{ANSWERED, Next, ROTATE, Rotation, SINCE, STEP, WITHDRAW_AT};

const CURRENT: &str = "root.pem";
const NEXT: &str = "next.pem";
const PREVIOUS: &str = "previous.pem";
/// More than any of them holds.
const MAX_PEM: usize = 64 << 10;

/// The Secret's content, checked. Has no `Debug`: it holds keys.
#[derive(Clone)]
pub(super) struct Content {
    /// Signs.
    pub(super) current: Held,
    /// Will sign.
    next: Option<Held>,
    /// Has signed.
    previous: Option<CertificateDer<'static>>,
    /// Where a rotation is.
    pub(super) rotation: Rotation,
    asked: Option<String>,
    answered: Option<String>,
}

/// A root as the Secret holds it; parses, and its key fits.
#[derive(Clone)]
pub(super) struct Held {
    pem: Vec<u8>,
    certificate: CertificateDer<'static>,
}

impl Held {
    fn make(trust_domain: &str, now: SystemTime) -> Result<Self, Error> {
        let pem = make_root(trust_domain, now)?;
        Self::read(pem).map_err(Error::Tls)
    }

    fn read(pem: Vec<u8>) -> Result<Self, String> {
        if pem.len() > MAX_PEM {
            return Err(format!("it is larger than {MAX_PEM} bytes"));
        }
        let certificate = Root::parse(&pem)?.certificate().clone();
        Ok(Self { pem, certificate })
    }

    /// Its certificate.
    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key and certificate, to sign with.
    pub(super) fn root(&self) -> Result<Root, Error> {
        Root::parse(&self.pem).map_err(Error::Tls)
    }
}

impl Content {
    /// A new mesh's.
    pub(super) fn new(trust_domain: &str, now: SystemTime) -> Result<Self, Error> {
        let current = Held::make(trust_domain, now)?;
        let rotation = Rotation::Stable { since: now };
        Ok(Self { current, next: None, previous: None, rotation, asked: None, answered: None })
    }

    /// Reads `secret`. Times that are missing or make no sense become `now`.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it.
    pub(super) fn read(secret: &Secret, now: SystemTime) -> Result<Self, String> {
        let value = |key: &str| secret.data.as_ref()?.get(key).map(|ByteString(bytes)| bytes.clone());
        let held = |key: &str| value(key).map(|pem| Held::read(pem).map_err(|why| format!("{key}: {why}"))).transpose();
        let current = held(CURRENT)?.ok_or_else(|| format!("{CURRENT} is missing"))?;
        let next = held(NEXT)?;
        let previous = value(PREVIOUS)
            .map(|pem| {
                CertificateDer::from_pem_slice(&pem).map_err(|e| format!("{PREVIOUS}: no certificate in it ({e})"))
            })
            .transpose()?;
        if let Some(previous) = &previous {
            webpki::anchor_from_trusted_cert(previous).map_err(|e| format!("{PREVIOUS}: not a root ({e})"))?;
        }
        let note = |key: &str| secret.metadata.annotations.as_ref()?.get(key);
        let instant = |key: &str| {
            let at = OffsetDateTime::parse(note(key)?, &Rfc3339).ok()?;
            // A moment before 1970 is nobody's.
            (at >= OffsetDateTime::UNIX_EPOCH).then(|| SystemTime::from(at))
        };
        let step = note(STEP).map(String::as_str);
        let began = |word: &str| if step == Some(word) { instant(SINCE).unwrap_or(now).min(now) } else { now };
        let rotation = match (&next, &previous) {
            (None, None) => Rotation::Stable { since: began("stable") },
            (Some(_), None) => Rotation::Distributing { since: began("distributing") },
            (None, Some(_)) => match instant(WITHDRAW_AT) {
                Some(withdraw_at) if step == Some("retiring") => {
                    Rotation::Retiring { since: began("retiring"), withdraw_at }
                }
                // The step that waits longest from now on.
                _ => Rotation::Switched { since: began("switched") },
            },
            (Some(_), Some(_)) => return Err(format!("{NEXT} and {PREVIOUS} are never there together")),
        };
        let (asked, answered) = (note(ROTATE).cloned(), note(ANSWERED).cloned());
        Ok(Self { current, next, previous, rotation, asked, answered })
    }

    /// Writes it into `secret`, whose other keys, labels and annotations stay.
    pub(super) fn write(&self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        put(data, CURRENT, Some(ByteString(self.current.pem.clone())));
        put(data, NEXT, self.next.as_ref().map(|next| ByteString(next.pem.clone())));
        put(data, PREVIOUS, self.previous.as_ref().map(|old| ByteString(pem_of(old).into_bytes())));
        let notes = secret.metadata.annotations.get_or_insert_default();
        let stamp = |at: SystemTime| OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default();
        put(notes, STEP, Some(self.rotation.word().to_owned()));
        put(notes, SINCE, Some(stamp(self.rotation.since())));
        let withdraw_at = match self.rotation {
            Rotation::Retiring { withdraw_at, .. } => Some(stamp(withdraw_at)),
            _ => None,
        };
        put(notes, WITHDRAW_AT, withdraw_at);
        put(notes, ANSWERED, self.answered.clone());
    }

    /// Whether a rotation is asked for that has not been begun.
    pub(super) fn asked(&self) -> bool {
        self.asked.as_deref().is_some_and(|asked| !asked.is_empty()) && self.asked != self.answered
    }

    /// The roots to trust, the one that signs first.
    pub(super) fn bundle(&self) -> Vec<CertificateDer<'static>> {
        let next = self.next.as_ref().map(|next| &next.certificate);
        [Some(&self.current.certificate), next, self.previous.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// What it will hold after `next`.
    ///
    /// # Errors
    /// When no root can be made.
    pub(super) fn after(&self, next: Next, trust_domain: &str, now: SystemTime) -> Result<Self, Error> {
        let mut content = Self { rotation: self.rotation.after(next, now), ..self.clone() };
        match next {
            Next::Wait(_) | Next::Retire { .. } => {}
            Next::Distribute => {
                content.next = Some(Held::make(trust_domain, now)?);
                content.answered = self.asked.clone();
            }
            Next::Switch => {
                if let Some(next) = content.next.take() {
                    content.previous = Some(std::mem::replace(&mut content.current, next).certificate);
                }
            }
            Next::Withdraw => content.previous = None,
        }
        Ok(content)
    }
}

fn put<V>(map: &mut BTreeMap<String, V>, key: &str, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.to_owned(), value)),
        None => drop(map.remove(key)),
    }
}

#[cfg(test)]
mod tests;
