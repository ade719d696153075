//! Whether the mesh's root is there, known wherever pods are, good for long enough, and its rotation goes on. Pure.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::ConfigMap;
use weft_control_plane::identity::{ROOTS_CONFIG_MAP, ROOTS_KEY, SECRET};

use super::facts::{Facts, Health, now};
use super::finding::{Finding, Group, count, some};
use crate::duration;
use crate::identity::Rotation;
use crate::roots::{self, EXPIRES_SOON};
use crate::seen::Seen;

const GROUP: Group = Group::Identity;
/// Distributing takes three minutes when all is well; after that somebody does not acknowledge.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// All checks of the root.
pub(super) fn check(facts: &Facts, health: &Health) -> Vec<Finding> {
    let now = now(facts);
    let place = format!("{}/{SECRET}", facts.mesh.namespace);
    let mut findings = Vec::new();
    match &health.secret {
        Seen::Found(annotations) => {
            findings.push(Finding::ok(GROUP, "root", format!("Secret {place} is there")));
            findings.push(rotation(&Rotation::of(annotations), now));
        }
        Seen::Absent => findings.push(
            Finding::error(GROUP, "root", format!("the mesh has no root: Secret {place} is missing")).fix(
                "restore it from a backup; or restart the control plane, which makes another (then restart every meshed pod)",
            ),
        ),
        Seen::Unknown(why) => findings.push(Finding::unknown(GROUP, "root", &format!("Secret {place}"), why)),
    }
    let opted_in: Vec<&str> = health.opted_in(&facts.mesh).iter().map(|namespace| &*namespace.name).collect();
    match &health.roots {
        Seen::Found(maps) => findings.extend(bundles(maps, &opted_in, now)),
        Seen::Absent => findings.extend(bundles(&[], &opted_in, now)),
        Seen::Unknown(why) => findings.push(Finding::unknown(GROUP, "trust-bundle", "the trust bundle", why)),
    }
    findings
}

fn rotation(rotation: &Rotation, now: SystemTime) -> Finding {
    let Some(waits_for) = rotation.waits_for(now) else {
        return Finding::ok(GROUP, "rotation", rotation.doing());
    };
    let since = rotation.since.map(|since| format!(", since {}", duration::stamp(since))).unwrap_or_default();
    let what = format!("rotation: {}{since}; waits for {waits_for}", rotation.doing());
    let stuck = rotation.step == "distributing"
        && rotation.since.is_some_and(|since| now.duration_since(since).is_ok_and(|age| age > PATIENCE));
    if stuck {
        return Finding::warning(GROUP, "rotation", what).fix(
            "a proxy does not acknowledge it: look for sidecars that are not ready below; nothing is broken meanwhile",
        );
    }
    Finding::ok(GROUP, "rotation", what)
}

fn bundles(maps: &[ConfigMap], opted_in: &[&str], now: SystemTime) -> Vec<Finding> {
    let of = |namespace: &str| maps.iter().find(|map| map.metadata.namespace.as_deref() == Some(namespace));
    let pem = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get(ROOTS_KEY)).cloned().unwrap_or_default();
    let missing: Vec<String> =
        opted_in.iter().filter(|namespace| of(namespace).is_none()).map(|name| (*name).to_owned()).collect();
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let what = format!("no trust bundle (ConfigMap {ROOTS_CONFIG_MAP}) in {}", some(&missing, 5));
        findings.push(
            Finding::error(GROUP, "trust-bundle", what)
                .fix("the leader writes it within seconds of the label: see what its log says about it"),
        );
    }
    let held: Vec<(&str, String)> =
        opted_in.iter().filter_map(|namespace| Some((*namespace, pem(of(namespace)?)))).collect();
    // Without an opted-in namespace any one will do, to tell about the root.
    let first = held.first().map(|(_, pem)| pem.clone()).or_else(|| maps.first().map(pem));
    let Some(first) = first else {
        if missing.is_empty() {
            let what = "no namespace has a trust bundle yet, since none is opted in";
            findings.push(Finding::ok(GROUP, "trust-bundle", what));
        }
        return findings;
    };
    let differing: Vec<String> =
        held.iter().filter(|(_, pem)| *pem != first).map(|(namespace, _)| (*namespace).to_owned()).collect();
    if !differing.is_empty() {
        let what = format!("the trust bundle is not the same everywhere: {} differ", some(&differing, 5));
        findings.push(
            Finding::warning(GROUP, "trust-bundle", what)
                .fix("the leader corrects that within seconds: weft check --wait 60s; else see its log"),
        );
    } else if missing.is_empty() && !held.is_empty() {
        let what = format!("the trust bundle is in all of {}", count(held.len(), "opted-in namespace"));
        findings.push(Finding::ok(GROUP, "trust-bundle", what));
    }
    findings.push(validity(&first, now));
    findings
}

