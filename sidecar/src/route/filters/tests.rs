use http::{Method, Request, StatusCode};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::cors::CorsConfig;
use super::super::url::PathEdit;
use super::*;

fn request(method: Method, uri: &str, rows: &[(&str, &str)]) -> Parts {
    let (mut parts, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
    parts.headers = headers(rows);
    parts
}

/// Applied to a GET of `/a` with these headers; no answer comes of it.
fn applied(filters: &Filters<&'static str>, rows: &[(&str, &str)]) -> (Parts, After<&'static str>) {
    let (mut parts, mut after) = (request(Method::GET, "/a", rows), After::default());
    let made = filters.apply_request(&mut parts, &mut SmallRng::seed_from_u64(1), &mut after).unwrap();
    assert!(made.is_none(), "{made:?}");
    (parts, after)
}

fn set(name: &str, value: &str) -> RequestFilter<&'static str> {
    RequestFilter::Headers(HeaderEdit::new([], [(name, value)], []).unwrap())
}

fn mirror(backend: &'static str, numerator: u32, denominator: u32) -> RequestFilter<&'static str> {
    RequestFilter::Mirror(Mirror { backend, share: Fraction::new(numerator, denominator).unwrap() })
}

fn cors(origin: &str) -> RequestFilter<&'static str> {
    let origins = vec![origin.to_owned()];
    RequestFilter::Cors(Box::new(Cors::new(CorsConfig { allow_origins: &origins, ..CorsConfig::default() }).unwrap()))
}

fn redirect() -> RequestFilter<&'static str> {
    RequestFilter::Redirect(Redirect::new("", "b", None, 0, 307, 80).unwrap())
}

fn headers(rows: &[(&str, &str)]) -> HeaderMap {
    let parse = |(key, value): &(&str, &str)| -> Option<(HeaderName, HeaderValue)> {
        Some((key.parse().ok()?, value.parse().ok()?))
    };
    rows.iter().filter_map(parse).collect()
}

