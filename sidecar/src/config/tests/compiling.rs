//! That compiling delays nobody but the control thread.

use prost::Message;
use weft_proto::discovery::{DeltaDiscoveryResponse, Resource};

use super::super::compile::cost;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_worker_that_meets_a_new_destination_does_not_wait_for_what_compiles() {
    let mesh = Mesh::alone();
    let mut service = cost::service(cost::expression);
    service.ports[0].entries.truncate(500);
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
    let config = mesh.config.clone();
    let control = std::thread::spawn(move || {
        let began = std::time::Instant::now();
        config.apply(response);
        began.elapsed()
    });
    let (mut longest, mut looks) = (Duration::ZERO, 0);
    while !control.is_finished() {
        let began = std::time::Instant::now();
        let known = mesh.config.known_destination("10.96.7.7:80".parse().unwrap(), now());
        longest = longest.max(began.elapsed());
        assert!(known.is_none());
        looks += 1;
        std::thread::yield_now();
    }
    let compiling = control.join().unwrap();
    assert!(longest < compiling / 2, "one of {looks} waited {longest:?} while something compiled for {compiling:?}");
}
