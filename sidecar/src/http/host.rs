//! The host that a request asks its connection's server for, where that decides where it goes (SEMANTICS.md §1
//! "outbound lookup" 3). Pure.
//!
//! A request for a proxy (`CONNECT`, an absolute target) asks nothing of the kind: the host it names is the proxy's to
//! find, so it counts as none.

use http::header::HOST;
use http::{HeaderMap, Method, Uri, Version};

use super::h1::{HeadLimits, HeadScan, Progress, target};

/// The host of a request that was read, without its port. `None`: it names none, or is for a proxy.
pub fn of_request<'r>(method: &Method, uri: &'r Uri, version: Version, headers: &'r HeaderMap) -> Option<&'r str> {
    if *method == Method::CONNECT {
        return None;
    }
    let authority = match (version, uri.authority()) {
        (Version::HTTP_2, Some(authority)) => authority.as_str(),
        (_, None) => headers.get(HOST)?.to_str().ok()?,
        (_, Some(_)) => return None,
    };
    target::host_of(authority)
}

/// Looks for the host in an HTTP/1 request that is still arriving. Always with a buffer that only grows.
#[derive(Debug, Default)]
pub struct HostScan(HeadScan);

impl HostScan {
    /// `Complete(None)`: there is none, or the head is not one that would be forwarded.
    pub fn read(&mut self, buf: &[u8], limits: &HeadLimits) -> Progress<Option<String>> {
        match self.0.read_request(buf, limits) {
            Ok(Progress::Incomplete) => Progress::Incomplete,
            Ok(Progress::Complete(head)) => {
                let host = of_request(&head.method, &head.uri, head.version, &head.headers);
                Progress::Complete(host.map(str::to_owned))
            }
            Err(_) => Progress::Complete(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_the_request_asks_its_server_for() {
        for (head, host) in [
            ("GET / HTTP/1.1\r\nhost: ext.shop\r\n\r\n", Some("ext.shop")),
            ("GET / HTTP/1.1\r\nHost: Ext.Shop:8080\r\n\r\nbody", Some("Ext.Shop")),
            ("OPTIONS * HTTP/1.1\r\nhost: ext.shop\r\n\r\n", Some("ext.shop")),
            ("GET / HTTP/1.1\r\nhost: [fd00::1]:80\r\n\r\n", Some("[fd00::1]")),
            ("GET / HTTP/1.0\r\n\r\n", None),
            // For a proxy.
            ("GET http://ext.shop/ HTTP/1.1\r\nhost: ext.shop\r\n\r\n", None),
            ("CONNECT ext.shop:443 HTTP/1.1\r\nhost: ext.shop:443\r\n\r\n", None),
            // Nothing that would be forwarded.
            ("GET / HTTP/1.1\r\nhost: ext.shop\r\nhost: other\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", None),
        ] {
            let limits = HeadLimits::default();
            let mut scan = HostScan::default();
            let end = head.find("\r\n\r\n").unwrap() + 4;
            for at in 0..end {
                let early = scan.read(&head.as_bytes()[..at], &limits);
                assert!(
                    matches!(early, Progress::Incomplete | Progress::Complete(None)),
                    "{head:?} at {at}: {early:?}"
                );
            }
            let found = HostScan::default().read(head.as_bytes(), &limits);
            assert_eq!(found, Progress::Complete(host.map(str::to_owned)), "{head:?}");
        }
    }

    #[test]
    fn over_http2_it_is_the_authority() {
        let request = http::Request::get("http://ext.shop:80/").version(Version::HTTP_2).body(()).unwrap();
        let host = |request: &http::Request<()>| {
            of_request(request.method(), request.uri(), request.version(), request.headers()).map(str::to_owned)
        };
        assert_eq!(host(&request).as_deref(), Some("ext.shop"));
        let request = http::Request::connect("ext.shop:80").version(Version::HTTP_2).body(()).unwrap();
        assert_eq!(host(&request), None);
    }
}
