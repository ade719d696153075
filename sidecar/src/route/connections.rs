//! Which rule a whole connection gets (Gateway API TCPRoute and TLSRoute; SEMANTICS.md §2 "Connections"). Pure.
//!
//! A rule is for any connection, or for server names (SNI), exact or `*.` and a suffix of one label or more. Of those
//! that match, an exact name goes before every wildcard, and a longer wildcard before a shorter one (TLSRoute `hostnames`,
//! GEP-2643). Which of two routes has a name that both list was decided before: no name is in two rules.
//!
//! Bound: a lookup is one probe of a hash map for each label of the name.

use std::collections::HashMap;
use std::sync::Arc;

use rand::Rng;

use super::table::{Target, WeightedTargets};

/// A service port's rules for whole connections. Immutable; made anew when they change. `B` is the handle of a backend.
#[derive(Debug)]
pub struct ConnectionTable<B> {
    rules: Box<[ConnectionRule<B>]>,
    /// The first rule that is for any connection.
    any: Option<usize>,
    /// By name, `*.` and all.
    by_name: HashMap<Box<str>, usize>,
}

/// What happens to the connections of one rule.
#[derive(Debug)]
pub struct ConnectionRule<B> {
    /// `TCPRoute/namespace/name`, `TLSRoute/namespace/name`: what logs call its route.
    pub route: Arc<str>,
    /// Its own name, or its index in the route.
    pub name: Box<str>,
    /// Where connections go.
    pub targets: WeightedTargets<B>,
}

/// A table cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConnections {
    /// It could match nothing, or more than it says.
    #[error("`{0}` is neither a server name nor `*.` and one")]
    Name(Box<str>),
    /// Which rule is meant would depend on their order.
    #[error("`{0}` is in two rules")]
    Twice(Box<str>),
}

impl<B> ConnectionTable<B> {
    /// Rules in the order of precedence, each with its names; none are any connection.
    ///
    /// # Errors
    /// When a name is no name, or in two rules.
    pub fn new(rules: Vec<(ConnectionRule<B>, Vec<Box<str>>)>) -> Result<Self, InvalidConnections> {
        let mut any = None;
        let mut by_name = HashMap::new();
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, (rule, names)) in rules.into_iter().enumerate() {
            if names.is_empty() {
                any = any.or(Some(index));
            }
            for name in names {
                if !is_name(name.strip_prefix("*.").unwrap_or(&name)) {
                    return Err(InvalidConnections::Name(name));
                }
                if by_name.insert(name.clone(), index).is_some_and(|other| other != index) {
                    return Err(InvalidConnections::Twice(name));
                }
            }
            compiled.push(rule);
        }
        Ok(Self { rules: compiled.into(), any, by_name })
    }

    /// Whether the client's server name says which rule it gets: otherwise nothing need be read of it.
    pub fn goes_by_name(&self) -> bool {
        !self.by_name.is_empty()
    }

    /// The rule of a connection to this server name (lower case), if it has one. `None`: it is to be closed.
    pub fn find(&self, name: Option<&str>) -> Option<&ConnectionRule<B>> {
        let index = name.and_then(|name| self.named(name)).or(self.any)?;
        self.rules.get(index)
    }

    fn named(&self, name: &str) -> Option<usize> {
        // As DNS has it, the dot at the end says nothing.
        let name = name.strip_suffix('.').unwrap_or(name);
        let exact = self.by_name.get(name);
        let wildcard = || {
            let suffixes = name.match_indices('.').map(|(dot, _)| &name[dot..]);
            suffixes.filter_map(|suffix| self.by_name.get(format!("*{suffix}").as_str())).next()
        };
        exact.or_else(wildcard).copied()
    }

    /// Every rule, in the order given.
    pub fn rules(&self) -> &[ConnectionRule<B>] {
        &self.rules
    }
}

impl<B> ConnectionRule<B> {
    /// One connection's target, by weight.
    pub fn choose<R: Rng + ?Sized>(&self, rng: &mut R) -> &Target<B> {
        self.targets.choose(rng).0
    }
}

fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::{FixedAnswer, WeightedTarget};
    use super::*;

    fn table(rules: &[&[&str]]) -> Result<ConnectionTable<usize>, InvalidConnections> {
        let rule = |(index, names): (usize, &&[&str])| {
            let target = WeightedTarget { weight: 1, target: Target::Backend(index), filters: Default::default() };
            let rule = ConnectionRule {
                route: "TLSRoute/shop/r".into(),
                name: index.to_string().into(),
                targets: WeightedTargets::new(vec![target]),
            };
            (rule, names.iter().map(|name| (*name).into()).collect())
        };
        ConnectionTable::new(rules.iter().enumerate().map(rule).collect())
    }

    fn found(rules: &[&[&str]], name: Option<&str>) -> Option<usize> {
        table(rules).unwrap().find(name).map(|rule| rule.name.parse().unwrap())
    }

    #[test]
    fn a_connection_gets_the_rule_whose_name_is_the_most_specific() {
        let rules: &[&[&str]] = &[&["*.example.com"], &["a.example.com", "b.org"], &["*.b.example.com"], &["*.com"]];
        for (row, name, wanted) in [
            ("exact beats wildcard", Some("a.example.com"), Some(1)),
            ("a wildcard is a label", Some("c.example.com"), Some(0)),
            ("or several", Some("x.y.example.com"), Some(0)),
            ("a longer wildcard beats a shorter one", Some("x.b.example.com"), Some(2)),
            ("a wildcard is not nothing", Some("b.example.com"), Some(0)),
            ("the parent is under another", Some("example.com"), Some(3)),
            ("a wildcard begins at a label", Some("anexample.com"), Some(3)),
            ("the dot at the end says nothing", Some("a.example.com."), Some(1)),
            ("a second name of a rule", Some("b.org"), Some(1)),
            ("nobody's", Some("c.org"), None),
            ("a wildcard is no name", Some("*.example.com"), Some(0)),
            ("no name", None, None),
            ("an empty one", Some(""), None),
        ] {
            assert_eq!(found(rules, name), wanted, "{row}");
        }
    }

    #[test]
    fn a_rule_without_names_is_for_any_connection_and_the_first_of_them_counts() {
        assert_eq!(found(&[&[], &[]], None), Some(0));
        assert_eq!(found(&[&["a.b"], &[]], Some("a.b")), Some(0));
        assert_eq!(found(&[&["a.b"], &[]], Some("c.b")), Some(1));
        assert_eq!(found(&[], Some("a")), None);
        assert!(!table(&[&[]]).unwrap().goes_by_name() && table(&[&["a"]]).unwrap().goes_by_name());
    }

    #[test]
    fn what_is_no_name_and_what_is_in_two_rules_is_refused() {
        for name in ["", "*", "*.", "a..b", "A.b", "a.*.b", "a b", "*.*.a"] {
            assert_eq!(table(&[&[name]]).err(), Some(InvalidConnections::Name(name.into())), "{name}");
        }
        assert_eq!(table(&[&["a.b"], &["a.b"]]).err(), Some(InvalidConnections::Twice("a.b".into())));
        assert!(table(&[&["a.b", "a.b"]]).is_ok(), "twice in one rule says nothing");
    }

    #[test]
    fn shares_follow_weights_and_what_is_not_valid_keeps_its_own() {
        let answer = FixedAnswer { status: http::StatusCode::INTERNAL_SERVER_ERROR, detail: "gone".into() };
        let target = |weight, target| WeightedTarget { weight, target, filters: Default::default() };
        let targets = vec![
            target(80, Target::Backend("v1")),
            target(0, Target::Backend("v2")),
            target(20, Target::Answer(answer.clone())),
        ];
        let rule = ConnectionRule { route: "r".into(), name: "0".into(), targets: WeightedTargets::new(targets) };
        let mut rng = StdRng::seed_from_u64(3);
        let chosen: Vec<_> = (0..1000).map(|_| rule.choose(&mut rng)).collect();
        let refused = chosen.iter().filter(|target| ***target == Target::Answer(answer.clone())).count();
        assert!((195..=205).contains(&refused), "{refused}");
        assert!(!chosen.contains(&&Target::Backend("v2")), "a weight of zero gets nothing");
    }

    /// Written from the specification, without a map.
    fn oracle(rules: &[Vec<String>], name: &str) -> Option<usize> {
        let listed = rules.iter().enumerate().flat_map(|(index, names)| names.iter().map(move |name| (index, name)));
        let matching = listed.filter(|(_, listed)| match listed.strip_prefix('*') {
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            None => *listed == name,
        });
        matching.max_by_key(|(_, listed)| (!listed.starts_with('*'), listed.len())).map(|(index, _)| index)
    }

    proptest! {
        #[test]
        fn a_lookup_agrees_with_the_specification(
            names in proptest::collection::btree_set("(\\*\\.)?[ab](\\.[ab]){0,3}", 1..8),
            name in "[ab](\\.[ab]){0,4}",
        ) {
            let rules: Vec<Vec<String>> = names.into_iter().map(|name| vec![name]).collect();
            let borrowed: Vec<Vec<&str>> = rules.iter().map(|names| names.iter().map(|n| &**n).collect()).collect();
            let borrowed: Vec<&[&str]> = borrowed.iter().map(|names| &**names).collect();
            prop_assert_eq!(found(&borrowed, Some(&name)), oracle(&rules, &name));
        }
    }
}
