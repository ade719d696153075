//! Calls of gRPC: rows, and a naive oracle written from the specification of `GRPCRouteRule.matches`.

use super::*;

fn part(text: &str) -> Option<ValueMatch> {
    match text.strip_prefix('~') {
        Some(regex) => Some(ValueMatch::Regex(regex.to_owned())),
        None if text == "*" => None,
        None => Some(ValueMatch::Exact(text.to_owned())),
    }
}

fn call(service: &str, method: &str) -> PathMatch {
    PathMatch::Call { service: part(service), method: part(method) }
}

#[test]
fn calls_row_by_row() {
    let rows: [(&str, &str, &str, &str, bool); 17] = [
        ("a method of any service", "*", "Say", "/pkg.Echo/Say", true),
        ("another method", "*", "Say", "/pkg.Echo/Sing", false),
        ("a method is no prefix", "*", "Say", "/pkg.Echo/Saying", false),
        ("a method minds case", "*", "Say", "/pkg.Echo/say", false),
        ("a service of any method", "pkg.Echo", "*", "/pkg.Echo/Say", true),
        ("another service", "pkg.Echo", "*", "/pkg.Echoes/Say", false),
        ("anything", "*", "*", "/pkg.Echo/Say", true),
        ("an expression for the service", "~pkg[.].*", "Say", "/pkg.v1.Echo/Say", true),
        ("it has to match the whole service", "~Echo", "*", "/pkg.Echo/Say", false),
        ("it does not reach into the method", "~pkg.*Say", "*", "/pkg.Echo/Say", false),
        ("an expression for the method", "*", "~S(ay|ing)", "/pkg.Echo/Sing", true),
        ("it has to match the whole method", "*", "~S", "/pkg.Echo/Sing", false),
        ("both", "~a|b", "~c|d", "/b/c", true),
        ("both must hold", "~a|b", "~c|d", "/b/e", false),
        ("anchors are welcome", "~^pkg[.]Echo$", "~^Say$", "/pkg.Echo/Say", true),
        ("a path of one segment is no call", "*", "*", "/pkg.Echo", false),
        ("nor is one of three", "*", "*", "/a/b/c", false),
    ];
    for (row, service, method, sent, want) in rows {
        let compiled = Match::new(Some(call(service, method)), Some(Method::POST), vec![], vec![]).unwrap();
        assert_eq!(matches(&compiled, &Method::POST, sent, None, &HeaderMap::new()), want, "{row}");
        assert!(!matches(&compiled, &Method::GET, sent, None, &HeaderMap::new()), "{row}: a call is a POST");
    }
    let refused = |path| Match::new(Some(path), None, vec![], vec![]).map(drop).unwrap_err();
    assert!(matches!(refused(call("~(", "*")), InvalidMatch::Regex { .. }));
    assert!(matches!(refused(call("*", "~a)|(b")), InvalidMatch::Regex { .. }));
}

/// One `GRPCRouteMatch`.
#[derive(Debug, Clone)]
struct Naive {
    service: Option<String>,
    method: Option<String>,
    regex: bool,
    headers: Vec<(String, String)>,
    created: u8,
    name: u8,
}

impl Naive {
    /// "Precedence MUST be given to the rule with the largest number of: characters in a matching service, characters in a
    /// matching method, header matches." Ties: the oldest route, the first by name, the first rule.
    fn precedence(&self, index: usize) -> impl Ord + use<> {
        let characters = |text: &Option<String>| Reverse(text.as_deref().unwrap_or_default().len());
        let rank = (characters(&self.service), characters(&self.method), Reverse(self.headers.len()));
        (rank, self.created, self.name, index)
    }

    fn holds(&self, (service, method, headers): &(String, String, Vec<(String, String)>)) -> bool {
        let is = |wanted: &Option<String>, sent: &str| match wanted.as_deref() {
            None => true,
            // The only expression that is generated: `.*` with letters at its end.
            Some(wanted) if self.regex => sent.ends_with(wanted.trim_start_matches(".*")),
            Some(wanted) => wanted == sent,
        };
        is(&self.service, service) && is(&self.method, method) && self.headers.iter().all(|pair| headers.contains(pair))
    }

    /// As the control plane has it: a path wherever that is one.
    fn compile(&self) -> Match {
        let value = |text: &Option<String>| text.clone().map(ValueMatch::Regex);
        let path = match (&self.service, &self.method) {
            (None, None) => None,
            (service, method) if self.regex => Some(PathMatch::Call { service: value(service), method: value(method) }),
            (Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}"))),
            (Some(service), None) => Some(PathMatch::Prefix(format!("/{service}"))),
            (None, method) => Some(PathMatch::Call { service: None, method: method.clone().map(ValueMatch::Exact) }),
        };
        let key =
            |(name, value): &(String, String)| KeyMatch { name: name.clone(), value: ValueMatch::Exact(value.clone()) };
        Match::new(path, Some(Method::POST), self.headers.iter().map(key).collect(), vec![]).unwrap()
    }
}

fn any_pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[xyz]", "[12]", 0..3).prop_map(|pairs| pairs.into_iter().collect())
}

fn any_match() -> impl Strategy<Value = Naive> {
    let name = || prop::option::weighted(0.7, "[ab]{1,2}");
    (name(), name(), any::<bool>(), any_pairs(), 0u8..3, 0u8..3).prop_map(
        |(service, method, regex, headers, created, name)| {
            let part = |text: Option<String>| text.map(|text| if regex { format!(".*{text}") } else { text });
            Naive { service: part(service), method: part(method), regex, headers, created, name }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_sorted_table_answers_calls_as_the_specification(
        routes in prop::collection::vec(any_match(), 0..12),
        calls in prop::collection::vec(("[ab]{1,3}", "[ab]{1,3}", any_pairs()), 30),
    ) {
        let mut sorted: Vec<usize> = (0..routes.len()).collect();
        sorted.sort_by_key(|index| routes[*index].precedence(*index));
        let entries = sorted.iter().map(|index| (routes[*index].compile(), *index)).collect();
        let rules = (0..routes.len()).map(|index| rule(&index.to_string(), vec![])).collect();
        let table = RouteTable::new(entries, rules).unwrap();
        for sent in &calls {
            let all = routes.iter().enumerate().filter(|(_, route)| route.holds(sent));
            let want = all.min_by_key(|(index, route)| route.precedence(*index)).map(|(index, _)| index.to_string());
            let pairs: Vec<(&str, &str)> = sent.2.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let request = RequestView {
                method: &Method::POST,
                path: &format!("/{}/{}", sent.0, sent.1),
                query: None,
                headers: &headers(&pairs),
            };
            let got = table.find(&request).map(|rule| rule.name.to_string());
            prop_assert_eq!(got, want, "{:?}", sent);
        }
    }
}
