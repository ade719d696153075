//! Identity: the mesh's certificate authority and how a caller proves who it is (SEMANTICS.md §4; SPIFFE X.509-SVID).
//!
//! A root (P-384, 10 years) lives in the state directory, or in Kubernetes in a Secret; each start of the control plane
//! issues itself an intermediate (P-256, path length 0, 90 days) whose key never leaves memory, and signs leaves with that.
//! So what is stored is the only way to the root, and replicas need to agree on nothing else. In Kubernetes the root can be
//! rotated while everything runs, and pods find the roots to trust in a ConfigMap.
//!
//! | file | what it decides |
//! |---|---|
//! | `state.rs` | files made once, whoever starts first, and read back by everybody |
//! | `authority.rs` | the [`Authority`] trait, and the authority whose root is a file |
//! | `issuing.rs` | what every authority does with a root: an intermediate below it, and leaves below that |
//! | `cluster.rs` | the authority whose root is a Secret; drives rotations |
//! | `secret.rs` | what that Secret holds (pure) |
//! | `rotation.rs` | which step of a rotation follows when (pure) |
//! | `roots.rs` | the trust bundle as a ConfigMap in every namespace that wants it |
//! | `csr.rs` | which signing requests are fit to sign: the only maker of a [`CheckedRequest`] |
//! | `proof.rs` | how a caller proves itself: by either of the next two |
//! | `token.rs` | join tokens: a caller's proof in files mode, bound to one SPIFFE ID |
//! | `review.rs` | a TokenReview by the API server: a caller's proof in Kubernetes, remembered for a minute |
//! | `svid.rs` | the control plane's own certificate, renewed while it runs |
//! | `tls.rs` | the TLS of port 15012, and who the verified peer is |
//! | `service.rs` | `Certify` over gRPC |
//!
//! Not here: who may see which resource (`discovery/`). Bound: two key pairs, one certificate
//! chain, and what `review.rs` and `roots.rs` say.

use std::io;
use std::path::PathBuf;

use weft_proto::SpiffeId;

mod authority;
mod cluster;
mod csr;
mod issuing;
mod proof;
mod review;
mod roots;
mod rotation;
mod secret;
mod service;
mod state;
mod svid;
#[cfg(test)]
mod tests;
mod tls;
mod token;

pub use authority::{Authority, Bundle, FileAuthority, Issued};
pub use cluster::{SECRET, SecretAuthority};
pub use csr::{CheckedRequest, check};
pub use proof::{Authenticator, Caller, Proven, ProvenPod, Unproven};
pub use review::{AUDIENCE, TokenReviewer};
pub use roots::{ROOTS_CONFIG_MAP, ROOTS_KEY, distribute, remove_roots};
pub use rotation::{ANSWERED, Acked, ROTATE, SINCE, STEP, Times, WITHDRAW_AT};
pub use service::{Certifier, Metrics};
pub use svid::OwnSvid;
pub use tls::{Peer, peer_of, server_config};
pub use token::JoinTokens;

/// As whom we write to the API server.
pub(crate) const FIELD_MANAGER: &str = "weft-control-plane";

/// What went wrong on our side: the operator must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory or a file in it cannot be read or written.
    #[error("cannot use {path}: {source} (--state-dir must be a directory this user may write)")]
    State {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file in the state directory is not what we wrote.
    #[error("{path} is not usable: {why}; restore it from a backup, or remove it to start a new mesh identity")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The Secret is not what we wrote.
    #[error(
        "Secret {namespace}/weft-ca is not usable: {why}; restore it from a backup, or delete it and restart the control \
         plane to start a new mesh identity (every pod then needs a new certificate)"
    )]
    DamagedSecret {
        /// The control plane's namespace.
        namespace: String,
        /// What is wrong with it, without quoting it.
        why: String,
    },
    /// The API server did not do what we asked.
    #[error("cannot {what}: {why}")]
    Kubernetes {
        /// What we asked.
        what: String,
        /// What it said.
        why: String,
    },
    /// Anyone on the machine could read a key.
    #[error("{path} holds a key and may be read by others (mode {mode:04o}); run `chmod 0600 {path}`")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The root, or an issuer below it, is past its end.
    #[error("the issuing certificate ended at {not_after}: is the clock right?")]
    Expired {
        /// Its notAfter.
        not_after: String,
    },
    /// Making or signing a certificate failed.
    #[error("making a certificate failed: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls would not take a certificate, key or root of ours.
    #[error("TLS cannot use the mesh's own certificate: {0}")]
    Tls(String),
}

