//! Weft's control plane: watches objects, translates them into resources, serves those to proxies, and signs their
//! certificates. Everything flows one way: `source` ► `model` ► `translate` (pure) ► `discovery`, and ► `status`.
//! `run` wires the rooms together; `settings` is what an operator says.

pub mod admin;
pub mod cleanup;
pub mod discovery;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod helm_test;
pub mod identity;
pub mod inject;
pub mod leader;
pub mod line_limit;
pub mod model;
pub mod replicas;
pub mod run;
pub mod settings;
pub mod source;
pub mod status;
pub mod translate;
