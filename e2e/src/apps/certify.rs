//! Asks the control plane for a certificate, and for a discovery stream, as a sidecar does, with the freedom to claim
//! anything: another's name in the signing request, another's token, another pod's address. It prints how far it got, as a
//! line of JSON, and ends well whatever the answer was.
//!
//! Bound: two connections, [`PATIENCE`] each.

use std::path::PathBuf;
use std::time::Duration;

use weft_proto::type_url;

use super::{AppError, resolve};
use crate::stats::Certified;
use crate::wire::{self, Proxy, Svid, WireError};

const PATIENCE: Duration = Duration::from_secs(20);

/// Its options.
#[derive(Debug, Clone, clap::Args)]
pub struct Certify {
    /// `HOST:PORT` of the control plane.
    #[arg(long, default_value = "weft-control-plane.weft-system:15012")]
    control_plane: String,
    /// PEM file with the mesh's roots.
    #[arg(long)]
    roots: PathBuf,
    /// File with the token to prove oneself by.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The token itself.
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// The SPIFFE ID to ask for.
    #[arg(long)]
    id: String,
    /// Do not ask: sign it oneself.
    #[arg(long)]
    self_signed: bool,
    /// With the certificate, open a discovery stream and claim to be the pod at this address.
    #[arg(long)]
    claim: Option<String>,
}

/// Asks and prints.
///
/// # Errors
/// When an option makes no sense.
pub async fn run(options: Certify) -> Result<(), AppError> {
    let mut certified = Certified { step: "certify".to_owned(), code: "Ok".to_owned(), ..Certified::default() };
    match tokio::time::timeout(PATIENCE, ask(&options, &mut certified)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            certified.code = error.code();
            certified.message = match error {
                WireError::Status(status) => status.message().to_owned(),
                other => other.to_string(),
            };
        }
        Err(_) => "Timeout".clone_into(&mut certified.code),
    }
    println!("{}", serde_json::to_string(&certified)?);
    Ok(())
}

async fn ask(options: &Certify, certified: &mut Certified) -> Result<(), WireError> {
    let failed = |error: &dyn std::fmt::Display| WireError::Request(error.to_string());
    let roots = wire::roots_of(&std::fs::read(&options.roots).map_err(|error| failed(&error))?)?;
    let address = resolve(&options.control_plane).await.map_err(|error| failed(&error))?;
    let token = match (&options.token, &options.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => std::fs::read_to_string(file).map_err(|error| failed(&error))?,
        (None, None) => String::new(),
    };
    let svid = if options.self_signed {
        Svid::self_signed(&options.id, roots)?
    } else {
        wire::certify(address, &roots, token.trim(), &options.id).await?
    };
    let Some(claim) = &options.claim else { return Ok(()) };
    "stream".clone_into(&mut certified.step);
    let mut proxy = Proxy::connect(address, &svid, claim).await?;
    proxy.subscribe(type_url::WORKLOAD, &[weft_proto::SELF]).await;
    if let Some(response) = proxy.next().await? {
        let kind = response.type_url.rsplit('.').next().unwrap_or_default();
        certified.resources = response.resources.iter().map(|resource| format!("{kind} {}", resource.name)).collect();
    }
    Ok(())
}
