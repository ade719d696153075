//! What a control plane would know of a cluster, and a relay on its way there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::Config;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weft_control_plane::model::{Object, ObjectKey};
use weft_control_plane::source::Problem;
use weft_control_plane::source::kubernetes::{Metrics, Watch, WatchSettings, watch as watch_cluster};

use super::PATIENCE;

/// What a control plane would know.
pub(super) struct Known {
    pub(super) watch: Watch,
    pub(super) objects: BTreeMap<ObjectKey, Object>,
    pub(super) problems: Vec<Problem>,
    pub(super) edits: usize,
}

impl Known {
    /// Watches, and waits for the first edit.
    pub(super) async fn new(config: Config) -> Self {
        let settings = WatchSettings { never_injected: ["kube-system".to_owned()].into() };
        let watch = watch_cluster(config, settings, Metrics::default()).unwrap();
        let mut known = Self { watch, objects: BTreeMap::new(), problems: Vec::new(), edits: 0 };
        let began = Instant::now();
        known.take(PATIENCE).await;
        println!("the first edit: {} objects after {:?}", known.objects.len(), began.elapsed());
        known
    }

    pub(super) async fn take(&mut self, patience: Duration) -> bool {
        let Ok(edit) = tokio::time::timeout(patience, self.watch.edits.recv()).await else { return false };
        let edit = edit.expect("a watch");
        for key in edit.objects.removes {
            self.objects.remove(&key);
        }
        self.objects.extend(edit.objects.upserts.into_iter().map(|object| (object.key(), object)));
        self.problems = edit.problems;
        self.edits += 1;
        true
    }

    /// Takes edits until what is known is so, and says how long that took.
    pub(super) async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !is(self) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            assert!(self.take(left).await, "{what}: not within {PATIENCE:?}");
        }
        println!("{what}: after {:?}", began.elapsed());
        began.elapsed()
    }

    pub(super) fn addresses(&self, key: &ObjectKey) -> Vec<String> {
        match self.objects.get(key) {
            Some(Object::EndpointSlice(slice)) => {
                slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        }
    }

    /// `first backend's weight`, or none.
    pub(super) fn weight(&self, key: &ObjectKey) -> Option<u32> {
        match self.objects.get(key) {
            Some(Object::HttpRoute(route)) => route.rules.first()?.backends.first().map(|backend| backend.weight),
            _ => None,
        }
    }

    /// What a control plane that starts now would know, once what was on its way is here.
    pub(super) async fn assert_is_fresh(&mut self, config: Config) {
        let began = Instant::now();
        loop {
            while self.take(Duration::from_millis(500)).await {}
            let fresh = Self::new(config.clone()).await;
            let differ: Vec<_> = (self.objects.keys().chain(fresh.objects.keys()))
                .filter(|key| self.objects.get(*key) != fresh.objects.get(*key))
                .collect();
            if differ.is_empty() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "still not known after {PATIENCE:?}: {differ:?}");
        }
    }
}

/// Between us and the API server.
pub(super) struct Relay {
    pub(super) up: watch::Sender<bool>,
}

impl Relay {
    /// A relay, and the configuration that goes through it.
    pub(super) async fn new(config: &Config) -> (Self, Config) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = format!("{}:{}", config.cluster_url.host().unwrap(), config.cluster_url.port_u16().unwrap_or(443));
        let (up, is_up) = watch::channel(true);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (target, mut is_up) = (target.clone(), is_up.clone());
                tokio::spawn(async move {
                    if !*is_up.borrow() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_up.wait_for(|up| !*up) => {}
                    }
                });
            }
        });
        let mut through = config.clone();
        through.tls_server_name.get_or_insert(config.cluster_url.host().unwrap().to_owned());
        through.cluster_url = format!("https://{address}").parse().unwrap();
        (Self { up }, through)
    }
}
