//! What a destination is, and what finding out costs: the first use, nobody there, nobody answering.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_use_of_a_vip_asks_once_and_comes_back_with_endpoints() {
    let mesh = Mesh::new().await;
    let (first, second) = tokio::join!(mesh.to("10.96.0.1:80"), mesh.to("10.96.0.1:80"));
    let (service, port) = served(&first);
    assert_eq!(service.to_string(), "shop/reviews");
    assert_eq!(addresses(&port.backend), ["10.1.0.7", "10.1.0.8"]);
    assert!(port.routes.is_none());
    assert!(Arc::ptr_eq(&served(&second).1.backend, &port.backend));
    assert_eq!(mesh.fake.sent(Kind::Service, "shop/reviews"), 1);

    let asked = mesh.fake.world.lock().requests.len();
    let v6 = mesh.to("[fd00::1]:80").await;
    assert_eq!(served(&v6).0, service, "its other address is known by now");
    assert!(matches!(mesh.to("10.96.0.1:81").await, Destination::NoPort(_)));
    assert_eq!(mesh.fake.world.lock().requests.len(), asked, "without asking");
}

#[tokio::test(start_paused = true)]
async fn a_pod_address_leads_to_its_workload_and_to_one_endpoint() {
    let mesh = Mesh::new().await;
    mesh.fake.set(Kind::Workload, "10.1.0.7", &[], &workload("reviews-1", "10.1.0.7"));
    let destination = mesh.to("10.1.0.7:8080").await;
    let Destination::Workload(workload) = &destination else { panic!("{destination:?}") };
    let dst: SocketAddr = "10.1.0.7:8080".parse().unwrap();
    let direct = mesh.config.direct(workload, dst);
    let endpoints = direct.balancer.endpoints();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].mesh().map(|(addr, id)| (addr, id.service_account())), Some((dst, "web")));
    assert!(endpoints[0].plain().is_none() && direct.is_known());
    assert!(Arc::ptr_eq(&direct, &mesh.config.direct(workload, dst)), "the same one each time");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_remembered_thirty_seconds() {
    let mesh = Mesh::new().await;
    let asks = |mesh: &Mesh| {
        let world = mesh.fake.world.lock();
        world.requests.iter().filter(|r| r.resource_names_subscribe.contains(&"10.9.9.9".to_owned())).count()
    };
    for seconds in [0, 10, 19] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(matches!(mesh.to("10.9.9.9:80").await, Destination::Outside), "+{seconds} s");
    }
    assert_eq!(asks(&mesh), 2, "once as a service, once as a workload");
    tokio::time::sleep(Duration::from_secs(8)).await;
    mesh.fake.service("late", &["10.9.9.9"], None);
    mesh.fake.endpoints("shop/late:80", &["10.1.0.9"]);
    let destination = mesh.to("10.9.9.9:80").await;
    assert_eq!(served(&destination).0.name, "late");
    assert_eq!(asks(&mesh), 4);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_appears_where_nothing_was_is_pushed() {
    let mesh = Mesh::new().await;
    assert!(matches!(mesh.to("10.9.9.9:80").await, Destination::Outside));
    mesh.fake.service("late", &["10.9.9.9"], None);
    mesh.fake.push();
    mesh.settle().await;
    served(&mesh.to("10.9.9.9:80").await);
}

