//! What `weft explain` asks a sidecar, and what it is told: JSON over the sidecar's admin port (`POST /explain`).
//!
//! Both may be of another version: a field that is not there is empty, one that is not known is left out.

use serde::{Deserialize, Serialize};

/// What would become of this request, sent by the app now?
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Question {
    /// The method; empty is GET, and of a gRPC call always POST.
    pub method: String,
    /// `http://HOST[:PORT]/PATH`, `https://HOST[:PORT]`, or `grpc://HOST[:PORT]/SERVICE/METHOD`.
    pub url: String,
    /// Headers, name and value, beside those that every client sends.
    pub headers: Vec<(String, String)>,
}

/// What becomes of a request, by the configuration in force.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Explanation {
    /// Who asks.
    pub client: Client,
    /// The request as the sidecar gets it.
    pub request: Asked,
    /// Where it goes.
    pub destination: Destination,
    /// The rule that matches; none where no route is attached, or none matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<MatchedRule>,
    /// Whom the request goes to; with more than one, each to its share.
    pub backends: Vec<BackendShare>,
    /// What the sidecar answers by itself, where it does so for certain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<OwnAnswer>,
    /// Whether policy lets it pass.
    pub policy: Verdict,
    /// Worth knowing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The workload whose sidecar explains.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Client {
    /// `namespace/name` of its pod.
    pub pod: String,
    /// What it proves to servers that speak mesh TLS.
    pub identity: String,
}

/// A request as the sidecar gets it from the app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Asked {
    /// The method; empty where the sidecar sees no requests.
    pub method: String,
    /// As a URL, without its query.
    pub url: String,
    /// `HTTP/1.1`, `gRPC`, `TLS`
    pub protocol: String,
    /// Where the app connects to: what its resolver makes of the host, and the port.
    pub address: String,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Destination {
    /// `service`, `workload`, `outside`, or `none`.
    pub kind: String,
    /// `namespace/name`, of a Service or a pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The port that is called.
    pub port: u16,
    /// How the port is spoken to, as declared: `auto`, `http`, `http2`, `grpc`, `tls`, `tcp`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// What leads there: `address 10.96.0.7`, `host ext.shop`.
    pub by: String,
    /// Whether routes are attached.
    pub routed: bool,
}

/// The rule that matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MatchedRule {
    /// `HTTPRoute/namespace/name`
    pub route: String,
    /// Its name, or its index in the route.
    pub rule: String,
    /// What it was that matched: `path /v2…, header x-user = a`.
    pub matched: String,
    /// Which of all matches on the port that is, in the order they are tried, from 1, and how many there are.
    pub precedence: (usize, usize),
    /// What is done to requests and responses.
    pub filters: Vec<String>,
    /// What the rule says of time limits, retries and sessions.
    pub says: Vec<String>,
    /// What its filters change of this request.
    pub changes: Vec<String>,
}

/// Whom a part of such requests goes to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendShare {
    /// `namespace/name:port`; empty where this share is answered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its weight.
    pub weight: u64,
    /// Its share of such requests, in percent.
    pub percent: f64,
    /// What is done to requests and responses of this share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// What these filters change of this request, beside the rule's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// What the sidecar answers this share by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<OwnAnswer>,
    /// Retries: `at most 2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub retries: String,
    /// Which endpoints are preferred for being near, and why; empty: all are alike.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub near: String,
    /// Those that may answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

/// One that may answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Address and port.
    pub address: String,
    /// `namespace/name` of its pod; empty where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// `ready`, `draining`, `not-ready`
    pub health: String,
    /// Its zone, if that is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Whether it is one of those that are preferred for being near; none: all are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<bool>,
    /// Whether this request may be given to it.
    pub candidate: bool,
    /// Milliseconds until it may be probed, if it is ejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_ms: Option<u64>,
    /// Failures since its last success.
    pub consecutive_failures: u32,
    /// The identity it has to prove by mesh TLS; none: it is spoken to in plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its weight among them.
    pub weight: u32,
    /// Requests of this sidecar that it is busy with.
    pub in_flight: u32,
    /// How fast it is believed to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// An answer that the sidecar makes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnAnswer {
    /// As in `x-weft-reason`.
    pub reason: String,
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status, of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Why, and what to do.
    pub detail: String,
}

/// Whether policy lets a request pass.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Verdict {
    /// Whether it does, as far as this sidecar decides.
    pub allowed: bool,
    /// Why.
    pub why: String,
}
