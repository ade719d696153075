//! Who a caller is, in Kubernetes (SEMANTICS.md §4): its bearer token is a projected service-account token for the audience
//! `weft-ca`, and the API server says by a TokenReview whose it is.
//!
//! What the token says of itself (`review/answer.rs`) can only get it refused without a question: a stolen or forged claim
//! gains nothing. A review that said yes is believed for a minute and never past the token's end, so a pod that was
//! deleted may get a certificate a minute longer. What said no is asked again. Callers with the same token share one
//! review, which runs to its end even when they have gone. When the API server does not answer, nobody is refused:
//! sidecars get UNAVAILABLE and come back.
//!
//! A token is kept nowhere: it is known by its SHA-256, and what the API server answers (which repeats the token) is never
//! quoted, which is why kube's own `create`, which logs what it cannot parse, is not used.
//!
//! Bound: [`MAX_ACCEPTED`] remembered reviews, [`MAX_FLIGHTS`] callers' tokens waiting, [`MAX_REVIEWS`] requests under way,
//! each at most [`TIME_LIMIT`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use weft_proto::SpiffeId;

use super::{Proven, Unproven};

mod accepted;
mod answer;
#[cfg(test)]
mod tests;

use accepted::Accepted;
pub use answer::AUDIENCE;

/// Successful reviews remembered. An entry is about 300 bytes.
const MAX_ACCEPTED: usize = 10_000;
/// Tokens under review or waiting for it. More are told to come back.
const MAX_FLIGHTS: usize = 1024;
/// Requests to the API server at once.
const MAX_REVIEWS: usize = 32;
/// From the first caller's question to the answer. A sidecar waits 10 s.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// A TokenReview repeats the token and names a user: a few KiB.
const MAX_ANSWER: usize = 64 << 10;

/// Asks the API server who a token's bearer is.
pub struct TokenReviewer(Arc<Shared>);

type Digest = [u8; 32];
type Outcome = Result<Proven, Unproven>;

struct Shared {
    reviews: Box<dyn Reviews>,
    trust_domain: String,
    reserved: Vec<SpiffeId>,
    slots: Semaphore,
    known: Mutex<Known>,
}

struct Known {
    accepted: Accepted,
    flights: HashMap<Digest, watch::Receiver<Option<Outcome>>>,
}

/// The API server, or a test's.
trait Reviews: Send + Sync + 'static {
    /// What the API server says of `token`; an error, which must not quote it, when it says nothing.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, String>>;
}

impl TokenReviewer {
    /// Identities are in `trust_domain`; those `reserved` are given to nobody: the one that the control plane proves to proxies,
    /// and the service account that it really runs as.
    pub fn new(client: kube::Client, trust_domain: &str, reserved: Vec<SpiffeId>) -> Self {
        Self::with(Box::new(client), trust_domain, reserved)
    }

    fn with(reviews: Box<dyn Reviews>, trust_domain: &str, reserved: Vec<SpiffeId>) -> Self {
        let known = Known { accepted: Accepted::new(MAX_ACCEPTED), flights: HashMap::new() };
        Self(Arc::new(Shared {
            reviews,
            trust_domain: trust_domain.to_owned(),
            reserved,
            slots: Semaphore::new(MAX_REVIEWS),
            known: Mutex::new(known),
        }))
    }

    /// Whom `token` proves its bearer to be. Cancel safe: the review goes on, for others and for the next try.
    ///
    /// # Errors
    /// That the token proves nobody, or that the API server did not say.
    pub async fn prove(&self, token: &str, now: SystemTime) -> Result<Proven, Unproven> {
        let ends = answer::claims(token, now)?;
        let mut flight = match self.0.look_up(token, now, ends) {
            Ok(outcome) => return outcome,
            Err(flight) => flight,
        };
        // An error says that the review panicked.
        let landed = flight.wait_for(Option::is_some).await.map_err(|_| Unproven::Unavailable)?;
        landed.clone().unwrap_or(Err(Unproven::Unavailable))
    }
}

impl Shared {
    /// What is known of `token`, or the review to wait for, which begins here if there is none.
    fn look_up(
        self: &Arc<Self>,
        token: &str,
        now: SystemTime,
        ends: Option<SystemTime>,
    ) -> Result<Outcome, watch::Receiver<Option<Outcome>>> {
        let key = digest_of(token);
        let mut known = self.known.lock();
        if let Some(proven) = known.accepted.get(&key, now) {
            return Ok(Ok(proven.clone()));
        }
        if let Some(flight) = known.flights.get(&key) {
            return Err(flight.clone());
        }
        if known.flights.len() >= MAX_FLIGHTS {
            tracing::warn!(
                waiting = known.flights.len(),
                "too many tokens wait for a review; told a caller to come back"
            );
            return Ok(Err(Unproven::Unavailable));
        }
        let (sender, flight) = watch::channel(None);
        known.flights.insert(key, flight.clone());
        drop(known);
        let (shared, token) = (Arc::clone(self), token.to_owned());
        tokio::spawn(async move {
            let _ended = Flight { shared: &shared, key };
            let outcome = shared.review(&token).await;
            if let Ok(proven) = &outcome {
                shared.known.lock().accepted.insert(key, proven.clone(), ends, now);
            }
            sender.send_replace(Some(outcome));
        });
        Err(flight)
    }

    async fn review(&self, token: &str) -> Outcome {
        let asked = async {
            let _slot = self.slots.acquire().await.map_err(|_| "the reviewer has ended".to_owned())?;
            self.reviews.review(token).await
        };
        let said = match tokio::time::timeout(TIME_LIMIT, asked).await {
            Ok(said) => said,
            Err(_) => Err(format!("no answer within {TIME_LIMIT:?}")),
        };
        match said {
            Ok(status) => Ok(answer::identity(status, &self.trust_domain, &self.reserved)?),
            Err(error) => {
                tracing::warn!(error, "cannot review a service-account token; the caller will ask again");
                Err(Unproven::Unavailable)
            }
        }
    }
}

/// A review under way; forgotten when it ends, however it ends.
struct Flight<'a> {
    shared: &'a Shared,
    key: Digest,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.shared.known.lock().flights.remove(&self.key);
    }
}

fn digest_of(token: &str) -> Digest {
    let mut key = Digest::default();
    key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    key
}

impl Reviews for kube::Client {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, String>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
            let question = TokenReview { spec, ..TokenReview::default() };
            // Neither this nor the answer's error may be quoted: both may hold the token.
            let question = serde_json::to_vec(&question).map_err(|_| "cannot write a TokenReview".to_owned())?;
            let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(kube::client::Body::from(question))
                .map_err(|e| e.to_string())?;
            let response = self.send(request).await.map_err(|e| e.to_string())?;
            match response.status() {
                status if status.is_success() => {}
                http::StatusCode::FORBIDDEN => {
                    return Err("the API server forbids it: the control plane's service account needs `create` on \
                                tokenreviews.authentication.k8s.io"
                        .to_owned());
                }
                status => return Err(format!("the API server answered {status}")),
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
            let answer: TokenReview = serde_json::from_slice(&body.to_bytes())
                .map_err(|_| "the API server's answer is no TokenReview".to_owned())?;
            answer.status.ok_or_else(|| "the API server's TokenReview has no status".to_owned())
        })
    }
}
