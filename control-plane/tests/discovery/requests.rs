//! What of discovery requests is taken in, and what of refusals is logged.

use std::time::Duration;

use tonic::Code;
use weft_proto::type_url::{MESH_SETTINGS, SERVICE};
use weft_proto::v1;

use crate::CLIENT;
use crate::harness::Mesh;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_ends_its_stream_with_a_word_and_no_other() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    let mut good = mesh.connect(&svid, "10.1.0.1").await;
    good.subscribe(MESH_SETTINGS, &["mesh"]).await;
    let _: v1::MeshSettings = good.one(MESH_SETTINGS, "mesh").await;
    for first in [true, false] {
        let mut proxy = mesh.connect(&svid, "10.1.0.1").await;
        if !first {
            proxy.subscribe(MESH_SETTINGS, &["mesh"]).await;
            let _: v1::MeshSettings = proxy.one(MESH_SETTINGS, "mesh").await;
        }
        proxy.subscribe(SERVICE, &[&"x".repeat(4 * MIB)]).await;
        let status = proxy.next().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "the first: {first}: {status}");
        assert!(status.message().contains("is more than this replica reads (4194304)"), "{status}");
    }
    good.subscribe(SERVICE, &["shop/reviews"]).await;
    let _: v1::Service = good.one(SERVICE, "shop/reviews").await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_eight_calls_and_the_ninth_is_told() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    // All of one connection, each open until all are.
    let told = mesh.calls(&svid, 9).await;
    assert!(told[..8].iter().all(Result::is_ok), "{told:?}");
    let status = told[8].as_ref().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("8 discovery calls under way"), "{status}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_while_64_mib_of_others_are_read() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    let mut open = mesh.connect(&svid, "10.1.0.1").await;
    open.subscribe(MESH_SETTINGS, &["mesh"]).await;
    let _: v1::MeshSettings = open.one(MESH_SETTINGS, "mesh").await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.push(mesh.half_sent(&svid, 8, 4 * MIB).await);
    }
    // They are read on their own tasks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    open.subscribe(SERVICE, &["shop/reviews"]).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), open.next()).await.is_err(), "there was room");
    slow.clear();
    let _: v1::Service = open.one(SERVICE, "shop/reviews").await;
    mesh.stop().await;
}
