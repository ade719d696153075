//! What kube-proxy would do: Service addresses of a pod without a sidecar, as DNAT with even shares.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::pod::Pod;
use crate::Result;

/// A Service address as a pod without a sidecar reaches it.
#[derive(Debug, Clone)]
pub struct Vip {
    /// The Service's address and port.
    pub address: SocketAddr,
    /// Where it goes: addresses of the same family.
    pub targets: Vec<SocketAddr>,
}

impl Pod {
    /// Replaces what Service addresses mean in this pod, which has no sidecar, by DNAT with even shares.
    ///
    /// # Errors
    /// When the rules are refused.
    pub fn set_vips(&self, vips: &[Vip]) -> Result<()> {
        let mut rules = String::new();
        for Vip { address, targets } in vips {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            let shares: Vec<_> =
                targets.iter().enumerate().map(|(n, to)| format!("{n} : {} . {}", to.ip(), to.port())).collect();
            let _ = writeln!(
                rules,
                "add rule inet vips output {family} daddr {} tcp dport {} dnat {family} to numgen inc mod {} map {{ {} }}",
                address.ip(),
                address.port(),
                targets.len(),
                shares.join(", ")
            );
        }
        self.sh(&format!(
            "nft -f - <<'END'\ntable inet vips\ndelete table inet vips\nadd table inet vips\nadd chain inet vips output {{ type nat \
             hook output priority -100; }}\n{rules}END"
        ))
        .map(drop)
    }
}
