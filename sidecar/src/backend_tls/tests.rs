use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A CA of servers outside the mesh.
pub(crate) struct WebCa {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: Vec<u8>,
}

impl WebCa {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A server with these names; those with a colon are URIs.
    pub(crate) fn server(&self, names: &[&str], alpn: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = |name: &&str| match name.contains(':') {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) fn policy(&self, server_name: &str) -> v1::BackendTls {
        v1::BackendTls {
            policy: "shop/tls".into(),
            server_name: server_name.into(),
            roots: vec![self.root.clone()],
            ..v1::BackendTls::default()
        }
    }
}

fn dns(name: &str) -> v1::SubjectName {
    v1::SubjectName { kind: Some(v1::subject_name::Kind::Dns(name.into())) }
}

fn uri(uri: &str) -> v1::SubjectName {
    v1::SubjectName { kind: Some(v1::subject_name::Kind::Uri(uri.into())) }
}

/// What comes of it, and the SNI that the server saw.
async fn connect(
    policy: &v1::BackendTls,
    server: TlsAcceptor,
    speaks: Speaks,
) -> (Result<(), BackendTlsError>, Option<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = server.accept(tcp).await else { return None };
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        let mut asked = [0; 4];
        let _ = stream.read_exact(&mut asked).await;
        name
    });
    let tls = BackendTls::new(policy).unwrap();
    let connected = match tls.connect(TcpStream::connect(address).await.unwrap(), speaks).await {
        Ok(mut stream) => {
            stream.write_all(b"ping").await.unwrap();
            stream.flush().await.unwrap();
            Ok(())
        }
        Err(error) => Err(error),
    };
    (connected, served.await.unwrap())
}

#[tokio::test]
async fn a_server_is_who_the_policy_says_or_nothing_is_sent() {
    let ca = WebCa::new();
    let with = |names: Vec<v1::SubjectName>| v1::BackendTls { names, ..ca.policy("db.example.com") };
    let rows: [(&str, v1::BackendTls, &[&str], bool); 14] = [
        ("its name", with(vec![]), &["db.example.com"], true),
        ("a wildcard of its", with(vec![]), &["*.example.com"], true),
        ("another's", with(vec![]), &["other.example.com"], false),
        ("somebody else's root", WebCa::new().policy("db.example.com"), &["db.example.com"], false),
        (
            "public roots",
            v1::BackendTls { roots: vec![], system_roots: true, ..ca.policy("db.example.com") },
            &["db.example.com"],
            false,
        ),
        (
            "these and the public ones",
            v1::BackendTls { system_roots: true, ..ca.policy("db.example.com") },
            &["db.example.com"],
            true,
        ),
        ("a listed name", with(vec![dns("a.org"), dns("b.org")]), &["b.org"], true),
        ("the hostname does not count beside names", with(vec![dns("b.org")]), &["db.example.com"], false),
        ("a listed wildcard", with(vec![dns("*.b.org")]), &["a.b.org"], true),
        ("a wildcard for a wildcard", with(vec![dns("*.b.org")]), &["*.b.org"], true),
        ("is one label", with(vec![dns("*.b.org")]), &["x.a.b.org"], false),
        ("and not none", with(vec![dns("*.b.org")]), &["b.org"], false),
        ("a URI", with(vec![uri("spiffe://x/ns/a/sa/b")]), &["x.org", "spiffe://x/ns/a/sa/b"], true),
        ("another URI", with(vec![uri("spiffe://x/ns/a/sa/b")]), &["x.org", "spiffe://x/ns/a/sa/c"], false),
    ];
    for (row, policy, names, wanted) in rows {
        let (connected, sni) = connect(&policy, ca.server(names, &[]), Speaks::Http1).await;
        assert_eq!(connected.is_ok(), wanted, "{row}: {connected:?}");
        if wanted {
            assert_eq!(sni.as_deref(), Some("db.example.com"), "{row}");
        } else {
            let error = connected.unwrap_err();
            assert!(matches!(error, BackendTlsError::Certificate { .. }) && !error.is_ours(), "{row}: {error}");
        }
    }
}

#[tokio::test]
async fn http_2_needs_the_servers_word() {
    let ca = WebCa::new();
    let server = |alpn: &[&[u8]]| ca.server(&["a.b"], alpn);
    for (row, alpn, speaks, wanted) in [
        ("both", &[&b"h2"[..], b"http/1.1"][..], Speaks::Http2, true),
        ("HTTP/1.1 of both", &[b"h2", b"http/1.1"], Speaks::Http1, true),
        ("HTTP/1.1 only", &[b"http/1.1"], Speaks::Http2, false),
        ("nothing", &[], Speaks::Http2, false),
        ("nothing for HTTP/1.1", &[], Speaks::Http1, true),
        ("bytes name none", &[b"h2"], Speaks::Bytes, true),
    ] {
        let (connected, _) = connect(&ca.policy("a.b"), server(alpn), speaks).await;
        assert_eq!(connected.is_ok(), wanted, "{row}: {connected:?}");
        assert!(wanted || matches!(connected, Err(BackendTlsError::NoHttp2)), "{row}: {connected:?}");
    }
}

#[tokio::test]
async fn a_policy_that_cannot_be_done_fails_every_connection() {
    let ca = WebCa::new();
    let refused = "ConfigMap shop/ca is not there".to_owned();
    let policy = v1::BackendTls { refused, roots: Vec::new(), ..ca.policy("a.b") };
    let (connected, _) = connect(&policy, ca.server(&["a.b"], &[]), Speaks::Http1).await;
    let error = connected.unwrap_err();
    assert!(error.is_ours() && error.to_string().contains("ConfigMap shop/ca is not there"), "{error}");
}

#[test]
fn what_is_wrong_with_a_policy_is_named() {
    let ca = WebCa::new();
    let good = || ca.policy("a.b");
    let rows = [
        (v1::BackendTls { server_name: "10.0.0.1".into(), ..good() }, "server_name: `10.0.0.1` is not a DNS name"),
        (v1::BackendTls { server_name: String::new(), ..good() }, "server_name: `` is not"),
        (v1::BackendTls { roots: Vec::new(), ..good() }, "roots: there is none"),
        (v1::BackendTls { roots: vec![vec![1, 2]], ..good() }, "roots[0]: not a certificate"),
        (v1::BackendTls { names: vec![dns("a.b"), dns("a b")], ..good() }, "names[1]: neither"),
        (v1::BackendTls { names: vec![uri("no")], ..good() }, "names[0]: neither"),
        (v1::BackendTls { names: vec![v1::SubjectName::default()], ..good() }, "names[0]: neither"),
    ];
    for (wire, expected) in rows {
        let error = BackendTls::new(&wire).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
    let (one, other) = (BackendTls::new(&good()).unwrap(), BackendTls::new(&ca.policy("a.c")).unwrap());
    assert!(one == BackendTls::new(&good()).unwrap() && one != other && one.id() != other.id());
}

#[test]
fn there_are_public_roots() {
    assert!(PUBLIC_ROOTS.len() > 100, "{}", PUBLIC_ROOTS.len());
}
