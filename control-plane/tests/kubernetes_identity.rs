//! Identity against a real API server. Ignored unless asked for: `WEFT_TEST_KUBECONFIG` names the kubeconfig of an
//! administrator of a cluster made for tests. It needs no node: nothing here runs a pod. Each test has its own namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, Pod, PodSpec, Secret, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_control_plane::identity::{
    ANSWERED, AUDIENCE, Acked, Authority, Bundle, Caller, Proven, ROOTS_CONFIG_MAP, ROOTS_KEY, ROTATE, SECRET, STEP,
    SecretAuthority, Times, TokenReviewer, Unproven, check, distribute, remove_roots,
};
use weft_proto::SpiffeId;

const DOMAIN: &str = "cluster.local";
const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace of a test's own.
struct Cluster {
    config: Config,
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn new(test: &str) -> Self {
        let path = std::env::var("WEFT_TEST_KUBECONFIG").expect(
            "WEFT_TEST_KUBECONFIG must name the kubeconfig of a cluster made for tests: run `make test-cluster`",
        );
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        let cluster = Self { config, client, namespace: format!("weft-{test}-{:08x}", rand::random::<u32>()) };
        cluster.make_namespace(&cluster.namespace).await;
        cluster
    }

    async fn make_namespace(&self, name: &str) {
        let namespace = Namespace { metadata: named(name), ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn account(&self, name: &str) {
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        self.api().create(&PostParams::default(), &account).await.unwrap();
    }

    async fn token(&self, account: &str, audience: &str, pod: Option<&Pod>) -> String {
        let bound_object_ref = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        });
        let spec = TokenRequestSpec {
            audiences: Some(vec![audience.to_owned()]),
            bound_object_ref,
            expiration_seconds: Some(600),
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = self.api();
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token.unwrap()
    }

    fn reviewer(&self) -> TokenReviewer {
        reviewer(self.client.clone())
    }

    async fn end(self, more: &[&str]) {
        for name in more.iter().copied().chain([&*self.namespace]) {
            Api::<Namespace>::all(self.client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
}

fn reviewer(client: Client) -> TokenReviewer {
    TokenReviewer::new(client, DOMAIN, vec![SpiffeId::new(DOMAIN, "weft-system", "weft-control-plane").unwrap()])
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Waits until `found` finds something, and says how long that took.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found().await {
            println!("{what}: after {:?}", began.elapsed());
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn outcome(proven: Result<Proven, Unproven>) -> String {
    match proven {
        Ok(proven) => proven.id.to_string(),
        Err(Unproven::Refused(refusal)) => refusal.reason().to_owned(),
        Err(Unproven::Unavailable) => "unavailable".to_owned(),
    }
}

#[tokio::test]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_token_proves_its_service_account_and_nothing_else_does() {
    let cluster = Cluster::new("tokens").await;
    for account in ["web", "gone"] {
        cluster.account(account).await;
    }
    let good = cluster.token("web", AUDIENCE, None).await;
    let gone = cluster.token("gone", AUDIENCE, None).await;
    cluster.api::<ServiceAccount>().delete("gone", &DeleteParams::default()).await.unwrap();
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{rest}.{first}{}", &signature[1..]);
    let api_server = cluster.token("web", "https://kubernetes.default.svc.cluster.local", None).await;
    let now = SystemTime::now();
    let web = format!("spiffe://{DOMAIN}/ns/{}/sa/web", cluster.namespace);
    let rows = [
        ("good", &good, now, &*web),
        ("remembered", &good, now + Duration::from_secs(30), &web),
        ("for the API server", &api_server, now, "wrong-audience"),
        ("for somebody else", &cluster.token("web", "vault", None).await, now, "wrong-audience"),
        ("a forged signature", &forged, now, "rejected-service-account"),
        ("its service account was deleted", &gone, now, "rejected-service-account"),
        ("past its end", &good, now + Duration::from_secs(700), "expired-service-account"),
        ("garbage", &"garbage".to_owned(), now, "not-service-account"),
    ];
    let reviewer = cluster.reviewer();
    for (row, token, now, expected) in rows {
        let began = Instant::now();
        assert_eq!(outcome(reviewer.prove(token, Caller::UNKNOWN, now).await), expected, "{row}");
        println!("{row}: {expected} in {:?}", began.elapsed());
    }
    cluster.end(&[]).await;
}

#[tokio::test]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_pods_token_names_its_pod() {
    let cluster = Cluster::new("pods").await;
    cluster.account("web").await;
    let container = Container { name: "app".to_owned(), image: Some("none".to_owned()), ..Container::default() };
    let spec = PodSpec {
        containers: vec![container],
        service_account_name: Some("web".to_owned()),
        scheduler_name: Some("none".to_owned()), // It stays pending.
        ..PodSpec::default()
    };
    let pod = Pod { metadata: named("web-1"), spec: Some(spec), ..Pod::default() };
    let pod = cluster.api::<Pod>().create(&PostParams::default(), &pod).await.unwrap();
    let token = cluster.token("web", AUDIENCE, Some(&pod)).await;
    let proven = cluster.reviewer().prove(&token, Caller::UNKNOWN, SystemTime::now()).await.unwrap();
    let named = proven.pod.unwrap();
    assert_eq!((Some(named.name), Some(named.uid)), (pod.metadata.name, pod.metadata.uid));
    cluster.end(&[]).await;
}

#[tokio::test]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn an_api_server_that_does_not_answer_refuses_nobody() {
    let cluster = Cluster::new("silent").await;
    cluster.account("web").await;
    let token = cluster.token("web", AUDIENCE, None).await;
    let mut nobody = cluster.config.clone();
    nobody.auth_info.impersonate = Some("nobody".to_owned());
    let mut nowhere = cluster.config.clone();
    nowhere.cluster_url = "https://127.0.0.1:1".parse().unwrap();
    for (row, config) in [("it may not ask", nobody), ("there is none", nowhere)] {
        let began = Instant::now();
        let asked = reviewer(Client::try_from(config).unwrap()).prove(&token, Caller::UNKNOWN, SystemTime::now()).await;
        assert_eq!(asked, Err(Unproven::Unavailable), "{row}");
        assert!(began.elapsed() < Duration::from_secs(6), "{row}: {:?}", began.elapsed());
    }
    cluster.end(&[]).await;
}

/// Everything logged on this thread, down to what libraries trace.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn no_token_and_no_key_is_ever_logged() {
    let cluster = Cluster::new("log").await;
    cluster.account("web").await;
    let good = cluster.token("web", AUDIENCE, None).await;
    let (log, forged) = (Log::default(), format!("{}x", &good[..good.len() - 1]));
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let logging = tracing::subscriber::set_default(subscriber.finish());
    let client = Client::try_from(cluster.config.clone()).unwrap();
    let reviewer = reviewer(client.clone());
    for token in [&good, &forged] {
        let _ = reviewer.prove(token, Caller::UNKNOWN, SystemTime::now()).await;
    }
    let authority = SecretAuthority::open(client, &cluster.namespace, DOMAIN, TIMES, SystemTime::now()).await.unwrap();
    let ((_leader, no), (_acked, none)) = (watch::channel(false), watch::channel(Acked::default()));
    let _ = tokio::time::timeout(Duration::from_secs(1), Arc::new(authority).run(no, none)).await;
    drop(logging);

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("tokenreviews") && log.contains(SECRET), "nothing was logged: {} bytes", log.len());
    let secret = cluster.api::<Secret>().get(SECRET).await.unwrap();
    let pem = secret.data.unwrap().remove("root.pem").unwrap();
    let encoded = serde_json::to_value(&pem).unwrap();
    let pem = String::from_utf8(pem.0).unwrap();
    let key = pem.lines().nth(1).unwrap();
    let claims = good.split('.').nth(1).unwrap();
    for (what, secret) in [
        ("a token", &*good),
        ("a token's claims", claims),
        ("a token's signature", good.rsplit('.').next().unwrap()),
        ("a key", key),
        ("the Secret's value", &encoded.as_str().unwrap()[..80]),
    ] {
        assert!(!log.contains(secret), "{what} was logged");
    }
    cluster.end(&[]).await;
}

/// Short, but in the order of the real ones.
const TIMES: Times = Times {
    distribute: Duration::from_secs(2),
    settle: Duration::from_secs(2),
    longest_leaf: Duration::from_secs(6),
    clock_skew: Duration::from_secs(1),
};

async fn open(cluster: &Cluster) -> Result<SecretAuthority, weft_control_plane::identity::Error> {
    SecretAuthority::open(cluster.client.clone(), &cluster.namespace, DOMAIN, TIMES, SystemTime::now()).await
}

/// Which of `roots` a leaf signed now leads to.
fn signs_with(authority: &dyn Authority, roots: &[CertificateDer<'static>]) -> Vec<bool> {
    let id = SpiffeId::new(DOMAIN, "shop", "web").unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    let request = check(params.serialize_request(&key).unwrap().der(), &id).unwrap();
    let chain = authority.sign(&request, Duration::from_secs(60), SystemTime::now()).unwrap().chain;
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
    let usage = webpki::KeyUsage::client_auth();
    let leads_to = |root| {
        let anchors = [webpki::anchor_from_trusted_cert(root).unwrap()];
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, &chain[1..], UnixTime::now(), usage, None, None).is_ok()
    };
    roots.iter().map(leads_to).collect()
}

#[tokio::test]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn authorities_that_race_for_the_secret_end_with_one_root() {
    let cluster = Cluster::new("race").await;
    let authorities = futures_util::future::join_all((0..4).map(|_| open(&cluster))).await;
    let authorities: Vec<_> = authorities.into_iter().map(Result::unwrap).collect();
    let roots = authorities[0].roots();
    assert_eq!(roots.len(), 1);
    for authority in &authorities {
        assert_eq!(authority.roots(), roots);
        assert_eq!(signs_with(authority, &roots), [true]);
    }
    let secret = cluster.api::<Secret>().get(SECRET).await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(secret.metadata.annotations.unwrap()[STEP], "stable");

