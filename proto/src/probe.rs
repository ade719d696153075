//! The secret in the paths of an app's rewritten probes and hooks (SEMANTICS.md §1, port 15021).
//!
//! Anybody in the network reaches that port, and what the sidecar does there goes to the app past STRICT and every
//! AuthorizationPolicy. So injection makes a secret for the pod and writes it in two places: the paths that kubelet asks, and
//! the names in `WEFT_PROBES` by which the sidecar knows them.
//!
//! ```text
//! kubelet   GET :15021/probe/SECRET.CONTAINER/KIND
//! sidecar   WEFT_PROBES = {"SECRET.CONTAINER/KIND": ...}
//! ```
//!
//! Whoever may read the pod's object can read it, and may ask: people and controllers with that right, and nobody who merely
//! reaches the port.
//!
//! A dot, because no container's name has one: a sidecar that knows of no secrets takes `SECRET.CONTAINER` for the
//! container, and answers the path all the same; and a name without a secret is one of a control plane that made none.

use std::fmt;
use std::hint::black_box;

/// 128 bits that nobody can guess. Comparing two takes as long whatever they have in common.
#[derive(Clone, Copy)]
pub struct ProbeSecret([u8; 16]);

/// Hexadecimal digits of one.
const DIGITS: usize = 32;

impl ProbeSecret {
    /// The secret in front of a name such as `SECRET.app/readiness`, if there is one, and the rest.
    pub fn split(name: &str) -> (Option<Self>, &str) {
        let split = name.split_once('.').and_then(|(secret, rest)| Some((Self::parse(secret)?, rest)));
        split.map_or((None, name), |(secret, rest)| (Some(secret), rest))
    }

    /// As [`Display`](fmt::Display) writes it, and in no other way.
    fn parse(text: &str) -> Option<Self> {
        let written = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != DIGITS || !text.as_bytes().iter().all(written) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

impl From<[u8; 16]> for ProbeSecret {
    /// `random` must come from a generator that is fit for keys, and be drawn for this pod.
    fn from(random: [u8; 16]) -> Self {
        Self(random)
    }
}

impl PartialEq for ProbeSecret {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(0, |differing, (own, given)| black_box(differing | (own ^ given))) == 0
    }
}

impl Eq for ProbeSecret {}

impl fmt::Display for ProbeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Does not show it: what is printed so ends in logs.
impl fmt::Debug for ProbeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_is_written_and_nothing_else_is_one() {
        let secret = ProbeSecret::from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xff]);
        let text = "000102030405060708090a0b0c0d0eff";
        assert_eq!((secret.to_string().as_str(), format!("{secret:?}").as_str()), (text, "ProbeSecret(..)"));
        let rows = [
            (format!("{text}.app/readiness"), Some("app/readiness")),
            (format!("{text}.a.b/readiness"), Some("a.b/readiness")),
            (format!("{text}."), Some("")),
            (format!("{}.app/readiness", text.to_uppercase()), None),
            (format!("+{}.app/readiness", &text[1..]), None),
            (format!("{text}0.app/readiness"), None),
            (format!("{}.app/readiness", &text[1..]), None),
            (format!("{text}/app/readiness"), None),
            ("app/readiness".to_owned(), None),
            ("my.app/readiness".to_owned(), None),
            (String::new(), None),
        ];
        for (name, rest) in rows {
            let expected = rest.map_or((None, name.as_str()), |rest| (Some(secret), rest));
            assert_eq!(ProbeSecret::split(&name), expected, "{name}");
        }
    }

    #[test]
    fn one_bit_makes_another_secret() {
        let secret = ProbeSecret::from([0x5e; 16]);
        assert_eq!(secret, ProbeSecret::from([0x5e; 16]));
        for bit in 0..128 {
            let mut other = [0x5e; 16];
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(secret, ProbeSecret::from(other), "bit {bit}");
        }
    }
}
