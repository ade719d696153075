use std::sync::Mutex;

use base64::Engine as _;
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{INJECT, to_json};
use super::*;

/// Namespaces as a test says.
#[derive(Debug, Default)]
struct Known(Mutex<BTreeMap<String, Result<Labelled, String>>>);

impl Namespaces for Known {
    async fn get(&self, name: &str) -> Result<Labelled, String> {
        if name == "slow" {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        self.0.lock().unwrap().get(name).cloned().unwrap_or_else(|| Ok(Labelled::default()))
    }
}

fn webhook() -> Webhook<Known> {
    let labels = BTreeMap::from([(INJECT.to_owned(), "enabled".to_owned())]);
    let shop = Labelled { labels, annotations: BTreeMap::new() };
    let known = BTreeMap::from([("shop".to_owned(), Ok(shop)), ("away".to_owned(), Err("timed out".to_owned()))]);
    let unenforced = |objects: &[&str]| objects.iter().map(|object| (*object).to_owned()).collect::<Vec<_>>();
    let unenforced = BTreeMap::from([
        ("shop".to_owned(), unenforced(&["AuthorizationPolicy shop/a", "AuthorizationPolicy shop/b"])),
        ("weft-system".to_owned(), unenforced(&["c", "d", "e", "f", "g"])),
        ("other".to_owned(), unenforced(&["h"])),
    ]);
    Webhook {
        namespaces: Known(Mutex::new(known)),
        settings: watch::Sender::new(Arc::new(InjectSettings::default())).subscribe(),
        cluster: watch::Sender::new(ClusterFacts::SUPPORTED).subscribe(),
        unenforced: watch::Sender::new(Arc::new(unenforced)).subscribe(),
        metrics: Metrics::default(),
    }
}

fn review(namespace: &str, pod: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "4711",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "name": "", "namespace": namespace, "operation": "CREATE", "dryRun": true,
            "userInfo": { "username": "somebody" },
            "object": pod,
            "oldObject": null,
            "options": { "apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions" },
        },
    })
}

fn pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-" }, "spec": { "containers": [{ "name": "app" }] } })
}

fn share() -> Share {
    Bounds::default().share([10, 0, 0, 1].into())
}

async fn post(webhook: &Webhook<Known>, body: Vec<u8>) -> (StatusCode, Value) {
    let request = Request::post(PATH).body(Full::from(body)).unwrap();
    let response = webhook.answer(&share(), request).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
}

async fn ask(webhook: &Webhook<Known>, review: &Value) -> Value {
    let (status, answer) = post(webhook, review.to_string().into_bytes()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    assert_eq!(answer["response"]["uid"], "4711");
    answer["response"].clone()
}

#[tokio::test]
async fn a_new_pod_gets_a_patch_and_warnings() {
    let webhook = webhook();
    let response = ask(&webhook, &review("shop", pod())).await;
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let bytes = match &response["patch"] {
        // As the API server reads `[]byte`.
        Value::String(text) => base64::engine::general_purpose::STANDARD.decode(text).unwrap(),
        other => panic!("{other} is not base64"),
    };
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched["spec"]["initContainers"][1]["name"], "weft-sidecar");
    let warnings: Vec<_> =
        response["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 6);
    assert!(warnings[0].contains("AuthorizationPolicy shop/a is NOT enforced"), "{warnings:?}");
    assert!(warnings[5].contains("2 more"), "{warnings:?}");
    assert_eq!(webhook.metrics.count("injected"), 1);
    // As after another webhook's turn.
    let again = ask(&webhook, &review("shop", patched)).await;
    assert_eq!((&again["allowed"], &again["patch"]), (&json!(true), &Value::Null));
    assert_eq!(webhook.metrics.count("already"), 1);
}

#[tokio::test]
async fn each_pod_gets_a_secret_of_its_own_for_its_probes() {
    let webhook = webhook();
    let mut probed = pod();
    probed["spec"]["containers"][0]["lifecycle"] = json!({ "preStop": { "httpGet": { "port": 80 } } });
    let mut secrets = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let response = ask(&webhook, &review("shop", probed.clone())).await;
        let patch = base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch = String::from_utf8(patch).unwrap();
        let (_, path) = patch.split_once("/probe/").unwrap();
        let (secret, hook) = path.split_once('.').unwrap();
        assert!(secret.len() == 32 && hook.starts_with("app/pre-stop"), "{path}");
        secrets.insert(secret.to_owned());
    }
    assert_eq!(secrets.len(), 3, "{secrets:?}");
}

