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
//! A forged token costs a review as a good one does, so anybody who can make up tokens can have reviews waiting. They wait by
//! source address ([`FLIGHTS`], by the rule of `weft_proto::places`): when all places are taken, whoever has most gives one
//! up, whose callers are told to come back. Beside them, who showed a certificate of the mesh has [`RESERVED`] places that
//! nobody else can take, so that strangers do not keep proxies from renewing; when these are gone it waits like the others.
//!
//! Bound: [`MAX_ACCEPTED`] remembered reviews, [`FLIGHTS`] and [`RESERVED`] tokens waiting, [`MAX_REVIEWS`] requests under
//! way, each at most [`TIME_LIMIT`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use weft_proto::SpiffeId;
use weft_proto::places::{Limits, Place, Places};

use super::{Caller, Proven, Unproven};

mod accepted;
mod answer;
#[cfg(test)]
mod tests;

use accepted::Accepted;
pub use answer::AUDIENCE;

/// Successful reviews remembered. An entry is about 300 bytes.
const MAX_ACCEPTED: usize = 10_000;
/// Tokens under review or waiting for it. One address may have as many as a node has pods, all behind its address.
const FLIGHTS: Limits = Limits { total: 1024, per_source: 256, kept: 4 };
/// As many more of callers with a certificate.
const RESERVED: usize = 256;
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
    flights: Places<oneshot::Sender<()>>,
    reserved_flights: Arc<Semaphore>,
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
            flights: Places::new(FLIGHTS),
            reserved_flights: Arc::new(Semaphore::new(RESERVED)),
            known: Mutex::new(known),
        }))
    }

    /// Whom `token` proves its bearer, this `caller`, to be. Cancel safe: the review goes on, for others and for the next try.
    ///
    /// # Errors
    /// That the token proves nobody, or that the API server did not say.
    pub async fn prove(&self, token: &str, caller: Caller, now: SystemTime) -> Result<Proven, Unproven> {
        let ends = answer::claims(token, now)?;
        let mut flight = match self.0.look_up(token, caller, now, ends) {
            Ok(outcome) => return outcome,
            Err(flight) => flight,
        };
        // An error says that the review gave up its place, or panicked.
        let landed = flight.wait_for(Option::is_some).await.map_err(|_| Unproven::Unavailable)?;
        landed.clone().unwrap_or(Err(Unproven::Unavailable))
    }
}

impl Shared {
    /// What is known of `token`, or the review to wait for, which begins here if there is none.
    fn look_up(
        self: &Arc<Self>,
        token: &str,
        caller: Caller,
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
        let Some(mut room) = self.room(caller) else {
            let (source, waiting) = (caller.source, known.flights.len());
            tracing::warn!(%source, waiting, "too many tokens wait for a review; told a caller to come back");
            return Ok(Err(Unproven::Unavailable));
        };
        let (sender, flight) = watch::channel(None);
        known.flights.insert(key, flight.clone());
        drop(known);
        let (shared, token) = (Arc::clone(self), token.to_owned());
        tokio::spawn(async move {
            let _ended = Flight { shared: &shared, key };
            let outcome = tokio::select! {
                outcome = shared.review(&token) => outcome,
                () = room.given_up() => {
                    let source = caller.source;
                    tracing::warn!(%source, "too many tokens of one address wait for a review; the oldest must come back");
                    return;
                }
            };
            if let Ok(proven) = &outcome {
                shared.known.lock().accepted.insert(key, proven.clone(), ends, now);
            }
            sender.send_replace(Some(outcome));
        });
        Err(flight)
    }

    /// Room for another review, if there is any. Called under the lock of `known`, and takes it nowhere: who is woken by a
    /// place given up runs later.
    fn room(&self, caller: Caller) -> Option<Room> {
        if caller.certified
            && let Ok(_permit) = Arc::clone(&self.reserved_flights).try_acquire_owned()
        {
            return Some(Room::Reserved { _permit });
        }
        let (evict, evicted) = oneshot::channel();
        self.flights.enter(caller.source, evict).ok().map(|_place| Room::BySource { _place, evicted })
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

/// What a review takes up while it waits.
enum Room {
    /// One of [`RESERVED`].
    Reserved { _permit: OwnedSemaphorePermit },
    /// One of [`FLIGHTS`].
    BySource { _place: Place<oneshot::Sender<()>>, evicted: oneshot::Receiver<()> },
}

impl Room {
    /// Waits until it must be left. Once only.
    async fn given_up(&mut self) {
        match self {
            Room::Reserved { .. } => std::future::pending().await,
            // An error is how it says so.
            Room::BySource { evicted, .. } => drop(evicted.await),
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
