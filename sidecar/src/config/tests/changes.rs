//! What is pushed and what is asked for as services, endpoints and the control plane itself come and go.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_route_brings_its_backends_and_takes_them_along() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 90), ("shop/reviews-v2", 10)]));
    mesh.fake.endpoints("shop/reviews-v1:80", &["10.1.1.1"]);
    mesh.fake.endpoints("shop/reviews-v2:80", &["10.1.2.1"]);
    mesh.fake.push();
    mesh.settle().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let port = served(&destination).1;
    assert!(port.routes.is_some());
    let of = |port: &ServicePort| {
        port.backends().map(|backend| (backend.name.to_string(), addresses(backend))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(of(port)["shop/reviews-v2:80"], ["10.1.2.1"]);
    assert_eq!(of(port).len(), 3);
    let v2 = Arc::clone(port.backends().find(|backend| backend.name.service.name == "reviews-v2").unwrap());

    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 0), ("shop/reviews-v2", 100)]));
    mesh.fake.push();
    mesh.settle().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let kept = served(&destination).1.backends().find(|backend| backend.name == v2.name).unwrap();
    assert!(Arc::ptr_eq(kept, &v2), "what a backend has learnt outlives a change of weights");

    mesh.fake.service("reviews", &["10.96.0.1"], None);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(mesh.fake.subscribed(Kind::Endpoints), BTreeSet::from(["shop/reviews:80".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn endpoints_change_in_place() {
    let mesh = Mesh::new().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let backend = Arc::clone(&served(&destination).1.backend);
    let before = mesh.config.snapshot().clone();
    mesh.fake.endpoints("shop/reviews:80", &["10.1.0.9"]);
    mesh.fake.push();
    mesh.settle().await;
    assert_eq!(addresses(&backend), ["10.1.0.9"], "for those who hold the backend already");
    let service = |snapshot: &Snapshot| Arc::clone(snapshot.service_at("10.96.0.1".parse().unwrap()).unwrap());
    assert!(Arc::ptr_eq(&service(&before), &service(&mesh.config.snapshot())), "without touching the routes");
    assert_eq!(mesh.fake.sent(Kind::Service, "shop/reviews"), 1);
}

#[tokio::test(start_paused = true)]
async fn where_this_workload_is_reaches_every_backend_there_is_and_comes_to_be() {
    let mesh = Mesh::new().await;
    let near = |destination: &Destination| served(destination).1.backend.balancer.snapshot(now()).near;
    let endpoints = |zones: [&str; 6]| v1::Endpoints {
        endpoints: (1..)
            .zip(zones)
            .map(|(n, zone)| v1::Endpoint {
                address: format!("10.1.0.{n}"),
                port: 8080,
                zone: zone.into(),
                ..v1::Endpoint::default()
            })
            .collect(),
    };
    mesh.fake.set(Kind::Endpoints, "shop/reviews:80", &[], &endpoints(["a", "a", "a", "b", "b", "b"]));
    let before = mesh.to("10.96.0.1:80").await;
    assert_eq!(near(&before), None, "its zone is not known");
    for (counts, stay) in [([1, 1], 100), ([3, 1], 67)] {
        let callers = ["a", "b"].into_iter().zip(counts);
        let own = v1::Workload {
            zone: "a".into(),
            callers: callers.map(|(zone, callers)| v1::ZoneCallers { zone: zone.into(), callers }).collect(),
            ..workload("web-1", "10.1.0.5")
        };
        mesh.fake.set(Kind::Workload, "self", &["10.1.0.5"], &own);
        mesh.fake.push();
        mesh.settle().await;
        let near = near(&before).expect("of who holds the backend already");
        assert!(near.starts_with(&format!("zone a keeps {stay} % ")), "{near}");
    }
    mesh.fake.service("ratings", &["10.96.0.9"], None);
    mesh.fake.set(Kind::Endpoints, "shop/ratings:80", &[], &endpoints(["a", "b", "b", "b", "b", "b"]));
    mesh.fake.push();
    mesh.settle().await;
    let after = near(&mesh.to("10.96.0.9:80").await).expect("of one that is new");
    assert!(after.starts_with("zone a keeps 22 % "), "{after}");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_control_plane_nothing_unchanged_is_sent_again() {
    let mut mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.down();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!mesh.config.stats().connected.load(Ordering::Relaxed));
    served(&mesh.to("10.96.0.1:80").await);

    mesh.fake.endpoints("shop/reviews:80", &["10.1.0.9"]);
    mesh.fake.world.lock().requests.clear();
    mesh.fake.world.lock().sent.clear();
    mesh.up();
    let began = Instant::now();
    while !mesh.config.stats().connected.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    mesh.settle().await;
    assert_eq!(mesh.fake.world.lock().sent, [(Kind::Endpoints, "shop/reviews:80".to_owned())]);
    let destination = mesh.to("10.96.0.1:80").await;
    assert_eq!(addresses(&served(&destination).1.backend), ["10.1.0.9"]);
    assert_eq!(mesh.fake.world.lock().requests[0].node.as_ref().unwrap().id, "10.1.0.5");
}

#[tokio::test(start_paused = true)]
async fn a_vip_that_moves_to_another_service_moves_in_one_snapshot() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.service("reviews", &["fd00::1"], None);
    mesh.fake.service("ratings", &["10.96.0.1"], None);
    mesh.fake.push();
    let mut changes = mesh.config.changes();
    loop {
        match mesh.config.snapshot().service_at("10.96.0.1".parse().unwrap()) {
            Some(service) if service.name.name == "ratings" => break,
            Some(_) => {}
            None => panic!("the address is nobody's in between"),
        }
        changes.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_is_no_longer_answered_for() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.remove(Kind::Service, "shop/reviews");
    mesh.fake.push();
    mesh.settle().await;
    assert!(matches!(mesh.to("10.96.0.1:80").await, Destination::Outside));
    assert_eq!(mesh.fake.subscribed(Kind::Endpoints), BTreeSet::new());
}

/// The control plane ends a stream that subscribes to more names than it allows, of all kinds together.
#[tokio::test(start_paused = true)]
async fn no_stream_ever_subscribes_to_more_names_than_the_bound() {
    let max = 40;
    let bounds = Bounds { max, ..Bounds::default() };
    let mut mesh = Mesh::with(ConfigSettings { bounds, ..ConfigSettings::default() });
    mesh.fake.set(Kind::MeshSettings, "mesh", &[], &settings());
    mesh.up();
    for n in 0..60 {
        let vip = format!("10.96.1.{n}");
        mesh.fake.service(&format!("s{n}"), &[&vip], None);
        mesh.fake.endpoints(&format!("shop/s{n}:80"), &["10.1.0.7"]);
        let destination = mesh.to(&format!("{vip}:80")).await;
        assert!(served(&destination).1.backend.is_known(), "{vip}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut names = BTreeSet::new();
    for request in &mesh.fake.world.lock().requests {
        let named = |name: &String| (request.type_url.clone(), name.clone());
        names.extend(request.resource_names_subscribe.iter().map(named));
        assert!(names.len() <= max, "{}", names.len());
        for name in &request.resource_names_unsubscribe {
            names.remove(&named(name));
        }
    }
    assert_eq!(mesh.config.stats().connects.load(Ordering::Relaxed), 1);
    let services = mesh.config.0.tables.lock().store.services().count();
    assert!((5..max).contains(&services), "{services} are kept");
}