    let broken = json!({"data": {"root.pem": ByteString(b"x".to_vec())}});
    cluster.api::<Secret>().patch(SECRET, &PatchParams::default(), &Patch::Merge(&broken)).await.unwrap();
    let refused = open(&cluster).await.err().unwrap().to_string();
    assert!(refused.contains("weft-ca is not usable: root.pem: no private key"), "{refused}");
    assert!(refused.contains("restore it from a backup"), "{refused}");
    cluster.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn a_rotation_goes_through_all_its_steps_on_every_replica() {
    let cluster = Cluster::new("rotation").await;
    let acked = watch::Sender::new(Acked::default());
    let mut replicas = Vec::new();
    for leads in [true, true, false] {
        // Two believe that they lead: the Secret's version decides between them.
        let authority = Arc::new(open(&cluster).await.unwrap());
        let leader = watch::Sender::new(leads);
        let task = tokio::spawn(Arc::clone(&authority).run(leader.subscribe(), acked.subscribe()));
        replicas.push((authority, leader, task));
    }
    let old = replicas[0].0.roots();
    let secrets: Api<Secret> = cluster.api();
    let annotate = async |value: &str| {
        let asked = json!({"metadata": {"annotations": {ROTATE: value}}});
        secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(&asked)).await.unwrap();
    };
    let step = async || secrets.get(SECRET).await.unwrap().metadata.annotations.unwrap()[STEP].clone();
    let all_have = async |what: &str, roots: usize| {
        for (authority, _, _) in &replicas {
            eventually(what, async || (authority.roots().len() == roots).then_some(())).await;
        }
        let bundle = replicas[0].0.roots();
        replicas.iter().for_each(|(authority, _, _)| assert_eq!(authority.roots(), bundle, "{what}"));
        bundle
    };

