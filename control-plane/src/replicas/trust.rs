//! Whether every proxy connected to any replica has ACKed the trust bundle in force, and who has not: the gate before a new
//! root signs (`identity/rotation.rs`). The leader asks all replicas of all revisions every [`EVERY`]. Who does not answer, a proxy that
//! connects just now, and a bundle that has just changed are all a no.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use weft_proto::v1::ProgressRequest;

use super::{Gathered, Progresses};
use crate::identity::{Acked, Bundle};
use crate::translate::trust_bundle_version;

const EVERY: Duration = Duration::from_secs(2);
/// Named of those who have not ACKed.
const MAX_NAMED: usize = 10;

/// Says so in `acked`, and in `unacked` how many have not, while `leader` says so, for `identity::SecretAuthority::run`. Never ends; drop it to stop.
pub async fn all_acked(
    replicas: Arc<dyn Progresses>,
    trust_domain: String,
    mut bundle: watch::Receiver<Bundle>,
    mut leader: watch::Receiver<bool>,
    acked: watch::Sender<Acked>,
    unacked: Gauge,
) {
    let say = |known: Acked, proxies: u32| {
        unacked.set(proxies.into());
        acked.send_if_modified(|now| {
            let differs = *now != known;
            *now = known;
            differs
        });
    };
    let mut known = None;
    loop {
        let leads = *leader.borrow_and_update();
        let roots = Arc::clone(&bundle.borrow_and_update());
        if known.as_ref() != Some(&roots) || !leads {
            say(Acked::default(), 0);
            known = Some(Arc::clone(&roots));
        }
        if !leads {
            changed(&mut leader).await;
            continue;
        }
        let roots = roots.iter().map(|root| root.to_vec()).collect();
        let request = ProgressRequest {
            trust_bundle_version: trust_bundle_version(&trust_domain, roots),
            ..ProgressRequest::default()
        };
        tokio::select! {
            biased;
            () = changed(&mut bundle) => continue,
            () = changed(&mut leader) => continue,
            gathered = replicas.ask(request, true) => {
                let (known, proxies) = read(gathered);
                say(known, proxies);
            }
        }
        tokio::select! {
            biased;
            () = changed(&mut bundle) => {}
            () = changed(&mut leader) => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// What an answer says, and how many proxies have not ACKed as far as it is known.
fn read(gathered: Gathered) -> (Acked, u32) {
    let sum = gathered.known_of_trust_bundle();
    let missing = sum.proxies.saturating_sub(sum.acked);
    let all = gathered.trust_bundle().is_some_and(|sum| sum.acked == sum.proxies);
    let pods = sum.laggards.into_iter().map(|laggard| laggard.pod);
    let laggards = if all { Vec::new() } else { pods.chain(gathered.silent).take(MAX_NAMED).collect() };
    (Acked { all, laggards }, missing)
}

/// Waits for another value. One whose sender is gone changes no more.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;
    use rustls_pki_types::CertificateDer;
    use weft_proto::v1::{Laggard, Progress, ProgressResponse};

    use super::*;

    /// Two replicas, whose proxies have ACKed this version.
    struct Fake(Mutex<(String, Vec<String>)>);

    impl Progresses for Fake {
        fn ask(&self, request: ProgressRequest, all_revisions: bool) -> BoxFuture<'_, Gathered> {
            assert!(all_revisions);
            let (version, silent) = self.0.lock().clone();
            let acked = if request.trust_bundle_version == version { 3 } else { 2 };
            let laggard = Laggard { pod: "shop/late".to_owned(), refused: String::new() };
            let laggards = (acked < 3).then_some(laggard).into_iter().collect();
            let sum = Progress { proxies: 3, acked, laggards };
            let answer = ProgressResponse { services: Vec::new(), trust_bundle: Some(sum) };
            Box::pin(std::future::ready(Gathered { answers: vec![answer], silent }))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bundle_counts_as_acked_only_by_all_of_all_replicas_and_only_for_the_leader() {
        let root = |byte: u8| CertificateDer::from(vec![byte]);
        let (bundles, bundle) = watch::channel(Arc::new(vec![root(1)]));
        let (leads, leader) = watch::channel(false);
        let (sender, acked) = watch::channel(Acked { all: true, laggards: Vec::new() });
        let unacked = Gauge::default();
        let fake = Arc::new(Fake(Mutex::new((trust_bundle_version("weft.local", vec![vec![1]]), Vec::new()))));
        let asking = Arc::clone(&fake) as Arc<dyn Progresses>;
        tokio::spawn(all_acked(asking, "weft.local".to_owned(), bundle, leader, sender, unacked.clone()));
        let after = async |seconds: u64| {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            acked.borrow().all
        };
        assert!(!after(5).await, "not the leader");
        leads.send_replace(true);
        assert!(after(1).await);
        bundles.send_replace(Arc::new(vec![root(1), root(2)]));
        assert!(!after(0).await || !after(1).await, "another bundle");
        assert!(!after(10).await, "nobody has it yet");
        let named = || acked.borrow().laggards.clone();
        assert_eq!((named(), unacked.get()), (vec!["shop/late".to_owned()], 1));
        fake.0.lock().0 = trust_bundle_version("weft.local", vec![vec![1], vec![2]]);
        assert!(after(3).await);
        fake.0.lock().1.push("weft-control-plane-b".to_owned());
        assert!(!after(3).await, "a replica is silent");
        assert_eq!((named(), unacked.get()), (vec!["weft-control-plane-b".to_owned()], 0));
        fake.0.lock().1.clear();
        assert!(after(3).await);
        leads.send_replace(false);
        assert!(!after(1).await);
    }
}
