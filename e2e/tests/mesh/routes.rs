//! What an HTTPRoute's rules do, as the server saw it and as the client got it: stricter than the conformance suite, which
//! looks at neither the rewritten path nor the `Location`, counts no copies and measures no time (SEMANTICS.md §2).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_e2e::PodSpec;
use weft_e2e::manifest::{Port, labels};
use weft_e2e::probe::{self, Answer};
use weft_e2e::stats::Served;

use crate::shop::{Shop, pause};

/// `reviews` has two versions, `mirror` a server of its own, and this route is in front.
const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: demo}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, port: 80}]
  rules:
  - matches: [{path: {type: Exact, value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, hostname: shop.example, port: 8443, statusCode: 301}
  - matches: [{path: {value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 307}
  - matches: [{path: {value: /api/v1}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: internal.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /whole}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /headers}}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /copied}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: mirror, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: mirror, port: 80}, percent: 25}}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /cross}}]
    filters:
    - type: CORS
      cors:
        allowOrigins: [https://shop.example, 'https://*.partner.example']
        allowMethods: [GET, PUT]
        allowHeaders: [x-basket]
        exposeHeaders: [x-server]
        allowCredentials: true
        maxAge: 600
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /slow}, queryParams: [{name: limit, value: request}]}]
    timeouts: {request: 1s}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /slow}}]
    timeouts: {backendRequest: 500ms}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /status}}]
    retry: {codes: [503], attempts: 3, backoff: 10ms}
    backendRefs: [{name: reviews-v1, port: 80}]
  - matches: [{path: {value: /basket}}]
    sessionPersistence: {sessionName: basket}
    backendRefs: [{name: reviews-v1, port: 80, weight: 1}, {name: reviews-v2, port: 80, weight: V2}]
  - matches: [{path: {value: /shared}}]
    backendRefs: [{name: reviews-v1, port: 80, weight: 7}, {name: reviews-v2, port: 80, weight: 3}]
";

fn route(shop: &Shop, weight_of_v2: u32) {
    shop.mesh.manifests().write("route", &ROUTE.replace("V2", &weight_of_v2.to_string())).unwrap();
}

/// One request on a connection of its own; the answer, and what the servers wrote down of it.
fn ask(shop: &Shop, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: reviews\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n");
    let text = shop.raw(request.as_bytes());
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Answer { status, text }
}

/// What was served to the request of this id.
fn served_as(shop: &Shop, id: &str) -> Vec<Served> {
    shop.served().into_iter().filter(|one| one.id == id).collect()
}

#[test]
fn what_a_route_says_is_what_clients_and_servers_see() {
    let mut shop = Shop::new("routes", 0);
    let http = [Port::new("http", 80, 8080)];
    for (service, app, version) in
        [("reviews-v1", "reviews", "v1"), ("reviews-v2", "reviews", "v2"), ("mirror", "mirror", "m")]
    {
        let selector = labels([("app", app), ("version", version)]);
        shop.mesh.service("demo", service, &http, selector).unwrap();
        shop.add(PodSpec::meshed(version, app).label("version", version));
    }
    route(&shop, 1);
    probe::wait_until("the route", Duration::from_secs(15), || ask(&shop, "GET", "/moved", &[]).status == 301).unwrap();
    redirects(&shop);
    rewrites(&shop);
    cross_origin(&shop);
    timeouts_and_retries(&shop);
    mirrors(&shop);
    sessions(&shop);
    shares(&shop);
}

fn redirects(shop: &Shop) {
    for (path, status, location) in [
        ("/moved?a=b", 301, "https://shop.example:8443/moved?a=b"),
        ("/old/book?page=2", 307, "http://reviews/new/book?page=2"),
        ("/old", 307, "http://reviews/new"),
    ] {
        let got = ask(shop, "GET", path, &[]);
        assert_eq!((got.status, got.header("location")), (status, Some(location)), "{path}: {}", got.text);
    }
}

fn rewrites(shop: &Shop) {
    for (id, path, seen) in [
        ("prefix", "/api/v1/books/3?x=%20y", "/books/3?x=%20y"),
        ("prefix-alone", "/api/v1", "/"),
        ("whole", "/whole/of/it?kept=yes", "/headers?kept=yes"),
    ] {
        let got = ask(shop, "GET", path, &[("x-request-id", id)]);
        assert_eq!(got.status, 200, "{path}: {}", got.text);
        let served = served_as(shop, id);
        assert_eq!(served.iter().map(|one| &*one.path).collect::<Vec<_>>(), [seen], "{path}");
    }
    let got = ask(shop, "GET", "/api/v1/headers", &[]);
    assert!(got.body().lines().any(|line| line == "host: internal.example"), "{}", got.text);
}