    annotate("first").await;
    let both = all_have("both roots are trusted", 2).await;
    assert_eq!(both[0], old[0], "the old one signs");
    tokio::time::sleep(TIMES.distribute * 2).await;
    assert_eq!(step().await, "distributing", "a proxy has not ACKed");
    replicas.iter().for_each(|(authority, _, _)| assert_eq!(signs_with(&**authority, &both), [true, false]));

    acked.send_replace(Acked { all: true, laggards: Vec::new() });
    for (authority, _, _) in &replicas {
        eventually("the new root signs", async || (signs_with(&**authority, &both) == [false, true]).then_some(()))
            .await;
        assert_eq!(*authority.issuer().borrow(), 1);
        assert_eq!(authority.roots(), [both[1].clone(), both[0].clone()], "the old one is still trusted");
    }
    // Both leaders go, and the third takes over in the middle of it.
    for (_, leader, task) in &mut replicas[..2] {
        leader.send_replace(false);
        task.abort();
    }
    replicas[2].1.send_replace(true);
    let last = &replicas[2].0;
    eventually("retiring", async || (step().await == "retiring").then_some(())).await;
    assert_eq!(last.roots().len(), 2, "what it signed is still good");
    eventually("the old root is withdrawn", async || (last.roots() == [both[1].clone()]).then_some(())).await;
    let secret = secrets.get(SECRET).await.unwrap();
    assert_eq!(secret.data.unwrap().keys().collect::<Vec<_>>(), ["root.pem"]);
    let notes = secret.metadata.annotations.unwrap();
    assert_eq!((&*notes[STEP], &*notes[ANSWERED]), ("stable", "first"));
    assert_eq!(open(&cluster).await.unwrap().roots(), [both[1].clone()], "a restart finds the new one");

