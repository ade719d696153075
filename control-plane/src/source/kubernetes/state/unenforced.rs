//! Objects of kinds that restrict traffic and that this version does not enforce: their names, for those who must be told.
//! Lists are taken in one stroke here, too. Bound: a name for each.

use std::collections::{BTreeMap, BTreeSet};

use super::Happening;
use crate::model::ObjectName;
use crate::source::{Problem, Severity};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(in super::super) struct Unenforced(BTreeMap<&'static str, Names>);

#[derive(Debug, Default)]
struct Names {
    held: BTreeSet<ObjectName>,
    listing: Option<BTreeSet<ObjectName>>,
}

impl Unenforced {
    /// None at all.
    #[cfg(test)]
    pub(super) const NONE: Self = Self(BTreeMap::new());

    /// Takes in what happened; whether that changed anything.
    pub(in super::super) fn on(&mut self, kind: &'static str, happening: Happening<ObjectName>) -> bool {
        let names = self.0.entry(kind).or_default();
        match happening {
            Happening::Init => {
                names.listing = Some(BTreeSet::new());
                false
            }
            Happening::InitApply(name) | Happening::Apply(name) => match &mut names.listing {
                Some(listing) => {
                    listing.insert(name);
                    false
                }
                None => names.held.insert(name),
            },
            Happening::Delete(name) => match &mut names.listing {
                Some(listing) => {
                    listing.remove(&name);
                    false
                }
                None => names.held.remove(&name),
            },
            Happening::InitDone => match names.listing.take() {
                Some(listing) => std::mem::replace(&mut names.held, listing) != names.held,
                None => false,
            },
            Happening::Absent => {
                names.listing = None;
                !std::mem::take(&mut names.held).is_empty()
            }
        }
    }

    /// By namespace: `AuthorizationPolicy deny-all`.
    pub(in super::super) fn by_namespace(&self) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (kind, name) in self.all() {
            out.entry(name.namespace.clone()).or_default().push(format!("{kind} {}", name.name));
        }
        out
    }

    /// How many there are of a kind.
    pub(in super::super) fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, |names| names.held.len())
    }

    /// A warning for each.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.all().map(|(kind, name)| Problem {
            file: format!("{kind} {name}"),
            line: 0,
            column: 0,
            field: String::new(),
            severity: Severity::Warning,
            message: format!("is not enforced: this version does not read {kind}"),
            object: None,
        })
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &ObjectName)> {
        self.0.iter().flat_map(|(kind, names)| names.held.iter().map(move |name| (*kind, name)))
    }
}
