use super::*;

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn hop_by_hop_fields_stay_behind() {
    let mut headers = map(&[
        ("connection", "close, X-Hop,, keep-alive"),
        ("connection", "x-other"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABk"),
        ("te", "gzip"),
        ("accept", "*/*"),
        ("trailer", "x-sum"),
    ]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(names(&headers), ["accept", "trailer"]);
}

#[test]
fn te_survives_only_as_trailers() {
    for (te, expected) in [
        ("trailers", Some("trailers")),
        ("Trailers", Some("trailers")),
        ("gzip, trailers;q=0.5", Some("trailers")),
        ("gzip", None),
        ("", None),
    ] {
        let mut headers = map(&[("connection", "te"), ("te", te)]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.get(TE).map(|value| value.to_str().unwrap()), expected, "{te:?}");
    }
}

#[test]
fn connection_cannot_take_out_what_is_meant_for_the_recipient() {
    let mut headers = map(&[
        ("connection", "host, content-length, content-type, authorization, cookie, x-drop, not a token"),
        ("host", "a"),
        ("content-length", "1"),
        ("content-type", "application/grpc"),
        ("authorization", "secret"),
        ("cookie", "a=b"),
        ("x-drop", "1"),
    ]);
    strip_hop_by_hop(&mut headers);
    assert_eq!(names(&headers), ["authorization", "content-length", "content-type", "cookie", "host"]);
}

#[test]
fn only_a_verified_peer_may_say_ours() {
    let all = [
        ("x-weft-version", "1.1"),
        ("x-weft-deadline-ms", "100"),
        ("x-weft-anything-new", "1"),
        ("x-forwarded-client-cert", "By=x"),
        ("x-weftless", "1"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    let mut headers = map(&all);
    strip_untrusted(&mut headers, false);
    assert_eq!(names(&headers), ["x-forwarded-for", "x-weftless"]);
    let mut headers = map(&all);
    strip_untrusted(&mut headers, true);
    assert_eq!(names(&headers), ["x-forwarded-for", "x-weft-deadline-ms", "x-weftless"]);
}

#[test]
fn grpc_is_known_by_its_content_type() {
    for (value, expected) in [
        ("application/grpc", true),
        ("Application/gRPC", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/grpcish", false),
        ("application/json", false),
    ] {
        assert_eq!(is_grpc(&map(&[("content-type", value)])), expected, "{value}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn an_upgrade_is_one_that_is_asked_for_on_this_connection() {
    let websocket = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
    assert!(is_tunnel(&Method::GET, Version::HTTP_11, &websocket));
    assert!(!is_tunnel(&Method::GET, Version::HTTP_10, &websocket), "it means nothing there");
    assert!(!is_tunnel(&Method::GET, Version::HTTP_11, &map(&[("upgrade", "websocket")])));
    assert!(!is_tunnel(&Method::GET, Version::HTTP_11, &map(&[("connection", "upgrade"), ("upgrade", "h2c")])));
    for (version, tunnels) in [(Version::HTTP_10, true), (Version::HTTP_11, true), (Version::HTTP_2, false)] {
        assert_eq!(is_tunnel(&Method::CONNECT, version, &HeaderMap::new()), tunnels, "{version:?}");
    }
}

#[test]
fn who_expects_to_be_told_to_continue_speaks_1_1_at_least() {
    for (version, value, expects) in [
        (Version::HTTP_11, "100-continue", true),
        (Version::HTTP_11, "100-Continue", true),
        (Version::HTTP_2, "100-continue", true),
        (Version::HTTP_10, "100-continue", false),
        (Version::HTTP_11, "200-ok", false),
    ] {
        assert_eq!(expects_continue(version, &map(&[("expect", value)])), expects, "{version:?} {value}");
    }
}
