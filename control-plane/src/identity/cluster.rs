//! The authority of cluster mode: its root is the Secret `weft-ca`, made once however many replicas start at once, and
//! followed while it runs.
//!
//! Each replica issues an intermediate of its own below the root, whose key stays in memory. The Secret is the truth: every
//! replica takes what it says, and only the leader writes, by a replace that the API server refuses when somebody else was
//! faster; then everything is read again and decided again. The watch is on the Secret's metadata and only says *that* it
//! changed, so neither the key nor a message that quotes it passes through the watcher's log; the Secret is also read
//! every [`REREAD`], so a watch that hangs delays a replica by no more than that. A Secret that is damaged or gone while we
//! run changes nothing: we go on with what we have, and say so.
//!
//! Bound: one Secret, one watch, one request at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _};
use rand::Rng as _;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::issuing::Issuing;
use super::rotation::{Acked, Facts, Next, Times};
use super::secret::Content;
use super::{Authority, Bundle, CheckedRequest, Error, Issued};

/// The Secret's name, in the control plane's namespace.
pub const SECRET: &str = "weft-ca";
/// What [`Times::settle`] relies on.
const REREAD: Duration = Duration::from_secs(60);
/// One request.
const TIME_LIMIT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// Signs below the root in the Secret [`SECRET`].
pub struct SecretAuthority {
    client: Client,
    namespace: String,
    trust_domain: String,
    times: Times,
    issuing: ArcSwap<Issuing>,
    bundle: watch::Sender<Bundle>,
    issuer: watch::Sender<u64>,
}

/// The Secret as it was read, which a replace must name, and what it held.
struct Seen {
    secret: Secret,
    content: Content,
}

/// What ended a wait.
enum Woken {
    /// The Secret changed, or it is time to look.
    Look,
    /// Another fact changed.
    Decide,
}

impl SecretAuthority {
    /// Reads the root from the Secret in `namespace`, making both if there is none, and issues an intermediate.
    ///
    /// # Errors
    /// When the API server cannot be asked, or what the Secret holds is damaged or past its end.
    pub async fn open(
        client: Client,
        namespace: &str,
        trust_domain: &str,
        times: Times,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let place = Place { client: &client, namespace };
        let secret = match place.read().await? {
            Some(secret) => secret,
            None => place.make(trust_domain, now).await?,
        };
        let content = Content::read(&secret, now).map_err(|why| place.damaged(why))?;
        let issuing = Issuing::new(trust_domain, content.current.root()?, now)?;
        Ok(Self {
            issuing: ArcSwap::from_pointee(issuing),
            bundle: watch::Sender::new(Arc::new(content.bundle())),
            issuer: watch::Sender::new(0),
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.to_owned(),
            client,
            times,
        })
    }

