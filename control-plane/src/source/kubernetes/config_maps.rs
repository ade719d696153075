//! The ConfigMaps that policies name, asked for one by one: the control plane may `get` ConfigMaps and no more, so that it
//! cannot read what nobody has named to it (docs/reference/backendtlspolicy.md). A name is asked about when it first comes, and every
//! [`AGAIN`] while it is named.
//!
//! What is not there is an answer; what may not be read is one as well, or a policy would be held back for ever. No answer is
//! none: then what was known stays, as with a watch that fails. Bound: one request at a time, [`PAUSE`] apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::ApiResource;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::gather::Message;
use super::seen::{Of, Seen};
use crate::model::{Kind, ObjectName};
use crate::source::files::served::Served;

/// Between two questions about one ConfigMap.
const AGAIN: Duration = Duration::from_secs(30);
/// After a question without an answer.
const RETRY: Duration = Duration::from_secs(2);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(20);
/// How long an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);

struct ConfigMap;

impl Of for ConfigMap {
    const KIND: Kind = Kind::ConfigMap;
}

/// Asks until nobody listens.
pub(super) async fn follow(
    client: Client,
    mut named: watch::Receiver<BTreeSet<ObjectName>>,
    events: mpsc::Sender<Message>,
) {
    let mut due: BTreeMap<ObjectName, Instant> = BTreeMap::new();
    let mut denied = false;
    loop {
        {
            let named = named.borrow_and_update();
            due.retain(|name, _| named.contains(name));
            for name in named.iter() {
                due.entry(name.clone()).or_insert_with(Instant::now);
            }
        }
        let next = due.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at));
        let Some((name, at)) = next else {
            match named.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        tokio::select! {
            changed = named.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = tokio::time::sleep_until(at) => {}
        }
        let answer = match read(&client, &name).await {
            Ok(answer) => answer,
            Err(error) if is_denial(&error) => {
                if !std::mem::replace(&mut denied, true) {
                    tracing::warn!(config_map = %name, "may not be read, as if it were not there: the ClusterRole lacks get on configmaps");
                }
                None
            }
            Err(error) => {
                tracing::warn!(config_map = %name, %error, "cannot be read; what was known of it stays");
                due.insert(name, Instant::now() + RETRY);
                continue;
            }
        };
        if events.send(Message::ConfigMap(name.clone(), answer.map(Box::new))).await.is_err() {
            return;
        }
        due.insert(name, Instant::now() + AGAIN);
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_denial(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn read(client: &Client, name: &ObjectName) -> Result<Option<Served>, kube::Error> {
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        plural: "configmaps".to_owned(),
    };
    let config_maps = Api::<Seen<ConfigMap>>::namespaced_with(client.clone(), &name.namespace, &resource);
    match tokio::time::timeout(TIME_LIMIT, config_maps.get_opt(&name.name)).await {
        Ok(found) => found.map(|found| found.map(|seen| seen.served)),
        Err(_) => Err(kube::Error::Service(format!("no answer within {TIME_LIMIT:?}").into())),
    }
}
