//! The cryptography of mesh TLS: aws-lc-rs, with the hybrid key exchange first (SEMANTICS.md §1 "mesh TLS").

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The cryptography of mesh TLS, named here and nowhere else; the process-wide default of rustls is never used.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}
