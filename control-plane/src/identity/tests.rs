//! The authority against an independent verifier, and the ways to get a certificate one should not get.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use tonic::Code;
use tonic::metadata::MetadataValue;
use weft_proto::SpiffeId;
use weft_proto::identity::v1::CertifyRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;
use crate::line_limit::Lines;

mod following;

const DAY: Duration = Duration::from_secs(24 * 3600);
const WEB: &str = "spiffe://weft.local/ns/shop/sa/web";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn request_for(names: Vec<SanType>, key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.serialize_request(key).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn checked(text: &str) -> CheckedRequest {
    check(&request_for(vec![uri(text)], &p256()), &id(text)).unwrap()
}

fn authority(at: SystemTime) -> (tempfile::TempDir, FileAuthority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = FileAuthority::open(dir.path(), "weft.local", at).unwrap();
    (dir, authority)
}

/// What webpki says of the chain as a client's and as a server's, at a time.
fn verifies(
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    at: SystemTime,
) -> Result<(), String> {
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = webpki::EndEntityCert::try_from(&chain[0]).map_err(|e| e.to_string())?;
    let time = UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &chain[1..], time, usage, None, None)
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[test]
fn a_leaf_verifies_to_the_root_within_its_life_and_to_no_other_root() {
    let at = now();
    let (_dir, authority) = authority(at);
    let issued = authority.sign(&checked(WEB), DAY, at).unwrap();
    let verify = |at| verifies(&issued.chain, &authority.roots(), at);
    assert_eq!(verify(at), Ok(()));
    assert_eq!(verify(at - Duration::from_secs(59)), Ok(()), "a minute of skew");
    assert!(verify(at - Duration::from_secs(62)).is_err(), "before its time");
    assert_eq!(verify(at + DAY - Duration::from_secs(2)), Ok(()));
    assert!(verify(at + DAY + Duration::from_secs(1)).is_err(), "after its time");
    let (_other_dir, other) = self::authority(at);
    assert!(verifies(&issued.chain, &other.roots(), at).is_err(), "another mesh's root");
}

#[test]
fn a_leaf_carries_one_uri_two_usages_and_nothing_of_the_request() {
    let at = now();
    let (_dir, authority) = authority(at);
    let key = p256();
    let mut params = CertificateParams::default(); // A common name, and usages nobody asked us for.
    params.subject_alt_names = vec![uri(WEB)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    let issued = authority.sign(&check(&der, &id(WEB)).unwrap(), DAY, at).unwrap();

    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "");
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "RFC 5280 §4.2.1.6, because the subject is empty");
    assert_eq!(names.value.general_names, [GeneralName::URI(WEB)]);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing && !usage.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(leaf.raw_serial_as_string().replace(':', ""), issued.serial.replace(':', ""));

    let (_, issuer) = x509_parser::parse_x509_certificate(&issued.chain[1]).unwrap();
    let constraints = issuer.basic_constraints().unwrap().unwrap().value;
    assert!(constraints.ca && constraints.path_len_constraint == Some(0));
    assert!(
        issuer.extensions().iter().any(|e| matches!(e.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_)))
    );
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let at = now();
    let (_dir, authority) = authority(at);
    let issued = authority.sign(&checked(WEB), 200 * DAY, at).unwrap();
    assert_eq!(issued.not_after, at + 90 * DAY);
    let (_, issuer) = x509_parser::parse_x509_certificate(&issued.chain[1]).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    assert_eq!(leaf.validity().not_after, issuer.validity().not_after);
}

#[test]
fn the_intermediate_is_renewed_while_the_control_plane_runs() {
    let at = now();
    let (_dir, authority) = authority(at);
    let first = authority.sign(&checked(WEB), DAY, at).unwrap();
    let same = authority.sign(&checked(WEB), DAY, at + 59 * DAY).unwrap();
    let next = authority.sign(&checked(WEB), DAY, at + 61 * DAY).unwrap();
    assert_eq!(first.chain[1], same.chain[1]);
    assert_ne!(first.chain[1], next.chain[1]);
    assert_eq!(verifies(&next.chain, &authority.roots(), at + 61 * DAY), Ok(()));
    let end = at + 3654 * DAY;
    assert!(matches!(authority.sign(&checked(WEB), DAY, end), Err(Error::Expired { .. })));
}

