//! What TLSRoutes, or TCPRoutes, make of a port: rules for whole connections. Of several routes that list one server name the
//! oldest has it, then the first by `namespace/name`; a TCPRoute is for every connection, so the oldest is the only one
//! that acts (Gateway API "Conflicts": the others stay accepted, and act when it goes).
//!
//! Bound: [`MAX_NAMES`] server names on a port, which is what a proxy takes.

use std::collections::BTreeSet;

use weft_proto::v1::{ConnectionRoutes, ConnectionRule};

use super::Analysis;
use crate::model::Kind;

/// Ten TLSRoutes as large as they may be. What is beyond is the youngest routes'.
const MAX_NAMES: usize = 10_240;

/// `attached` are of one kind, the one that goes before the others first.
pub(super) fn routes(attached: &[&Analysis]) -> ConnectionRoutes {
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut rules = Vec::new();
    for route in attached {
        for rule in &route.rules {
            let mut hosts = Vec::new();
            for host in route.hostnames.iter().map(String::as_str) {
                if taken.len() < MAX_NAMES && taken.insert(host) {
                    hosts.push(host.to_owned());
                }
            }
            // Without a name it would be for any connection.
            if hosts.is_empty() && route.key.kind == Kind::TlsRoute {
                continue;
            }
            hosts.sort_unstable();
            let wire = &rule.wire;
            let route_is_for_all = hosts.is_empty();
            let (route, rule) = (wire.route.clone(), wire.rule.clone());
            rules.push(ConnectionRule { route, rule, hosts, targets: wire.targets.clone() });
            // It is for any connection: there is none left for whoever comes after.
            if route_is_for_all {
                return ConnectionRoutes { rules };
            }
        }
    }
    ConnectionRoutes { rules }
}
