//! Redirects, rewrites, mirrors, CORS and retries: what they become, and every reason why one cannot be done.

use weft_proto::v1::filter::Kind;
use weft_proto::v1::path_modifier::Kind as Path;

use super::*;
use crate::model::{Cors, Mirror, PathModifier, Redirect, RouteRetry, SessionPersistence, UrlRewrite};
use crate::status::{Condition, RouteStatus};

const REDIRECT: Redirect = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };

fn redirect(redirect: Redirect) -> HttpRouteFilter {
    HttpRouteFilter::Redirect(redirect)
}

fn rewrite(hostname: Option<&str>, path: Option<PathModifier>) -> HttpRouteFilter {
    HttpRouteFilter::Rewrite(UrlRewrite { hostname: hostname.map(str::to_owned), path })
}

fn full(text: &str) -> Option<PathModifier> {
    Some(PathModifier::Full(text.to_owned()))
}

fn replaced(text: &str) -> Option<PathModifier> {
    Some(PathModifier::Prefix(text.to_owned()))
}

fn mirror(name: &str, numerator: u32, denominator: u32) -> HttpRouteFilter {
    HttpRouteFilter::Mirror(Box::new(Mirror { backend: backend(name), numerator, denominator }))
}

fn cors(change: impl FnOnce(&mut Cors)) -> HttpRouteFilter {
    let mut cors = Cors {
        allow_origins: Vec::new(),
        allow_credentials: false,
        allow_methods: Vec::new(),
        allow_headers: Vec::new(),
        expose_headers: Vec::new(),
        max_age: 5,
    };
    change(&mut cors);
    HttpRouteFilter::Cors(cors)
}

fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// To `shop/reviews`, with these filters.
fn filtered(filters: Vec<HttpRouteFilter>) -> HttpRouteRule {
    HttpRouteRule { filters, ..rule(vec![backend("shop/reviews")]) }
}

/// The same filters on its only backend.
fn on_backend(filters: Vec<HttpRouteFilter>) -> HttpRouteRule {
    rule(vec![BackendRef { filters, ..backend("shop/reviews") }])
}

fn kinds(filters: &[v1::Filter]) -> Vec<Kind> {
    filters.iter().map(|filter| filter.kind.clone().unwrap()).collect()
}

/// The rule beside one that is good.
fn status_of(rule: HttpRouteRule) -> (RouteStatus, v1::RouteRule) {
    let good = super::rule(vec![backend("shop/reviews")]);
    let world = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![good, rule])]);
    (world.status_of("shop/r"), port_80(&world).rules.remove(1))
}

fn partial(status: &RouteStatus) -> Option<Condition> {
    condition(status, "PartiallyInvalid")
}

#[test]
fn a_redirect_is_translated_and_needs_no_backends() {
    let said = Redirect {
        scheme: Some("https".to_owned()),
        hostname: Some("Example.com".to_owned()),
        path: replaced("/new"),
        port: Some(8443),
        status: 308,
    };
    let wire =
        only_rule(HttpRouteRule { filters: vec![redirect(said)], matches: vec![prefix("/old/")], ..rule(vec![]) });
    let prefix = v1::PrefixReplacement { matched: "/old".to_owned(), replacement: "/new".to_owned() };
    let expected = v1::Redirect {
        scheme: "https".to_owned(),
        hostname: "example.com".to_owned(),
        path: Some(v1::PathModifier { kind: Some(Path::Prefix(prefix)) }),
        port: 8443,
        status: 308,
    };
    assert_eq!(kinds(&wire.filters), [Kind::Redirect(expected)]);
    assert_eq!(wire.targets, [], "nobody is asked");
    let bare = only_rule(HttpRouteRule { filters: vec![redirect(REDIRECT)], ..rule(vec![]) });
    assert_eq!(kinds(&bare.filters), [Kind::Redirect(v1::Redirect { status: 302, ..v1::Redirect::default() })]);
}

