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
use weft_proto::identity::v1::identity_server::Identity;
use weft_proto::identity::v1::{CertifyRequest, CertifyResponse};
use weft_proto::{SpiffeId, control_plane_identity};

use super::{Authority, Issued, JoinTokens, Refusal, csr};

/// Serves `Certify`.
pub struct Certifier {
    /// Who signs.
    pub authority: Arc<dyn Authority>,
    /// How callers prove themselves.
    pub tokens: JoinTokens,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// How long a leaf is good for (`--certificate-ttl`).
    pub ttl: Duration,
    /// Counters.
    pub metrics: Metrics,
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
    fn certify(&self, bearer: Option<&str>, csr: &[u8], now: SystemTime) -> Result<(SpiffeId, Issued), Status> {
        let refuse = |refusal: Refusal| {
            self.metrics.refused.get_or_create(&Reason { reason: refusal.reason() }).inc();
            refusal.status()
        };
        let proven = self.prove(bearer, now).map_err(refuse)?;
        let request = csr::check(csr, &proven).map_err(refuse)?;
        let issued = self.authority.sign(&request, self.ttl, now).map_err(|error| {
            tracing::error!(identity = %proven, %error, "cannot sign");
            Status::unavailable("the control plane cannot sign at the moment; its log says why")
        })?;
        Ok((proven, issued))
    }

    fn prove(&self, bearer: Option<&str>, now: SystemTime) -> Result<SpiffeId, Refusal> {
        let proven = self.tokens.verify(bearer.ok_or(Refusal::NoToken)?, now)?;
        if proven.trust_domain() != self.trust_domain {
            return Err(Refusal::OtherTrustDomain { proven, trust_domain: self.trust_domain.clone() });
        }
        if control_plane_identity(&self.trust_domain).is_ok_and(|own| own == proven) {
            return Err(Refusal::Reserved(proven));
        }
        Ok(proven)
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
        match self.certify(bearer, &request.get_ref().csr, SystemTime::now()) {
            Ok((identity, issued)) => {
                self.metrics.issued.inc();
                let expires = OffsetDateTime::from(issued.not_after).format(&Rfc3339).unwrap_or_default();
                tracing::info!(target: "weft::audit", %identity, serial = issued.serial, expires, "certificate issued");
                Ok(Response::new(CertifyResponse {
                    chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
                    roots: self.authority.roots().iter().map(|der| der.to_vec()).collect(),
                }))
            }
            Err(status) => {
                tracing::warn!(target: "weft::audit", reason = status.message(), "certificate refused");
                Err(status)
            }
        }
    }
}
