//! One test per item of SEMANTICS.md §1, "HTTP/1 over the h2 leg", that is a matter of heads. RST in mid-body belongs to
//! the connections; a response with two lengths is refused where it is read (`h1::head`).

use http::{Request, Response};

use super::*;
use crate::http::h1::{Framing, HeadLimits, Progress, head};

const H10: Version = Version::HTTP_10;
const H11: Version = Version::HTTP_11;

/// What the outbound side reads from its app.
fn received(text: &str) -> request::Parts {
    let Ok(Progress::Complete(head)) = head::read_request(text.as_bytes(), &HeadLimits::default()) else {
        panic!("{text:?} is not read")
    };
    let mut request = Request::new(());
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    request.into_parts().0
}

fn travels(text: &str) -> request::Parts {
    let parts = received(text);
    let version = parts.version;
    to_mesh_h2(parts, version).unwrap_or_else(|conflict| panic!("{text:?}: {conflict}"))
}

fn there(text: &str) -> (request::Parts, AppVersion) {
    from_mesh_h2(travels(text)).unwrap_or_else(|conflict| panic!("{text:?}: {conflict}"))
}

fn h2_request(uri: &str, fields: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri).version(Version::HTTP_2);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn fields(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    fields.sort_by_key(|field| field.0);
    fields
}

#[test]
fn the_clients_version_travels_and_is_restored() {
    for (version, app, name) in [(H10, AppVersion::Http10, "1.0"), (H11, AppVersion::Http11, "1.1")] {
        let text = format!("GET /a?b HTTP/{name}\r\nHost: h:81\r\n\r\n");
        let parts = travels(&text);
        assert_eq!(parts.version, Version::HTTP_2);
        assert_eq!(parts.uri, "http://h:81/a?b");
        assert_eq!(fields(&parts.headers), [("x-weft-version", name)]);

        let (parts, restored) = from_mesh_h2(parts).unwrap();
        assert_eq!((restored, parts.version), (app, version));
        assert_eq!(parts.uri, "/a?b");
        assert_eq!(fields(&parts.headers), [("host", "h:81")]);
    }
}

#[test]
fn no_version_means_h2c_and_nothing_is_rewritten() {
    let parts = to_mesh_h2(h2_request("http://h/a", &[("cookie", "a"), ("cookie", "b")]), Version::HTTP_2).unwrap();
    assert!(!parts.headers.contains_key("x-weft-version"));
    let (parts, app) = from_mesh_h2(parts).unwrap();
    assert_eq!(app, AppVersion::H2);
    assert_eq!(parts.uri, "http://h/a");
    assert_eq!(parts.version, Version::HTTP_2);
    assert_eq!(parts.headers.get_all("cookie").iter().count(), 2);
}

#[test]
fn a_client_cannot_choose_the_version_that_travels() {
    let parts = to_mesh_h2(h2_request("http://h/", &[("x-weft-version", "1.0")]), Version::HTTP_2).unwrap();
    assert!(!parts.headers.contains_key("x-weft-version"));
    let parts = travels("GET / HTTP/1.1\r\nHost: h\r\nX-Weft-Version: 1.0\r\nX-Weft-Version: 2\r\n\r\n");
    assert_eq!(fields(&parts.headers), [("x-weft-version", "1.1")]);
}

#[test]
fn host_and_authority_that_disagree_are_refused_both_ways() {
    for (uri, hosts, expected) in [
        ("http://a/", &["b"][..], Err(Conflict::Host)),
        ("http://a:81/", &["a"], Err(Conflict::Host)),
        ("http://a/", &["a", "a"], Err(Conflict::SeveralHosts)),
        ("/", &["a", "b"], Err(Conflict::SeveralHosts)),
        ("/", &["a/b"], Err(Conflict::InvalidHost)),
        ("http://u@a/", &[], Err(Conflict::InvalidHost)),
        ("http://a/", &["A:80"], Ok(())),
        ("http://a/", &[], Ok(())),
    ] {
        let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        for version in [H11, Version::HTTP_2] {
            let got = to_mesh_h2(h2_request(uri, &fields), version).map(|_| ());
            assert_eq!(got, expected, "outbound {version:?} {uri} {hosts:?}");
        }
        for version in [None, Some(("x-weft-version", "1.1"))] {
            let fields: Vec<_> = fields.iter().copied().chain(version).collect();
            let got = from_mesh_h2(h2_request(uri, &fields)).map(|_| ());
            assert_eq!(got, expected, "inbound {uri} {fields:?}");
        }
    }
}

