//! The pure part: what a token says of itself, and what a TokenReview's status makes of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use serde::Deserialize;
use weft_proto::SpiffeId;

use crate::identity::proof::ProvenPod;
use crate::identity::{Proven, Refusal};

/// Whom a token must be for. A token for another audience was given to its pod for another purpose.
pub const AUDIENCE: &str = "weft-ca";

/// Real ones have one to two KiB.
const MAX_TOKEN: usize = 16 << 10;
/// The API server allows a token a minute after its end (its clock may differ), so it is asked until then.
const LEEWAY: Duration = Duration::from_secs(60);
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The claims we look at; the API server looks at all of them, and at the signature.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audiences,
    exp: Option<u64>,
}

/// RFC 7519 §4.1.3: one string, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Audiences::Several(Vec::new())
    }
}

/// When `token` ends by its own word, if it is worth a question to the API server. Nothing here is verified yet.
pub(super) fn claims(token: &str, now: SystemTime) -> Result<Option<SystemTime>, Refusal> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::NotServiceAccount);
    };
    if token.len() > MAX_TOKEN {
        return Err(Refusal::NotServiceAccount);
    }
    let payload = BASE64.decode(payload).map_err(|_| Refusal::NotServiceAccount)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| Refusal::NotServiceAccount)?;
    let for_us = match &claims.aud {
        Audiences::One(audience) => audience == AUDIENCE,
        Audiences::Several(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
    };
    if !for_us {
        return Err(Refusal::WrongAudience);
    }
    // A time that no clock holds is no time at all; the API server will say what it thinks of it.
    let ends = claims.exp.and_then(|exp| UNIX_EPOCH.checked_add(Duration::from_secs(exp)));
    if ends.is_some_and(|ends| ends.checked_add(LEEWAY).is_some_and(|last| last <= now)) {
        return Err(Refusal::ExpiredServiceAccount);
    }
    Ok(ends)
}

/// Whom `status` proves.
pub(super) fn identity(
    status: TokenReviewStatus,
    trust_domain: &str,
    reserved: &[SpiffeId],
) -> Result<Proven, Refusal> {
    if status.authenticated != Some(true) {
        // The API server has no code for it, only this word.
        let expired = status.error.is_some_and(|error| error.contains("expired"));
        return Err(if expired { Refusal::ExpiredServiceAccount } else { Refusal::RejectedServiceAccount });
    }
    // An API server, or an authenticator behind it, that knows nothing of audiences takes any token for its own.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE) {
        return Err(Refusal::AudienceUnchecked);
    }
    let user = status.user.unwrap_or_default();
    let account = user.username.as_deref().and_then(|name| name.strip_prefix(SERVICE_ACCOUNT));
    let (namespace, account) = account.and_then(|name| name.split_once(':')).ok_or(Refusal::NotServiceAccount)?;
    let id = SpiffeId::new(trust_domain, namespace, account).map_err(|_| Refusal::NotServiceAccount)?;
    if reserved.contains(&id) {
        return Err(Refusal::Reserved(id));
    }
    let pod = extra(&user, POD_NAME).zip(extra(&user, POD_UID)).map(|(name, uid)| ProvenPod { name, uid });
    Ok(Proven { id, pod })
}

fn extra(user: &UserInfo, key: &str) -> Option<String> {
    user.extra.as_ref()?.get(key)?.first().cloned()
}
