//! Certificates that `Certify` would not give.

use std::time::{Duration, SystemTime};

use weft_control_plane::identity::{Authority as _, FileAuthority, check};
use weft_e2e::wire::{Svid, signing_request};

pub(crate) const RESERVED_NOT_FOR_ANYBODY: &str = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";

/// One for `id` from `authority` itself, good for `ttl`.
pub(crate) fn signed_by(authority: &FileAuthority, id: &str, ttl: Duration) -> Svid {
    let (key, csr) = signing_request(id).unwrap();
    let issued = authority.sign(&check(&csr, &id.parse().unwrap()).unwrap(), ttl, SystemTime::now()).unwrap();
    Svid { chain: issued.chain, roots: authority.roots(), key: key.serialize_der() }
}

/// As a trust bundle has them.
pub(crate) fn roots(svid: &Svid) -> Vec<Vec<u8>> {
    svid.roots.iter().map(|root| root.to_vec()).collect()
}