fn cross_origin(shop: &Shop) {
    let preflight = |origin: &str| {
        let asks = [("origin", origin), ("access-control-request-method", "PUT"), ("x-request-id", "preflight")];
        ask(shop, "OPTIONS", "/cross", &asks)
    };
    for origin in ["https://shop.example", "https://a.partner.example"] {
        let got = preflight(origin);
        assert_eq!(got.header("access-control-allow-origin"), Some(origin), "{}", got.text);
        assert_eq!(got.header("access-control-max-age"), Some("600"));
        assert_eq!(got.header("access-control-allow-credentials"), Some("true"));
        assert!(got.header("access-control-allow-methods").is_some_and(|list| list.contains("PUT")), "{}", got.text);
        let got = ask(shop, "GET", "/cross", &[("origin", origin)]);
        assert_eq!((got.status, got.header("access-control-allow-origin")), (200, Some(origin)), "{}", got.text);
        assert_eq!(got.header("access-control-expose-headers"), Some("x-server"));
    }
    assert_eq!(preflight("https://elsewhere.example").header("access-control-allow-origin"), None);
    assert_eq!(served_as(shop, "preflight").len(), 0, "preflights are answered by the sidecar");
}

fn timeouts_and_retries(shop: &Shop) {
    // What may be repeated is, twice where a rule does not say otherwise, and each try has the time of one.
    let rows = [
        ("GET", "request", "/slow?ms=3000&limit=request", 1000, 1),
        ("POST", "one-try", "/slow?ms=3000", 500, 1),
        ("GET", "three-tries", "/slow?ms=3000", 1500, 3),
    ];
    for (method, id, path, wanted, tries) in rows {
        let began = Instant::now();
        let got = ask(shop, method, path, &[("x-request-id", id)]);
        let took = began.elapsed().as_millis();
        assert_eq!((got.status, served_as(shop, id).len()), (504, tries), "{method} {path}: {}", got.text);
        assert!((wanted..wanted + wanted / 10).contains(&took), "{path}: after {took} ms, {wanted} were asked for");
    }
    for (id, path, tries) in [("retried", "/status/503", 4), ("not-listed", "/status/500", 1)] {
        let got = ask(shop, "GET", path, &[("x-request-id", id)]);
        assert_eq!(got.status.to_string(), path.rsplit('/').next().unwrap());
        assert_eq!(served_as(shop, id).len(), tries, "{path}");
    }
}

fn mirrors(shop: &Shop) {
    const SENT: usize = 200;
    for n in 0..SENT {
        assert_eq!(ask(shop, "GET", "/copied/that?n=1", &[("x-request-id", &format!("copied-{n}"))]).status, 200);
    }
    let copies = || shop.served().into_iter().filter(|one| one.server == "m" && one.id.starts_with("copied-")).count();
    probe::wait_until("a copy of each request", Duration::from_secs(5), || copies() >= SENT).unwrap();
    pause(Duration::from_millis(500));
    let twice = copies() - SENT;
    // A quarter of 200, within four standard deviations.
    assert!((26..=74).contains(&twice), "{twice} of {SENT} were copied a second time, a quarter should be");
    let seen: Vec<_> = shop.served().into_iter().filter(|one| one.id == "copied-0" && one.server == "m").collect();
    assert!(
        !seen.is_empty() && seen.iter().all(|one| one.path == "/copied/that?n=1" && one.method == "GET"),
        "{seen:?}"
    );
}

fn sessions(shop: &Shop) {
    let session = |got: &Answer| {
        let cookie = got.header("set-cookie")?;
        Some(cookie.split(';').next()?.to_owned())
    };
    // One client at each version.
    let mut held = BTreeMap::new();
    probe::wait_until("a session at each version", Duration::from_secs(10), || {
        let got = ask(shop, "GET", "/basket", &[]);
        let cookie = session(&got).unwrap_or_else(|| panic!("no session: {}", got.text));
        assert!(cookie.starts_with("basket="), "{cookie}");
        held.insert(got.header("x-server").unwrap_or_default().to_owned(), cookie);
        held.len() == 2
    })
    .unwrap();
    let stays = |when: &str| {
        for (server, cookie) in &held {
            for _ in 0..20 {
                let got = ask(shop, "GET", "/basket", &[("cookie", cookie)]);
                assert_eq!(got.header("x-server"), Some(&**server), "{when}: {}", got.text);
            }
        }
    };
    stays("at equal weights");
    route(shop, 0);
    probe::wait_until("no new session at v2", Duration::from_secs(5), || {
        (0..20).all(|_| ask(shop, "GET", "/basket", &[]).header("x-server") == Some("v1"))
    })
    .unwrap();
    stays("when v2 weighs nothing");
}

/// Seven to three, by chi-square at one in ten thousand.
fn shares(shop: &Shop) {
    const SENT: u32 = 1_000;
    let mut first = 0;
    for _ in 0..SENT {
        let got = ask(shop, "GET", "/shared", &[]);
        assert_eq!(got.status, 200, "{}", got.text);
        first += u32::from(got.header("x-server") == Some("v1"));
    }
    let (all, seen) = (f64::from(SENT), f64::from(first));
    let chi_square = (seen - 0.7 * all).powi(2) / (0.7 * all) + (all - seen - 0.3 * all).powi(2) / (0.3 * all);
    println!("{first} of {SENT} went to v1, 700 expected: chi-square {chi_square:.2}");
    assert!(chi_square < 15.14, "{first} of {SENT} went to v1: chi-square {chi_square:.2}");
}
