//! ConfigMaps that policies name: which they are, and which have been asked about. A policy waits for those that it names.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BackendTlsPolicy, ObjectName};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Named {
    by_policy: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    answered: BTreeSet<ObjectName>,
}

impl Named {
    /// Takes in what a policy is now, or that it is gone. Returns ConfigMaps that nobody names any more.
    pub(super) fn set(&mut self, policy: &ObjectName, now: Option<&BackendTlsPolicy>) -> Vec<ObjectName> {
        let names: BTreeSet<_> = now.into_iter().flat_map(BackendTlsPolicy::config_maps).collect();
        let before = match names.is_empty() {
            true => self.by_policy.remove(policy),
            false => self.by_policy.insert(policy.clone(), names),
        };
        let gone = before.into_iter().flatten().filter(|name| !self.has(name)).collect::<Vec<_>>();
        for name in &gone {
            self.answered.remove(name);
        }
        gone
    }

    /// Whether some policy names it.
    pub(super) fn has(&self, config_map: &ObjectName) -> bool {
        self.by_policy.values().any(|names| names.contains(config_map))
    }

    /// Every ConfigMap that some policy names.
    pub(super) fn all(&self) -> BTreeSet<ObjectName> {
        self.by_policy.values().flatten().cloned().collect()
    }

    /// It is known now what there is of it, or that there is nothing.
    pub(super) fn answer(&mut self, config_map: ObjectName) {
        self.answered.insert(config_map);
    }

    /// Whether a policy names one that has not been asked about yet.
    pub(super) fn awaits(&self, policy: &ObjectName) -> bool {
        let names = self.by_policy.get(policy);
        names.is_some_and(|names| names.iter().any(|name| !self.answered.contains(name)))
    }

    /// Whether any does.
    pub(super) fn any_awaits(&self) -> bool {
        self.by_policy.keys().any(|policy| self.awaits(policy))
    }
}
