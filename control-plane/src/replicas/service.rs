//! What this replica says of its proxies, to the control plane's other replicas and to nobody else: port 15012 asks
//! [`Answers::check`] before it reads a question, and it is asked again here.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tonic::{Request, Response, Status};
use weft_proto::v1::replicas_server::Replicas;
use weft_proto::v1::{ProgressRequest, ProgressResponse};
use weft_proto::{SpiffeId, control_plane_identity};

use super::{Gathered, Progresses};
use crate::discovery::Proxies;
use crate::identity::Peer;

/// Most Services in one question.
pub const MAX_QUESTIONS: usize = 256;
/// Largest question, in bytes. Read into memory it takes some fifty times as much at worst, and comes from a replica only.
pub const MAX_REQUEST: usize = 1 << 20;
/// Services are asked about until their questions have so many bytes; one alone may have more.
pub const MAX_ASKED: usize = MAX_REQUEST / 2;

/// Answers `weft.v1.Replicas`.
#[derive(Debug, Clone)]
pub struct Answers {
    proxies: Arc<Proxies>,
    /// The only identity that is answered; none where the trust domain has none.
    own: Option<SpiffeId>,
}

impl Answers {
    /// Of `proxies`, to the control plane of `trust_domain`.
    pub fn new(proxies: Arc<Proxies>, trust_domain: &str) -> Self {
        Self { proxies, own: control_plane_identity(trust_domain).ok() }
    }

    /// What is so now.
    pub fn answer(&self, request: &ProgressRequest) -> ProgressResponse {
        answer(&self.proxies, request)
    }

    /// Whether `peer` is answered.
    ///
    /// # Errors
    /// That it is not.
    pub fn check(&self, peer: Option<&Peer>) -> Result<(), Status> {
        match (peer, &self.own) {
            (Some(peer), Some(own)) if peer.id == *own => Ok(()),
            (peer, _) => {
                let identity = peer.map(|peer| tracing::field::display(&peer.id));
                tracing::warn!(identity, "refused to tell how far proxies are: the asker is not the control plane");
                Err(Status::permission_denied("only the control plane's own replicas are answered"))
            }
        }
    }
}

/// How far `proxies` are.
pub(super) fn answer(proxies: &Proxies, request: &ProgressRequest) -> ProgressResponse {
    let trust = &request.trust_bundle_version;
    ProgressResponse {
        services: request.services.iter().map(|question| proxies.service_progress(question)).collect(),
        trust_bundle: (!trust.is_empty()).then(|| proxies.trust_progress(trust)),
    }
}

/// Where there is no other replica, its own answers are all.
impl Progresses for Answers {
    fn ask(&self, request: ProgressRequest, _: bool) -> BoxFuture<'_, Gathered> {
        let answers = vec![self.answer(&request)];
        Box::pin(std::future::ready(Gathered { answers, silent: Vec::new() }))
    }
}

#[tonic::async_trait]
impl Replicas for Answers {
    async fn progress(&self, request: Request<ProgressRequest>) -> Result<Response<ProgressResponse>, Status> {
        self.check(request.extensions().get::<Peer>())?;
        let request = request.get_ref();
        if request.services.len() > MAX_QUESTIONS {
            return Err(Status::invalid_argument(format!("at most {MAX_QUESTIONS} services in one question")));
        }
        Ok(Response::new(self.answer(request)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tonic::Code;
    use weft_proto::v1::ServiceQuestion;

    use super::*;

    #[tokio::test]
    async fn only_the_control_plane_itself_is_answered() {
        let answers = Answers::new(Arc::default(), "cluster.local");
        let ask = async |identity: Option<&str>, services: usize| {
            let services = vec![ServiceQuestion::default(); services];
            let mut request = Request::new(ProgressRequest { services, ..ProgressRequest::default() });
            if let Some(identity) = identity {
                let peer = Peer { id: identity.parse().unwrap(), not_after: SystemTime::UNIX_EPOCH };
                request.extensions_mut().insert(peer);
            }
            answers.progress(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
        };
        let own = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";
        let rows = [
            ("itself", Some(own), 1, Code::Ok),
            ("as much as is allowed", Some(own), MAX_QUESTIONS, Code::Ok),
            ("too much", Some(own), MAX_QUESTIONS + 1, Code::InvalidArgument),
            ("nobody", None, 1, Code::PermissionDenied),
            ("a workload", Some("spiffe://cluster.local/ns/shop/sa/web"), 1, Code::PermissionDenied),
            (
                "the same name in another namespace",
                Some("spiffe://cluster.local/ns/shop/sa/weft-control-plane"),
                1,
                Code::PermissionDenied,
            ),
            (
                "another mesh's control plane",
                Some("spiffe://other.local/ns/weft-system/sa/weft-control-plane"),
                1,
                Code::PermissionDenied,
            ),
        ];
        for (row, identity, services, expected) in rows {
            assert_eq!(ask(identity, services).await, expected, "{row}");
        }
    }
}
