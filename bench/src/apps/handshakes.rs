//! TLS 1.3 handshakes with a sidecar, both sides with certificates.
//!
//! In TLS 1.3 the client is done before the server has judged its certificate. So each connection goes on until the
//! server's first HTTP/2 frame, its SETTINGS, which it sends unasked once it has accepted the client. Nothing is
//! requested. The group, the version, and that the handshake was full (or resumed, where that is the row) are looked at on
//! every connection.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{AppError, Outcome};

const PATIENCE: Duration = Duration::from_secs(5);
/// The preface and an empty SETTINGS frame (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;

/// A key exchange group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// X25519.
    X25519,
    /// X25519MLKEM768.
    Hybrid,
}

/// Its options.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Handshakes {
    /// Whom to call.
    #[arg(long)]
    target: SocketAddr,
    /// Our certificates, ours first, and our key, in PEM. Without it, there is no TLS: connections only.
    #[arg(long)]
    identity: Option<PathBuf>,
    /// The root certificate to believe.
    #[arg(long)]
    roots: Option<PathBuf>,
    /// The one ALPN name to offer.
    #[arg(long, default_value = "h2")]
    alpn: String,
    /// The one group to offer.
    #[arg(long, default_value = "x25519")]
    group: Group,
    /// Resume sessions.
    #[arg(long)]
    resume: bool,
    /// How many at a time.
    #[arg(long, default_value_t = 8)]
    at_a_time: usize,
    /// For how long, in s.
    #[arg(long)]
    seconds: f64,
}

/// Runs it.
///
/// # Errors
/// When the certificates cannot be used.
pub(crate) async fn run(options: Handshakes) -> Result<Outcome, AppError> {
    let tls = match (&options.identity, &options.roots) {
        (Some(identity), Some(roots)) => Some(Arc::new(configuration(&options, identity, roots)?)),
        _ => None,
    };
    let options = Arc::new(options);
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = (0..options.at_a_time)
        .map(|_| local.spawn_local(one_after_another(Arc::clone(&options), tls.clone())))
        .collect();
    let mut all = Outcome::default();
    local
        .run_until(async {
            for task in tasks {
                match task.await {
                    Ok(outcome) => all.add(outcome),
                    Err(error) => all.fail(error),
                }
            }
        })
        .await;
    Ok(all)
}

async fn one_after_another(options: Arc<Handshakes>, tls: Option<Arc<ClientConfig>>) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    let mut resumed = 0;
    while started.elapsed().as_secs_f64() < options.seconds && outcome.failed == 0 {
        let once = async {
            match &tls {
                Some(tls) => handshake(&options, tls).await,
                None => Ok(TcpStream::connect(options.target).await.map(|_| false)?),
            }
        };
        match tokio::time::timeout(PATIENCE, once).await {
            Ok(Ok(was_resumed)) => {
                outcome.operations += 1;
                resumed += u64::from(was_resumed);
            }
            Ok(Err(error)) => outcome.fail(error),
            Err(_) => outcome.fail(format_args!("no handshake within {PATIENCE:?}")),
        }
    }
    // The first of a task has nothing to resume, and the others may have taken all tickets. A row that says "resumed"
    // means nine of ten.
    if options.resume && outcome.operations > 20 && resumed * 10 < outcome.operations * 9 {
        let all = outcome.operations;
        outcome.fail(format_args!("only {resumed} of {all} handshakes were resumed"));
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

/// Whether it was resumed.
async fn handshake(options: &Handshakes, tls: &Arc<ClientConfig>) -> Result<bool, AppError> {
    let tcp = TcpStream::connect(options.target).await?;
    tcp.set_nodelay(true)?;
    let mut stream =
        TlsConnector::from(Arc::clone(tls)).connect(ServerName::IpAddress(options.target.ip().into()), tcp).await?;
    stream.write_all(PREFACE).await?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    if head[3] != SETTINGS {
        return Err(format!("the server's first frame is of type {}, not SETTINGS", head[3]).into());
    }
    let (_, connection) = stream.get_ref();
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    let expected = match options.group {
        Group::X25519 => NamedGroup::X25519,
        Group::Hybrid => NamedGroup::X25519MLKEM768,
    };
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) || group != Some(expected) {
        return Err(format!("agreed on {:?} and {group:?}", connection.protocol_version()).into());
    }
    let resumed = match connection.handshake_kind() {
        Some(HandshakeKind::Full) => false,
        Some(HandshakeKind::Resumed) if options.resume => true,
        other => return Err(format!("the handshake was {other:?}").into()),
    };
    stream.shutdown().await?;
    Ok(resumed)
}

fn configuration(options: &Handshakes, identity: &PathBuf, roots: &PathBuf) -> Result<ClientConfig, AppError> {
    let group = match options.group {
        Group::X25519 => aws_lc_rs::kx_group::X25519,
        Group::Hybrid => aws_lc_rs::kx_group::X25519MLKEM768,
    };
    let provider = Arc::new(CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() });
    let chain = CertificateDer::pem_file_iter(identity)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(identity)?;
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots)? {
        store.add(root?)?;
    }
    let chain_only = ChainOnly(WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build()?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(chain_only))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![options.alpn.clone().into_bytes()];
    config.enable_sni = false;
    if !options.resume {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

/// Believes whom our root has certified, whatever the name: the certificates carry SPIFFE IDs, which the sidecars compare.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        // The name is looked at last, so this says that all the rest was good.
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
