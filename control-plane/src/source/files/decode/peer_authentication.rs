//! PeerAuthentication of `security.istio.io`: who must speak mesh TLS (SEMANTICS.md §2, Istio objects).

use std::collections::BTreeMap;

use super::string_map;
use crate::model::{Meta, MtlsMode, PeerAuthentication};
use crate::source::files::field::Field;

pub(super) fn peer_authentication(meta: Meta, document: &Field<'_>) -> Option<PeerAuthentication> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let mut out = PeerAuthentication { meta, selector: BTreeMap::new(), mode: MtlsMode::Unset, ports: BTreeMap::new() };
    let Some(spec) = document.get("spec") else { return Some(out) };
    if !spec.only(&["selector", "mtls", "portLevelMtls"], &[]) {
        return None;
    }
    if let Some(selector) = spec.get("selector")
        && selector.only(&["matchLabels"], &[])
    {
        out.selector = string_map(&selector, "matchLabels", true)?;
    }
    if let Some(mtls) = spec.get("mtls") {
        out.mode = mode(&mtls)?;
    }
    if let Some(ports) = spec.get("portLevelMtls") {
        if ports.is_mapping() && out.selector.is_empty() {
            ports.error("needs a selector: ports belong to workloads (spec.selector.matchLabels)");
        }
        for (port, value) in ports.entries() {
            match port.parse::<u16>() {
                Ok(number) if number > 0 => {
                    if let Some(mode) = mode(&value) {
                        out.ports.insert(number, mode);
                    }
                }
                _ => value.error(format_args!("the port {port:?} must be between 1 and 65535")),
            }
        }
    }
    Some(out)
}

fn mode(mtls: &Field<'_>) -> Option<MtlsMode> {
    if !mtls.only(&["mode"], &[]) {
        return None;
    }
    let Some(mode) = mtls.get("mode") else { return Some(MtlsMode::Unset) };
    Some(match mode.one_of(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"])? {
        "DISABLE" => MtlsMode::Disable,
        "PERMISSIVE" => MtlsMode::Permissive,
        "STRICT" => MtlsMode::Strict,
        _ => MtlsMode::Unset,
    })
}