fn validity(pem: &str, now: SystemTime) -> Finding {
    let roots = match roots::read(pem) {
        Ok(roots) => roots,
        Err(why) => {
            return Finding::error(GROUP, "root-validity", format!("the trust bundle cannot be read: {why}")).fix(
                format!("kubectl delete configmap {ROOTS_CONFIG_MAP} in that namespace: the leader writes it again"),
            );
        }
    };
    // What signs comes first; one that retires may well end soon.
    let Some(root) = roots.first() else {
        return Finding::error(GROUP, "root-validity", "the trust bundle is empty");
    };
    let until = format!("{} ({})", duration::day(root.not_after), duration::relative(root.not_after, now));
    if root.not_after <= now {
        return Finding::error(GROUP, "root-validity", format!("the root ended on {until}: nothing can be signed"))
            .fix("delete the Secret, restart the control plane, then every meshed pod: there is no way back without a break");
    }
    if root.not_after <= now + EXPIRES_SOON {
        return Finding::warning(GROUP, "root-validity", format!("the root ends on {until}"))
            .fix("weft identity rotate");
    }
    Finding::ok(GROUP, "root-validity", format!("the root {}… is good until {until}", root.short()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_control_plane::identity::{SINCE, STEP};

    use super::super::finding::Level;
    use super::super::fixtures::{facts, health, namespace};
    use super::*;
    use crate::roots::tests::root_until;

    fn map(namespace: &str, pem: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"namespace": namespace}, "data": {ROOTS_KEY: pem}})).unwrap()
    }

    fn levels(maps: &[ConfigMap], opted_in: &[&str], day: u64) -> Vec<(&'static str, Level)> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
        bundles(maps, opted_in, now).iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn bundles_are_wanted_where_pods_are_and_alike() {
        let (pem, other) = (root_until(20_000), root_until(20_000));
        type Row<'a> = (&'a str, Vec<ConfigMap>, &'a [&'a str], &'a [(&'a str, Level)]);
        let rows: &[Row<'_>] = &[
            ("nobody opted in yet", vec![], &[], &[("trust-bundle", Level::Ok)]),
            (
                "all well",
                vec![map("a", &pem), map("b", &pem)],
                &["a", "b"],
                &[("trust-bundle", Level::Ok), ("root-validity", Level::Ok)],
            ),
            (
                "one missing",
                vec![map("a", &pem)],
                &["a", "b"],
                &[("trust-bundle", Level::Error), ("root-validity", Level::Ok)],
            ),
            (
                "one differs",
                vec![map("a", &pem), map("b", &other)],
                &["a", "b"],
                &[("trust-bundle", Level::Warning), ("root-validity", Level::Ok)],
            ),
            (
                "an old one, where nobody is",
                vec![map("a", &pem), map("z", &other)],
                &["a"],
                &[("trust-bundle", Level::Ok), ("root-validity", Level::Ok)],
            ),
            (
                "garbage",
                vec![map("a", "garbage")],
                &["a"],
                &[("trust-bundle", Level::Ok), ("root-validity", Level::Error)],
            ),
        ];
        for (row, maps, opted_in, expected) in rows {
            assert_eq!(levels(maps, opted_in, 1), *expected, "{row}");
        }
    }

    #[test]
    fn a_root_that_ends_soon_should_be_rotated() {
        let maps = [map("a", &root_until(1000))];
        for (day, level) in [(1, Level::Ok), (909, Level::Ok), (911, Level::Warning), (1001, Level::Error)] {
            assert_eq!(levels(&maps, &["a"], day).last(), Some(&("root-validity", level)), "day {day}");
        }
    }

    #[test]
    fn a_rotation_is_only_worth_a_warning_when_it_does_not_go_on() {
        let since = "1970-01-02T00:00:00Z";
        let notes = |step: &str| [(STEP, step), (SINCE, since)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let after = |minutes: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 + minutes * 60);
        for (step, minutes, level) in [
            ("stable", 1000, Level::Ok),
            ("distributing", 3, Level::Ok),
            ("distributing", 16, Level::Warning),
            ("retiring", 1000, Level::Ok),
        ] {
            assert_eq!(rotation(&Rotation::of(&notes(step)), after(minutes)).level, level, "{step} {minutes}");
        }
    }

    #[test]
    fn a_missing_secret_is_an_error_and_an_unreadable_one_is_not() {
        let mut health = health();
        health.namespaces = Seen::Found(vec![namespace("shop", &[])]);
        for (secret, level) in [
            (Seen::Absent, Level::Error),
            (Seen::Unknown("forbidden".to_owned()), Level::Warning),
            (Seen::Found(Default::default()), Level::Ok),
        ] {
            health.secret = secret;
            assert_eq!(check(&facts(), &health)[0].level, level);
        }
    }
}