#[tokio::test]
async fn what_is_not_a_new_pod_of_ours_is_let_through() {
    let with = |path: &str, value: Value| {
        let mut review = review("shop", pod());
        *review.pointer_mut(path).unwrap() = value;
        review
    };
    let update = with("/request/operation", json!("UPDATE"));
    let mut subresource = review("shop", pod());
    subresource["request"]["subResource"] = json!("ephemeralcontainers");
    let host_network = with("/request/object/spec/containers", json!([{ "name": "app" }]));
    let host_network = {
        let mut review = host_network;
        review["request"]["object"]["spec"]["hostNetwork"] = json!(true);
        review
    };
    let rows = [
        (review("quiet", pod()), "not-asked"),
        (review("nowhere", pod()), "not-asked"),
        (review("kube-system", pod()), "excluded-namespace"),
        (with("/request/resource/resource", json!("services")), "not-a-new-pod"),
        (with("/request/object", Value::Null), "not-a-new-pod"),
        (with("/request/namespace", Value::Null), "not-a-new-pod"),
        (update, "not-a-new-pod"),
        (subresource, "not-a-new-pod"),
        (host_network, "host-network"),
    ];
    for (review, result) in rows {
        let webhook = webhook();
        let response = ask(&webhook, &review).await;
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null), "{review}");
        assert_eq!(webhook.metrics.count(result), 1, "{result}: {review}");
        assert_eq!(response["warnings"].is_array(), result == "host-network", "{response}");
    }
}

#[tokio::test]
async fn a_pod_that_cannot_be_meshed_is_refused_with_the_reason() {
    let webhook = webhook();
    let mut bad = pod();
    bad["spec"]["securityContext"] = json!({ "runAsUser": 1337 });
    let response = ask(&webhook, &review("shop", bad)).await;
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("weft: container `app` runs as UID 1337"), "{message}");
    assert_eq!(response["status"]["code"], 403);
    let mut odd = pod();
    odd["spec"]["containers"] = json!("all of them");
    let response = ask(&webhook, &review("shop", odd)).await;
    assert!(response["status"]["message"].as_str().unwrap().contains("cannot be read"));
    assert_eq!(webhook.metrics.count("refused"), 2);
}

#[tokio::test]
async fn what_cannot_be_read_is_the_askers_fault_and_what_cannot_be_known_is_ours() {
    let webhook = webhook();
    let old = {
        let mut review = review("shop", pod());
        review["apiVersion"] = json!("admission.k8s.io/v1beta1");
        review
    };
    let rows = [
        (Vec::new(), StatusCode::BAD_REQUEST),
        (b"{}".to_vec(), StatusCode::BAD_REQUEST),
        (b"\xff\xfe".to_vec(), StatusCode::BAD_REQUEST),
        ("[".repeat(100_000).into_bytes(), StatusCode::BAD_REQUEST),
        (
            json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }).to_string().into_bytes(),
            StatusCode::BAD_REQUEST,
        ),
        (old.to_string().into_bytes(), StatusCode::BAD_REQUEST),
        (vec![b' '; MAX_BODY + 1], StatusCode::PAYLOAD_TOO_LARGE),
        // It would be pasted into a path.
        (review("../secrets/weft-system", pod()).to_string().into_bytes(), StatusCode::BAD_REQUEST),
        (review("UPPER", pod()).to_string().into_bytes(), StatusCode::BAD_REQUEST),
        // Some 50 KB that would be some 50 MB of volumes, parsed.
        (
            review("shop", json!({ "spec": { "volumes": vec![json!({}); 17_000] } })).to_string().into_bytes(),
            StatusCode::BAD_REQUEST,
        ),
        (review("away", pod()).to_string().into_bytes(), StatusCode::SERVICE_UNAVAILABLE),
    ];
    for (body, expected) in rows {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, text) = post(&webhook, body).await;
        assert_eq!(status, expected, "{shown}: {text}");
        // What the API server says is for the log.
        assert!(!text.as_str().is_some_and(|text| text.contains("timed out")), "{text}");
    }
    assert_eq!((webhook.metrics.count("unreadable"), webhook.metrics.count("failed")), (10, 1));
    for (request, expected) in
        [(Request::get(PATH), StatusCode::METHOD_NOT_ALLOWED), (Request::post("/"), StatusCode::NOT_FOUND)]
    {
        let response = webhook.answer(&share(), request.body(Full::from(Bytes::new())).unwrap()).await;
        assert_eq!(response.status(), expected);
    }
}