#[test]
fn edits_row_by_row() {
    type Rows<'a> = &'a [(&'a str, &'a str)];
    let rows: [(&str, &[&str], Rows<'_>, Rows<'_>, Rows<'_>); 7] = [
        ("nothing to do", &[], &[], &[], &[("a", "1"), ("a", "2"), ("b", "3")]),
        ("removes every line, in any case", &["A"], &[], &[], &[("b", "3")]),
        ("removing what is not there is fine", &["z"], &[], &[], &[("a", "1"), ("a", "2"), ("b", "3")]),
        ("set replaces every line", &[], &[("a", "9")], &[], &[("a", "9"), ("b", "3")]),
        ("set makes what is not there", &[], &[("c", "9")], &[], &[("a", "1"), ("a", "2"), ("b", "3"), ("c", "9")]),
        ("add keeps what is there", &[], &[], &[("b", "4")], &[("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")]),
        (
            "remove, then set, then add",
            &["b"],
            &[("b", "5")],
            &[("b", "6")],
            &[("a", "1"), ("a", "2"), ("b", "5"), ("b", "6")],
        ),
    ];
    for (row, remove, set, add, want) in rows {
        let edit = HeaderEdit::new(remove.iter().copied(), set.iter().copied(), add.iter().copied());
        let filters = Filters::new(edit.into_iter().map(RequestFilter::Headers).collect(), vec![]);
        let mut got = applied(&filters, &[("a", "1"), ("a", "2"), ("b", "3")]).0.headers;
        assert_eq!(got, headers(want), "{row}");
        filters.apply_response(&mut got);
        assert_eq!(got, headers(want), "{row}: the response is left alone");
    }
}

#[test]
fn filters_apply_in_the_order_listed() {
    let set = |value| HeaderEdit::new([], [("a", value)], []).unwrap();
    let filters: Filters<()> = Filters::new(vec![], vec![set("1"), set("2")]);
    let mut got = HeaderMap::new();
    filters.apply_response(&mut got);
    assert_eq!(got, headers(&[("a", "2")]));
}

#[test]
fn framing_and_the_meshs_own_headers_are_refused() {
    for header in ["connection", "content-length", "te", "upgrade", "X-Weft-Not-Processed", "Transfer-Encoding"] {
        let want = Err(InvalidFilter::Refused(header.parse().unwrap()));
        assert_eq!(HeaderEdit::new([header], [], []), want, "remove {header}");
        assert_eq!(HeaderEdit::new([], [(header, "1")], []), want, "set {header}");
        assert_eq!(HeaderEdit::new([], [], [(header, "1")]), want, "add {header}");
    }
}

#[test]
fn what_no_header_can_be_is_refused_by_name() {
    assert_eq!(HeaderEdit::new(["a b"], [], []), Err(InvalidFilter::Name("a b".to_owned())));
    assert_eq!(HeaderEdit::new([], [("", "x")], []), Err(InvalidFilter::Name(String::new())));
    let injected = HeaderEdit::new([], [("a", "1\r\nhost: evil")], []);
    assert_eq!(injected, Err(InvalidFilter::Value(HeaderName::from_static("a"))));
}

#[test]
fn a_host_that_is_set_is_set_in_the_target_too() {
    let filters = Filters::new(vec![set("host", "b")], vec![]);
    let mut parts = request(Method::GET, "http://a/x", &[]);
    filters.apply_request(&mut parts, &mut SmallRng::seed_from_u64(1), &mut After::default()).unwrap();
    assert_eq!(parts.uri, "http://b/x");
}

#[test]
fn a_copy_is_the_request_as_it_is_at_that_place_in_the_list() {
    let rewrite = RequestFilter::Rewrite(Rewrite::new("new", Some(PathEdit::full("/b").unwrap())).unwrap());
    let filters = Filters::new(
        vec![mirror("first", 1, 1), set("x", "1"), mirror("second", 1, 1), rewrite, mirror("third", 1, 1)],
        vec![],
    );
    let (sent, after) = applied(&filters, &[("host", "old")]);
    let copies: Vec<_> = after
        .copies
        .iter()
        .map(|(backend, head)| {
            (*backend, head.uri.to_string(), head.headers["host"].to_str().unwrap(), head.headers.len())
        })
        .collect();
    let want = [
        ("first", "/a".to_owned(), "old", 1),
        ("second", "/a".to_owned(), "old", 2),
        ("third", "/b".to_owned(), "new", 2),
    ];
    assert_eq!(copies, want);
    assert_eq!((sent.uri.path(), after.shared), ("/b", None));
}

#[test]
fn a_share_of_requests_is_copied() {
    let mut rng = SmallRng::seed_from_u64(7);
    for (numerator, denominator) in [(0, 5), (1, 5), (37, 100), (5, 5)] {
        let filters = Filters::new(vec![mirror("m", numerator, denominator)], vec![]);
        let mut after = After::default();
        for _ in 0..10_000 {
            filters.apply_request(&mut request(Method::GET, "/", &[]), &mut rng, &mut after).unwrap();
        }
        let share = f64::from(numerator) / f64::from(denominator);
        let (want, deviation) = (1e4 * share, (1e4 * share * (1.0 - share)).sqrt());
        let got = after.copies.len() as f64;
        assert!((got - want).abs() <= 5.0 * deviation, "{numerator}/{denominator}: {got}");
    }
}

#[test]
fn a_redirect_ends_the_list_and_preflights_are_answered_before_it() {
    let filters = Filters::new(vec![set("x", "1"), redirect(), mirror("m", 1, 1), cors("https://o")], vec![]);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut after = After::default();
    let mut parts = request(Method::GET, "/a?q", &[("host", "a"), ("origin", "https://o")]);
    let Some(Made::Redirect(made)) = filters.apply_request(&mut parts, &mut rng, &mut after).unwrap() else { panic!() };
    assert_eq!(
        (made.status(), &made.headers()[LOCATION]),
        (StatusCode::TEMPORARY_REDIRECT, &"http://b/a?q".parse().unwrap())
    );
    assert!(after.copies.is_empty(), "nothing is sent, so nothing is copied");
    assert!(after.shared.is_some(), "a browser has to be let see the redirect");

    let asks = [("origin", "https://o"), ("access-control-request-method", "PUT")];
    let mut parts = request(Method::OPTIONS, "/a", &asks);
    let made = filters.apply_request(&mut parts, &mut rng, &mut After::default()).unwrap();
    assert!(matches!(made, Some(Made::Preflight(_))), "{made:?}");
}

#[test]
fn a_fault_acts_at_its_place_and_preflights_are_answered_before_it() {
    let all = Fraction::new(1, 1).unwrap();
    let abort = Abort { status: StatusCode::IM_A_TEAPOT, grpc_status: 8, by: "shop/faults".into() };
    let fault = |seconds, abort: Option<&Abort>| {
        let delay = Some((all, Duration::from_secs(seconds)));
        RequestFilter::Fault(Box::new(Fault::new(delay, abort.map(|abort| (all, abort.clone())))))
    };
    let list =
        vec![fault(1, None), set("x", "1"), fault(2, Some(&abort)), redirect(), fault(4, None), cors("https://o")];
    let filters = Filters::new(list, vec![]);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut after = After::default();
    let mut parts = request(Method::GET, "/a", &[("origin", "https://o")]);
    match filters.apply_request(&mut parts, &mut rng, &mut after).unwrap() {
        Some(Made::Abort(made)) => assert_eq!(made, abort),
        other => panic!("{other:?}"),
    }
    assert_eq!((after.delay, &parts.headers["x"]), (Duration::from_secs(3), &"1".parse().unwrap()));
    assert!(after.shared.is_some(), "a browser has to be let see the failure");

    let asks = [("origin", "https://o"), ("access-control-request-method", "PUT")];
    let (mut parts, mut after) = (request(Method::OPTIONS, "/a", &asks), After::default());
    let made = filters.apply_request(&mut parts, &mut rng, &mut after).unwrap();
    assert!(matches!(made, Some(Made::Preflight(_))) && after.delay.is_zero(), "{made:?}");
}

#[test]
fn without_filters_nothing_is_done() {
    let (parts, after) = applied(&Filters::default(), &[("a", "1")]);
    assert_eq!((parts.headers, parts.uri.path()), (headers(&[("a", "1")]), "/a"));
    assert!(after.copies.is_empty() && after.shared.is_none());
}
