//! Join tokens: how a caller proves who it is where there is no Kubernetes to ask (SEMANTICS.md §4, files mode).
//!
//! `base64url(payload) . base64url(HMAC-SHA256(key, base64url(payload)))`; the payload is JSON: `sub` (one SPIFFE ID), `exp`
//! (seconds since 1970), `jti` (random, to tell two tokens apart). The key lives in the state directory. A token is a
//! bearer secret for one identity until it expires: it is never logged, and may be used again (a pod restarts).

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use weft_proto::SpiffeId;

use super::{Error, Refusal, state};

const KEY_FILE: &str = "join.key";
const KEY_LENGTH: usize = 32;
/// A SPIFFE ID has at most 2,048 bytes; base64 and the rest fit in twice that.
const MAX_TOKEN: usize = 4096;

/// Issues and verifies join tokens.
pub struct JoinTokens {
    key: hmac::Key,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    exp: u64,
    jti: String,
}

impl JoinTokens {
    /// Opens the key in `state_dir`, making it if there is none.
    ///
    /// # Errors
    /// When the directory cannot be used or the key in it is damaged or exposed.
    pub fn open(state_dir: &Path) -> Result<Self, Error> {
        let key = state::secret(state_dir, KEY_FILE, || Ok(rand::random::<[u8; KEY_LENGTH]>().to_vec()))?;
        if key.len() != KEY_LENGTH {
            let why = format!("it should hold {KEY_LENGTH} bytes and holds {}", key.len());
            return Err(Error::Damaged { path: state_dir.join(KEY_FILE), why });
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// A token for `id`, good for `ttl` from `now`.
    pub fn issue(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> String {
        let exp = seconds(now).saturating_add(ttl.as_secs());
        let payload = Payload { sub: id.to_string(), exp, jti: format!("{:016x}", rand::random::<u64>()) };
        // Serializing three plain fields cannot fail.
        let payload = BASE64.encode(serde_json::to_vec(&payload).unwrap_or_default());
        let tag = BASE64.encode(hmac::sign(&self.key, payload.as_bytes()));
        format!("{payload}.{tag}")
    }

    /// Whom `token` proves its bearer to be.
    ///
    /// # Errors
    /// [`Refusal::ForeignToken`] for anything our key did not sign, without saying how far we read;
    /// [`Refusal::ExpiredToken`] for one of ours that is past its end.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<SpiffeId, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::ForeignToken);
        }
        let (payload, tag) = token.trim().split_once('.').ok_or(Refusal::ForeignToken)?;
        let tag = BASE64.decode(tag).map_err(|_| Refusal::ForeignToken)?;
        // Compares in constant time, and before anything in the payload is looked at.
        hmac::verify(&self.key, payload.as_bytes(), &tag).map_err(|_| Refusal::ForeignToken)?;
        let payload = BASE64.decode(payload).map_err(|_| Refusal::ForeignToken)?;
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| Refusal::ForeignToken)?;
        if payload.exp <= seconds(now) {
            return Err(Refusal::ExpiredToken);
        }
        payload.sub.parse().map_err(|_| Refusal::ForeignToken)
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
