//! Two ends over a pipe, and a whole life of a certificate under a paused clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::NamedGroup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::identity::v1::identity_server::IdentityServer;

use super::testing::{Answer, FakeIdentity, Leaf, PipeDial, TestCa, serve};
use super::*;
use crate::tcp::Wide;

type Ends = (
    Result<(tokio_rustls::client::TlsStream<Wide<tokio::io::DuplexStream>>, Peer), HandshakeError>,
    Result<(tokio_rustls::server::TlsStream<Wide<tokio::io::DuplexStream>>, Peer), HandshakeError>,
);

async fn meet(client: &IdentityManager, expected: &SpiffeId, server: &IdentityManager) -> Ends {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::join!(client.connect(ours, expected, MeshProtocol::H2), server.accept(theirs))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is_over_the_hybrid_key_exchange() {
    let ca = TestCa::new("weft.local");
    let (web, reviews) = (ca.manager("shop", "web"), ca.manager("shop", "reviews"));
    let (client, server) = meet(&web, reviews.identity(), &reviews).await;
    let ((client, of_client), (server, of_server)) = (client.unwrap(), server.unwrap());
    assert_eq!(of_client.identity(), reviews.identity());
    assert_eq!(of_server.identity(), web.identity());
    assert_eq!(of_server.protocol(), MeshProtocol::H2);
    let ends: [(&str, &rustls::CommonState); 2] = [("client", client.get_ref().1), ("server", server.get_ref().1)];
    for (what, state) in ends {
        assert_eq!(state.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3), "{what}");
        let group = state.negotiated_key_exchange_group().map(|group| group.name());
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768), "{what}");
        let suite = state.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256), "{what}: as fast as it gets");
    }
    assert!(of_server.not_after() > SystemTime::now());
}