    // A Secret that is damaged or deleted while we run changes nothing.
    let broken = json!({"data": {"root.pem": ByteString(b"x".to_vec())}});
    secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(&broken)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    secrets.delete(SECRET, &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(signs_with(&**last, &both), [false, true]);
    assert!(secrets.get_opt(SECRET).await.unwrap().is_none(), "no new root behind the operator's back");
    replicas[2].2.abort();
    cluster.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn the_bundle_reaches_every_wanted_namespace_and_is_restored() {
    let cluster = Cluster::new("bundle").await;
    let (second, late) = (format!("{}-2", cluster.namespace), format!("{}-late", cluster.namespace));
    cluster.make_namespace(&second).await;
    let roots = |n: u8| -> Bundle { Arc::new(vec![CertificateDer::from(vec![n; 48])]) };
    let wanted: BTreeSet<_> = [&cluster.namespace, &second, &late].map(String::to_owned).into();
    let (wanted, bundle, leader) =
        (watch::Sender::new(wanted), watch::Sender::new(roots(1)), watch::Sender::new(false));
    let mut tasks = JoinSet::new();
    tasks.spawn(distribute(cluster.client.clone(), wanted.subscribe(), bundle.subscribe(), leader.subscribe()));
    let maps = |namespace: &str| Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
    let pem = async |namespace: &str| maps(namespace).get_opt(ROOTS_CONFIG_MAP).await.unwrap()?.data?.remove(ROOTS_KEY);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pem(&second).await, None, "only the leader writes");

    leader.send_replace(true);
    let first = eventually("written", async || pem(&second).await).await;
    assert_eq!(eventually("written", async || pem(&cluster.namespace).await).await, first);
    let labels = maps(&second).get(ROOTS_CONFIG_MAP).await.unwrap().metadata.labels.unwrap();
    assert_eq!(labels, BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "weft".to_owned())]));

    maps(&second).delete(ROOTS_CONFIG_MAP, &DeleteParams::default()).await.unwrap();
    eventually("restored after deletion", async || pem(&second).await.filter(|pem| *pem == first)).await;
    for (row, edit) in [
        ("restored after an edit", json!({"data": {ROOTS_KEY: "evil"}})),
        ("restored after its label went", json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}})),
        ("restored after it was made immutable", json!({"data": {ROOTS_KEY: "evil"}, "immutable": true})),
    ] {
        maps(&second).patch(ROOTS_CONFIG_MAP, &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
        eventually(row, async || {
            let map = maps(&second).get_opt(ROOTS_CONFIG_MAP).await.unwrap()?;
            let labelled = map.metadata.labels.is_some_and(|labels| labels.len() == 1);
            (labelled && map.data?.remove(ROOTS_KEY)? == first).then_some(())
        })
        .await;
    }

    cluster.make_namespace(&late).await;
    eventually("a namespace that came late", async || pem(&late).await).await;
    bundle.send_replace(roots(2));
    for namespace in [&cluster.namespace, &second, &late] {
        eventually("the next bundle", async || pem(namespace).await.filter(|pem| *pem != first)).await;
    }
    leader.send_replace(false);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(remove_roots(cluster.client.clone()).await.unwrap() >= 3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pem(&second).await, None, "removed, and nobody who does not lead brings it back");
    cluster.end(&[&second, &late]).await;
}
