//! `MeshSettings`: what every proxy is told about the mesh as a whole.
//!
//! Its `cluster_cidrs` are the ranges in which a proxy asks about an unknown destination; anything outside is decided by
//! the outbound policy at once (SEMANTICS.md §1, on-demand lookup). They are the configured ranges and, where
//! [`MeshConfig::derive_cidrs`] says so, the surroundings of every known VIP and pod address: the /24 or /64 of a private
//! address, the address alone of a public one, so that its public neighbours still pass while the control plane is away.
//!
//! Its `known_hosts` are what leads to a Service although its address does not (SEMANTICS.md §1, outbound lookup 3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_proto::v1::MeshSettings;
use weft_proto::{MESH_SETTINGS, ServiceName, type_url};

use super::{MeshConfig, Resource};

/// How many known addresses lie in each derived range. Bound: one entry per VIP or pod address at most.
#[derive(Debug, Default)]
pub(super) struct DerivedRanges {
    counts: BTreeMap<IpNet, usize>,
}

impl DerivedRanges {
    /// Returns whether the set of ranges changed.
    #[must_use]
    pub(super) fn add(&mut self, addr: IpAddr) -> bool {
        let count = self.counts.entry(surroundings(addr)).or_default();
        *count += 1;
        *count == 1
    }

    /// Returns whether the set of ranges changed. `addr` must have been added before.
    #[must_use]
    pub(super) fn remove(&mut self, addr: IpAddr) -> bool {
        let range = surroundings(addr);
        match self.counts.get_mut(&range) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => self.counts.remove(&range).is_some(),
            None => false,
        }
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = &IpNet> {
        self.counts.keys()
    }
}

/// The hosts by which Services outside the cluster are known. Bound: three per ExternalName Service.
#[derive(Debug, Default)]
pub(super) struct KnownHosts {
    of: BTreeMap<ServiceName, Vec<String>>,
}

impl KnownHosts {
    /// Replaces a Service's hosts; none: it has no say. Returns whether anything changed.
    #[must_use]
    pub(super) fn set(&mut self, service: &ServiceName, hosts: Vec<String>) -> bool {
        if hosts.is_empty() {
            return self.of.remove(service).is_some();
        }
        if self.of.get(service) == Some(&hosts) {
            return false;
        }
        self.of.insert(service.clone(), hosts);
        true
    }

    fn hosts(&self) -> BTreeSet<&String> {
        self.of.values().flatten().collect()
    }
}

/// The `MeshSettings` resource.
pub(super) fn resource<'a>(
    config: &MeshConfig,
    derived: impl IntoIterator<Item = &'a IpNet>,
    known: &KnownHosts,
) -> Resource {
    let configured: BTreeSet<IpNet> = config.cluster_cidrs.iter().map(IpNet::trunc).collect();
    let mut cidrs = configured.clone();
    cidrs.extend(derived.into_iter().filter(|range| !configured.iter().any(|wider| wider.contains(*range))));
    let opaque: BTreeSet<u16> = config.opaque_ports.iter().copied().collect();
    let settings = MeshSettings {
        outbound_policy: config.outbound_policy.into(),
        cluster_cidrs: cidrs.iter().map(IpNet::to_string).collect(),
        known_hosts: known.hosts().into_iter().cloned().collect(),
        tracing_sample_per_10000: config.tracing_sample_per_10000.min(10_000),
        opaque_ports: opaque.into_iter().map(u32::from).collect(),
    };
    Resource::new(type_url::MESH_SETTINGS, MESH_SETTINGS.to_owned(), Vec::new(), &settings)
}

fn surroundings(addr: IpAddr) -> IpNet {
    let private = match addr {
        // 100.64.0.0/10 is shared address space (RFC 6598), used for pods by several clouds.
        IpAddr::V4(v4) => {
            v4.is_private()
                || v4.is_link_local()
                || v4.is_loopback()
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback(),
    };
    let alone = if addr.is_ipv4() { 32 } else { 128 };
    let length = if private { if addr.is_ipv4() { 24 } else { 64 } } else { alone };
    IpNet::new(addr, length).unwrap_or_else(|_| IpNet::from(addr)).trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_address_brings_its_surroundings_and_a_public_one_only_itself() {
        for (addr, range) in [
            ("10.96.4.7", "10.96.4.0/24"),
            ("192.168.1.255", "192.168.1.0/24"),
            ("100.64.3.1", "100.64.3.0/24"),
            ("100.128.3.1", "100.128.3.1/32"),
            ("203.0.113.9", "203.0.113.9/32"),
            ("fd00:1:2:3::9", "fd00:1:2:3::/64"),
            ("2001:db8::1", "2001:db8::1/128"),
        ] {
            assert_eq!(surroundings(addr.parse().unwrap()).to_string(), range, "{addr}");
        }
    }

    #[test]
    fn a_range_goes_with_the_last_address_in_it() {
        let mut ranges = DerivedRanges::default();
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|addr| addr.parse().unwrap());
        assert!(ranges.add(a) && !ranges.add(b) && !ranges.remove(a));
        assert_eq!(ranges.ranges().count(), 1);
        assert!(ranges.remove(b) && !ranges.remove(b));
        assert_eq!(ranges.ranges().count(), 0);
    }

    #[test]
    fn a_derived_range_inside_a_configured_one_is_not_repeated() {
        let config = MeshConfig { cluster_cidrs: vec!["10.1.2.3/8".parse().unwrap()], ..MeshConfig::default() };
        let resource = resource(
            &config,
            &["10.96.4.0/24", "192.168.0.0/24"].map(|range| range.parse().unwrap()),
            &KnownHosts::default(),
        );
        let settings: MeshSettings = prost::Message::decode(resource.body).unwrap();
        assert_eq!(settings.cluster_cidrs, ["10.0.0.0/8", "192.168.0.0/24"]);
        assert_eq!(settings.opaque_ports, [25, 110, 143, 587, 3306, 4222]);
    }
    #[test]
    fn known_hosts_are_those_of_all_services_and_go_with_them() {
        let mut known = KnownHosts::default();
        let [a, b] = ["a", "b"].map(|name| ServiceName::new("shop", name));
        assert!(known.set(&b, vec!["b.shop".to_owned()]) && known.set(&a, vec!["a.shop".to_owned()]));
        assert!(!known.set(&a, vec!["a.shop".to_owned()]), "as before");
        let hosts = |known: &KnownHosts| {
            let settings: MeshSettings =
                prost::Message::decode(resource(&MeshConfig::default(), [], known).body).unwrap();
            settings.known_hosts
        };
        assert_eq!(hosts(&known), ["a.shop", "b.shop"]);
        assert!(known.set(&a, Vec::new()) && !known.set(&a, Vec::new()));
        assert_eq!(hosts(&known), ["b.shop"]);
    }
}