/// A body that never comes, of no length that is known.
struct Silent;

impl Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Pending
    }
}

/// ```text
///  0 s  silent asks (4 MiB kept for it); heir of the same address waits; other is answered
///  3 s  silent is told that its review did not come; heir is answered
/// ```
#[tokio::test(start_paused = true)]
async fn a_review_that_does_not_come_keeps_room_from_its_own_address_only_and_not_for_long() {
    let webhook = webhook();
    let bounds = Bounds::default();
    let (greedy, other) = (bounds.share([10, 0, 0, 1].into()), bounds.share([10, 0, 0, 2].into()));
    let silent = async {
        let response = webhook.answer(&greedy, Request::post(PATH).body(Silent).unwrap()).await;
        (response.status(), now())
    };
    let large = || {
        let mut body = review("shop", pod()).to_string().into_bytes();
        body.resize(MAX_BODY, b' ');
        Request::post(PATH).body(Full::from(body)).unwrap()
    };
    let start = now();
    let asked = async |share: &Share| {
        let response = webhook.answer(share, large()).await;
        (response.status(), now() - start)
    };
    let (silent, heir, other) = tokio::join!(silent, asked(&greedy), asked(&other));
    assert_eq!((silent.0, silent.1 - start), (StatusCode::REQUEST_TIMEOUT, BODY_TIME));
    assert_eq!((heir, other), ((StatusCode::OK, BODY_TIME), (StatusCode::OK, Duration::ZERO)));
}

#[tokio::test]
async fn an_answer_goes_in_pieces_and_is_counted_to_its_last() {
    let share = share();
    let mut response = response(StatusCode::OK, "text/plain", vec![7; 10_000]);
    let activity = Activity::new(now());
    let body = response.body_mut();
    (body.held, body.open) = (Some(share.hold(10_000).await), Some(activity.begin(now())));
    assert_eq!(body.size_hint().exact(), Some(10_000));
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        pieces.push(frame.unwrap().into_data().unwrap().len());
    }
    assert_eq!(pieces, [4096, 4096, 1808]);
    assert!(body.is_end_stream());
}

/// A client's end of a connection in memory, and what ends with the server's.
async fn connected(
    webhook: &Arc<Webhook<Known>>,
    window: u32,
    stopping: &watch::Sender<bool>,
) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, oneshot::Sender<Infallible>, tokio::task::JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (evict, evicted) = oneshot::channel();
    let served = tokio::spawn(Arc::clone(webhook).serve(far, true, share(), stopping.subscribe(), evicted));
    let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    http.initial_stream_window_size(window);
    let (asking, connection) = http.handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    (asking, evict, served)
}

fn question(namespace: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://weft{PATH}"))
        .body(Full::from(review(namespace, pod()).to_string().into_bytes()))
        .unwrap()
}

