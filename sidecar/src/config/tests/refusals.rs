//! Resources that do not compile, and what stays in force instead.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_bad_resource_is_refused_by_name_and_field_and_its_last_good_version_stays() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    let mut bad = service("reviews", &["10.96.0.1"], None);
    bad.ports[0].protocol = 99;
    mesh.fake.set(Kind::Service, "shop/reviews", &["10.96.0.1"], &bad);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.fake.nacks(), ["shop/reviews: ports[0].protocol: 99 is not known to this version of the sidecar"]);
    let destination = mesh.to("10.96.0.1:80").await;
    assert_eq!(served(&destination).1.protocol, Protocol::Http);

    mesh.fake.set(Kind::Service, "shop/broken", &["10.96.0.2"], &bad);
    let began = Instant::now();
    assert!(matches!(mesh.to("10.96.0.2:80").await, Destination::Unavailable), "never good: never passed through");
    assert!(began.elapsed() < LOOKUP_TIMEOUT, "and nobody waits for it");

    mesh.fake.service("reviews", &["10.96.0.1"], None);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.config.view(now()).version("Service", "shop/reviews"), Some(mesh.fake.world.lock().version));
}

#[tokio::test(start_paused = true)]
async fn an_inbound_policy_that_never_compiled_lets_nothing_in() {
    let mut mesh = Mesh::alone();
    let bad = v1::InboundPolicy { mode: 42, ..v1::InboundPolicy::default() };
    mesh.fake.set(Kind::InboundPolicy, "self", &[], &bad);
    mesh.fake.set(Kind::Workload, "self", &[], &workload("web-1", "10.1.0.5"));
    mesh.up();
    mesh.config.ready().await;
    assert_eq!(mesh.config.inbound_policy().unwrap().mode(80), MtlsMode::Refuse);

    let strict = v1::PortMtls { port: 80, mode: v1::MtlsMode::Strict.into() };
    mesh.fake.set(
        Kind::InboundPolicy,
        "self",
        &[],
        &v1::InboundPolicy { ports: vec![strict], ..v1::InboundPolicy::default() },
    );
    mesh.fake.push();
    mesh.settle().await;
    let policy = mesh.config.inbound_policy().unwrap();
    assert_eq!((policy.mode(80), policy.mode(81)), (MtlsMode::Strict, MtlsMode::Permissive));
    mesh.fake.set(Kind::InboundPolicy, "self", &[], &bad);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.config.inbound_policy().unwrap(), policy, "the last good one stays");
    mesh.fake.remove(Kind::InboundPolicy, "self");
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.config.inbound_policy().unwrap(), policy, "also when the pod is gone and still drains");
}

#[tokio::test(start_paused = true)]
async fn a_trust_bundle_reaches_the_identity_room() {
    let mesh = Mesh::new().await;
    let next = TestCa::new("weft.local");
    let roots = vec![mesh.ca.root.to_vec(), next.root.to_vec()];
    let bundle = v1::TrustBundle { trust_domain: "weft.local".into(), roots };
    mesh.fake.set(Kind::TrustBundle, "weft.local", &[], &bundle);
    mesh.fake.push();
    mesh.settle().await;
    let identity = &mesh.config.0.identity;
    assert_eq!(identity.roots().unwrap().certificates().len(), 2);
    mesh.fake.set(Kind::TrustBundle, "weft.local", &[], &v1::TrustBundle { roots: Vec::new(), ..bundle });
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(identity.roots().unwrap().certificates().len(), 2, "an empty one is refused");
    assert_eq!(mesh.fake.nacks(), ["weft.local: roots: there is no root certificate"]);
}
