//! How the static program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        // A static program relocates itself when it starts, and so the whole table of relocations stays in the memory of every
        // pod: 0.6 MB as the linker writes it by default, 7 KB in the compact form that musl reads since 1.2.4.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
