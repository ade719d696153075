//! What of discovery requests is taken in, and what of refusals is logged.

use std::time::Duration;

use tonic::Code;
use weft_proto::type_url::{MESH_SETTINGS, SERVICE};
use weft_proto::v1;

use crate::harness::Mesh;
use crate::{CLIENT, REVIEWS};

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
async fn a_connection_has_three_calls_and_the_fourth_is_told() {
    let mesh = Mesh::start().await;
    let svid = mesh.certify(CLIENT).await.unwrap();
    // All of one connection, each open until all are.
    let told = mesh.calls(&svid, 4).await;
    assert!(told[..3].iter().all(Result::is_ok), "{told:?}");
    let status = told[3].as_ref().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("3 discovery calls under way"), "{status}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_reads_16_mib_of_large_requests_at_once_and_keeps_nobody_from_anything_else() {
    let mesh = Mesh::start().await;
    let (client, other) = (mesh.certify(CLIENT).await.unwrap(), mesh.certify(REVIEWS).await.unwrap());
    let mut small = mesh.connect(&client, "10.1.0.1").await;
    small.subscribe(MESH_SETTINGS, &["mesh"]).await;
    let _: v1::MeshSettings = small.one(MESH_SETTINGS, "mesh").await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(mesh.half_sent(&client, 3, 4 * MIB).await);
    }
    // They are read on their own tasks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    small.subscribe(SERVICE, &["shop/reviews"]).await;
    let _: v1::Service = small.one(SERVICE, "shop/reviews").await;
    let names: Vec<String> = (0..20).map(|n| format!("{n}{}", "x".repeat(1_000))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut large = mesh.connect(&other, "10.1.0.2").await;
    large.subscribe(SERVICE, &names).await;
    assert_eq!(large.next().await.unwrap().removed_resources.len(), names.len());
    let mut large = mesh.connect(&client, "10.1.0.1").await;
    large.subscribe(SERVICE, &names).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), large.next()).await.is_err(), "there was room");
    slow.clear();
    assert_eq!(large.next().await.unwrap().removed_resources.len(), names.len());
    mesh.stop().await;
}