/// One row per address: what becomes of it when nobody answers, and how long that takes.
#[tokio::test(start_paused = true)]
async fn with_the_control_plane_dead_at_the_first_connection() {
    let told = ConfigSettings { cluster_cidrs: vec!["172.20.0.0/16".parse().unwrap()], ..ConfigSettings::default() };
    let rows: [(&str, ConfigSettings, &str, bool); 8] = [
        ("external passes at once", ConfigSettings::default(), "93.184.216.34:443", true),
        ("external v6 passes at once", ConfigSettings::default(), "[2606:2800::1]:443", true),
        ("link-local passes at once", ConfigSettings::default(), "169.254.169.254:80", true),
        ("private may be of the cluster", ConfigSettings::default(), "10.96.0.1:80", false),
        ("unique local may be of the cluster", ConfigSettings::default(), "[fd00::1]:80", false),
        ("mapped is what it maps", ConfigSettings::default(), "[::ffff:10.96.0.1]:80", false),
        ("told: inside", told.clone(), "172.20.0.1:80", false),
        ("told: outside", told, "10.96.0.1:80", true),
    ];
    for (what, settings, dst, outside) in rows {
        let mesh = Mesh::with(settings);
        let began = Instant::now();
        let destination = mesh.to(dst).await;
        if outside {
            assert!(matches!(destination, Destination::Outside), "{what}: {destination:?}");
            assert_eq!(began.elapsed(), Duration::ZERO, "{what}");
        } else {
            assert!(matches!(destination, Destination::Unavailable), "{what}: {destination:?}");
            assert_eq!(began.elapsed(), LOOKUP_TIMEOUT, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn registry_only_refuses_what_is_outside() {
    let mesh = Mesh::new().await;
    let policy = v1::OutboundPolicy::RegistryOnly.into();
    mesh.fake.set(Kind::MeshSettings, "mesh", &[], &v1::MeshSettings { outbound_policy: policy, ..settings() });
    mesh.fake.push();
    mesh.settle().await;
    for dst in ["93.184.216.34:443", "10.9.9.9:80"] {
        let destination = mesh.to(dst).await;
        assert!(matches!(destination, Destination::Refused(Reason::RegistryOnly)), "{dst}: {destination:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_never_answers_costs_one_second_and_is_taken_up_when_it_does() {
    let mesh = Mesh::new().await;
    mesh.fake.world.lock().silent = true;
    let began = Instant::now();
    assert!(matches!(mesh.to("10.96.0.1:80").await, Destination::Unavailable));
    assert_eq!(began.elapsed(), LOOKUP_TIMEOUT);
    assert_eq!(mesh.config.stats().lookups_unanswered.load(Ordering::Relaxed), 1);
    mesh.fake.world.lock().silent = false;
    let (destination, ()) = tokio::join!(mesh.to("10.96.0.1:80"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        mesh.fake.push();
    });
    served(&destination);
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_endpoints_are_not_answered_is_waited_for() {
    let mesh = Mesh::new().await;
    served(&mesh.to("10.96.0.1:80").await);
    mesh.fake.world.lock().resources.remove(&(Kind::Endpoints, "shop/reviews:80".into()));
    mesh.fake.push();
    mesh.settle().await;
    let destination = mesh.to("10.96.0.1:80").await;
    let backend = &served(&destination).1.backend;
    assert!(backend.is_known() && addresses(backend).is_empty(), "none, and that is an answer");
}

#[tokio::test(start_paused = true)]
async fn only_hosts_that_the_mesh_knows_are_asked_about() {
    let mesh = Mesh::new().await;
    let mut external = service("db", &[], None);
    external.hosts = vec!["db.example.com".into()];
    mesh.fake.set(Kind::Service, "shop/db", &["db.example.com"], &external);
    let named = v1::Endpoint { address: "db.example.com".into(), port: 5432, ..v1::Endpoint::default() };
    mesh.fake.set(Kind::Endpoints, "shop/db:80", &[], &v1::Endpoints { endpoints: vec![named] });
    let mut wild = service("wild", &[], None);
    wild.hosts = vec!["*.wild.org".into()];
    mesh.fake.set(Kind::Service, "shop/wild", &["*.wild.org", "a.wild.org"], &wild);

    for (host, service) in [
        ("db.example.com", "db"),
        ("DB.Example.com.", "db"),
        ("a.wild.org", "wild"),
        // By the wildcard that it lists.
        ("b.wild.org", "wild"),
    ] {
        let found = mesh.config.host(host, 80).await.unwrap_or_else(|| panic!("{host}"));
        let (found, port) = served(&found);
        assert_eq!(found.name, service, "{host}");
        if service == "db" {
            assert_eq!(addresses(&port.backend), ["192.0.2.7"], "an endpoint that is a name is resolved");
        }
    }
    assert!(mesh.config.host("db.example.com", 81).await.is_none(), "not on this port");
    served(&mesh.to("10.96.0.1:80").await);
    let asked = mesh.fake.world.lock().requests.len();
    for host in ["example.org", "reviews.shop.svc.cluster.local", "wild", ""] {
        assert!(mesh.config.host(host, 80).await.is_none(), "{host}");
    }
    assert_eq!(mesh.fake.world.lock().requests.len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_known_host_that_nobody_can_say_more_about_is_unavailable() {
    let mut mesh = Mesh::new().await;
    assert!(mesh.config.host("db.example.com", 80).await.is_none(), "the control plane says: no such Service");
    served(&mesh.to("10.96.0.1:80").await);
    mesh.down();
    mesh.settle().await;
    let destination = mesh.config.host("never.wild.org", 80).await;
    assert!(matches!(destination, Some(Destination::Unavailable)), "{destination:?}");
}

#[tokio::test(start_paused = true)]
async fn direct_backends_are_bounded() {
    let mesh = Mesh::alone();
    let workload = compile::compile_workload(&workload("w", "10.1.0.7")).unwrap();
    for n in 0..u16::try_from(MAX_DIRECT + 100).unwrap() {
        tokio::time::advance(Duration::from_millis(1)).await;
        mesh.config.direct(&workload, SocketAddr::from(([10, 1, 0, 7], n + 1)));
        assert!(mesh.config.0.direct.lock().len() <= MAX_DIRECT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pods_other_addresses_are_its_own_as_soon_as_they_are_known() {
    let mesh = Mesh::new().await;
    let is_own = |address: &str| mesh.config.has_other_address(address.parse().unwrap());
    assert!(!is_own("fd00::5"));
    let both = v1::Workload { addresses: vec!["10.1.0.5".into(), "fd00::5".into()], ..workload("web-1", "10.1.0.5") };
    for (own, known) in [(both, true), (workload("web-1", "10.1.0.5"), false)] {
        mesh.fake.set(Kind::Workload, "self", &["10.1.0.5"], &own);
        mesh.fake.push();
        mesh.settle().await;
        assert_eq!((is_own("fd00::5"), is_own("fd00::6")), (known, false));
    }
}
