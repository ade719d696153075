//! Rows from the specification, and a naive oracle written from it.

use std::cmp::Reverse;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn headers(rows: &[(&str, &str)]) -> HeaderMap {
    rows.iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .collect()
}

fn path(text: &str) -> PathMatch {
    let (kind, path) = text.split_once(' ').unwrap();
    match kind {
        "exact" => PathMatch::Exact(path.to_owned()),
        "prefix" => PathMatch::Prefix(path.to_owned()),
        "regex" => PathMatch::Regex(path.to_owned()),
        other => panic!("{other}"),
    }
}

/// `name=value` or `name~regex`.
fn keys(rows: &[&str]) -> Vec<KeyMatch> {
    rows.iter()
        .map(|row| match row.split_once('~') {
            Some((name, regex)) => KeyMatch { name: name.to_owned(), value: ValueMatch::Regex(regex.to_owned()) },
            None => {
                let (name, exact) = row.split_once('=').unwrap();
                KeyMatch { name: name.to_owned(), value: ValueMatch::Exact(exact.to_owned()) }
            }
        })
        .collect()
}

fn matches(compiled: &Match, method: &Method, path: &str, query: Option<&str>, headers: &HeaderMap) -> bool {
    compiled.matches(&RequestView { method, path, query, headers })
}

#[test]
fn paths_row_by_row() {
    let rows: [(&str, &str, &str, bool); 31] = [
        ("exact is exact", "exact /a", "/a", true),
        ("exact minds a trailing slash", "exact /a", "/a/", false),
        ("exact minds its own trailing slash", "exact /a/", "/a", false),
        ("exact minds case", "exact /a", "/A", false),
        ("exact is no prefix", "exact /a", "/a/b", false),
        ("exact root", "exact /", "/", true),
        ("exact root only", "exact /", "/a", false),
        ("a prefix matches itself", "prefix /a", "/a", true),
        ("a prefix matches with a slash", "prefix /a", "/a/", true),
        ("a prefix matches below", "prefix /a", "/a/b/c", true),
        ("a prefix ends at a segment", "prefix /a", "/ab", false),
        ("a trailing slash does not matter", "prefix /a/", "/a", true),
        ("a trailing slash does not matter below", "prefix /a/", "/a/b", true),
        ("a trailing slash still ends a segment", "prefix /a/", "/ab", false),
        ("a longer prefix", "prefix /a/b", "/a", false),
        ("a longer prefix ends at a segment", "prefix /a/b", "/a/bc", false),
        ("a prefix minds case", "prefix /a", "/A/b", false),
        ("the root is any path", "prefix /", "/whatever/there", true),
        ("the root is the root", "prefix /", "/", true),
        ("the root is even no path", "prefix /", "*", true),
        ("nothing is decoded", "prefix /a", "/%61", false),
        ("nothing is merged", "prefix /a/b", "/a//b", false),
        ("nothing is resolved", "prefix /b", "/a/../b", false),
        ("an encoded slash is no segment's end", "prefix /a", "/a%2Fb", false),
        ("an expression is anchored in front", "regex /b", "/a/b", false),
        ("an expression is anchored behind", "regex /a", "/a/b", false),
        ("an expression with a choice is anchored in both", "regex /a|/b", "/bc", false),
        ("an expression with a choice", "regex /a|/ab", "/ab", true),
        ("an expression with a class", r"regex /v\d+/.*", "/v12/x/y", true),
        ("classes are ASCII", r"regex /\d", "/٣", false),
        ("an expression with a flag", "regex (?i)/CaSe", "/cAsE", true),
    ];
    for (row, condition, sent, want) in rows {
        let compiled = Match::new(Some(path(condition)), None, vec![], vec![]).unwrap();
        assert_eq!(matches(&compiled, &Method::GET, sent, None, &HeaderMap::new()), want, "{row}: {condition} {sent}");
    }
}

