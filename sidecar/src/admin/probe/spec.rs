//! `WEFT_PROBES`: what injection wrote down of the pod's probes and hooks. Read once, at the start; whatever is wrong is
//! told at once and all together.
//!
//! ```json
//! {"SECRET.app/readiness": {"http": {"port": 8080, "path": "/ready", "scheme": "HTTPS", "headers": [["x", "y"]], "timeoutSeconds": 2}},
//!  "SECRET.app/liveness":  {"tcp": {"port": 5432}},
//!  "SECRET.app/startup":   {"grpc": {"port": 9000, "service": "shop.Cart"}}}
//! ```
//!
//! A control plane that is older than secrets writes none, and asks for none: such a probe is anybody's to run.
//!
//! Bound: [`MAX_PROBES`].

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use weft_proto::ProbeSecret;

/// Probes of one pod: five for each of some fifty containers.
const MAX_PROBES: usize = 256;
/// kubelet's timeout where the object names none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// By `CONTAINER/KIND`.
pub type ProbeSpecs = BTreeMap<Box<str>, Spec>;

/// One probe or hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What who asks for it must know; none: anybody may ask.
    pub secret: Option<ProbeSecret>,
    /// When kubelet runs it.
    pub kind: Kind,
    /// What it does.
    pub check: Check,
    /// How long a probe may take: 1 s by default, as kubelet's.
    pub timeout: Duration,
}

/// When kubelet runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `readinessProbe`
    Readiness,
    /// `livenessProbe`
    Liveness,
    /// `startupProbe`
    Startup,
    /// `lifecycle.postStart`
    PostStart,
    /// `lifecycle.preStop`
    PreStop,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "readiness" => Self::Readiness,
            "liveness" => Self::Liveness,
            "startup" => Self::Startup,
            "post-start" => Self::PostStart,
            "pre-stop" => Self::PreStop,
            _ => return None,
        })
    }

    /// A hook: done when the app has answered, whatever it says.
    pub fn is_hook(self) -> bool {
        matches!(self, Self::PostStart | Self::PreStop)
    }
}

/// What it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// GET, and the status tells.
    Http(HttpCheck),
    /// A connection is taken.
    Tcp(TcpCheck),
    /// `grpc.health.v1.Health/Check`
    Grpc(GrpcCheck),
}

/// `httpGet`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// The app's port.
    pub port: NonZeroU16,
    /// Path and query.
    pub path: String,
    /// By TLS; no certificate is verified.
    pub tls: bool,
    /// Dialled in place of the pod's address.
    pub host: Option<String>,
    /// Sent along; `Host` among them replaces ours.
    pub headers: HeaderMap,
}

/// `tcpSocket`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpCheck {
    /// The app's port.
    pub port: NonZeroU16,
    /// Dialled in place of the pod's address.
    pub host: Option<String>,
}

/// `grpc`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcCheck {
    /// The app's port.
    pub port: NonZeroU16,
    /// Which service's health; empty for the whole server's.
    pub service: String,
}

/// A probe that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum BadProbe {
    /// No JSON object.
    #[error("--probes: not a JSON object of probes: {0}")]
    Json(serde_json::Error),
    /// Too many.
    #[error("--probes: {0} probes, at most {MAX_PROBES} are accepted")]
    TooMany(usize),
    /// The key.
    #[error(
        "--probes: `{0}` is not CONTAINER/KIND, where KIND is readiness, liveness, startup, post-start or pre-stop"
    )]
    Name(String),
    /// The key, but for its secret, is there already.
    #[error("--probes: `{0}` is there twice")]
    Twice(String),
    /// The value.
    #[error("--probes: {name}: {why}")]
    Probe {
        /// Which.
        name: String,
        /// What is wrong.
        why: serde_json::Error,
    },
    /// A header no request can carry.
    #[error("--probes: {name}: `{header}` is no header that can be sent")]
    Header {
        /// Which probe.
        name: String,
        /// Which header.
        header: String,
    },
}