#[test]
fn a_rewrite_is_translated_on_rules_and_on_backends() {
    let filters = vec![rewrite(Some("v2.example"), full("/one"))];
    let expected = v1::UrlRewrite {
        hostname: "v2.example".to_owned(),
        path: Some(v1::PathModifier { kind: Some(Path::Full("/one".to_owned())) }),
    };
    assert_eq!(kinds(&only_rule(filtered(filters.clone())).filters), [Kind::UrlRewrite(expected.clone())]);
    assert_eq!(kinds(&only_rule(on_backend(filters)).targets[0].filters), [Kind::UrlRewrite(expected)]);
}

#[test]
fn an_empty_path_is_the_root_and_an_empty_replacement_stays_empty() {
    let path_of = |path| {
        let wire = only_rule(HttpRouteRule { matches: vec![prefix("/a")], ..filtered(vec![rewrite(None, path)]) });
        let Some(Kind::UrlRewrite(rewrite)) = wire.filters[0].kind.clone() else { panic!("{wire:?}") };
        rewrite.path.unwrap().kind.unwrap()
    };
    assert_eq!(path_of(full("")), Path::Full("/".to_owned()));
    let empty = v1::PrefixReplacement { matched: "/a".to_owned(), replacement: String::new() };
    assert_eq!(path_of(replaced("")), Path::Prefix(empty));
}

#[test]
fn what_a_filter_cannot_be_costs_its_rule_and_is_named_with_its_reason() {
    let get = |path: &str| HttpRouteMatch { method: Some("GET".to_owned()), ..prefix(path) };
    let with = |matches, filters| HttpRouteRule { matches, ..filtered(filters) };
    let no_backend = |filters| HttpRouteRule { filters, ..rule(vec![]) };
    let modifier = || HttpRouteFilter::RequestHeaders(HeaderModifier::default());
    let (incompatible, unsupported) = ("IncompatibleFilters", "UnsupportedValue");
    let rows: Vec<(&str, HttpRouteRule, &str, &str)> = vec![
        ("redirect with backends", filtered(vec![redirect(REDIRECT)]), incompatible, "no backendRefs"),
        (
            "redirect with rewrite",
            no_backend(vec![redirect(REDIRECT), rewrite(Some("a"), None)]),
            incompatible,
            "exclude each other",
        ),
        (
            "rewrite with redirect",
            no_backend(vec![rewrite(Some("a"), None), redirect(REDIRECT)]),
            incompatible,
            "exclude each other",
        ),
        ("a redirect twice", no_backend(vec![redirect(REDIRECT); 2]), incompatible, "two RequestRedirect filters"),
        ("a rewrite twice", filtered(vec![rewrite(Some("a"), None); 2]), incompatible, "two URLRewrite filters"),
        ("a modifier twice", filtered(vec![modifier(); 2]), incompatible, "two RequestHeaderModifier filters"),
        ("CORS twice", filtered(vec![cors(|_| ()); 2]), incompatible, "two CORS filters"),
        (
            "a scheme",
            no_backend(vec![redirect(Redirect { scheme: Some("ftp".to_owned()), ..REDIRECT })]),
            unsupported,
            "ftp",
        ),
        ("a status", no_backend(vec![redirect(Redirect { status: 300, ..REDIRECT })]), unsupported, "300"),
        ("a host with a port", filtered(vec![rewrite(Some("a:80"), None)]), unsupported, "a:80"),
        ("a host of wildcards", filtered(vec![rewrite(Some("*.a"), None)]), unsupported, "*.a"),
        ("a relative path", filtered(vec![rewrite(None, full("a"))]), unsupported, "must start with `/`"),
        ("a path with a query", filtered(vec![rewrite(None, full("/a?b"))]), unsupported, "`?`"),
        ("a path with a blank", filtered(vec![rewrite(None, full("/a b"))]), unsupported, "percent-encoded"),
        ("a replacement with //", filtered(vec![rewrite(None, replaced("/a//b"))]), unsupported, "`//`"),
        (
            "a prefix of an exact match",
            with(vec![exact("/a")], vec![rewrite(None, replaced("/b"))]),
            unsupported,
            "replacePrefixMatch needs",
        ),
        (
            "a prefix of an expression",
            with(vec![regex("/a")], vec![rewrite(None, replaced("/b"))]),
            unsupported,
            "replacePrefixMatch needs",
        ),
        (
            "a prefix of two matches",
            with(vec![prefix("/a"), get("/a")], vec![rewrite(None, replaced("/b"))]),
            unsupported,
            "replacePrefixMatch needs",
        ),
        ("more than all of it", filtered(vec![mirror("shop/v2", 3, 2)]), unsupported, "3 of 2"),
        ("a part of nothing", filtered(vec![mirror("shop/v2", 0, 0)]), unsupported, "0 of 0"),
        (
            "an origin with a path",
            filtered(vec![cors(|cors| cors.allow_origins = texts(&["https://a/b"]))]),
            unsupported,
            "https://a/b",
        ),
        ("a method", filtered(vec![cors(|cors| cors.allow_methods = texts(&["G T"]))]), unsupported, "G T"),
        ("a header", filtered(vec![cors(|cors| cors.allow_headers = texts(&["a b"]))]), unsupported, "a b"),
        (
            "* beside others",
            filtered(vec![cors(|cors| cors.allow_headers = texts(&["*", "a"]))]),
            unsupported,
            "allowHeaders has `*`",
        ),
    ];
    for (row, rule, reason, message) in rows {
        let (status, wire) = status_of(rule.clone());
        assert_eq!(shares(&wire), ["1 500"], "{row}");
        assert_eq!(wire.filters, [], "{row}");
        let partial = partial(&status).unwrap_or_else(|| panic!("{row}: {status:?}"));
        assert_eq!(&*partial.reason, reason, "{row}");
        assert!(partial.message.starts_with("Answering 500: rule 1: "), "{row}: {}", partial.message);
        assert!(partial.message.contains(message), "{row}: {}", partial.message);
        let alone = world(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![rule])]);
        let accepted = condition(&alone.status_of("shop/r"), "Accepted").unwrap();
        assert_eq!((accepted.status, &*accepted.reason), (false, reason), "{row}");
    }
}

