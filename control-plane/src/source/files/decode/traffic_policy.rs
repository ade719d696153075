//! XBackendTrafficPolicy of the Gateway API (experimental channel), by the schema of v1alpha1, whose defaults are filled in.

use std::time::Duration;

use super::Origin;
use super::filters::session;
use crate::model::{LocalRef, Meta, RetryConstraint, TrafficPolicy};
use crate::source::files::field::Field;
use crate::source::files::values;

const MAX_TARGETS: usize = 16;
const MOST_RETRIES: i64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn policy(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<TrafficPolicy> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let spec = document.require("spec")?;
    if !spec.only(&["targetRefs", "retryConstraint", "sessionPersistence"], &[]) {
        return None;
    }
    let list = spec.require("targetRefs")?;
    let items = list.items_up_to(MAX_TARGETS);
    let targets: Vec<_> = items.iter().filter_map(target).collect();
    if items.is_empty() {
        list.error("must hold at least one target");
    }
    for (index, target) in targets.iter().enumerate() {
        if targets[..index].contains(target) {
            list.error(format_args!("name {} {} twice", target.kind, target.name));
        }
    }
    Some(TrafficPolicy {
        meta,
        targets,
        retries: spec.get("retryConstraint").and_then(|field| retries(&field)),
        session: spec.get("sessionPersistence").and_then(|field| session(&field, origin)),
    })
}

fn target(field: &Field<'_>) -> Option<LocalRef> {
    if !field.only(&["group", "kind", "name"], &[]) {
        return None;
    }
    let text = |key: &str| Some(field.require(key)?.text()?.to_owned());
    Some(LocalRef { group: text("group")?, kind: text("kind")?, name: text("name")? })
}

fn retries(field: &Field<'_>) -> Option<RetryConstraint> {
    if !field.only(&["budget", "minRetryRate"], &[]) {
        return None;
    }
    let mut out = RetryConstraint { percent: 20, interval: 10 * SECOND, min_count: 10, min_interval: SECOND };
    if let Some(budget) = field.get("budget")
        && budget.only(&["percent", "interval"], &[])
    {
        if let Some(percent) = budget.get("percent") {
            out.percent = u32::try_from(percent.int_in(0, 100)?).ok()?;
        }
        if let Some(interval) = budget.get("interval") {
            out.interval = span(&interval, SECOND, "must be 1s to 1h")?;
        }
    }
    if let Some(least) = field.get("minRetryRate")
        && least.only(&["count", "interval"], &[])
    {
        if let Some(count) = least.get("count") {
            out.min_count = u32::try_from(count.int_in(1, MOST_RETRIES)?).ok()?;
        }
        if let Some(interval) = least.get("interval") {
            out.min_interval = span(&interval, Duration::from_millis(1), "must be more than 0s and 1h at most")?;
        }
    }
    Some(out)
}

fn span(field: &Field<'_>, least: Duration, bounds: &str) -> Option<Duration> {
    let span = values::duration(field)?;
    if !(least..=HOUR).contains(&span) {
        field.error(bounds);
        return None;
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Object};
    use crate::source::files::decode::decode_served;
    use crate::source::files::field::Flaws;
    use crate::source::files::tree;

    fn read(spec: &str) -> TrafficPolicy {
        let text = format!(
            "metadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: a}}], {spec}}}\n"
        );
        let (node, flaws) = (tree::parse(&text, 1).unwrap(), Flaws::default());
        let object = decode_served(Kind::TrafficPolicy, &node, &flaws);
        assert_eq!(flaws.into_vec(), [], "{spec}");
        match object {
            Some(Object::TrafficPolicy(policy)) => policy,
            other => panic!("{spec}: {other:?}"),
        }
    }

    #[test]
    fn what_is_left_out_is_as_the_api_has_it() {
        let rows = [
            ("retryConstraint: {}", (20, 10_000, 10, 1_000)),
            ("retryConstraint: {budget: {}, minRetryRate: {}}", (20, 10_000, 10, 1_000)),
            ("retryConstraint: {budget: {percent: 0}}", (0, 10_000, 10, 1_000)),
            ("retryConstraint: {budget: {interval: 1m}}", (20, 60_000, 10, 1_000)),
            ("retryConstraint: {minRetryRate: {count: 3}}", (20, 10_000, 3, 1_000)),
            ("retryConstraint: {minRetryRate: {interval: 1h}}", (20, 10_000, 10, 3_600_000)),
        ];
        for (spec, want) in rows {
            let found = read(spec);
            let retries = found.retries.unwrap();
            let ms = |span: Duration| span.as_millis();
            let said = (retries.percent, ms(retries.interval), retries.min_count, ms(retries.min_interval));
            assert_eq!((said, found.session), (want, None), "{spec}");
        }
        let neither = read("");
        assert_eq!((neither.retries, neither.session), (None, None));
    }
}
