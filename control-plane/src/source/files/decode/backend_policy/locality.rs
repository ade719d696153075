//! `spec.loadBalancer.locality`: how far requests stay near.

use crate::model::{Locality, LocalityMode};
use crate::source::files::field::Field;

/// Most ready endpoints that may be asked for: a limit for all is no rule for any.
const MAX_ENDPOINTS: i64 = 100_000;

const MODES: [(&str, LocalityMode); 4] = [
    ("ZoneAware", LocalityMode::ZoneAware),
    ("PreferSameZone", LocalityMode::PreferSameZone),
    ("PreferSameNode", LocalityMode::PreferSameNode),
    ("Disabled", LocalityMode::Disabled),
];

/// `algorithm` is the one of the load balancer.
pub(super) fn locality(field: &Field<'_>, algorithm: &str) -> Option<Locality> {
    if !field.only(&["mode", "minEndpoints"], &[]) {
        return None;
    }
    let name = match field.get("mode") {
        None => MODES[0].0,
        Some(name) => name.one_of(&MODES.map(|(name, _)| name))?,
    };
    let mode = MODES.iter().find(|(known, _)| *known == name).map_or(LocalityMode::ZoneAware, |(_, mode)| *mode);
    if mode == LocalityMode::ZoneAware && matches!(algorithm, "RingHash" | "Maglev") {
        field.error(format_args!(
            "mode ZoneAware draws a zone, and {algorithm} keeps a request with its endpoint: say another"
        ));
    }
    let min_endpoints = field.get("minEndpoints");
    if let Some(min) = min_endpoints.as_ref().filter(|_| mode != LocalityMode::ZoneAware) {
        min.error(format_args!("needs mode: ZoneAware, not {name}"));
    }
    let min_endpoints = match min_endpoints {
        None => None,
        Some(min) => Some(min.int_in(1, MAX_ENDPOINTS).and_then(|min| u32::try_from(min).ok())?),
    };
    Some(Locality { mode, min_endpoints })
}
