//! The trust bundle as a ConfigMap, `weft-ca-roots`, in every namespace whose pods mount it (SEMANTICS.md §4, bootstrap of
//! trust). The leader keeps them: server-side apply, again whenever somebody edits or deletes one.
//!
//! The watch is by name (a field selector), so the control plane may be kept from reading any other ConfigMap. A namespace
//! that is missing or terminating costs only itself: it is tried again after 1 s doubling to 60 s, each less up to half.
//! Namespaces no longer wanted keep theirs, because pods may still mount it; [`remove_roots`] is for uninstalling.
//!
//! Bound: [`MAX_APPLIES`] requests under way, two words per namespace, no more than one apply per namespace and second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use super::cluster::pem_of_all;
use super::{Bundle, FIELD_MANAGER};

mod plan;

use plan::Plan;

/// The ConfigMap's name.
pub const ROOTS_CONFIG_MAP: &str = "weft-ca-roots";
/// Its one key: PEM certificates.
pub const ROOTS_KEY: &str = "roots.pem";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "weft");
const MAX_APPLIES: usize = 8;
/// One request.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Keeps the ConfigMap in the `wanted` namespaces equal to `bundle`, while `leader` says so. Never ends; drop it to stop.
pub async fn distribute(
    client: Client,
    wanted: watch::Receiver<BTreeSet<String>>,
    bundle: watch::Receiver<Bundle>,
    leader: watch::Receiver<bool>,
) {
    let mut elected = leader.clone();
    loop {
        if elected.wait_for(|leader| *leader).await.is_err() {
            std::future::pending().await
        }
        let mut deposed = leader.clone();
        tokio::select! {
            () = lead(&client, wanted.clone(), bundle.clone()) => {}
            // An error says that nothing will ever be said again; then what was said last stands.
            () = async { if deposed.wait_for(|leader| !*leader).await.is_err() { std::future::pending().await } } => {}
        }
    }
}

async fn lead(client: &Client, mut wanted: watch::Receiver<BTreeSet<String>>, mut bundle: watch::Receiver<Bundle>) {
    let named = watcher::Config::default().fields(&format!("metadata.name={ROOTS_CONFIG_MAP}"));
    let mut changes = std::pin::pin!(watcher(Api::<ConfigMap>::all(client.clone()), named).default_backoff());
    let mut plan = Plan::default();
    let mut pem = pem(&bundle.borrow_and_update());
    plan.want(wanted.borrow_and_update().clone(), digest(&pem));
    let mut applies = FuturesUnordered::new();
    loop {
        while applies.len() < MAX_APPLIES {
            let Some(namespace) = plan.take_due(Instant::now()) else { break };
            applies.push(apply(client, namespace, Arc::clone(&pem)));
        }
        let due = plan.next_due().filter(|_| applies.len() < MAX_APPLIES);
        tokio::select! {
            Some((namespace, applied)) = applies.next(), if !applies.is_empty() => {
                if let Err(error) = &applied {
                    tracing::debug!(namespace, error, "cannot write the trust bundle; trying again");
                }
                plan.on_applied(&namespace, applied.map(|pem| digest(&pem)).ok(), Instant::now(), rand::random());
            }
            Some(event) = changes.next() => match event {
                Ok(watcher::Event::Init) => plan.on_relist(),
                Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => {
                    let holds = holds(&map);
                    plan.on_seen(map.metadata.namespace.unwrap_or_default(), holds);
                }
                Ok(watcher::Event::InitDone) => plan.on_listed(),
                Ok(watcher::Event::Delete(map)) => plan.on_gone(&map.metadata.namespace.unwrap_or_default()),
                Err(error) => {
                    tracing::warn!(%error, "cannot watch the ConfigMaps of the trust bundle");
                    // Without a watch they are written all the same, and only edits go unseen.
                    plan.on_listed();
                }
            },
            () = following(&mut wanted) => plan.want(wanted.borrow_and_update().clone(), digest(&pem)),
            () = following(&mut bundle) => {
                pem = self::pem(&bundle.borrow_and_update());
                plan.want(wanted.borrow().clone(), digest(&pem));
            }
            () = async { match due { Some(due) => tokio::time::sleep_until(due).await, None => std::future::pending().await } } => {}
        }
    }
}

/// Deletes the ConfigMap from every namespace, for uninstalling; says how many there were.
///
/// # Errors
/// The first that could not be deleted. What is gone already is no error.
pub async fn remove_roots(client: Client) -> Result<usize, kube::Error> {
    let ours = ListParams::default()
        .fields(&format!("metadata.name={ROOTS_CONFIG_MAP}"))
        .labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let maps = Api::<ConfigMap>::all(client.clone()).list_metadata(&ours).await?;
    let mut removed = 0;
    for namespace in maps.items.into_iter().filter_map(|map| map.metadata.namespace) {
        match Api::<ConfigMap>::namespaced(client.clone(), &namespace)
            .delete(ROOTS_CONFIG_MAP, &DeleteParams::default())
            .await
        {
            Ok(_) => removed += 1,
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Writes one, and says what it then holds.
async fn apply(client: &Client, namespace: String, pem: Arc<str>) -> (String, Result<Arc<str>, String>) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOTS_CONFIG_MAP.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(ROOTS_KEY.to_owned(), pem.to_string())])),
        ..ConfigMap::default()
    };
    // By force: whoever else wrote this key, pods trust what is in it.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = async {
        match maps.patch(ROOTS_CONFIG_MAP, &params, &Patch::Apply(&map)).await {
            // Somebody made it immutable, which only a new one gets rid of.
            Err(kube::Error::Api(status)) if status.code == 422 => {
                maps.delete(ROOTS_CONFIG_MAP, &DeleteParams::default()).await?;
                maps.patch(ROOTS_CONFIG_MAP, &params, &Patch::Apply(&map)).await
            }
            other => other,
        }
    };
    let outcome = match tokio::time::timeout(TIME_LIMIT, written).await {
        Ok(Ok(_)) => Ok(pem),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {TIME_LIMIT:?}")),
    };
    (namespace, outcome)
}

fn pem(bundle: &Bundle) -> Arc<str> {
    pem_of_all(bundle).into()
}

/// What a ConfigMap holds, if it is as we write it but for its roots.
fn holds(map: &ConfigMap) -> Option<u64> {
    let labelled = map.metadata.labels.as_ref()?.get(MANAGED_BY.0)? == MANAGED_BY.1;
    map.data.as_ref()?.get(ROOTS_KEY).filter(|_| labelled).map(|pem| digest(pem))
}

/// Only to tell equal from different: nobody gains by an accident here that an edit would not give them.
fn digest(pem: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(pem.as_bytes())
}

/// Waits for another value. One whose sender is gone changes no more.
async fn following<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}
