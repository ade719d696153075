//! The cryptography of mesh TLS: aws-lc-rs, with the hybrid key exchange first (SEMANTICS.md §1 "mesh TLS").

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};

/// The cryptography of mesh TLS, named here and nowhere else; the process-wide default of rustls is never used.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            // AES-128 before AES-256: ten rounds instead of fourteen for every byte, and SHA-256, which processors compute in
            // hardware, for the key schedule. ChaCha20 is for processors without AES.
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}
