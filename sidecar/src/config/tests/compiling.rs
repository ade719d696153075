//! That compiling, and giving back what was compiled, delays nobody but the control thread.

use prost::Message;
use weft_proto::discovery::{DeltaDiscoveryResponse, Resource};

use super::super::compile::cost;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_worker_that_meets_a_new_destination_does_not_wait_for_what_compiles() {
    let mesh = Mesh::alone();
    let mut service = cost::service(cost::expression);
    service.ports[0].entries.truncate(1_000);
    let resource = Resource {
        name: "shop/reviews".into(),
        version: "1".into(),
        resource: Some(weft_proto::discovery::Any {
            type_url: Kind::Service.type_url().into(),
            value: service.encode_to_vec(),
        }),
        ..Resource::default()
    };
    let response = DeltaDiscoveryResponse {
        type_url: Kind::Service.type_url().into(),
        resources: vec![resource],
        ..DeltaDiscoveryResponse::default()
    };
    // Other tests may keep this thread from running for as long as that takes: then again. With the lock held, none succeeds.
    let mut tries = (0..5).map(|_| {
        let (config, response) = (mesh.config.clone(), response.clone());
        let control = std::thread::spawn(move || {
            let began = std::time::Instant::now();
            config.apply(response);
            began.elapsed()
        });
        let mut longest = Duration::ZERO;
        while !control.is_finished() {
            let began = std::time::Instant::now();
            assert!(mesh.config.known_destination("10.96.7.7:80".parse().unwrap(), now()).is_none());
            longest = longest.max(began.elapsed());
            std::thread::yield_now();
        }
        (longest, control.join().unwrap())
    });
    assert!(tries.any(|(longest, compiling)| longest < compiling / 2), "a look waited for what compiled");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_a_request_was_the_last_to_use_ends_on_the_control_thread() {
    let mesh = Mesh::new().await;
    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 100)]));
    mesh.fake.endpoints("shop/reviews-v1:80", &["10.1.1.1"]);
    let destination = mesh.to("10.96.0.1:80").await;
    let Destination::Service { port, .. } = &destination else { panic!("{destination:?}") };
    let table = Arc::downgrade(port);
    mesh.fake.service("reviews", &["10.96.0.1"], Some(&[("shop/reviews-v1", 50)]));
    mesh.fake.push();
    mesh.settle().await;
    assert!(!std::ptr::eq(served(&mesh.to("10.96.0.1:80").await).1, table.as_ptr()), "it was replaced");
    drop(destination);
    assert!(table.upgrade().is_some(), "the request's end is not the table's");
    mesh.config.sweep();
    assert!(table.upgrade().is_none());
}