/// ```text
///  0 s                     40 s                    80 s                         145 s
///  connected ── nothing ── answered question ──── another: still connected ──── closed, 60 s after it
/// ```
#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_for_a_minute_is_closed() {
    let (webhook, stopping) = (Arc::new(webhook()), watch::Sender::new(false));
    let (mut asking, _evict, served) = connected(&webhook, 64 << 10, &stopping).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        let response = asking.send_request(question("shop")).await.unwrap();
        assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    let quiet = now();
    served.await.unwrap();
    let lived = now() - quiet;
    assert!((Duration::from_secs(60)..=Duration::from_secs(70)).contains(&lived), "{lived:?}");
    assert!(asking.send_request(question("shop")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_read_its_answers_is_cut() {
    let (webhook, stopping) = (Arc::new(webhook()), watch::Sender::new(false));
    let (mut asking, _evict, served) = connected(&webhook, 10, &stopping).await;
    let unread = asking.send_request(question("shop")).await.unwrap();
    let asked = now();
    served.await.unwrap();
    let lived = now() - asked;
    assert!((Duration::from_secs(20)..=Duration::from_secs(30)).contains(&lived), "{lived:?}");
    assert_eq!(unread.status(), StatusCode::OK);
    assert!(unread.into_body().collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_given_up_answers_what_is_under_way() {
    let (webhook, stopping) = (Arc::new(webhook()), watch::Sender::new(false));
    let (mut asking, evict, served) = connected(&webhook, 64 << 10, &stopping).await;
    let under_way = asking.send_request(question("slow"));
    let given_up = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(evict);
    };
    let (response, ()) = tokio::join!(under_way, given_up);
    assert_eq!(response.unwrap().into_body().collect().await.unwrap().to_bytes()[..1], b"{"[..]);
    served.await.unwrap();
    assert!(asking.send_request(question("shop")).await.is_err());
}

/// Connections that say nothing, all from one address.
#[tokio::test]
async fn a_caller_with_too_many_connections_loses_its_oldest() {
    use tokio::io::AsyncReadExt as _;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let nobody = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
    let tls = tls.with_no_client_auth().with_cert_resolver(nobody);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(webhook().run(tls, listener, async { drop(stopped.await) }));
    let began = Instant::now();
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..PLACES.per_source {
        others.push(TcpStream::connect(address).await.unwrap());
    }
    // Long before a handshake that does not come is given up.
    assert!(!first.read(&mut [0; 1]).await.is_ok_and(|read| read > 0));
    assert!(began.elapsed() < HANDSHAKE, "{:?}", began.elapsed());
    drop((others, stop));
    running.await.unwrap();
}

/// The words of a pod.
const WORDS: &[&str] = &[
    "name",
    "metadata",
    "spec",
    "containers",
    "initContainers",
    "volumes",
    "labels",
    "annotations",
    "weft.dev/inject",
    "weft.dev/injected",
    "weft-sidecar",
    "readinessProbe",
    "httpGet",
    "port",
    "lifecycle",
    "preStop",
    "securityContext",
    "runAsUser",
    "restartPolicy",
    "Always",
    "",
];

/// Any JSON, with the words of a pod more often than others.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(WORDS).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(WORDS), inner), 0..5).prop_map(|entries| Value::Object(
                entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn strange_pods_are_answered(object in values()) {
        let webhook = webhook();
        let review = review("shop", object);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (status, _) = runtime.block_on(post(&webhook, review.to_string().into_bytes()));
        prop_assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{}: {}", status, review);
    }

    #[test]
    fn numbers_at_their_limits_are_answered(seconds in any::<i64>(), port in any::<i32>(), timeout in any::<i32>(), uid in any::<i64>()) {
        let pod = json!({ "metadata": {}, "spec": {
            "terminationGracePeriodSeconds": seconds,
            "containers": [{ "name": "app", "securityContext": { "runAsUser": uid }, "ports": [{ "containerPort": port }],
                "readinessProbe": { "httpGet": { "port": port }, "timeoutSeconds": timeout }, "lifecycle": { "preStop": { "httpGet": { "port": port } } } }],
        } });
        let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (status, _) = runtime.block_on(post(&webhook(), review("shop", to_json(&pod)).to_string().into_bytes()));
        prop_assert_eq!(status, StatusCode::OK);
    }
}
