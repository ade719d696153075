//! The hashes by which requests are assigned: everything that has to be the same in every proxy, and in the next version.
//!
//! Changing anything here moves clients to other endpoints, once, while versions are mixed. None of it is keyed: a client
//! can choose which endpoint it is served by, as with Envoy, where the value that is hashed is the client's to choose.

use std::net::{IpAddr, SocketAddr};

/// A client's address as a key of ring hash and Maglev. An IPv4 address mapped into IPv6 is the same client.
pub fn hash_client(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// Any bytes (a header's value, a cookie) as a key of ring hash and Maglev.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(bytes.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

pub(super) fn hash_addr(addr: SocketAddr) -> u64 {
    mix(hash_client(addr.ip()) ^ (u64::from(addr.port()) << 32))
}

/// Weighted rendezvous: −w / ln(u), u uniform in (0, 1) by the hash of key and endpoint. The greatest has the key.
pub(super) fn rank(key: u64, addr: SocketAddr, weight: u32) -> f64 {
    -f64::from(weight) / unit(mix(key ^ hash_addr(addr))).ln()
}

/// A word's upper 53 bits as a number in (0, 1).
pub(super) fn unit(word: u64) -> f64 {
    ((word >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Spreads every input bit over the word (the finisher of SplitMix64).
pub(super) fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_are_told_apart() {
        let texts: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"a", b"12345678", b"12345678\0", b"123456789", b"213456789"];
        let mut hashes: Vec<u64> = texts.iter().map(|text| hash_bytes(text)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), texts.len());
    }

    #[test]
    fn a_client_is_the_same_in_either_family() {
        let (v4, mapped) = ("10.1.2.3".parse().unwrap(), "::ffff:10.1.2.3".parse().unwrap());
        assert_eq!(hash_client(v4), hash_client(mapped));
    }

    #[test]
    fn hashes_stay_what_they_are() {
        // SplitMix64's first outputs for the seed 0, from its reference.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(hash_bytes(b""), mix(0));
    }
}
