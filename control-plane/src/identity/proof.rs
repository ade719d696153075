//! How a caller proves who it is: by a join token (files mode) or by its pod's service-account token (Kubernetes). Which one
//! is chosen once, at the start; the rest of `Certify` does not know.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use weft_proto::SpiffeId;

use super::{JoinTokens, Refusal, TokenReviewer};

/// What [`Certifier`](super::Certifier) believes.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Authenticator {
    /// Tokens of our own making (files mode).
    JoinTokens(JoinTokens),
    /// Projected service-account tokens, which the API server judges.
    ServiceAccounts(TokenReviewer),
}

/// What is known of a caller before it has proven anything, by which it is kept from taking everybody's room. In the
/// extensions of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Where it calls from; others may share the address.
    pub source: IpAddr,
    /// Whether it showed a certificate of the mesh, as one does who renews it.
    pub certified: bool,
}

impl Caller {
    /// One of whom nothing is known.
    pub const UNKNOWN: Self = Self { source: IpAddr::V4(Ipv4Addr::UNSPECIFIED), certified: false };
}

/// Who a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Its identity.
    pub id: SpiffeId,
    /// The pod its token is bound to, for the audit log.
    pub pod: Option<ProvenPod>,
}

/// A pod as a token names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenPod {
    /// `authentication.kubernetes.io/pod-name`.
    pub name: String,
    /// `authentication.kubernetes.io/pod-uid`.
    pub uid: String,
}

impl fmt::Display for ProvenPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.uid)
    }
}

/// Why it is not known who a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unproven {
    /// The caller must act.
    Refused(Refusal),
    /// Nobody could tell just now; the same token may be good in a moment.
    Unavailable,
}

impl From<Refusal> for Unproven {
    fn from(refusal: Refusal) -> Self {
        Unproven::Refused(refusal)
    }
}

impl Authenticator {
    /// Whom `bearer` proves its bearer, this `caller`, to be. Cancel safe.
    ///
    /// # Errors
    /// That it proves nobody, or that this cannot be said at the moment.
    pub async fn prove(&self, bearer: &str, caller: Caller, now: SystemTime) -> Result<Proven, Unproven> {
        match self {
            Authenticator::JoinTokens(tokens) => Ok(Proven { id: tokens.verify(bearer, now)?, pod: None }),
            Authenticator::ServiceAccounts(reviewer) => reviewer.prove(bearer, caller, now).await,
        }
    }
}
