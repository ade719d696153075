use http::{Request, Version};

use super::*;

fn request(uri: &str, host: Option<&str>) -> Parts {
    let mut request = Request::get(uri);
    if let Some(host) = host {
        request = request.header(HOST, host);
    }
    request.body(()).unwrap().into_parts().0
}

/// `HTTPPathModifier.replacePrefixMatch`.
#[test]
fn prefixes_are_replaced_as_in_the_table_of_the_specification() {
    for (path, matched, replacement, want) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        // And beyond it.
        ("/foo", "/foo", "/xyz/", "/xyz"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz"),
        ("/bar", "/", "/", "/bar"),
        ("/", "/", "", "/"),
        ("/foo/%2Fbar/", "/foo", "/x", "/x/%2Fbar/"),
        ("/foo//bar", "/foo", "/x", "/x//bar"),
        ("/foobar", "/foo", "/x", "/foobar"),
        ("*", "/", "/x", "*"),
    ] {
        let edit = PathEdit::prefix(matched, replacement).unwrap();
        assert_eq!(edit.apply(path), want, "{path}: {matched} by {replacement:?}");
    }
    assert_eq!(PathEdit::full("/all").unwrap().apply("/foo/bar"), "/all");
}

#[test]
fn rewrites_row_by_row() {
    let full = |path| Some(PathEdit::full(path).unwrap());
    let prefix = Some(PathEdit::prefix("/a", "/b").unwrap());
    type Row = (&'static str, &'static str, Option<&'static str>, Rewrite, &'static str, Option<&'static str>);
    let rows: Vec<Row> = vec![
        ("path", "/a/x", Some("h"), Rewrite::new("", full("/n")).unwrap(), "/n", Some("h")),
        ("the query is kept", "/a/x?q=1", Some("h"), Rewrite::new("", prefix.clone()).unwrap(), "/b/x?q=1", Some("h")),
        ("an empty query too", "/a?", Some("h"), Rewrite::new("", full("/n")).unwrap(), "/n?", Some("h")),
        ("host", "/a", Some("h:8080"), Rewrite::new("new.example", None).unwrap(), "/a", Some("new.example")),
        ("both", "/a", Some("h"), Rewrite::new("n", prefix.clone()).unwrap(), "/b", Some("n")),
        ("HTTP/1.0 without a host", "/a", None, Rewrite::new("n", None).unwrap(), "/a", Some("n")),
        ("HTTP/2", "http://h/a?q", None, Rewrite::new("n", prefix.clone()).unwrap(), "http://n/b?q", None),
        ("an absolute target", "http://h/a", Some("h"), Rewrite::new("n", None).unwrap(), "http://n/a", Some("n")),
        ("nothing", "/a", Some("h"), Rewrite::new("", None).unwrap(), "/a", Some("h")),
    ];
    for (row, uri, host, rewrite, want, want_host) in rows {
        let mut request = request(uri, host);
        rewrite.apply(&mut request).unwrap();
        assert_eq!(request.uri, want, "{row}");
        assert_eq!(request.headers.get(HOST).map(|host| host.to_str().unwrap()), want_host, "{row}");
    }
}

#[test]
fn a_target_that_cannot_be_sent_is_refused() {
    let long = format!("/a/{}", "x".repeat(65_000));
    let path = PathEdit::prefix("/a", &format!("/{}", "y".repeat(1_000))).unwrap();
    assert_eq!(Rewrite::new("", Some(path)).unwrap().apply(&mut request(&long, None)), Err(Unsendable));
    let mut connect = Request::connect("h:443").body(()).unwrap().into_parts().0;
    assert_eq!(Rewrite::new("n", None).unwrap().apply(&mut connect), Err(Unsendable));
}

#[test]
fn an_edited_host_header_is_the_authority_too() {
    let mut edited = request("http://h/a", Some("n"));
    edited.version = Version::HTTP_2;
    host_edited(&mut edited);
    assert_eq!(edited.uri, "http://n/a");
    for (uri, host) in [("/a", Some("n")), ("http://h/a", None), ("http://h/a", Some("a b"))] {
        let mut left = request(uri, host);
        host_edited(&mut left);
        assert_eq!(left.uri, uri);
    }
}

/// What each redirect says, and what `Location` comes of it. Clients called port 8080 unless the row says otherwise.
#[test]
fn redirects_row_by_row() {
    type Row = (&'static str, &'static str, (&'static str, &'static str, u16, u16), &'static str);
    let host = Some("a.example:99");
    let rows: [Row; 17] = [
        ("nothing but a status", "/x?q=1", ("", "", 0, 8080), "http://a.example:8080/x?q=1"),
        ("port 80 is left out", "/x", ("", "", 0, 80), "http://a.example/x"),
        ("443 of http is not", "/x", ("", "", 0, 443), "http://a.example:443/x"),
        ("a scheme has its own port", "/x", ("https", "", 0, 8080), "https://a.example/x"),
        ("http too", "/x", ("http", "", 0, 8080), "http://a.example/x"),
        ("a port", "/x", ("", "", 8443, 8080), "http://a.example:8443/x"),
        ("port 80 given", "/x", ("", "", 80, 8080), "http://a.example/x"),
        ("scheme and port", "/x", ("https", "", 8443, 8080), "https://a.example:8443/x"),
        ("https and 443", "/x", ("https", "", 443, 8080), "https://a.example/x"),
        ("https and 80", "/x", ("https", "", 80, 8080), "https://a.example:80/x"),
        ("http and 443", "/x", ("http", "", 443, 8080), "http://a.example:443/x"),
        ("a host", "/x", ("", "b.example", 0, 80), "http://b.example/x"),
        ("a host keeps the port", "/x", ("", "b.example", 0, 8080), "http://b.example:8080/x"),
        ("all", "/x?", ("https", "b.example", 444, 80), "https://b.example:444/x?"),
        ("HTTP/2", "http://c.example:7/x", ("", "", 0, 80), "http://c.example/x"),
        ("an address", "http://[fd00::1]:7/x", ("https", "", 0, 80), "https://[fd00::1]/x"),
        ("the server itself", "*", ("", "", 0, 80), "http://a.example/"),
    ];
    for (row, uri, (scheme, hostname, port, called), want) in rows {
        let redirect = Redirect::new(scheme, hostname, None, port, 302, called).unwrap();
        let host = if uri.starts_with("http:") { None } else { host };
        assert_eq!(redirect.location(&request(uri, host)).unwrap(), want, "{row}");
    }
}

#[test]
fn a_redirect_changes_the_path_and_keeps_the_query() {
    for (path, want) in [
        (PathEdit::full("/new").unwrap(), "http://h/new?q=%20"),
        (PathEdit::prefix("/old", "/new").unwrap(), "http://h/new/x?q=%20"),
        (PathEdit::prefix("/old", "").unwrap(), "http://h/x?q=%20"),
    ] {
        let redirect = Redirect::new("", "", Some(path), 0, 301, 80).unwrap();
        assert_eq!(redirect.location(&request("/old/x?q=%20", Some("h"))).unwrap(), want);
    }
}

#[test]
fn without_a_host_the_location_is_relative_and_never_another_host() {
    let redirect = Redirect::new("", "", None, 0, 302, 80).unwrap();
    for (path, want) in [("/x?q", "/x?q"), ("//evil.example/x", "/.//evil.example/x")] {
        assert_eq!(redirect.location(&request(path, None)).unwrap(), want);
    }
    let hosted = Redirect::new("", "b.example", None, 0, 302, 80).unwrap();
    assert_eq!(hosted.location(&request("/x", None)).unwrap(), "http://b.example/x");
}

#[test]
fn what_no_url_can_have_is_refused_by_name() {
    for path in ["", "a", "/a?b", "/a#b", "/a b", "/ä"] {
        assert_eq!(PathEdit::full(path), Err(InvalidUrl::Path(path.to_owned())));
        assert_eq!(PathEdit::prefix(path, "/a"), Err(InvalidUrl::Path(path.to_owned())));
    }
    assert_eq!(PathEdit::prefix("/a", "b"), Err(InvalidUrl::Path("b".to_owned())));
    for host in ["a b", "a/b", "a,b", "u@h"] {
        assert_eq!(Rewrite::new(host, None), Err(InvalidUrl::Host(host.to_owned())));
    }
    assert_eq!(Redirect::new("ftp", "", None, 0, 302, 80), Err(InvalidUrl::Scheme("ftp".to_owned())));
    for status in [0, 200, 300, 304, 309, 70_000] {
        assert_eq!(Redirect::new("", "", None, 0, status, 80), Err(InvalidUrl::Status(status)));
    }
}
