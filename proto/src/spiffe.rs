//! SPIFFE IDs of the one shape Weft issues: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT`
//! (SPIFFE-ID specification §2; SEMANTICS.md §1). Parsed once at the edge, so that comparing is comparing.

use std::fmt;
use std::str::FromStr;

/// An identity. Bound: 2,048 bytes (SPIFFE-ID §2.3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Box<str>,
    /// Byte ranges of the parts inside `uri`: end of the trust domain, then of the namespace.
    trust_domain_end: u16,
    namespace_end: u16,
}

const SCHEME: &str = "spiffe://";
const NS: &str = "/ns/";
const SA: &str = "/sa/";
const MAX: usize = 2048;

/// Why a text is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT: {why}")]
pub struct InvalidSpiffeId {
    text: String,
    why: &'static str,
}

impl SpiffeId {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// When a part is empty or holds a character outside `[A-Za-z0-9._-]` (the trust domain: lower case only).
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, InvalidSpiffeId> {
        format!("{SCHEME}{trust_domain}{NS}{namespace}{SA}{service_account}").parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.trust_domain_end) + NS.len()..usize::from(self.namespace_end)]
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + SA.len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why| InvalidSpiffeId { text: text.chars().take(256).collect(), why };
        if text.len() > MAX {
            return Err(refuse("longer than 2,048 bytes"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| refuse("it does not start with spiffe://"))?;
        let (trust_domain, rest) = rest.split_once(NS).ok_or_else(|| refuse("/ns/ is missing"))?;
        let (namespace, service_account) = rest.split_once(SA).ok_or_else(|| refuse("/sa/ is missing"))?;
        let part = |s: &str| {
            !s.is_empty()
                && s != "."
                && s != ".."
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !part(trust_domain) || trust_domain.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse("the trust domain may hold only a-z, 0-9, '.', '-' and '_'"));
        }
        if !part(namespace) {
            return Err(refuse("the namespace may hold only letters, digits, '.', '-' and '_'"));
        }
        if !part(service_account) {
            return Err(refuse("the service account may hold only letters, digits, '.', '-' and '_'"));
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + NS.len() + namespace.len();
        // Both fit: the whole is at most 2,048 bytes.
        let narrow = |n: usize| u16::try_from(n).map_err(|_| refuse("longer than 2,048 bytes"));
        Ok(Self {
            uri: text.into(),
            trust_domain_end: narrow(trust_domain_end)?,
            namespace_end: narrow(namespace_end)?,
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_come_back() {
        let id: SpiffeId = "spiffe://weft.local/ns/shop/sa/reviews".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("weft.local", "shop", "reviews"));
        assert_eq!(id, SpiffeId::new("weft.local", "shop", "reviews").unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/b#",
            "spiffe://td:1/ns/a/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_prints_the_same(text in "(spiffe://)?[a-z./ns]{0,24}(/ns/)?[a-z/]{0,9}(/sa/)?.{0,9}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), text);
                prop_assert_eq!(SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account()), Ok(id.clone()));
            }
        }
    }
}