/// As written.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Http(WrittenHttp),
    Tcp(WrittenTcp),
    Grpc(WrittenGrpc),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHttp {
    port: NonZeroU16,
    path: Option<String>,
    scheme: Option<Scheme>,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenTcp {
    port: NonZeroU16,
    host: Option<String>,
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenGrpc {
    port: NonZeroU16,
    service: Option<String>,
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    Http,
    Https,
}

/// The probes in `text`, or everything that is wrong with them. Empty: there are none.
pub(crate) fn parse(text: &str) -> Result<ProbeSpecs, Vec<BadProbe>> {
    if text.trim().is_empty() {
        return Ok(ProbeSpecs::new());
    }
    let written: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|why| vec![BadProbe::Json(why)])?;
    if written.len() > MAX_PROBES {
        return Err(vec![BadProbe::TooMany(written.len())]);
    }
    let (mut specs, mut bad) = (ProbeSpecs::new(), Vec::new());
    for (key, value) in written {
        // From here on without the secret: names end in logs.
        let (secret, name) = ProbeSecret::split(&key);
        match one(secret, name, value) {
            Ok(_) if specs.contains_key(name) => bad.push(BadProbe::Twice(name.to_owned())),
            Ok(spec) => _ = specs.insert(name.into(), spec),
            Err(why) => bad.push(why),
        }
    }
    if bad.is_empty() { Ok(specs) } else { Err(bad) }
}

fn one(secret: Option<ProbeSecret>, name: &str, value: serde_json::Value) -> Result<Spec, BadProbe> {
    let kind = name.split_once('/').filter(|(container, _)| !container.is_empty());
    let Some(kind) = kind.and_then(|(_, kind)| Kind::parse(kind)) else { return Err(BadProbe::Name(name.to_owned())) };
    let written = serde_json::from_value(value).map_err(|why| BadProbe::Probe { name: name.to_owned(), why })?;
    let (check, seconds) = match written {
        Written::Http(http) => {
            let headers = headers(name, http.headers)?;
            let (host, path) = (given(http.host), http.path.unwrap_or_default());
            let tls = http.scheme == Some(Scheme::Https);
            (Check::Http(HttpCheck { port: http.port, path, tls, host, headers }), http.timeout_seconds)
        }
        Written::Tcp(tcp) => (Check::Tcp(TcpCheck { port: tcp.port, host: given(tcp.host) }), tcp.timeout_seconds),
        Written::Grpc(grpc) => {
            let service = grpc.service.unwrap_or_default();
            (Check::Grpc(GrpcCheck { port: grpc.port, service }), grpc.timeout_seconds)
        }
    };
    let timeout = seconds.filter(|&seconds| seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
    Ok(Spec { secret, kind, check, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT) })
}

fn given(host: Option<String>) -> Option<String> {
    host.filter(|host| !host.is_empty())
}

fn headers(name: &str, written: Vec<(String, String)>) -> Result<HeaderMap, BadProbe> {
    let mut headers = HeaderMap::new();
    for (key, value) in written {
        let pair = (HeaderName::from_bytes(key.as_bytes()), HeaderValue::from_str(&value));
        let (Ok(header), Ok(value)) = pair else {
            return Err(BadProbe::Header { name: name.to_owned(), header: key });
        };
        headers.append(header, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_injection_writes_is_read() {
        let specs = parse(
            r#"{
            "app/readiness": {"http": {"port": 8080, "path": "/x?y", "scheme": "HTTPS", "host": null,
                              "headers": [["X-A", "1"], ["X-A", "2"]], "timeoutSeconds": 3}},
            "app/liveness": {"tcp": {"port": 5432}},
            "db/startup": {"grpc": {"port": 9000, "service": "shop.Cart", "timeoutSeconds": 0}},
            "app/pre-stop": {"http": {"port": 1}},
            "app/post-start": {"tcp": {"port": 1, "host": ""}}
        }"#,
        )
        .unwrap();
        let of = |name: &str| specs.get(name).unwrap();
        let Check::Http(http) = &of("app/readiness").check else { panic!("not HTTP") };
        assert_eq!((http.port.get(), http.path.as_str(), http.tls, &http.host), (8080, "/x?y", true, &None));
        assert_eq!(http.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(of("app/readiness").timeout, Duration::from_secs(3));
        assert_eq!(of("app/liveness").timeout, Duration::from_secs(1));
        assert_eq!(of("db/startup").timeout, Duration::from_secs(1), "kubelet takes 0 for its default");
        assert!(matches!(&of("db/startup").check, Check::Grpc(grpc) if grpc.service == "shop.Cart"));
        assert!(of("app/pre-stop").kind.is_hook() && of("app/post-start").kind.is_hook());
        assert!(matches!(&of("app/post-start").check, Check::Tcp(TcpCheck { host: None, .. })));
        assert!(specs.values().all(|spec| spec.secret.is_none()), "an older control plane makes none");
        assert!(parse("").unwrap().is_empty() && parse(" {} ").unwrap().is_empty());
    }

    #[test]
    fn a_secret_is_no_part_of_the_name_and_is_never_told() {
        let secret = ProbeSecret::from([0x5e; 16]);
        let specs = parse(&format!(r#"{{"{secret}.app/readiness": {{"tcp": {{"port": 1}}}}}}"#)).unwrap();
        assert_eq!(specs.get("app/readiness").unwrap().secret, Some(secret));
        assert!(!format!("{specs:?}").contains("5e5e"), "{specs:?}");
        let bad = parse(&format!(
            r#"{{"{secret}.app/liveness": {{"tcp": {{"port": 0}}}}, "{secret}.app/never": {{"tcp": {{"port": 1}}}},
                 "{secret}.b/startup": {{"tcp": {{"port": 1}}}}, "b/startup": {{"tcp": {{"port": 1}}}}}}"#
        ));
        let text = bad.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(text.contains("app/liveness: ") && text.contains("`app/never`"), "{text}");
        assert!(text.contains("`b/startup` is there twice") && !text.contains("5e5e"), "{text}");
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let bad = parse(
            r#"{
            "app/readiness": {"http": {"port": 0}},
            "app/liveness": {"exec": {"command": ["x"]}},
            "app/startup": {"tcp": {"port": 1, "retries": 2}},
            "app": {"tcp": {"port": 1}},
            "app/ready": {"tcp": {"port": 1}},
            "b/readiness": {"http": {"port": 1, "headers": [["a b", "c"]]}},
            "b/liveness": {"http": {"port": 1, "scheme": "GOPHER"}},
            "c/readiness": {"tcp": {"port": 1}}
        }"#,
        )
        .unwrap_err();
        let text = bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(bad.len(), 7, "{text}");
        for part in ["app/readiness", "exec", "retries", "`app`", "`app/ready`", "`a b`", "GOPHER"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        for no_object in ["[]", "{", "null"] {
            assert!(matches!(parse(no_object).unwrap_err()[..], [BadProbe::Json(_)]), "{no_object}");
        }
    }
}