    /// Follows the Secret, and while `leader` says so drives rotations. `acked` says whether every proxy connected to
    /// any replica has ACKed a trust bundle equal to [`Authority::bundle`]. Never ends; drop it to stop.
    pub async fn run(self: Arc<Self>, mut leader: watch::Receiver<bool>, mut acked: watch::Receiver<Acked>) {
        let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &self.namespace);
        let named = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
        let mut changes = std::pin::pin!(watcher(secrets, named).default_backoff());
        let mut seen: Option<Seen> = None;
        let mut backoff = None;
        let mut woken = Woken::Look;
        loop {
            let (leads, known) = (*leader.borrow_and_update(), acked.borrow_and_update().clone());
            let worked = async {
                if matches!(woken, Woken::Look) || seen.is_none() {
                    self.look(&mut seen).await?;
                }
                self.decide(&mut seen, leads, &known).await
            };
            let wait = match worked.await {
                Ok(wait) => {
                    backoff = None;
                    wait.min(REREAD)
                }
                Err(error) => {
                    let wait = backoff.map_or(FIRST_BACKOFF, |last: Duration| (last * 2).min(LAST_BACKOFF));
                    backoff = Some(wait);
                    tracing::warn!(%error, ?wait, "the Secret of the mesh's root; going on with what is known");
                    wait * rand::rng().random_range(500..=1000_u32) / 1000
                }
            };
            woken = tokio::select! {
                () = tokio::time::sleep(wait) => Woken::Look,
                () = changed(&mut changes) => Woken::Look,
                () = altered(&mut leader) => Woken::Decide,
                () = altered(&mut acked) => Woken::Decide,
            };
        }
    }

    /// Reads the Secret, and takes what it says.
    async fn look(&self, seen: &mut Option<Seen>) -> Result<(), Error> {
        let place = self.place();
        let Some(secret) = place.read().await? else {
            // A new one must not come into being behind the operator's back while old leaves are about.
            *seen = None;
            return Err(place.damaged("it is gone".to_owned()));
        };
        if seen.as_ref().is_some_and(|seen| seen.secret.metadata.resource_version == secret.metadata.resource_version) {
            return Ok(());
        }
        let now = SystemTime::now();
        *seen = None; // What is no longer there must not be decided on.
        let content = Content::read(&secret, now).map_err(|why| place.damaged(why))?;
        self.take(&content, now)?;
        *seen = Some(Seen { secret, content });
        Ok(())
    }

    /// Trusts and signs as `content` says.
    fn take(&self, content: &Content, now: SystemTime) -> Result<(), Error> {
        let bundle = content.bundle();
        let signs = Arc::clone(&self.issuing.load());
        let switch = signs.root() != content.current.certificate();
        let issuing =
            switch.then(|| Issuing::new(&self.trust_domain, content.current.root()?, now).map(Arc::new)).transpose()?;
        if !bundle.contains(signs.root()) {
            tracing::warn!("the Secret holds a root that no rotation led to; certificates by the one before end here");
        }
        // Trusted first, used second.
        self.bundle.send_if_modified(|held| {
            let differs = **held != bundle;
            if differs {
                *held = Arc::new(bundle);
            }
            differs
        });
        if let Some(issuing) = issuing {
            self.issuing.store(issuing);
            self.issuer.send_modify(|changes| *changes += 1);
            tracing::info!(step = content.rotation.word(), "another root signs from now on");
        }
        Ok(())
    }

    /// Takes the steps that are due, if they are ours to take, and says when the next may be.
    async fn decide(&self, seen: &mut Option<Seen>, leader: bool, acked: &Acked) -> Result<Duration, Error> {
        while let Some(Seen { secret, content }) = seen.as_ref().filter(|_| leader) {
            let now = SystemTime::now();
            let facts = Facts { now, asked: content.asked(), all_acked: acked.all };
            let next = content.rotation.next(&facts, &self.times);
            if let Next::Wait(until) = next {
                return Ok(until.map_or(REREAD, |until| until.duration_since(now).unwrap_or_default()));
            }
            let mut secret = secret.clone();
            let after = content.after(next, &self.trust_domain, now)?;
            after.write(&mut secret);
            match self.place().replace(&secret).await? {
                Some(secret) => {
                    tracing::info!(step = after.rotation.word(), "root rotation");
                    if matches!(next, Next::Switch) && !acked.all {
                        tracing::warn!(
                            laggards = acked.laggards.join(", "),
                            "the new root signs although these have not acknowledged it: every certificate that is still \
                             good came with it, and a pod that does not know it must be restarted"
                        );
                    }
                    self.take(&after, now)?;
                    *seen = Some(Seen { secret, content: after });
                }
                // Somebody was faster; what they wrote decides.
                None => self.look(seen).await?,
            }
        }
        Ok(REREAD)
    }

    fn place(&self) -> Place<'_> {
        Place { client: &self.client, namespace: &self.namespace }
    }
}

impl Authority for SecretAuthority {
    fn sign(&self, request: &CheckedRequest, ttl: Duration, now: SystemTime) -> Result<Issued, Error> {
        self.issuing.load().sign(request, ttl, now)
    }

