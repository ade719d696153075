//! Weft's control plane: watches objects, translates them into resources, serves those to proxies, and signs their
//! certificates. Everything flows one way: `source` ► `model` ► `translate` (pure) ► `discovery`, and ► `status`.

pub mod admin;
pub mod discovery;
pub mod identity;
pub mod model;
pub mod source;
pub mod status;
pub mod translate;
