//! How far requests stay near: what a BackendPolicy says, else the Service's `trafficDistribution`, else the mesh's rule, which is
//! what absence means on the wire. (Hints travel with the endpoints.)

use weft_proto::v1::{self, ZonePreference};

use crate::model::{Locality, LocalityMode, TrafficDistribution};

/// `None`: the mesh's rule.
pub(super) fn zone_aware(policy: Option<Locality>, service: Option<TrafficDistribution>) -> Option<v1::ZoneAware> {
    let preference = match (policy.map(|policy| policy.mode), service) {
        (Some(LocalityMode::PreferSameZone), _) | (None, Some(TrafficDistribution::SameZone)) => {
            ZonePreference::SameZone
        }
        (Some(LocalityMode::PreferSameNode), _) | (None, Some(TrafficDistribution::SameNode)) => {
            ZonePreference::SameNode
        }
        (Some(LocalityMode::ZoneAware | LocalityMode::Disabled), _) | (None, None) => ZonePreference::Shares,
    };
    let out = v1::ZoneAware {
        disabled: policy.is_some_and(|policy| policy.mode == LocalityMode::Disabled),
        least_endpoints: policy.and_then(|policy| policy.min_endpoints),
        preference: preference.into(),
    };
    (out != v1::ZoneAware::default()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_goes_before_the_service_and_the_meshs_rule_is_not_said() {
        use LocalityMode::{Disabled, PreferSameNode, PreferSameZone, ZoneAware};
        use TrafficDistribution::{SameNode, SameZone};
        use ZonePreference as Wire;
        let mode = |mode| Some(Locality { mode, min_endpoints: None });
        let rows = [
            (None, None, None),
            (None, Some(SameZone), Some((false, Wire::SameZone))),
            (None, Some(SameNode), Some((false, Wire::SameNode))),
            (mode(ZoneAware), Some(SameZone), None),
            (mode(PreferSameZone), None, Some((false, Wire::SameZone))),
            (mode(PreferSameNode), Some(SameZone), Some((false, Wire::SameNode))),
            (mode(Disabled), Some(SameNode), Some((true, Wire::Shares))),
        ];
        for (policy, service, want) in rows {
            let want = want.map(|(disabled, preference)| v1::ZoneAware {
                disabled,
                least_endpoints: None,
                preference: preference.into(),
            });
            assert_eq!(zone_aware(policy, service), want, "{policy:?}, {service:?}");
        }
        let least = zone_aware(Some(Locality { mode: ZoneAware, min_endpoints: Some(3) }), None);
        assert_eq!(least, Some(v1::ZoneAware { least_endpoints: Some(3), ..v1::ZoneAware::default() }));
    }
}