    fn bundle(&self) -> watch::Receiver<Bundle> {
        self.bundle.subscribe()
    }

    fn issuer(&self) -> watch::Receiver<u64> {
        self.issuer.subscribe()
    }
}

/// Where the Secret is, and the requests about it. kube's own `get` logs an answer that it cannot parse, and this one
/// holds a key, so answers are parsed here.
struct Place<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Place<'_> {
    async fn read(&self) -> Result<Option<Secret>, Error> {
        let request = self.requests().get(SECRET, &Default::default());
        match self.ask("read", request.map_err(kube::Error::BuildRequest)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other.map(Some).map_err(|error| self.failed("read", &error)),
        }
    }

    /// Creates it; when another replica was faster, reads that one's.
    async fn make(&self, trust_domain: &str, now: SystemTime) -> Result<Secret, Error> {
        let labels = [("app.kubernetes.io/managed-by", "weft"), ("app.kubernetes.io/part-of", "weft")];
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(self.namespace.to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        Content::new(trust_domain, now)?.write(&mut secret);
        let body = serde_json::to_vec(&secret).map_err(|error| self.failed("write", &error))?;
        let request = self.requests().create(&params(), body);
        match self.ask("create", request.map_err(kube::Error::BuildRequest)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Gone again between two requests: somebody deletes it, and should be asked why.
                self.read().await?.ok_or_else(|| self.damaged("it was made and deleted in the same moment".to_owned()))
            }
            Ok(secret) => {
                tracing::info!(namespace = self.namespace, secret = SECRET, "made the mesh's root");
                Ok(secret)
            }
            Err(error) => Err(self.failed("create", &error)),
        }
    }

    /// Replaces the version that `secret` was read as; none when that is no longer the last one.
    async fn replace(&self, secret: &Secret) -> Result<Option<Secret>, Error> {
        let body = serde_json::to_vec(secret).map_err(|error| self.failed("write", &error))?;
        let request = self.requests().replace(SECRET, &params(), body);
        match self.ask("update", request.map_err(kube::Error::BuildRequest)).await {
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(None),
            other => other.map(Some).map_err(|error| self.failed("update", &error)),
        }
    }

    fn requests(&self) -> kube::core::Request {
        kube::core::Request::new(Secret::url_path(&(), Some(self.namespace)))
    }

    async fn ask(
        &self,
        verb: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::Error>,
    ) -> Result<Secret, kube::Error> {
        let late = |_| kube::Error::Service(format!("no answer to {verb} within {TIME_LIMIT:?}").into());
        let text = tokio::time::timeout(TIME_LIMIT, self.client.request_text(request?)).await.map_err(late)??;
        // The parser's own words may quote what it did not expect.
        serde_json::from_str(&text).map_err(|_| kube::Error::Service("the answer is no Secret".into()))
    }

    fn failed(&self, verb: &'static str, error: &dyn std::fmt::Display) -> Error {
        let what = format!("{verb} Secret {}/{SECRET}", self.namespace);
        Error::Kubernetes { what, why: error.to_string() }
    }

    fn damaged(&self, why: String) -> Error {
        Error::DamagedSecret { namespace: self.namespace.to_owned(), why }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Waits until the watch says anything but that it failed, which is said and tried again after its own back-off.
async fn changed<K>(changes: &mut (impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin)) {
    loop {
        match changes.next().await {
            Some(Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone)) => return,
            Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => {}
            Some(Err(error)) => tracing::debug!(%error, "the watch on the Secret of the mesh's root"),
            None => std::future::pending().await,
        }
    }
}

/// Waits for another value. One whose sender is gone changes no more.
async fn altered<T>(fact: &mut watch::Receiver<T>) {
    if fact.changed().await.is_err() {
        std::future::pending().await
    }
}

/// As one PEM file, the one that signs first.
pub(super) fn pem_of_all(bundle: &[CertificateDer<'_>]) -> String {
    bundle.iter().map(super::issuing::pem_of).collect()
}