#[tokio::test]
async fn every_mesh_protocol_is_agreed_on_and_no_other() {
    let ca = TestCa::new("weft.local");
    let (web, reviews) = (ca.manager("shop", "web"), ca.manager("shop", "reviews"));
    for protocol in MeshProtocol::ALL {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (client, server) = tokio::join!(web.connect(ours, reviews.identity(), protocol), reviews.accept(theirs));
        assert_eq!(client.unwrap().1.protocol(), protocol);
        assert_eq!(server.unwrap().1.protocol(), protocol);
    }
    let mut foreign = (*web.client_config(reviews.identity(), MeshProtocol::H2).unwrap()).clone();
    foreign.alpn_protocols = vec![b"h2".to_vec()];
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let dial = tokio_rustls::TlsConnector::from(Arc::new(foreign)).connect(handshake::unnamed(), ours);
    let (_, server) = tokio::join!(dial, reviews.accept(theirs));
    assert!(matches!(server, Err(HandshakeError::NoMeshProtocol)), "{server:?}");
    assert_eq!(MeshProtocol::from_alpn(b"h2"), None);
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused_before_the_first_byte() {
    let ca = TestCa::new("weft.local");
    let (web, ratings) = (ca.manager("shop", "web"), ca.manager("shop", "ratings"));
    let expected = ca.id("shop", "reviews");
    let (client, server) = meet(&web, &expected, &ratings).await;
    let Err(HandshakeError::Peer(PeerError::WrongIdentity { expected: wanted, got })) = client else {
        panic!("{client:?}");
    };
    assert_eq!((wanted, got), (expected, ratings.identity().clone()));
    assert!(matches!(server, Err(HandshakeError::RefusedByPeer(_))), "{server:?}");
}

/// One row per way to be no member of the mesh, tried from both sides.
#[tokio::test]
async fn who_is_no_member_is_refused_by_both_sides_and_the_error_names_the_fact() {
    let ca = TestCa::new("weft.local");
    let stranger = TestCa::new("weft.local");
    let abroad = TestCa::new("other.mesh");
    let honest = ca.manager("shop", "web");
    let mallory = ca.id("shop", "mallory");
    let now = SystemTime::now();
    let leaf = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = Leaf::of(&mallory);
        change(&mut leaf);
        leaf
    };
    type Check = fn(&PeerError) -> bool;
    let rows: [(&str, &TestCa, Leaf, Check); 7] = [
        ("expired", &ca, leaf(&|l| l.not_after = now - secs(5)), |e| {
            matches!(e, PeerError::Expired { seconds: 4..=8, .. })
        }),
        ("not yet valid", &ca, leaf(&|l| l.not_before = now + secs(100)), |e| {
            matches!(e, PeerError::NotYetValid { seconds: 90..=100, .. })
        }),
        ("another root", &stranger, leaf(&|_| ()), |e| matches!(e, PeerError::UnknownIssuer { .. })),
        ("another trust domain", &abroad, leaf(&|l| l.uris = vec!["spiffe://other.mesh/ns/a/sa/b".into()]), |e| {
            matches!(e, PeerError::OtherTrustDomain { .. })
        }),
        ("no name", &ca, leaf(&|l| l.uris.clear()), |e| matches!(e, PeerError::NotOneUri(0))),
        ("two names", &ca, leaf(&|l| l.uris.push("spiffe://weft.local/ns/a/sa/b".into())), |e| {
            matches!(e, PeerError::NotOneUri(2))
        }),
        ("a name of another shape", &ca, leaf(&|l| l.uris = vec!["https://weft.local/x".into()]), |e| {
            matches!(e, PeerError::NotSpiffe(_))
        }),
    ];
    for (what, signer, leaf, is_the_fact) in rows {
        let bad = ca.manager_with(&mallory, &leaf);
        bad.install(signer.svid(&mallory, &leaf));
        let (client, _) = meet(&honest, &mallory, &bad).await;
        assert!(matches!(&client, Err(HandshakeError::Peer(e)) if is_the_fact(e)), "{what}, as server: {client:?}");
        let (client, server) = meet(&bad, honest.identity(), &honest).await;
        assert!(matches!(&server, Err(HandshakeError::Peer(e)) if is_the_fact(e)), "{what}, as client: {server:?}");
        // The client was done before it was judged; the refusal reaches its first read.
        if let Ok((mut stream, _)) = client {
            let error = stream.read_u8().await.unwrap_err();
            assert!(refused_by_peer(&error).is_some(), "{what}: {error}");
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = TestCa::new("weft.local");
    let reviews = ca.manager("shop", "reviews");
    let roots = Arc::new(Roots::new("weft.local", vec![ca.root.clone()]).unwrap());
    let anonymous = tls::client_config(None, roots, reviews.identity().clone(), weft_proto::alpn::H2).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let dial = tokio_rustls::TlsConnector::from(Arc::new(anonymous)).connect(handshake::unnamed(), ours);
    let (_, server) = tokio::join!(dial, reviews.accept(theirs));
    assert!(matches!(server, Err(HandshakeError::Peer(PeerError::NoCertificate))), "{server:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_after_three_seconds() {
    let ca = TestCa::new("weft.local");
    let (web, reviews) = (ca.manager("shop", "web"), ca.id("shop", "reviews"));
    let (_ours, theirs) = tokio::io::duplex(1024);
    let began = tokio::time::Instant::now();
    let server = web.accept(theirs).await;
    assert!(matches!(server, Err(HandshakeError::Timeout(_))), "{server:?}");
    assert_eq!(began.elapsed(), HANDSHAKE_TIMEOUT);
    let (ours, theirs) = tokio::io::duplex(1024);
    drop(theirs);
    let client = web.connect(ours, &reviews, MeshProtocol::Tcp).await;
    assert!(matches!(client, Err(HandshakeError::Closed | HandshakeError::Io(_))), "{client:?}");
}

#[tokio::test]
async fn without_an_svid_nothing_is_accepted_or_dialled() {
    let ca = TestCa::new("weft.local");
    let manager = IdentityManager::new(IdentitySettings {
        identity: ca.id("a", "b"),
        ca_roots: "/nonexistent".into(),
        join_token: "/nonexistent".into(),
    });
    let (ours, theirs) = tokio::io::duplex(1024);
    assert!(matches!(manager.accept(theirs).await, Err(HandshakeError::NoSvid)));
    let client = manager.connect(ours, &ca.id("a", "b"), MeshProtocol::H2).await;
    assert!(matches!(client, Err(HandshakeError::NoSvid)));
}

#[tokio::test]
async fn rotation_keeps_open_connections_and_shows_the_new_svid_to_new_ones() {
    let ca = TestCa::new("weft.local");
    let (web, reviews) = (ca.manager("shop", "web"), ca.manager("shop", "reviews"));
    let (client, server) = meet(&web, reviews.identity(), &reviews).await;
    let ((mut old_client, _), (mut old_server, _)) = (client.unwrap(), server.unwrap());

    let mut leaf = Leaf::of(reviews.identity());
    leaf.not_after = SystemTime::UNIX_EPOCH
        + secs((SystemTime::now() + secs(7200)).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    let before = reviews.server_config().unwrap();
    let mut watch = reviews.watch();
    watch.mark_unchanged();
    reviews.install(ca.svid(reviews.identity(), &leaf));
    assert!(watch.has_changed().unwrap());
    assert!(!Arc::ptr_eq(&before, &reviews.server_config().unwrap()));

    old_server.write_all(b"still here").await.unwrap();
    old_server.flush().await.unwrap();
    let mut text = [0; 10];
    old_client.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");

    let (client, _) = meet(&web, reviews.identity(), &reviews).await;
    assert_eq!(client.unwrap().1.not_after(), leaf.not_after);
}

#[tokio::test]
async fn a_root_rotation_trusts_both_then_only_the_new_one() {
    let (old, new) = (TestCa::new("weft.local"), TestCa::new("weft.local"));
    let web = old.manager("shop", "web");
    let moved = new.manager("shop", "reviews");
    let unmoved = old.manager("shop", "ratings");
    moved.set_roots(vec![old.root.clone(), new.root.clone()]).unwrap();
    unmoved.set_roots(vec![old.root.clone(), new.root.clone()]).unwrap();
    for (what, roots, moved_works, unmoved_works) in [
        ("only the old", vec![&old.root], false, true),
        ("both", vec![&old.root, &new.root], true, true),
        ("only the new", vec![&new.root], true, false),
    ] {
        web.set_roots(roots.into_iter().cloned().collect()).unwrap();
        assert_eq!(meet(&web, moved.identity(), &moved).await.0.is_ok(), moved_works, "{what}: the new root's leaf");
        assert_eq!(
            meet(&web, unmoved.identity(), &unmoved).await.0.is_ok(),
            unmoved_works,
            "{what}: the old root's leaf"
        );
    }
    let in_use = web.roots();
    assert_eq!(web.set_roots(Vec::new()), Err(RootsError::Empty));
    assert!(matches!(web.set_roots(vec![vec![1, 2].into()]), Err(RootsError::Malformed { index: 0, .. })));
    assert_eq!(web.roots(), in_use, "bad roots change nothing");
}

#[test]
fn nothing_prints_a_key() {
    let ca = TestCa::new("weft.local");
    let manager = ca.manager("shop", "web");
    let text = format!("{:?} {manager:?} {:?}", manager.svid(), manager.roots());
    assert!(!text.to_lowercase().contains("key") && !text.contains("certified"), "{text}");
}

/// A control plane that certifies, and files on disk.
struct Bootstrap {
    ca: Arc<TestCa>,
    fake: Arc<FakeIdentity>,
    dial: PipeDial,
    manager: IdentityManager,
    files: tempfile::TempDir,
}

impl Bootstrap {
    fn new(lifetime: Duration) -> Self {
        let ca = Arc::new(TestCa::new("weft.local"));
        let files = tempfile::tempdir().unwrap();
        let manager = IdentityManager::new(IdentitySettings {
            identity: ca.id("shop", "web"),
            ca_roots: files.path().join("roots.pem"),
            join_token: files.path().join("token"),
        });
        let this = Self {
            fake: Arc::new(FakeIdentity {
                ca: Arc::clone(&ca),
                token: Mutex::new("secret".into()),
                lifetime,
                served: Default::default(),
                certified: Default::default(),
                next: Mutex::new(None),
            }),
            ca,
            dial: PipeDial::down(),
            manager,
            files,
        };
        this.write("token", "secret\n");
        this.write("roots.pem", &pem(&this.ca));
        this
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.files.path().join(file), text).unwrap();
    }

    fn serve_as(&self, service_account: &str) {
        let tls = self.ca.control_plane_tls(&self.ca.id("weft-system", service_account));
        serve(self.dial.up(), tls, IdentityServer::from_arc(Arc::clone(&self.fake)));
    }

    fn run(&self) -> tokio::task::JoinHandle<()> {
        let (manager, control_plane) = (self.manager.clone(), self.dial.control_plane(self.manager.clone()));
        tokio::spawn(async move { manager.run(&control_plane).await })
    }

    async fn served(&self, at_least: usize) {
        while self.fake.served.load(Ordering::Relaxed) < at_least {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn pem(ca: &TestCa) -> String {
    use base64_lines::encode;
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", encode(&ca.root))
}

/// PEM's base64, so that tests need no crate for it.
mod base64_lines {
    pub(super) fn encode(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for (n, chunk) in bytes.chunks(3).enumerate() {
            let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for sextet in 0..4 {
                let index = (word >> (18 - 6 * sextet)) as usize & 63;
                text.push(if sextet <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
            }
            if n % 16 == 15 {
                text.push('\n');
            }
        }
        text.push('\n');
        text
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_obtained_and_renewed_between_half_and_seven_tenths_of_its_life() {
    let bootstrap = Bootstrap::new(secs(24 * 3600));
    bootstrap.serve_as("weft-control-plane");
    let run = bootstrap.run();
    let began = tokio::time::Instant::now();
    bootstrap.manager.ready().await;
    let first = bootstrap.manager.svid().unwrap();
    assert_eq!(first.identity(), bootstrap.manager.identity());

    bootstrap.served(2).await;
    let hours = began.elapsed().as_secs_f64() / 3600.0;
    assert!((11.9..=16.9).contains(&hours), "renewed after {hours} h");
    tokio::time::sleep(secs(1)).await;
    assert_ne!(bootstrap.manager.svid().unwrap().chain(), first.chain(), "and the new one is in use");
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn who_renews_shows_its_svid_and_where_that_is_not_believed_the_token_does() {
    let stranger = TestCa::new("weft.local");
    for (row, believed, expected) in [("believed", true, 1), ("not believed", false, 0)] {
        let bootstrap = Bootstrap::new(secs(24 * 3600));
        let id = bootstrap.ca.id("weft-system", "weft-control-plane");
        let clients = if believed { &bootstrap.ca.root } else { &stranger.root };
        let tls = bootstrap.ca.control_plane_tls_for(&id, clients);
        serve(bootstrap.dial.up(), tls, IdentityServer::from_arc(Arc::clone(&bootstrap.fake)));
        let run = bootstrap.run();
        bootstrap.manager.ready().await;
        assert_eq!(bootstrap.fake.certified.load(Ordering::Relaxed), 0, "{row}: it has none yet");
        let began = tokio::time::Instant::now();
        bootstrap.served(2).await;
        assert_eq!(bootstrap.fake.certified.load(Ordering::Relaxed), expected, "{row}");
        assert!(began.elapsed() < secs(17 * 3600), "{row}: in the try that was due");
        run.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_svid_survives_failed_renewals() {
    let bootstrap = Bootstrap::new(secs(20));
    bootstrap.serve_as("weft-control-plane");
    let run = bootstrap.run();
    bootstrap.manager.ready().await;
    let first = bootstrap.manager.svid().unwrap();
    let began = tokio::time::Instant::now();
    *bootstrap.fake.next.lock() = Some(Answer::Fail);
    bootstrap.served(3).await;
    assert!(began.elapsed() < secs(20), "renewed in time although one try failed: {:?}", began.elapsed());
    tokio::time::sleep(secs(1)).await;
    assert_ne!(bootstrap.manager.svid().unwrap().chain(), first.chain());
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn the_token_and_the_roots_are_read_anew() {
    let bootstrap = Bootstrap::new(secs(3600));
    bootstrap.write("token", "");
    bootstrap.write("roots.pem", &pem(&TestCa::new("weft.local")));
    bootstrap.serve_as("weft-control-plane");
    let run = bootstrap.run();
    tokio::time::sleep(secs(30)).await;
    assert!(bootstrap.manager.svid().is_none());
    bootstrap.write("roots.pem", &pem(&bootstrap.ca));
    bootstrap.write("token", "wrong");
    tokio::time::sleep(secs(200)).await;
    assert!(bootstrap.manager.svid().is_none());
    bootstrap.write("token", "secret");
    bootstrap.manager.ready().await;
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn somebody_else_with_a_valid_svid_is_not_taken_for_the_control_plane() {
    let bootstrap = Bootstrap::new(secs(3600));
    bootstrap.serve_as("mallory");
    let run = bootstrap.run();
    tokio::time::sleep(secs(600)).await;
    assert!(bootstrap.manager.svid().is_none());
    assert_eq!(bootstrap.fake.served.load(Ordering::Relaxed), 0, "and never saw the token");
    run.abort();
}

#[tokio::test(start_paused = true)]
async fn a_wrong_answer_is_not_installed() {
    let bootstrap = Bootstrap::new(secs(3600));
    bootstrap.serve_as("weft-control-plane");
    let us = bootstrap.manager.identity().clone();
    let them = bootstrap.ca.id("shop", "other");
    let mut control_plane_file = Default::default();
    let control_plane = bootstrap.dial.control_plane(bootstrap.manager.clone());
    type Check = fn(&CertifyError) -> bool;
    let rows: [(&str, Vec<CertificateDer<'static>>, Check); 4] = [
        ("no chain", Vec::new(), |e| matches!(e, CertifyError::Answer(PeerError::NoCertificate))),
        ("somebody else", bootstrap.ca.svid(&them, &Leaf::of(&them)).chain().to_vec(), |e| {
            matches!(e, CertifyError::Answer(PeerError::WrongIdentity { .. }))
        }),
        ("another key", bootstrap.ca.svid(&us, &Leaf::of(&us)).chain().to_vec(), |e| matches!(e, CertifyError::Key(_))),
        ("another root", TestCa::new("weft.local").svid(&us, &Leaf::of(&us)).chain().to_vec(), |e| {
            matches!(e, CertifyError::Answer(PeerError::UnknownIssuer { .. }))
        }),
    ];
    for (what, chain, is_the_fact) in rows {
        *bootstrap.fake.next.lock() = Some(Answer::Chain(chain));
        let error = bootstrap.manager.renew(&control_plane, &mut control_plane_file).await.unwrap_err();
        assert!(is_the_fact(&error), "{what}: {error}");
        assert!(bootstrap.manager.svid().is_none(), "{what}");
    }
    bootstrap.manager.renew(&control_plane, &mut control_plane_file).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_comes_later_is_waited_for() {
    let bootstrap = Bootstrap::new(secs(24 * 3600));
    bootstrap.serve_as("weft-control-plane");
    for file in ["roots.pem", "token"] {
        std::fs::remove_file(bootstrap.files.path().join(file)).unwrap();
    }
    let _run = bootstrap.run();
    tokio::time::sleep(secs(300)).await;
    assert!(bootstrap.manager.svid().is_none());
    bootstrap.write("roots.pem", &pem(&bootstrap.ca));
    tokio::time::sleep(secs(5)).await;
    bootstrap.write("token", "secret\n");
    tokio::time::timeout(secs(2), bootstrap.manager.ready()).await.expect("soon after both are there");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_start_yet_asks_again_soon() {
    let bootstrap = Bootstrap::new(secs(24 * 3600));
    let _run = bootstrap.run();
    tokio::time::sleep(secs(600)).await;
    assert!(bootstrap.manager.svid().is_none(), "the control plane is down");
    bootstrap.serve_as("weft-control-plane");
    tokio::time::timeout(secs(6), bootstrap.manager.ready()).await.expect("it is back");
}

#[tokio::test(start_paused = true)]
async fn a_mounted_config_map_that_changes_is_followed() {
    // As kubelet does it: files are links into `..data`, itself a link that is swapped for another.
    let bootstrap = Bootstrap::new(secs(24 * 3600));
    bootstrap.serve_as("weft-control-plane");
    let folder = bootstrap.files.path();
    let next = TestCa::new("weft.local");
    for (version, text) in [("..1", pem(&bootstrap.ca)), ("..2", pem(&bootstrap.ca) + &pem(&next))] {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("roots.pem"), text).unwrap();
    }
    std::fs::remove_file(folder.join("roots.pem")).unwrap();
    std::os::unix::fs::symlink("..1", folder.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/roots.pem", folder.join("roots.pem")).unwrap();
    let _run = bootstrap.run();
    bootstrap.manager.ready().await;
    let file = || bootstrap.manager.0.roots.lock().file.clone().unwrap();
    let before = file();
    std::os::unix::fs::symlink("..2", folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    tokio::time::sleep(secs(6)).await;
    assert!(*before != *file());
}
