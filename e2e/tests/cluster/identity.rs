//! Whoever claims to be somebody else: by a name in the signing request, by a token that is not for us, that has expired, or
//! by a trust domain of one's own; or, with a good certificate, by another pod's address on the discovery stream. Each is
//! refused, with the reason in the control plane's log and a metric that counts it.
//!
//! The attacker is a pod that is opted in but has no sidecar; what it sends is `weft-e2e certify`'s.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use weft_e2e::cluster::Workload;
use weft_e2e::stats::Certified;

use crate::world::{World, text};

const OWN: &str = "spiffe://cluster.local/ns/identity/sa/mallory";
const REFUSED: &str = "weft_identity_refused_total";

/// What it is; the proof sent; for which name; the code, the metric's reason and a word of the message it has to get.
type Attempt<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, &'a str, &'a str);

pub(crate) fn whoever_claims_to_be_somebody_else_is_refused() {
    let world = World::meshed("identity");
    for account in ["mallory", "bank"] {
        world.kubectl(&["create", "serviceaccount", account]);
    }
    world.deploy(&[mallory().deployment(), bank().deployment()]);
    let (own, victim) = (world.pod("mallory"), world.pod("bank"));
    let (own_address, address) = (text(&own, "/status/podIP"), text(&victim, "/status/podIP"));

    let certify = |arguments: &[&str]| {
        let begin = ["certify", "--roots", "/roots/roots.pem"];
        let said = world.cluster().exec("identity", "deployment/mallory", &[&begin, arguments].concat()).unwrap();
        serde_json::from_str::<Certified>(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let ours = ["--token-file", "/tokens/ours"];
    let minted = |ends_in: i64| mint(&world, ends_in);
    // The API server itself lets a minute pass, for clocks that differ.
    let (good, just_expired, long_expired) = (minted(600), minted(-75), minted(-3600));

    // What it may have it gets, also with a token made here: so what is refused below is refused for its one fault.
    for arguments in [["--token-file", "/tokens/ours"], ["--token", &good]] {
        let got = certify(&[&arguments, &["--id", OWN, "--claim", own_address][..]].concat());
        assert_eq!((&*got.step, &*got.code), ("stream", "Ok"), "{got:?}");
        assert_eq!(got.resources, ["Workload self"]);
    }

    let bank = "spiffe://cluster.local/ns/identity/sa/bank";
    let elsewhere = "spiffe://elsewhere.example/ns/identity/sa/mallory";
    let control_plane = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane";
    let unproven = "Unauthenticated";
    let rows: [Attempt<'_>; 7] = [
        ("another's name", &ours, bank, "PermissionDenied", "not-yours", "sa/bank"),
        ("the control plane's name", &ours, control_plane, "PermissionDenied", "not-yours", "weft-control-plane"),
        ("another trust domain", &ours, elsewhere, "PermissionDenied", "not-yours", "elsewhere.example"),
        ("a token for somebody else", &["--token-file", "/tokens/other"], OWN, unproven, "wrong-audience", "weft-ca"),
        ("a token past its end", &["--token", &just_expired], OWN, unproven, "expired-service-account", "expired"),
        ("a token long past it", &["--token", &long_expired], OWN, unproven, "expired-service-account", "expired"),
        ("no token at all", &["--token", "x"], OWN, unproven, "not-service-account", "service-account token"),
    ];
    for (row, proof, id, code, reason, said) in rows {
        let label = format!("reason=\"{reason}\"");
        let before = world.weft.metric(REFUSED, &[&label]).unwrap();
        let got = certify(&[proof, &["--id", id]].concat());
        assert_eq!((&*got.step, &*got.code), ("certify", code), "{row}: {got:?}");
        assert!(got.message.contains(said), "{row}: the caller is told {:?}", got.message);
        let after = world.weft.metric(REFUSED, &[&label]).unwrap();
        assert!(after >= before + 1.0, "{row}: {REFUSED}{{{label}}} stays at {before}");
        logged(&world, row, &["certificate refused", said]);
    }

    // A certificate of a trust domain of one's own does not even get a connection.
    let failed = "weft_discovery_handshakes_failed_total";
    let before = world.weft.metric(failed, &[]).unwrap();
    let got = certify(&["--self-signed", "--id", elsewhere, "--claim", own_address]);
    assert!(got.step == "stream" && got.code != "Ok" && got.resources.is_empty(), "{got:?}");
    assert!(world.weft.metric(failed, &[]).unwrap() > before, "{failed} does not count it");

    // With a good certificate: another pod's address.
    let denied = "weft_discovery_denied_total";
    let before = world.weft.metric(denied, &[]).unwrap();
    let got = certify(&[&ours, &["--id", OWN, "--claim", address][..]].concat());
    assert_eq!((&*got.step, &*got.code), ("stream", "PermissionDenied"), "{got:?}");
    assert!(world.weft.metric(denied, &[]).unwrap() > before, "{denied} does not count it");
    logged(&world, "another pod's address", &["discovery stream denied", "identity/bank"]);
    world.remove();
}

/// Waits for a line of the control plane's log that has all of `parts`.
fn logged(world: &World, row: &str, parts: &[&str]) {
    let found = || {
        let log = world.weft.log(Duration::from_secs(60))?;
        Ok(log.lines().any(|line| parts.iter().all(|part| line.contains(part))).then_some(()))
    };
    let waited = world.cluster().wait_for("the line in the log", Duration::from_secs(10), found);
    assert!(waited.is_ok(), "{row}: no line of the control plane's log has {parts:?}");
}

/// Opted in by its namespace, so the roots are there; out again by its own label, so nothing is in its way.
fn mallory() -> Workload {
    let token = |path: &str, audience: &str| json!({"serviceAccountToken": {"path": path, "audience": audience}});
    Workload::idle("identity", "mallory").label("weft.dev/inject", "disabled").edit("/spec", |spec| {
        spec["serviceAccountName"] = "mallory".into();
        let mut add = |name: &str, path: &str, mut volume: Value| {
            volume["name"] = name.into();
            spec["volumes"].as_array_mut().unwrap().push(volume);
            let mount = json!({"name": name, "mountPath": path});
            spec["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
        };
        add(
            "tokens",
            "/tokens",
            json!({"projected": {"sources": [token("ours", "weft-ca"), token("other", "vault")]}}),
        );
        add("roots", "/roots", json!({"configMap": {"name": "weft-ca-roots"}}));
    })
}

fn bank() -> Workload {
    Workload::idle("identity", "bank").edit("/spec", |spec| spec["serviceAccountName"] = "bank".into())
}

/// A token of mallory's, such as the API server gives out, whose end is in so many seconds: signed by the cluster's own key.
fn mint(world: &World, ends_in: i64) -> String {
    let account = world.cluster().get(&["-n", "identity", "serviceaccount", "mallory"]).unwrap();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let claims = json!({
        "aud": ["weft-ca"],
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": "system:serviceaccount:identity:mallory",
        "iat": now + ends_in - 3600,
        "nbf": now + ends_in - 3600,
        "exp": now + ends_in,
        "kubernetes.io": {
            "namespace": "identity",
            "serviceaccount": {"name": "mallory", "uid": text(&account, "/metadata/uid")},
        },
    });
    let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"RS256"}"#), BASE64.encode(claims.to_string()));
    let file = world.cluster().folder().join("pki/service-account.key");
    let key = match PrivateKeyDer::from_pem_file(file).unwrap() {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        other => RsaKeyPair::from_pkcs8(other.secret_der()),
    };
    let key = key.unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", BASE64.encode(signature))
}
