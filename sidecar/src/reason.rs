//! Why a sidecar answered or closed by itself: one enum for the `x-weft-reason` header, the access log and the metric
//! labels (SEMANTICS.md §5), with everything that follows from it settled here and nowhere else.

use http::StatusCode;

/// The code of an answer we made ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Routes are attached and none matched.
    NoRoute,
    /// The rule redirects: it was meant.
    Redirect,
    /// A browser's question whether it may ask, answered by the rule's CORS filter: it was meant.
    Preflight,
    /// A FaultInjection wants this request to fail: it was meant.
    Fault,
    /// The chosen rule's backendRef is not valid, or all its weights are zero.
    InvalidBackend,
    /// The backend has no endpoint to use.
    NoEndpoints,
    /// The VIP has no such port.
    NoPort,
    /// The endpoint could not be connected to, or failed its TLS handshake or identity check.
    ConnectFailed,
    /// The connection was lost, or reset, before the response head.
    UpstreamReset,
    /// The response broke the protocol.
    UpstreamProtocol,
    /// The request timeout passed, or its deadline.
    Timeout,
    /// The timeout of one try passed.
    PerTryTimeout,
    /// A limit was reached.
    Overflow,
    /// It would have been tried again if the backend's budget, which an object asks for, were not spent.
    RetryBudget,
    /// The client has asked too often: a RateLimit of the server's, or of a route's.
    RateLimited,
    /// The peer showed no identity where policy wants one.
    MtlsRequired,
    /// The certificate by which the peer of an opaque connection proved itself has expired.
    PeerExpired,
    /// Nothing had passed on an opaque or upgraded connection, or no request on an HTTP connection, for as long as a policy
    /// allows.
    IdleTimeout,
    /// This proxy is draining and the app takes no more.
    Draining,
    /// The control plane did not say in time what this destination is.
    ConfigUnavailable,
    /// Outbound policy lets only known destinations through.
    RegistryOnly,
    /// The original destination is one of our own listeners.
    OwnListener,
    /// The request's framing or head is malformed or ambiguous.
    BadRequest,
    /// The request's head is larger than the limit.
    HeadTooLarge,
    /// The request's head did not arrive in time.
    HeadTimeout,
    /// A bug of ours: a panic was caught.
    Internal,
}

impl Reason {
    /// Every reason, for documentation and tests.
    pub const ALL: [Self; 26] = [
        Self::NoRoute,
        Self::Redirect,
        Self::Preflight,
        Self::Fault,
        Self::InvalidBackend,
        Self::NoEndpoints,
        Self::NoPort,
        Self::ConnectFailed,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::Timeout,
        Self::PerTryTimeout,
        Self::Overflow,
        Self::RetryBudget,
        Self::RateLimited,
        Self::MtlsRequired,
        Self::PeerExpired,
        Self::IdleTimeout,
        Self::Draining,
        Self::ConfigUnavailable,
        Self::RegistryOnly,
        Self::OwnListener,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::Internal,
    ];

    /// The code in header, log and metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Redirect => "redirect",
            Self::Preflight => "preflight",
            Self::Fault => "fault",
            Self::InvalidBackend => "invalid-backend",
            Self::NoEndpoints => "no-endpoints",
            Self::NoPort => "no-port",
            Self::ConnectFailed => "connect-failed",
            Self::UpstreamReset => "upstream-reset",
            Self::UpstreamProtocol => "upstream-protocol",
            Self::Timeout => "timeout",
            Self::PerTryTimeout => "per-try-timeout",
            Self::Overflow => "overflow",
            Self::RetryBudget => "retry-budget",
            Self::RateLimited => "rate-limited",
            Self::MtlsRequired => "mtls-required",
            Self::PeerExpired => "peer-expired",
            Self::IdleTimeout => "idle-timeout",
            Self::Draining => "draining",
            Self::ConfigUnavailable => "config-unavailable",
            Self::RegistryOnly => "registry-only",
            Self::OwnListener => "own-listener",
            Self::BadRequest => "bad-request",
            Self::HeadTooLarge => "head-too-large",
            Self::HeadTimeout => "head-timeout",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            // Or what the rule says.
            Self::Redirect => StatusCode::FOUND,
            Self::Preflight => StatusCode::NO_CONTENT,
            Self::InvalidBackend | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            // Or what the FaultInjection says, as of gRPC.
            Self::Fault
            | Self::NoEndpoints
            | Self::NoPort
            | Self::ConnectFailed
            | Self::Overflow
            | Self::RetryBudget
            | Self::PeerExpired
            | Self::IdleTimeout
            | Self::Draining
            | Self::ConfigUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamReset | Self::UpstreamProtocol | Self::RegistryOnly | Self::OwnListener => {
                StatusCode::BAD_GATEWAY
            }
            Self::Timeout | Self::PerTryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::MtlsRequired => StatusCode::FORBIDDEN,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The `grpc-status` of the answer to a gRPC request (gRPC over HTTP/2, "Responses").
    pub const fn grpc_status(self) -> u8 {
        const DEADLINE_EXCEEDED: u8 = 4;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        match self {
            Self::NoRoute => UNIMPLEMENTED,
            Self::Timeout | Self::PerTryTimeout => DEADLINE_EXCEEDED,
            Self::MtlsRequired => PERMISSION_DENIED,
            Self::RateLimited => RESOURCE_EXHAUSTED,
            Self::BadRequest | Self::HeadTooLarge | Self::HeadTimeout | Self::Internal => INTERNAL,
            // gRPC knows neither: its clients do not follow, and no browser asks for them.
            Self::Redirect
            | Self::Preflight
            | Self::Fault
            | Self::InvalidBackend
            | Self::NoEndpoints
            | Self::NoPort
            | Self::ConnectFailed
            | Self::UpstreamReset
            | Self::UpstreamProtocol
            | Self::Overflow
            | Self::RetryBudget
            | Self::PeerExpired
            | Self::IdleTimeout
            | Self::Draining
            | Self::ConfigUnavailable
            | Self::RegistryOnly
            | Self::OwnListener => UNAVAILABLE,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_lists_every_reason_with_its_answers() {
        let reference = include_str!("../../docs/reference/reasons.md");
        for reason in Reason::ALL {
            let row = format!("| `{reason}` | {} | {} |", reason.status().as_u16(), reason.grpc_status());
            assert!(reference.contains(&row), "{row}");
        }
        assert_eq!(reference.lines().filter(|line| line.starts_with("| `")).count(), Reason::ALL.len());
    }
}