#[test]
fn a_restart_keeps_the_root_and_takes_a_new_intermediate() {
    let at = now();
    let (dir, first) = authority(at);
    let issued = first.sign(&checked(WEB), DAY, at).unwrap();
    let second = FileAuthority::open(dir.path(), "weft.local", at).unwrap();
    assert_eq!(first.roots(), second.roots());
    assert_eq!(verifies(&issued.chain, &second.roots(), at), Ok(()));
    assert_ne!(issued.chain[1], second.sign(&checked(WEB), DAY, at).unwrap().chain[1]);

    let public = std::fs::read_to_string(second.roots_file()).unwrap();
    assert!(public.contains("BEGIN CERTIFICATE") && !public.contains("PRIVATE"));
    let roots: Vec<CertificateDer<'static>> = {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::pem_slice_iter(public.as_bytes()).map(Result::unwrap).collect()
    };
    assert_eq!(roots, second.roots());
}

#[test]
fn a_damaged_root_stops_the_start_and_says_which_file() {
    let at = now();
    let (dir, _authority) = authority(at);
    let path = dir.path().join("root.pem");
    let good = std::fs::read_to_string(&path).unwrap();
    let (key, certificate) = good.split_at(good.find("-----BEGIN CERTIFICATE").unwrap());
    let (other_dir, _other) = authority(at);
    let other = std::fs::read_to_string(other_dir.path().join("root.pem")).unwrap();
    let other_certificate = &other[other.find("-----BEGIN CERTIFICATE").unwrap()..];
    for (row, content) in [
        ("empty", String::new()),
        ("no key", certificate.to_owned()),
        ("no certificate", key.to_owned()),
        ("another key's certificate", format!("{key}{other_certificate}")),
        ("larger than it can be", good.repeat(100)),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = FileAuthority::open(dir.path(), "weft.local", at).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("root.pem is not usable"), "{row}: {error}");
    }
}

#[test]
fn a_request_that_is_not_fit_to_sign_is_refused() {
    let key = p256();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let dns = SanType::DnsName("web.shop".try_into().unwrap());
    let good = request_for(vec![uri(WEB)], &key);
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let rows = [
        ("good", good.clone(), "ok"),
        ("someone else's name", request_for(vec![uri("spiffe://weft.local/ns/shop/sa/bank")], &key), "not-yours"),
        ("another trust domain", request_for(vec![uri("spiffe://evil.example/ns/shop/sa/web")], &key), "not-yours"),
        ("no name", request_for(vec![], &key), "wrong-name"),
        ("a host's name", request_for(vec![dns.clone()], &key), "wrong-name"),
        ("a host's name as well", request_for(vec![uri(WEB), dns], &key), "wrong-name"),
        ("two names", request_for(vec![uri(WEB), uri(WEB)], &key), "wrong-name"),
        ("no SPIFFE ID", request_for(vec![uri("https://weft.local/ns/shop/sa/web")], &key), "wrong-name"),
        ("a P-384 key", request_for(vec![uri(WEB)], &p384), "wrong-key"),
        ("an Ed25519 key", request_for(vec![uri(WEB)], &ed25519), "wrong-key"),
        ("a changed signature", unsigned, "unsigned-request"),
        ("cut off", good[..good.len() - 1].to_vec(), "unreadable-request"),
        ("nothing", Vec::new(), "unreadable-request"),
        ("too much", vec![0x30; 1 << 20], "unreadable-request"),
    ];
    for (row, der, expected) in rows {
        let outcome = check(&der, &id(WEB)).map_or_else(|refusal| refusal.reason(), |_| "ok");
        assert_eq!(outcome, expected, "{row}");
    }
}

#[test]
fn a_token_proves_one_identity_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = JoinTokens::open(dir.path()).unwrap();
    let at = now();
    let token = tokens.issue(&id(WEB), DAY, at);
    assert_eq!(tokens.verify(&token, at), Ok(id(WEB)));
    assert_eq!(tokens.verify(&format!("{token}\n"), at), Ok(id(WEB)), "as read from a file");
    assert_eq!(tokens.verify(&token, at + DAY), Err(Refusal::ExpiredToken));
    assert_ne!(token, tokens.issue(&id(WEB), DAY, at));
    // Another process on the same directory.
    assert_eq!(JoinTokens::open(dir.path()).unwrap().verify(&token, at), Ok(id(WEB)));
}

