//! Injection: which pods get a sidecar, and what becomes of them (SEMANTICS.md §1, §3 "drain").

pub mod settings;
pub mod values;