#[test]
fn headers_row_by_row() {
    let rows: [(&str, &[&str], Pairs<'_>, bool); 15] = [
        ("equal", &["v=2"], &[("v", "2")], true),
        ("names are in any case", &["X-V=2"], &[("x-v", "2")], true),
        ("values mind case", &["v=a"], &[("v", "A")], false),
        ("absent", &["v=2"], &[("w", "2")], false),
        ("absent is not empty", &["v~.*"], &[], false),
        ("all must hold", &["v=2", "w=3"], &[("v", "2")], false),
        ("all hold", &["v=2", "w=3"], &[("v", "2"), ("w", "3")], true),
        ("lines are joined by a comma", &["v=1,2"], &[("v", "1"), ("v", "2")], true),
        ("no single line of several counts", &["v=1"], &[("v", "1"), ("v", "2")], false),
        ("cookies are joined by their own rule", &["cookie=a=1; b=2"], &[("cookie", "a=1"), ("cookie", "b=2")], true),
        ("an expression has to match the whole value", &["v~a"], &[("v", "ab")], false),
        ("an expression over joined lines", &["v~1,.*3"], &[("v", "1"), ("v", "2"), ("v", "3")], true),
        ("the first of two conditions on a name counts", &["v=1", "V=2"], &[("v", "1")], true),
        ("the second one does not", &["v=1", "V=2"], &[("v", "2")], false),
        ("an expression may need Unicode", &["v~[äö]+"], &[("v", "öä")], true),
    ];
    for (row, conditions, sent, want) in rows {
        let compiled = Match::new(None, None, keys(conditions), vec![]).unwrap();
        assert_eq!(matches(&compiled, &Method::GET, "/", None, &headers(sent)), want, "{row}");
    }
}

#[test]
fn query_parameters_row_by_row() {
    let rows: [(&str, &[&str], Option<&str>, bool); 19] = [
        ("equal", &["a=1"], Some("a=1"), true),
        ("among others", &["a=1"], Some("b=2&a=1&c"), true),
        ("no query", &["a=1"], None, false),
        ("absent is not empty", &["a~.*"], Some("b=1"), false),
        ("names mind case", &["a=1"], Some("A=1"), false),
        ("the first of equal names counts", &["a=1"], Some("a=1&a=2"), true),
        ("the second one does not", &["a=2"], Some("a=1&a=2"), false),
        ("without a value it is empty", &["a~"], Some("a"), true),
        ("with an empty value it is empty", &["a~"], Some("a="), true),
        ("the value goes on after another =", &["a=b=c"], Some("a=b=c"), true),
        ("values are decoded", &["a=b c"], Some("a=b%20c"), true),
        ("names are decoded", &["a b=1"], Some("a%20b=1"), true),
        ("a plus stays", &["a=b+c"], Some("a=b+c"), true),
        ("a plus is no space", &["a=b c"], Some("a=b+c"), false),
        ("half an escape stays", &["a=%4"], Some("a=%4"), true),
        ("no escape stays", &["a=%zz"], Some("a=%zz"), true),
        ("escapes are decoded once", &["a=%20"], Some("a=%2520"), true),
        ("an encoded & does not separate", &["a=1&b"], Some("a=1%26b"), true),
        ("all must hold", &["a=1", "b=2"], Some("b=2"), false),
    ];
    for (row, conditions, sent, want) in rows {
        let compiled = Match::new(None, None, vec![], keys(conditions)).unwrap();
        assert_eq!(matches(&compiled, &Method::GET, "/", sent, &HeaderMap::new()), want, "{row}");
    }
}

#[test]
fn a_method_is_itself_only() {
    let compiled = Match::new(None, Some(Method::GET), vec![], vec![]).unwrap();
    assert!(matches(&compiled, &Method::GET, "/", None, &HeaderMap::new()));
    assert!(!matches(&compiled, &Method::HEAD, "/", None, &HeaderMap::new()));
}

#[test]
fn what_can_never_match_is_refused_by_name() {
    let refused = |condition: &str| Match::new(Some(path(condition)), None, vec![], vec![]).map(drop).unwrap_err();
    assert_eq!(refused("exact a"), InvalidMatch::Path("a".to_owned()));
    assert_eq!(refused("prefix /a?b"), InvalidMatch::Path("/a?b".to_owned()));
    assert_eq!(refused("prefix "), InvalidMatch::Path(String::new()));
    let by_name = |headers: &[&str], query: &[&str]| Match::new(None, None, keys(headers), keys(query)).map(drop);
    assert_eq!(by_name(&["a b=1"], &[]), Err(InvalidMatch::HeaderName("a b".to_owned())));
    assert_eq!(by_name(&[], &["=1"]), Err(InvalidMatch::QueryName));
}

/// Each of the first takes a matcher that backtracks longer than the world will stand. The `regex` crate promises time linear in
/// the text, for which it has none of what the others ask for.
#[test]
fn no_expression_takes_more_time_than_its_text_is_long() {
    let text = format!("/{}", "a".repeat(20_000));
    for pattern in ["/(a+)+b", "/(a|aa)+b", "/(.*)*b", "/(a?){50}a{50}b", "/(.*a){10}b"] {
        let entry = Match::new(Some(PathMatch::Regex(pattern.into())), None, vec![], vec![]).unwrap();
        let request = RequestView { method: &Method::GET, path: &text, query: None, headers: &HeaderMap::new() };
        assert!(!entry.matches(&request), "{pattern}");
    }
    for pattern in [r"(a)\1", "(?=a)a", "(?<!a)a"] {
        let refused = Match::new(Some(PathMatch::Regex(pattern.into())), None, vec![], vec![]);
        assert!(matches!(refused, Err(InvalidMatch::Regex { .. })), "{pattern}");
    }
}

#[test]
fn an_expression_that_is_none_or_too_large_is_refused() {
    let long = "a".repeat(5_000);
    let rows = [
        ("unclosed", "/(", "unclosed group"),
        ("two halves that the anchors would join", "a)|(b", "unopened group"),
        ("an unclosed comment", "(?x)a # b", "unclosed group"),
        ("no such syntax", "/(?=a)", "look-around"),
        ("too large", r"(\pL{200}){200}", "when compiled"),
        ("too long", &long, "longer than 4096 bytes"),
    ];
    for (row, pattern, want) in rows {
        match Match::new(Some(PathMatch::Regex(pattern.to_owned())), None, vec![], vec![]) {
            Err(InvalidMatch::Regex { detail, pattern }) => {
                assert!(detail.contains(want) && pattern.len() <= 80, "{row}: {detail}");
            }
            other => panic!("{row}: {other:?}"),
        }
    }
}

fn rule(name: &str, targets: Vec<WeightedTarget<usize>>) -> Rule<usize> {
    Rule {
        route: "HTTPRoute/ns/r".into(),
        name: name.into(),
        filters: Filters::default(),
        targets: WeightedTargets::new(targets),
        request_timeout: None,
        backend_request_timeout: None,
        retry: None,
        session: None,
        rate_limits: Box::default(),
    }
}

fn share(weight: u32, backend: usize) -> WeightedTarget<usize> {
    WeightedTarget { weight, target: Target::Backend(backend), filters: Filters::default() }
}

#[test]
fn the_first_entry_that_matches_wins_and_none_is_none() {
    let entry = |condition: &str, rule| (Match::new(Some(path(condition)), None, vec![], vec![]).unwrap(), rule);
    let rules = vec![rule("zero", vec![]), rule("one", vec![])];
    let table =
        RouteTable::new(vec![entry("exact /a/b", 1), entry("prefix /a", 0), entry("prefix /a/b", 1)], rules).unwrap();
    let found = |path| {
        let request = RequestView { method: &Method::GET, path, query: None, headers: &HeaderMap::new() };
        table.find(&request).map(|rule| rule.name.to_string())
    };
    let got = ["/a/b", "/a/b/c", "/a", "/b"].map(found);
    assert_eq!(got, [Some("one".to_owned()), Some("zero".to_owned()), Some("zero".to_owned()), None]);
}

#[test]
fn an_entry_without_a_rule_is_refused() {
    let entry = Match::new(None, None, vec![], vec![]).unwrap();
    let table = RouteTable::new(vec![(entry, 1)], vec![rule("zero", vec![])]);
    assert_eq!(table.map(drop), Err(InvalidTable::NoSuchRule { entry: 0, rule: 1, rules: 1 }));
}

#[test]
fn without_a_weight_above_zero_the_answer_is_500() {
    for (row, targets) in [("no targets", vec![]), ("only zeros", vec![share(0, 1), share(0, 2)])] {
        let rule = rule("r", targets);
        match rule.choose(&mut SmallRng::seed_from_u64(1)).0 {
            Target::Answer(answer) => assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{row}"),
            Target::Backend(backend) => panic!("{row}: {backend}"),
        }
    }
}

#[test]
fn a_session_finds_its_backend_whatever_the_weight() {
    let rule = rule("r", vec![share(0, 1), share(3, 2), share(1, 3)]);
    for (backend, found) in [(1, true), (2, true), (3, true), (4, false)] {
        let got = rule.choose_for(|known| *known == backend).map(|(target, _)| target);
        assert_eq!(got, found.then_some(&Target::Backend(backend)), "{backend}");
    }
    let none = self::rule("r", vec![share(0, 1)]);
    assert!(none.choose_for(|backend| *backend == 1).is_some());
}

#[test]
fn a_target_comes_with_its_own_filters() {
    let edit = HeaderEdit::new([], [("v", "2")], []).unwrap();
    let filters = Filters::new(vec![RequestFilter::Headers(edit)], vec![]);
    let filtered = WeightedTarget { filters: filters.clone(), ..share(1, 2) };
    let rule = rule("r", vec![share(0, 1), filtered]);
    assert_eq!(rule.choose(&mut SmallRng::seed_from_u64(1)), (&Target::Backend(2), &filters));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Over all requests, and over every second, third, … of them: a client may well send two kinds in turn.
    #[test]
    fn shares_follow_the_weights(
        weights in prop::collection::vec(0u32..20, 1..8),
        seed in any::<u64>(),
        n in 1u32..4_000,
        each in 1u32..5,
    ) {
        /// How many requests a target may be off: by dice it would be five deviations, of 4,000 requests 158.
        const SPREAD: f64 = 12.0;
        let rule = rule("r", weights.iter().enumerate().map(|(backend, weight)| share(*weight, backend)).collect());
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut got = vec![0u32; weights.len()];
        for _ in 0..n {
            if let Target::Backend(backend) = rule.choose(&mut rng).0 {
                got[*backend] += 1;
            }
            (1..each).for_each(|_| _ = rule.choose(&mut rng));
        }
        let sum: u32 = weights.iter().sum();
        for (weight, got) in weights.iter().zip(&got) {
            if *weight == 0 {
                prop_assert_eq!(*got, 0);
                continue;
            }
            let share = f64::from(*weight) / f64::from(sum);
            let off = (f64::from(*got) - f64::from(n) * share).abs();
            prop_assert!(off <= SPREAD, "{weights:?}: {got} of {n}, and should be {share}");
        }
        let listed: Vec<u64> = rule.targets.iter().map(|(weight, _)| weight).filter(|weight| *weight > 0).collect();
        let want: Vec<u64> = weights.iter().filter(|weight| **weight > 0).map(|weight| u64::from(*weight)).collect();
        prop_assert_eq!(listed, want);
    }
}

/// One `HTTPRouteMatch`, and what decides between two that match (Gateway API `HTTPRouteRule.matches`).
#[derive(Debug, Clone)]
struct Naive {
    /// Kind (0 exact, 1 prefix, 2 expression) and text.
    path: (u8, String),
    method: Option<Method>,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
    created: u8,
    name: u8,
}

impl Naive {
    /// "…the Path match has… Exact, then Prefix with largest number of characters, then expression; Method match;
    /// largest number of header matches; largest number of query param matches." Ties: the oldest route, the first by
    /// name, the first rule.
    fn precedence(&self, index: usize) -> impl Ord + use<> {
        let prefix = if self.path.0 == 1 { self.path.1.trim_end_matches('/').len() } else { 0 };
        let order = (self.path.0, Reverse(prefix), self.method.is_none(), Reverse(self.headers.len()));
        (order, Reverse(self.query.len()), self.created, self.name, index)
    }

    fn holds(&self, request: &Sent) -> bool {
        let segments = |path: &str| path.trim_matches('/').split('/').map(str::to_owned).collect::<Vec<_>>();
        let path = match self.path.0 {
            0 => self.path.1 == request.path,
            1 => self.path.1 == "/" || segments(&request.path).starts_with(&segments(&self.path.1)),
            // The only expression that is generated: `/.*` with a letter at its end.
            _ => request.path.starts_with('/') && request.path.ends_with(&self.path.1[3..]),
        };
        let all = |wanted: &[(String, String)], sent: &dyn Fn(&str) -> Option<String>| {
            wanted.iter().all(|(name, value)| match sent(name) {
                Some(sent) if value == EXPRESSION => ["1", "2"].contains(&&*sent),
                Some(sent) => sent == *value,
                None => false,
            })
        };
        let values = |of: &[(String, String)], name: &str| {
            of.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let header = |name: &str| Some(values(&request.headers, name)).filter(|lines| !lines.is_empty());
        path && self.method.as_ref().is_none_or(|method| *method == request.method)
            && all(&self.headers, &|name| header(name).map(|lines| lines.join(",")))
            && all(&self.query, &|name| values(&request.query, name).first().cloned())
    }

    fn compile(&self) -> Match {
        let keys = |pairs: &[(String, String)]| {
            let key = |(name, value): &(String, String)| {
                let kind = if value == EXPRESSION { ValueMatch::Regex } else { ValueMatch::Exact };
                KeyMatch { name: name.clone(), value: kind(value.clone()) }
            };
            pairs.iter().map(key).collect()
        };
        let path = match self.path.0 {
            0 => PathMatch::Exact(self.path.1.clone()),
            1 => PathMatch::Prefix(self.path.1.clone()),
            _ => PathMatch::Regex(self.path.1.clone()),
        };
        Match::new(Some(path), self.method.clone(), keys(&self.headers), keys(&self.query)).unwrap()
    }
}

#[derive(Debug, Clone)]
struct Sent {
    path: String,
    method: Method,
    headers: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{1,2}", 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// The only one that is generated for values.
const EXPRESSION: &str = "[12]";

/// Conditions, in any order of names.
fn any_keys() -> impl Strategy<Value = Vec<(String, String)>> {
    let value = prop::sample::select(vec!["1", "2", "1,2", EXPRESSION]).prop_map(str::to_owned);
    let keys = prop::collection::btree_map("[xyz]", value, 0..3);
    keys.prop_map(|keys| keys.into_iter().collect::<Vec<_>>()).prop_shuffle()
}

/// What is sent; names may be there twice.
fn any_pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[xyz]", "[12]"), 0..4)
}

fn any_method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST])
}