#[test]
fn what_a_backends_filter_cannot_be_costs_its_share() {
    let above = |filter, own| HttpRouteRule { filters: vec![filter], ..on_backend(vec![own]) };
    let rows = vec![
        ("the rule rewrites too", above(rewrite(Some("a"), None), rewrite(None, full("/"))), "two URLRewrite"),
        ("the rule rewrites", above(rewrite(Some("a"), None), redirect(REDIRECT)), "exclude each other"),
        ("the rule has CORS too", above(cors(|_| ()), cors(|_| ())), "two CORS"),
        (
            "no prefix",
            HttpRouteRule { matches: vec![exact("/a")], ..on_backend(vec![rewrite(None, replaced("/b"))]) },
            "replacePrefixMatch",
        ),
    ];
    for (row, rule, message) in rows {
        let (status, wire) = status_of(rule);
        assert_eq!(shares(&wire), ["1 500"], "{row}");
        let partial = partial(&status).unwrap_or_else(|| panic!("{row}: {status:?}"));
        assert!(
            partial.message.contains("backend reviews: ") && partial.message.contains(message),
            "{row}: {partial:?}"
        );
    }
    let modifier = || HttpRouteFilter::RequestHeaders(HeaderModifier::default());
    let (status, wire) = status_of(above(modifier(), modifier()));
    assert_eq!((shares(&wire), partial(&status)), (vec!["1 shop/reviews:80".to_owned()], None), "headers add up");
}

