use super::*;

fn cors(origins: &[&str], methods: &[&str], headers: &[&str], expose: &[&str], credentials: bool) -> Cors {
    let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let config = CorsConfig {
        allow_origins: &owned(origins),
        allow_credentials: credentials,
        allow_methods: &owned(methods),
        allow_headers: &owned(headers),
        expose_headers: &owned(expose),
        max_age: 5,
    };
    Cors::new(config).unwrap()
}

fn request(method: Method, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// `name: value`, without `access-control-`.
fn said(headers: &HeaderMap) -> Vec<String> {
    let short = |name: &str| name.trim_start_matches("access-control-").to_owned();
    let mut said: Vec<_> =
        headers.iter().map(|(name, value)| format!("{}: {}", short(name.as_str()), value.to_str().unwrap())).collect();
    said.sort();
    said
}

#[test]
fn preflights_row_by_row() {
    let named =
        || cors(&["https://www.foo.com", "https://*.bar.com"], &["GET", "OPTIONS"], &["x-1", "x-2"], &["x-3"], true);
    let any = |credentials| cors(&["*"], &["*"], &["*"], &["*"], credentials);
    let bare = || cors(&["https://a"], &[], &[], &[], false);
    type Row = (&'static str, Cors, &'static str, &'static str, Option<&'static str>, &'static [&'static str]);
    let rows: Vec<Row> = vec![
        (
            "everything named",
            named(),
            "https://www.foo.com",
            "GET",
            Some("x-1"),
            &[
                "allow-credentials: true",
                "allow-headers: x-1, x-2",
                "allow-methods: GET, OPTIONS",
                "allow-origin: https://www.foo.com",
                "expose-headers: x-3",
                "max-age: 5",
                "vary: origin",
            ],
        ),
        (
            "what is asked for changes nothing",
            named(),
            "https://a.b.bar.com",
            "DELETE",
            None,
            &[
                "allow-credentials: true",
                "allow-headers: x-1, x-2",
                "allow-methods: GET, OPTIONS",
                "allow-origin: https://a.b.bar.com",
                "expose-headers: x-3",
                "max-age: 5",
                "vary: origin",
            ],
        ),
        ("another origin", named(), "https://foobar.com", "GET", None, &["vary: origin"]),
        ("no origin at all", named(), "null", "GET", None, &["vary: origin"]),
        (
            "anything, without credentials",
            any(false),
            "https://x:1",
            "PUT",
            Some("x-a"),
            &["allow-headers: *", "allow-methods: *", "allow-origin: *", "expose-headers: *", "max-age: 5"],
        ),
        (
            "anything, with credentials",
            any(true),
            "https://x:1",
            "PUT",
            Some("x-a, x-b"),
            &[
                "allow-credentials: true",
                "allow-headers: x-a, x-b",
                "allow-methods: PUT",
                "allow-origin: https://x:1",
                "max-age: 5",
                "vary: origin",
            ],
        ),
        (
            "anything, with credentials, no headers asked",
            any(true),
            "https://x",
            "PUT",
            None,
            &["allow-credentials: true", "allow-methods: PUT", "allow-origin: https://x", "max-age: 5", "vary: origin"],
        ),
        (
            "only an origin",
            bare(),
            "https://a",
            "POST",
            Some("x"),
            &["allow-origin: https://a", "max-age: 5", "vary: origin"],
        ),
    ];
    for (row, cors, origin, method, headers, want) in rows {
        let mut sent = vec![("origin", origin), ("access-control-request-method", method)];
        sent.extend(headers.map(|headers| ("access-control-request-headers", headers)));
        let response = cors.preflight(&request(Method::OPTIONS, &sent)).unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{row}");
        assert_eq!(said(response.headers()), want, "{row}");
    }
}

#[test]
fn only_a_preflight_is_answered() {
    let cors = cors(&["*"], &["*"], &[], &[], false);
    let (origin, asked) = (("origin", "https://a"), ("access-control-request-method", "GET"));
    for (row, method, headers, want) in [
        ("a preflight", Method::OPTIONS, vec![origin, asked], true),
        ("not OPTIONS", Method::GET, vec![origin, asked], false),
        ("no origin", Method::OPTIONS, vec![asked], false),
        ("no method", Method::OPTIONS, vec![origin], false),
    ] {
        assert_eq!(cors.preflight(&request(method, &headers)).is_some(), want, "{row}");
    }
}

#[test]
fn responses_row_by_row() {
    let named = cors(&["https://a"], &["PUT"], &["x"], &["x-3"], true);
    let any = cors(&["*"], &[], &[], &[], false);
    let app: &[(&str, &str)] = &[
        ("access-control-allow-origin", "https://app"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-app"),
    ];
    type Headers<'a> = &'a [(&'a str, &'a str)];
    type Row<'a> = (&'a str, &'a Cors, Headers<'a>, Headers<'a>, &'a [&'a str]);
    let rows: Vec<Row<'_>> = vec![
        (
            "allowed",
            &named,
            &[("origin", "https://a")],
            &[],
            &["allow-credentials: true", "allow-origin: https://a", "expose-headers: x-3", "vary: origin"],
        ),
        (
            "in place of what the app says",
            &named,
            &[("origin", "https://a")],
            app,
            &["allow-credentials: true", "allow-origin: https://a", "expose-headers: x-3", "vary: origin"],
        ),
        ("not allowed, whatever the app says", &named, &[("origin", "https://b")], app, &["vary: origin"]),
        (
            "no browser: the app's stays",
            &named,
            &[],
            app,
            &["allow-credentials: true", "allow-origin: https://app", "expose-headers: x-app", "vary: origin"],
        ),
        ("anybody", &any, &[("origin", "https://b")], app, &["allow-origin: *"]),
        (
            "varies by more",
            &named,
            &[("origin", "https://b")],
            &[("vary", "accept, Origin")],
            &["vary: accept, Origin"],
        ),
        ("varies by all", &named, &[], &[("vary", "*")], &["vary: *"]),
    ];
    for (row, cors, sent, from_app, want) in rows {
        let shared = cors.share(&request(Method::GET, sent).headers);
        let mut response = request(Method::GET, from_app).headers;
        shared.apply(&mut response);
        assert_eq!(said(&response), want, "{row}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let text = |text: &str| vec![text.to_owned()];
    let (origin, method, header) = (text("ftp://a"), text("G T"), text("a b"));
    let of = |config| Cors::new(config).unwrap_err();
    assert_eq!(
        of(CorsConfig { allow_origins: &origin, ..CorsConfig::default() }),
        InvalidCors::Origin("ftp://a".to_owned(), InvalidOrigin)
    );
    assert_eq!(
        of(CorsConfig { allow_methods: &method, ..CorsConfig::default() }),
        InvalidCors::Method("G T".to_owned())
    );
    for config in [
        CorsConfig { allow_headers: &header, ..CorsConfig::default() },
        CorsConfig { expose_headers: &header, ..CorsConfig::default() },
    ] {
        assert_eq!(of(config), InvalidCors::Header("a b".to_owned()));
    }
}
