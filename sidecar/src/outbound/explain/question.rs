//! A question → the request that the app's client would send. Pure.
//!
//! Of HTTP that is HTTP/1.1 in origin form; of gRPC a POST over HTTP/2. A TLS client's requests are its own secret.

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri, Version};
use weft_proto::explain::Question;

use crate::http::hygiene;

/// Headers in one question.
const MAX_HEADERS: usize = 100;
/// Said wherever the URL is not one.
const FORMS: &str = "say http://HOST[:PORT]/PATH, https://HOST[:PORT] or grpc://HOST[:PORT]/SERVICE/METHOD";

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http,
    Tls,
    Grpc,
}

/// What is asked, understood.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) speaks: Speaks,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether the URL names it.
    pub(super) port_given: bool,
    /// As the sidecar gets it; of a TLS client nothing.
    pub(super) request: Parts,
}

/// Understands a question.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn read(question: &Question) -> Result<Asking, String> {
    let url = &question.url;
    let uri: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL ({error}): {FORMS}"))?;
    let (speaks, default) = match uri.scheme_str() {
        Some("http") => (Speaks::Http, 80),
        Some("https") => (Speaks::Tls, 443),
        Some("grpc") => (Speaks::Grpc, 80),
        _ => return Err(format!("{url:?} does not say what the client speaks: {FORMS}")),
    };
    let authority =
        uri.authority().filter(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
    let authority = authority.ok_or_else(|| format!("{url:?} names no host: {FORMS}"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut request = match speaks {
        Speaks::Http => http_request(&question.method, authority, path)?,
        Speaks::Grpc => call(authority, path)?,
        Speaks::Tls => http::Request::new(()).into_parts().0,
    };
    if question.headers.len() > MAX_HEADERS {
        return Err(format!("{} headers are more than {MAX_HEADERS}", question.headers.len()));
    }
    let mut given = http::HeaderMap::new();
    for (name, value) in &question.headers {
        let parsed = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| format!("{name:?} is not the name of a header"))?;
        let value =
            HeaderValue::from_str(value.trim()).map_err(|_| format!("no header can have the value {value:?}"))?;
        given.append(parsed, value);
    }
    // What is given takes the place of what every client sends.
    given.keys().for_each(|name| drop(request.headers.remove(name)));
    request.headers.extend(given);
    // As the forwarding path does first of all.
    hygiene::strip_untrusted(&mut request.headers, true);
    Ok(Asking {
        speaks,
        host,
        port: authority.port_u16().unwrap_or(default),
        port_given: authority.port().is_some(),
        request,
    })
}

fn http_request(method: &str, authority: &Authority, path: PathAndQuery) -> Result<Parts, String> {
    let method = if method.is_empty() { Method::GET } else { method_of(method)? };
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = Uri::from(path);
    let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    parts.headers.insert(HOST, host);
    Ok(parts)
}

fn call(authority: &Authority, path: PathAndQuery) -> Result<Parts, String> {
    let whole = path.path().strip_prefix('/').and_then(|path| path.split_once('/'));
    if !whole.is_some_and(|(service, method)| !service.is_empty() && !method.is_empty() && !method.contains('/')) {
        return Err(format!("{:?} is no gRPC call: say grpc://HOST[:PORT]/SERVICE/METHOD", path.as_str()));
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.version) = (Method::POST, Version::HTTP_2);
    let uri = Uri::builder().scheme("http").authority(authority.clone()).path_and_query(path).build();
    parts.uri = uri.map_err(|error| error.to_string())?;
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    Ok(parts)
}

fn method_of(text: &str) -> Result<Method, String> {
    let unfit = || format!("{text:?} is not a method: say GET, POST and the like");
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes()).map_err(|_| unfit())?;
    // Its target has another form, and it is nobody's route.
    if method == Method::CONNECT { Err(unfit()) } else { Ok(method) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(method: &str, url: &str, headers: &[(&str, &str)]) -> Question {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Question { method: method.to_owned(), url: url.to_owned(), headers }
    }

    #[test]
    fn a_question_is_the_request_that_a_client_would_send() {
        let rows = [
            ("", "http://reviews/v2?a=b", "Http reviews 80 false: GET /v2?a=b HTTP/1.1 host=reviews"),
            ("post", "http://reviews.shop:9080", "Http reviews.shop 9080 true: POST / HTTP/1.1 host=reviews.shop:9080"),
            ("", "http://[fd00::7]:80/", "Http fd00::7 80 true: GET / HTTP/1.1 host=[fd00::7]:80"),
            (
                "GET",
                "grpc://reviews/pkg.Svc/Call",
                "Grpc reviews 80 false: POST http://reviews/pkg.Svc/Call HTTP/2.0 content-type=application/grpc te=trailers",
            ),
            ("", "https://db.example.com/x", "Tls db.example.com 443 false: GET / HTTP/1.1"),
        ];
        for (method, url, expected) in rows {
            let Asking { speaks, host, port, port_given, request } = read(&question(method, url, &[])).unwrap();
            let headers = request.headers.iter().map(|(name, value)| format!(" {name}={}", value.to_str().unwrap()));
            let headers: String = headers.collect();
            let text = format!(
                "{speaks:?} {host} {port} {port_given}: {} {} {:?}{headers}",
                request.method, request.uri, request.version
            );
            assert_eq!(text, expected, "{url}");
        }
    }

    #[test]
    fn headers_are_as_the_forwarding_path_would_see_them() {
        let headers = [("X-User", "a"), ("host", "other"), ("x-user", " b "), ("x-weft-version", "1.0")];
        let asking = read(&question("", "http://reviews/", &headers)).unwrap();
        let all = |name: &str| asking.request.headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-user"), ["a", "b"]);
        assert_eq!(all("host"), ["other"]);
        assert_eq!(all("x-weft-version"), [""; 0], "nobody believes an app about that");
    }

    #[test]
    fn what_is_no_request_is_refused_with_what_to_say() {
        for (method, url, header, says) in [
            ("", "reviews", None, "does not say what the client speaks"),
            ("", "reviews/v2", None, "say http://HOST"),
            ("", "ftp://reviews/v2", None, "say http://HOST"),
            ("", "http:///v2", None, "is not a URL"),
            ("", "http://a b/", None, "is not a URL"),
            ("", "http://user@reviews/", None, "names no host"),
            ("", "grpc://reviews/Call", None, "grpc://HOST[:PORT]/SERVICE/METHOD"),
            ("", "grpc://reviews/a/b/c", None, "no gRPC call"),
            ("G T", "http://reviews/", None, "not a method"),
            ("CONNECT", "http://reviews/", None, "not a method"),
            ("", "http://reviews/", Some(("a b", "")), "not the name of a header"),
            ("", "http://reviews/", Some(("a", "x\ny")), "no header can have the value"),
        ] {
            let refused = read(&question(method, url, &header.into_iter().collect::<Vec<_>>())).unwrap_err();
            assert!(refused.contains(says), "{method} {url} {header:?}: {refused}");
        }
    }
}
