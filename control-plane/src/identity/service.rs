//! `weft.identity.v1.Identity/Certify`: token → who; signing request → key; both agree → a certificate, and a line in the
//! audit log. No token and no key is ever logged.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::{Request, Response, Status};
use weft_proto::control_plane_identity;
use weft_proto::identity::v1::identity_server::Identity;
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse};

use super::{Authenticator, Authority, Caller, Issued, Proven, Refusal, Unproven, csr};
use crate::line_limit::Lines;

/// Serves `Certify`.
pub struct Certifier {
    /// Who signs.
    pub authority: Arc<dyn Authority>,
    /// How callers prove themselves.
    pub authenticator: Authenticator,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// How long a leaf is good for (`--certificate-ttl`).
    pub ttl: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// What is asked before a refusal is logged.
    pub lines: Lines,
}

/// What was given out and what was refused.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    issued: Counter,
    refused: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    /// Makes the counters visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("weft_identity_certificates", "Certificates issued to workloads", self.issued.clone());
        registry.register("weft_identity_refused", "Certificates refused, by reason", self.refused.clone());
    }
}

impl Certifier {
    /// Everything but the transport.
    ///
    /// # Errors
    /// A word for the reason, and the answer.
    async fn certify(
        &self,
        bearer: Option<&str>,
        caller: Caller,
        csr: &[u8],
        now: SystemTime,
    ) -> Result<(Proven, Issued), (&'static str, Status)> {
        let refuse = |refusal: Refusal| {
            self.count(refusal.reason());
            (refusal.reason(), refusal.status())
        };
        let proven = self.prove(bearer, caller, now).await.map_err(|unproven| match unproven {
            Unproven::Refused(refusal) => refuse(refusal),
            // Not UNAUTHENTICATED: nothing is wrong with the caller, who should come back.
            Unproven::Unavailable => {
                let reason = "review-unavailable";
                self.count(reason);
                let why = "the control plane cannot find out who you are at the moment; its log says why";
                (reason, Status::unavailable(why))
            }
        })?;
        let request = csr::check(csr, &proven.id).map_err(refuse)?;
        let issued = self.authority.sign(&request, self.ttl, now).map_err(|error| {
            tracing::error!(identity = %proven.id, %error, "cannot sign");
            ("cannot-sign", Status::unavailable("the control plane cannot sign at the moment; its log says why"))
        })?;
        Ok((proven, issued))
    }

    async fn prove(&self, bearer: Option<&str>, caller: Caller, now: SystemTime) -> Result<Proven, Unproven> {
        let proven = self.authenticator.prove(bearer.ok_or(Refusal::NoToken)?, caller, now).await?;
        if proven.id.trust_domain() != self.trust_domain {
            let trust_domain = self.trust_domain.clone();
            return Err(Refusal::OtherTrustDomain { proven: proven.id, trust_domain }.into());
        }
        if control_plane_identity(&self.trust_domain).is_ok_and(|own| own == proven.id) {
            return Err(Refusal::Reserved(proven.id).into());
        }
        Ok(proven)
    }

    fn count(&self, reason: &'static str) {
        self.metrics.refused.get_or_create(&Reason { reason }).inc();
    }
}

#[tonic::async_trait]
impl Identity for Certifier {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let bearer = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
            .map(str::trim);
        let caller = request.extensions().get().copied().unwrap_or(Caller::UNKNOWN);
        match self.certify(bearer, caller, &request.get_ref().csr, SystemTime::now()).await {
            Ok((Proven { id: identity, pod }, issued)) => {
                self.metrics.issued.inc();
                let expires = OffsetDateTime::from(issued.not_after).format(&Rfc3339).unwrap_or_default();
                let (serial, pod) = (issued.serial, pod.as_ref().map(tracing::field::display));
                tracing::info!(target: "weft::audit", %identity, pod, serial, expires, "certificate issued");
                Ok(Response::new(CertifyResponse {
                    chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
                    roots: self.authority.roots().iter().map(|der| der.to_vec()).collect(),
                }))
            }
            Err((reason, status)) => {
                if self.lines.may(reason) {
                    tracing::warn!(target: "weft::audit", reason = status.message(), "certificate refused");
                }
                Err(status)
            }
        }
    }
}