#[test]
fn an_agreeing_host_next_to_authority_is_dropped() {
    let parts = to_mesh_h2(h2_request("http://a/", &[("host", "a")]), Version::HTTP_2).unwrap();
    assert!(!parts.headers.contains_key(HOST));
    let (parts, _) = from_mesh_h2(h2_request("http://a/", &[("host", "a")])).unwrap();
    assert!(!parts.headers.contains_key(HOST));
}

#[test]
fn h2_without_authority_takes_host() {
    let parts = to_mesh_h2(h2_request("/x", &[("host", "a")]), Version::HTTP_2).unwrap();
    assert_eq!(parts.uri, "http://a/x");
}

#[test]
fn an_absolute_target_becomes_authority_and_path() {
    let parts = travels("GET http://h:81/a?b HTTP/1.1\r\nHost: h:81\r\n\r\n");
    assert_eq!(parts.uri, "http://h:81/a?b");
    let (parts, _) = there("GET http://h?b HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(parts.uri, "/?b");
    assert_eq!(parts.headers[HOST], "h");
}

#[test]
fn options_of_the_server_itself_stays_that() {
    for target in ["*", "http://h"] {
        let text = format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let parts = travels(&text);
        assert_eq!(parts.uri.authority().unwrap(), "h");
        assert_eq!(parts.uri.path_and_query().unwrap(), "*");
        let (parts, _) = from_mesh_h2(parts).unwrap();
        assert_eq!((parts.uri.to_string(), parts.method), ("*".to_owned(), Method::OPTIONS));
    }
}

#[test]
fn a_request_that_names_no_host_travels_without_authority() {
    let parts = travels("GET /a HTTP/1.0\r\n\r\n");
    // What the h2 crate wants to see to leave `:authority` out.
    assert_eq!((parts.version, parts.uri.authority()), (H11, None));
    let (parts, app) = from_mesh_h2(parts).unwrap();
    assert_eq!(app, AppVersion::Http10);
    assert!(!parts.headers.contains_key(HOST));
    // A 1.1 request without a host cannot be restored.
    assert_eq!(from_mesh_h2(h2_request("/a", &[("x-weft-version", "1.1")])).unwrap_err(), Conflict::InvalidHost);
}

#[test]
fn cookie_crumbs_are_joined() {
    let crumbs = [("x-weft-version", "1.1"), ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")];
    let (parts, _) = from_mesh_h2(h2_request("http://h/", &crumbs)).unwrap();
    assert_eq!(parts.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
}

#[test]
fn hop_by_hop_fields_do_not_travel() {
    let parts = travels(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AA\r\nTransfer-Encoding: chunked\r\nX-Stay: 1\r\n\r\n",
    );
    assert_eq!(fields(&parts.headers), [("x-stay", "1"), ("x-weft-version", "1.1")]);
}

#[test]
fn te_travels_only_as_trailers_and_only_if_the_client_said_so() {
    for (field, expected) in [
        ("", None),
        ("TE: trailers\r\n", Some("trailers")),
        ("TE: gzip, trailers\r\n", Some("trailers")),
        ("TE: gzip\r\n", None),
    ] {
        let (parts, _) = there(&format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: te\r\n{field}\r\n"));
        assert_eq!(parts.headers.get("te").map(|te| te.to_str().unwrap()), expected, "{field:?}");
    }
}

#[test]
fn lengths_and_expectations_of_a_request_travel() {
    let (parts, _) = there("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(fields(&parts.headers), [("content-length", "5"), ("expect", "100-continue"), ("host", "h")]);
}

#[test]
fn tunnels_do_not_travel_in_a_stream() {
    let parts = received("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n");
    assert_eq!(to_mesh_h2(parts, H11).unwrap_err(), Conflict::Tunnel);
    let parts = Response::builder().status(101).body(()).unwrap().into_parts().0;
    assert_eq!(response_to_mesh_h2(parts).unwrap_err(), Conflict::Tunnel);
}

fn back(status: u16, given: &[(&str, &str)], client: AppVersion) -> response::Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in given {
        response = response.header(*name, *value);
    }
    let parts = response_to_mesh_h2(response.body(()).unwrap().into_parts().0).unwrap();
    assert_eq!(parts.version, Version::HTTP_2);
    let mut response = Response::from_parts(parts, ());
    response_from_mesh_h2(&mut response, client);
    response.into_parts().0
}

#[test]
fn hop_by_hop_fields_of_a_response_do_not_travel() {
    let given = [
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("server", "nginx"),
        ("set-cookie", "a"),
        ("set-cookie", "b"),
    ];
    let parts = back(200, &given, AppVersion::Http11);
    assert_eq!(parts.version, H11);
    assert_eq!(fields(&parts.headers), [("server", "nginx"), ("set-cookie", "a"), ("set-cookie", "b")]);
}

#[test]
fn a_length_survives_with_head_and_304_and_not_with_1xx_and_204() {
    for (name, status, kept) in
        [("200, also to HEAD", 200, true), ("304", 304, true), ("204", 204, false), ("103", 103, false)]
    {
        let parts = back(status, &[("content-length", "9")], AppVersion::Http11);
        assert_eq!(parts.headers.contains_key(CONTENT_LENGTH), kept, "{name}");
    }
}

#[test]
fn informational_responses_are_not_for_1_0() {
    assert!(AppVersion::Http11.knows_informational() && AppVersion::H2.knows_informational());
    assert!(!AppVersion::Http10.knows_informational());
    let parts = back(103, &[("link", "</a>")], AppVersion::Http11);
    assert_eq!(fields(&parts.headers), [("link", "</a>")]);
}

#[test]
fn a_response_of_unknown_length_ends_with_the_connection_for_1_0() {
    let parts = back(200, &[("transfer-encoding", "chunked")], AppVersion::Http10);
    assert_eq!(parts.version, H10);
    let framing = Framing::for_response(&Method::GET, parts.status, parts.version, None, false);
    assert_eq!(framing, Framing::UntilClose);
}

#[test]
fn a_reason_phrase_does_not_outlive_the_leg() {
    let text = b"HTTP/1.1 200 Fine\r\n\r\n";
    let Ok(Progress::Complete(head)) = head::read_response(text, &Method::GET, &HeadLimits::default()) else {
        panic!()
    };
    let response = Response::builder().extension(head.reason.unwrap()).body(()).unwrap();
    let parts = response_to_mesh_h2(response.into_parts().0).unwrap();
    assert!(parts.extensions.get::<ReasonPhrase>().is_none());
}

/// What the `h2` crate makes of translated heads on a real leg: in particular `*`, and no `:authority` at all.
#[tokio::test]
async fn translated_heads_survive_a_real_leg() {
    let texts = [
        ("GET /a?b HTTP/1.1\r\nHost: h:81\r\n\r\n", "/a?b", Some("h:81")),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "*", Some("h")),
        ("GET /a HTTP/1.0\r\n\r\n", "/a", None),
        ("GET //a HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nCookie: a=b\r\n\r\n", "//a", Some("h")),
    ];
    let (near, far) = tokio::io::duplex(64 * 1024);
    let serve = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        for (text, uri, host) in texts {
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let (parts, app) = from_mesh_h2(request.into_parts().0).unwrap();
            assert_eq!(parts.uri, uri, "{text:?}");
            assert_eq!(parts.headers.get(HOST).map(|host| host.to_str().unwrap()), host, "{text:?}");
            assert_eq!(parts.version, app.version());
            assert!(!parts.headers.contains_key("x-weft-version"));
            respond.send_response(Response::new(()), true).unwrap();
        }
        // Drives the last answer out. The client closes the pipe at its leisure, so how this ends says nothing.
        assert!(!matches!(connection.accept().await, Some(Ok(_))));
    };
    let ask = async {
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let connection = tokio::spawn(connection);
        for (text, ..) in texts {
            send = send.ready().await.unwrap();
            let request = Request::from_parts(travels(text), ());
            let (response, _) = send.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200, "{text:?}");
        }
        drop(send);
        connection.await.unwrap().unwrap();
    };
    tokio::join!(serve, ask);
}