fn any_match() -> impl Strategy<Value = Naive> {
    let path = prop_oneof![
        // As often as all others: these are found by their headers.
        3 => Just((1, "/".to_owned())),
        1 => any_path().prop_map(|path| (0, path)),
        1 => (any_path(), any::<bool>())
            .prop_map(|(path, slash)| { (1, if slash && path != "/" { format!("{path}/") } else { path }) }),
        1 => "[ab]".prop_map(|end| (2, format!("/.*{end}"))),
    ];
    (path, prop::option::of(any_method()), any_keys(), any_keys(), 0u8..3, 0u8..3)
        .prop_map(|(path, method, headers, query, created, name)| Naive { path, method, headers, query, created, name })
}

fn any_request() -> impl Strategy<Value = Sent> {
    (any_path(), any_method(), any_pairs(), any_pairs()).prop_map(|(path, method, headers, query)| Sent {
        path,
        method,
        headers,
        query,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_sorted_table_answers_as_the_specification(
        routes in prop::collection::vec(any_match(), 0..12),
        requests in prop::collection::vec(any_request(), 30),
    ) {
        let mut sorted: Vec<usize> = (0..routes.len()).collect();
        sorted.sort_by_key(|index| routes[*index].precedence(*index));
        let entries = sorted.iter().map(|index| (routes[*index].compile(), *index)).collect();
        let rules = (0..routes.len()).map(|index| rule(&index.to_string(), vec![])).collect();
        let table = RouteTable::new(entries, rules).unwrap();
        for sent in &requests {
            let all = routes.iter().enumerate().filter(|(_, route)| route.holds(sent));
            let want = all.min_by_key(|(index, route)| route.precedence(*index)).map(|(index, _)| index.to_string());
            let query: Vec<String> = sent.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let query = query.join("&");
            let pairs: Vec<(&str, &str)> = sent.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let request = RequestView {
                method: &sent.method,
                path: &sent.path,
                query: (!query.is_empty()).then_some(&query),
                headers: &headers(&pairs),
            };
            let got = table.find(&request).map(|rule| rule.name.to_string());
            prop_assert_eq!(got, want, "{:?}", sent);
        }
    }
}

mod calls;