/// Why a caller gets no certificate: the caller must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No bearer token.
    #[error("no bearer token in `authorization`: start the sidecar with --join-token FILE")]
    NoToken,
    /// Not a token, or tampered with, or signed by another control plane's key.
    #[error(
        "the join token is not one of this control plane's: make one with \
         `weft-control-plane join-token --state-dir DIR --spiffe-id ID`"
    )]
    ForeignToken,
    /// Past its end.
    #[error("the join token has expired: make a new one with `weft-control-plane join-token`")]
    ExpiredToken,
    /// Not a token of the kind the API server gives out, or not a service account's.
    #[error("not a service-account token: mount a projected one with `audience: weft-ca`")]
    NotServiceAccount,
    /// A service-account token for another purpose.
    #[error("the service-account token is not for audience `weft-ca`: mount a projected one with `audience: weft-ca`")]
    WrongAudience,
    /// The API server did not look at the token's audience.
    #[error(
        "the API server does not say that the token is for audience `weft-ca`: it, or a token webhook behind it, ignores \
         audiences, and then any token would do"
    )]
    AudienceUnchecked,
    /// A service-account token past its end.
    #[error("the service-account token has expired: is the projected token still mounted, and is the clock right?")]
    ExpiredServiceAccount,
    /// The API server says that the token is good for nothing.
    #[error("the API server does not accept the service-account token: its pod or service account may be gone")]
    RejectedServiceAccount,
    /// The token is for a trust domain that is not ours.
    #[error("the join token is for {proven}, and this mesh is `{trust_domain}`")]
    OtherTrustDomain {
        /// Whom the token names.
        proven: SpiffeId,
        /// Ours.
        trust_domain: String,
    },
    /// The control plane's own identity is not given out.
    #[error("{0} is the control plane's own identity and is given to nobody")]
    Reserved(SpiffeId),
    /// Not PKCS#10, or too long, or with extensions a workload's request has no use for.
    #[error("the signing request cannot be read: it must be PKCS#10 in DER with one URI subject alternative name")]
    UnreadableRequest,
    /// It is not signed by the key it carries.
    #[error("the signing request is not signed by its own key")]
    UnsignedRequest,
    /// Not ECDSA P-256.
    #[error("the signing request's key must be ECDSA P-256")]
    WrongKey,
    /// Not exactly one URI, or one that is no SPIFFE ID.
    #[error("the signing request must carry exactly one subject alternative name, a SPIFFE ID: {0}")]
    WrongName(String),
    /// It asks for someone else's identity.
    #[error("the signing request asks for {asked}, but the token proves {proven}")]
    NotYours {
        /// In the request.
        asked: SpiffeId,
        /// In the token.
        proven: SpiffeId,
    },
}

impl Refusal {
    /// A word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NoToken => "no-token",
            Refusal::ForeignToken => "foreign-token",
            Refusal::ExpiredToken => "expired-token",
            Refusal::NotServiceAccount => "not-service-account",
            Refusal::WrongAudience => "wrong-audience",
            Refusal::AudienceUnchecked => "audience-unchecked",
            Refusal::ExpiredServiceAccount => "expired-service-account",
            Refusal::RejectedServiceAccount => "rejected-service-account",
            Refusal::OtherTrustDomain { .. } => "other-trust-domain",
            Refusal::Reserved(_) => "reserved",
            Refusal::UnreadableRequest => "unreadable-request",
            Refusal::UnsignedRequest => "unsigned-request",
            Refusal::WrongKey => "wrong-key",
            Refusal::WrongName(_) => "wrong-name",
            Refusal::NotYours { .. } => "not-yours",
        }
    }

    /// The gRPC answer. Who one is: UNAUTHENTICATED; what one may have: PERMISSION_DENIED; how one asks: INVALID_ARGUMENT.
    pub fn status(&self) -> tonic::Status {
        let code = match self {
            Refusal::NoToken
            | Refusal::ForeignToken
            | Refusal::ExpiredToken
            | Refusal::NotServiceAccount
            | Refusal::WrongAudience
            | Refusal::AudienceUnchecked
            | Refusal::ExpiredServiceAccount
            | Refusal::RejectedServiceAccount => tonic::Code::Unauthenticated,
            Refusal::OtherTrustDomain { .. } | Refusal::Reserved(_) | Refusal::NotYours { .. } => {
                tonic::Code::PermissionDenied
            }
            Refusal::UnreadableRequest | Refusal::UnsignedRequest | Refusal::WrongKey | Refusal::WrongName(_) => {
                tonic::Code::InvalidArgument
            }
        };
        tonic::Status::new(code, self.to_string())
    }
}