#[test]
fn several_mirrors_are_translated_with_their_shares_and_one_of_nothing_is_left_out() {
    let filters = vec![mirror("shop/v2", 1, 10), mirror("shop/reviews", 100, 100), mirror("shop/v2", 0, 100)];
    let wire = only_rule(HttpRouteRule { filters: filters.clone(), ..on_backend(filters) });
    for filters in [&wire.filters, &wire.targets[0].filters] {
        let mirrors: Vec<_> = kinds(filters)
            .into_iter()
            .map(|kind| match kind {
                Kind::Mirror(v1::Mirror { backend: Some(backend), numerator, denominator }) => {
                    format!("{}:{} {numerator}/{denominator}", backend.service, backend.port)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(mirrors, ["shop/v2:80 1/10", "shop/reviews:80 100/100"]);
    }
}

#[test]
fn a_mirror_to_nobody_is_named_and_mirrors_nothing() {
    for rule in [filtered(vec![mirror("shop/gone", 100, 100)]), on_backend(vec![mirror("shop/gone", 0, 100)])] {
        let (status, wire) = status_of(rule);
        assert_eq!(shares(&wire), ["1 shop/reviews:80"], "the requests themselves go on");
        assert!(wire.filters.is_empty() && wire.targets[0].filters.is_empty());
        let refs = condition(&status, "ResolvedRefs").unwrap();
        assert_eq!((refs.status, &*refs.reason), (false, "BackendNotFound"));
        assert_eq!(refs.message, "there is no Service shop/gone (nothing is mirrored there)");
        assert_eq!(partial(&status), None);
    }
    let both = HttpRouteRule { filters: vec![mirror("shop/gone", 1, 1)], ..rule(vec![backend("shop/lost")]) };
    let message = condition(&status_of(both).0, "ResolvedRefs").unwrap().message;
    let shares = "there is no Service shop/lost (their share of requests gets 500)";
    assert_eq!(message, format!("{shares}. there is no Service shop/gone (nothing is mirrored there)"));
}

#[test]
fn a_mirrors_backend_that_comes_and_goes_is_noticed() {
    use crate::translate::{MeshConfig, Translator};
    let mut translator = Translator::new(MeshConfig::default());
    let rule = filtered(vec![mirror("shop/late", 1, 1)]);
    let before = translator.apply(upserts![reviews(), route("shop/r", vec![parent("reviews")], vec![rule])]).0;
    assert_eq!(port_80(&before).rules[0].filters.len(), 0);
    let after = translator.apply(upserts![service("shop/late", "10.96.0.9")]).0;
    assert_eq!(port_80(&after).rules[0].filters.len(), 1);
    assert!(condition(&after.status_of("shop/r"), "ResolvedRefs").unwrap().status);
}

#[test]
fn cors_is_translated_in_its_order_and_without_repetition() {
    let filter = cors(|cors| {
        cors.allow_origins = texts(&["https://*.b.com", "http://a.com:8080", "https://*.b.com"]);
        cors.allow_credentials = true;
        cors.allow_methods = texts(&["PUT", "GET"]);
        cors.allow_headers = texts(&["X-B", "x-a", "x-b"]);
        cors.expose_headers = texts(&["x-c", "*"]);
        cors.max_age = 60;
    });
    let expected = v1::Cors {
        allow_origins: texts(&["https://*.b.com", "http://a.com:8080"]),
        allow_credentials: true,
        allow_methods: texts(&["PUT", "GET"]),
        allow_headers: texts(&["x-b", "x-a"]),
        expose_headers: texts(&["*"]),
        max_age_seconds: 60,
    };
    assert_eq!(kinds(&only_rule(filtered(vec![filter])).filters), [Kind::Cors(expected)]);
}

#[test]
fn retries_are_translated_and_bounded() {
    let with = |retry| HttpRouteRule { retry: Some(retry), ..filtered(vec![]) };
    let said =
        RouteRetry { codes: vec![503, 500, 503], attempts: Some(4), backoff: Some(Duration::from_micros(100_500)) };
    let expected = v1::RetryPolicy {
        max_retries: 4,
        status_codes: vec![500, 503],
        backoff: Some(v1::Millis { value: 101 }),
        any_method: true,
    };
    assert_eq!(only_rule(with(said)).retry, Some(expected));
    let bare = only_rule(with(RouteRetry::default())).retry.unwrap();
    assert_eq!((bare.max_retries, bare.status_codes.len(), bare.backoff), (2, 0, None), "the default");
    assert_eq!(only_rule(filtered(vec![])).retry, None);
    for (row, retry, message) in [
        ("too many", RouteRetry { attempts: Some(101), ..RouteRetry::default() }, "retry.attempts is 101"),
        ("no error", RouteRetry { codes: vec![200], ..RouteRetry::default() }, "retry.codes has 200"),
    ] {
        let (status, wire) = status_of(with(retry));
        assert_eq!(shares(&wire), ["1 500"], "{row}");
        assert!(partial(&status).unwrap().message.contains(message), "{row}");
    }
}

#[test]
fn a_try_cannot_have_longer_than_the_request_unless_that_has_no_end() {
    let rows = [(5, 6, false), (5, 5, true), (0, 6, true), (5, 0, true)];
    for (request, backend, taken) in rows {
        let (request_timeout, backend_request_timeout) =
            (Some(Duration::from_secs(request)), Some(Duration::from_secs(backend)));
        let (status, wire) = status_of(HttpRouteRule { request_timeout, backend_request_timeout, ..filtered(vec![]) });
        let expected = if taken { "1 shop/reviews:80" } else { "1 500" };
        assert_eq!(shares(&wire), [expected], "{request} s, {backend} s");
        let named = partial(&status).is_some_and(|partial| partial.message.contains("timeouts.backendRequest (6s)"));
        assert_eq!(named, !taken, "{request} s, {backend} s");
    }
}

#[test]
fn sessions_are_translated_and_what_they_cannot_be_is_named() {
    let with = |session, matches| HttpRouteRule { session: Some(session), matches, ..filtered(vec![]) };
    let named = SessionPersistence { name: Some("Basket".to_owned()), ..SessionPersistence::default() };
    let day = Some(Duration::from_secs(86_400));
    let permanent = SessionPersistence { permanent: true, absolute_timeout: day, ..named.clone() };
    let wire = only_rule(with(permanent, vec![prefix("/shop/")])).session.unwrap();
    let expected = v1::SessionPersistence {
        name: "Basket".to_owned(),
        header: false,
        absolute_timeout: Some(v1::Millis { value: 86_400_000 }),
        permanent: true,
        path: "/shop".to_owned(),
    };
    assert_eq!(wire, expected);
    for (matches, path) in [
        (vec![exact("/a;b")], "/"),
        (vec![exact("/a"), exact("/b")], "/"),
        (vec![regex("/a")], "/"),
        (vec![exact("/a")], "/a"),
    ] {
        assert_eq!(only_rule(with(named.clone(), matches)).session.unwrap().path, path);
    }
    let header = SessionPersistence { header: true, ..SessionPersistence::default() };
    let wire = only_rule(with(header.clone(), vec![prefix("/")])).session.unwrap();
    assert!(wire.header && wire.name.starts_with("weft-session-") && wire.path.is_empty(), "{wire:?}");
    for (row, session, message) in [
        ("a name", SessionPersistence { name: Some("a b".to_owned()), ..header.clone() }, "the name `a b`"),
        (
            "framing",
            SessionPersistence { name: Some("Connection".to_owned()), ..header.clone() },
            "the name `Connection`",
        ),
        (
            "a header's lifetime",
            SessionPersistence { permanent: true, absolute_timeout: day, ..header },
            "no cookieConfig",
        ),
        ("an endless cookie", SessionPersistence { permanent: true, ..named }, "needs an absoluteTimeout"),
    ] {
        let (status, wire) = status_of(with(session, vec![prefix("/")]));
        assert_eq!(shares(&wire), ["1 500"], "{row}");
        assert!(partial(&status).unwrap().message.contains(message), "{row}");
    }
}
