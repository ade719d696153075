//! Secret `weft-webhook`: read, made, and replaced only as the version that was read. kube's own `get` logs an answer that it
//! cannot parse, and this one holds a key, so answers are parsed here.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Client, Resource as _};

use super::content::{Content, Times};
use super::{CertificateError, Names};

/// One request.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Replicas that make, mend or delete it at the same moment are soon done.
const TRIES: u32 = 5;

/// Where the Secret is.
pub(super) struct Place<'a> {
    pub(super) client: &'a Client,
    pub(super) names: &'a Names,
}

/// The Secret as it was read, which a replace must name, and what it held.
pub(super) struct Seen {
    pub(super) secret: Secret,
    pub(super) content: Content,
}

impl Place<'_> {
    /// Reads it. Where it is not there, or cannot be signed by, it is made anew; when another replica was faster, that one's counts.
    pub(super) async fn read_or_make(&self, times: &Times, now: SystemTime) -> Result<Seen, CertificateError> {
        for _ in 0..TRIES {
            let secret = self.read().await?;
            let damaged = match secret.as_ref().map(|secret| Content::read(secret, now)) {
                Some(Ok(content)) => return Ok(Seen { secret: secret.unwrap_or_default(), content }),
                Some(Err(why)) => Some(why),
                None => None,
            };
            let content = Content::new(times, now)?;
            let made = match &secret {
                Some(secret) => self.replace(secret, &content).await?,
                None => self.create(&content).await?,
            };
            if let Some(secret) = made {
                let (namespace, name) = (&self.names.namespace, &self.names.secret);
                tracing::info!(%namespace, secret = %name, instead_of = ?damaged, "made a CA for the webhook");
                return Ok(Seen { secret, content });
            }
        }
        Err(self.failed("make", &"others change it all the time"))
    }

    /// Replaces the version that `secret` was read as; none when that is no longer the last one.
    pub(super) async fn replace(&self, secret: &Secret, content: &Content) -> Result<Option<Secret>, CertificateError> {
        let mut secret = secret.clone();
        content.write(&mut secret);
        let body = serde_json::to_vec(&secret).map_err(|error| self.failed("write", &error))?;
        let request = self.requests().replace(&self.names.secret, &params(), body);
        self.written("update", request.map_err(kube::Error::BuildRequest)).await
    }

    async fn create(&self, content: &Content) -> Result<Option<Secret>, CertificateError> {
        let labels = [("app.kubernetes.io/managed-by", "weft"), ("app.kubernetes.io/part-of", "weft")];
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.names.secret.clone()),
                namespace: Some(self.names.namespace.clone()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        content.write(&mut secret);
        let body = serde_json::to_vec(&secret).map_err(|error| self.failed("write", &error))?;
        let request = self.requests().create(&params(), body);
        self.written("create", request.map_err(kube::Error::BuildRequest)).await
    }

    async fn read(&self) -> Result<Option<Secret>, CertificateError> {
        let request = self.requests().get(&self.names.secret, &Default::default());
        match self.ask(request.map_err(kube::Error::BuildRequest)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other.map(Some).map_err(|error| self.failed("read", &error)),
        }
    }

    async fn written(
        &self,
        verb: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::Error>,
    ) -> Result<Option<Secret>, CertificateError> {
        match self.ask(request).await {
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 && verb == "update" => Ok(None),
            other => other.map(Some).map_err(|error| self.failed(verb, &error)),
        }
    }

    fn requests(&self) -> kube::core::Request {
        kube::core::Request::new(Secret::url_path(&(), Some(&self.names.namespace)))
    }

    async fn ask(&self, request: Result<http::Request<Vec<u8>>, kube::Error>) -> Result<Secret, kube::Error> {
        let late = |_| kube::Error::Service(format!("no answer within {TIME_LIMIT:?}").into());
        let text = tokio::time::timeout(TIME_LIMIT, self.client.request_text(request?)).await.map_err(late)??;
        // The parser's own words may quote what it did not expect.
        serde_json::from_str(&text).map_err(|_| kube::Error::Service("the answer is no Secret".into()))
    }

    fn failed(&self, verb: &'static str, error: &dyn std::fmt::Display) -> CertificateError {
        let what = format!("{verb} Secret {}/{}", self.names.namespace, self.names.secret);
        CertificateError::Kubernetes { what, why: error.to_string() }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(super::bundle::FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