#[test]
fn a_token_that_was_tampered_with_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = JoinTokens::open(dir.path()).unwrap();
    let at = now();
    let token = tokens.issue(&id(WEB), DAY, at);
    let (payload, tag) = token.split_once('.').unwrap();
    let claims = |sub: &str| BASE64.encode(format!(r#"{{"sub":"{sub}","exp":99999999999,"jti":"x"}}"#));
    let other_dir = tempfile::tempdir().unwrap();
    let elsewhere = JoinTokens::open(other_dir.path()).unwrap().issue(&id(WEB), DAY, at);
    let rows = [
        ("another identity under the same tag", format!("{}.{tag}", claims("spiffe://weft.local/ns/shop/sa/bank"))),
        ("no tag", format!("{payload}.")),
        ("no dot", payload.to_owned()),
        ("a shorter tag", format!("{payload}.{}", &tag[..tag.len() - 4])),
        ("payload twice", format!("{payload}.{payload}")),
        ("another control plane's", elsewhere),
        ("empty", String::new()),
        ("long", "x".repeat(1 << 20)),
    ];
    for (row, token) in rows {
        assert_eq!(tokens.verify(&token, at), Err(Refusal::ForeignToken), "{row}");
    }
    for position in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        // The last character of unpadded base64 has bits that mean nothing, and the decoder refuses those that are set.
        assert_eq!(tokens.verify(&changed, at), Err(Refusal::ForeignToken), "byte {position}");
    }
}

#[tokio::test]
async fn certify_answers_who_one_is_and_what_one_may_have_apart() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(FileAuthority::open(dir.path(), "weft.local", now()).unwrap());
    let certifier = Certifier {
        authority: authority.clone(),
        authenticator: Authenticator::JoinTokens(JoinTokens::open(dir.path()).unwrap()),
        trust_domain: "weft.local".to_owned(),
        ttl: DAY,
        metrics: Metrics::default(),
        lines: Lines::default(),
    };
    let tokens = JoinTokens::open(dir.path()).unwrap();
    let token = |text: &str| tokens.issue(&id(text), DAY, now());
    let own = "spiffe://weft.local/ns/weft-system/sa/weft-control-plane";
    let elsewhere = "spiffe://other.local/ns/shop/sa/web";
    let rows = [
        ("good", Some(token(WEB)), WEB, Ok(())),
        ("no token", None, WEB, Err(Code::Unauthenticated)),
        ("no good token", Some("x.y".to_owned()), WEB, Err(Code::Unauthenticated)),
        ("someone else's token", Some(token("spiffe://weft.local/ns/shop/sa/bank")), WEB, Err(Code::PermissionDenied)),
        ("another trust domain's", Some(token(elsewhere)), elsewhere, Err(Code::PermissionDenied)),
        ("the control plane's own", Some(token(own)), own, Err(Code::PermissionDenied)),
    ];
    for (row, token, name, expected) in rows {
        let mut request = tonic::Request::new(CertifyRequest { csr: request_for(vec![uri(name)], &p256()) });
        if let Some(token) = token {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let answer = Certifier::certify_call(&certifier, request).await;
        assert_eq!(answer.as_ref().map(|_| ()).map_err(|status| status.code()), expected, "{row}");
        if let Ok(answer) = answer {
            let der = |bytes: &Vec<u8>| CertificateDer::from(bytes.clone());
            let chain: Vec<_> = answer.get_ref().chain.iter().map(der).collect();
            let roots: Vec<_> = answer.get_ref().roots.iter().map(der).collect();
            assert_eq!(verifies(&chain, &roots, now()), Ok(()), "{row}");
            assert_eq!(peer_of(&chain[0], "weft.local").unwrap().id, id(WEB), "{row}");
            assert!(peer_of(&chain[0], "other.local").is_err(), "{row}");
        }
    }
}

impl Certifier {
    /// The trait's method, which shares its name with the one that does the work.
    async fn certify_call(
        certifier: &Self,
        request: tonic::Request<CertifyRequest>,
    ) -> Result<tonic::Response<weft_proto::identity::v1::CertifyResponse>, tonic::Status> {
        <Self as weft_proto::identity::v1::identity_server::Identity>::certify(certifier, request).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_control_planes_own_svid_is_renewed_before_it_ends() {
    let (_dir, authority) = authority(now());
    let authority: Arc<dyn Authority> = Arc::new(authority);
    let own = id("spiffe://weft.local/ns/weft-system/sa/weft-control-plane");
    let svid = Arc::new(OwnSvid::issue(&*authority, own, DAY, now()).unwrap());
    let first = svid.not_after();
    tokio::spawn(Arc::clone(&svid).keep(authority));
    tokio::time::sleep(DAY * 48 / 100).await;
    assert_eq!(svid.not_after(), first);
    tokio::time::sleep(DAY * 24 / 100).await;
    assert_ne!(svid.not_after(), first);
}
