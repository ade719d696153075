//! Pods made of network namespaces: the demo and the end-to-end tests.
//!
//! A [`Mesh`] is a world of its own: it runs in fresh PID, mount, IPC and network namespaces whose first process lives
//! as long as the run that made it, so whatever happens to that run, the kernel ends every process, link and mount of
//! it. Nothing of the host is touched: no interface, no file outside the run's folder, no service.
//!
//! | file | what lives there |
//! |---|---|
//! | `tools.rs` | what must be installed, and the line that installs it |
//! | `sandbox.rs` | the namespaces, and doing things inside them |
//! | `process.rs` | a program in a pod: logs, signals, memory |
//! | `probe.rs` | small blocking questions to a socket |
//! | `mesh/` | pods with and without sidecars, the control plane, the bridge between them |
//! | `manifest.rs` | the Kubernetes YAML they are described by |
//! | `capture.rs` | what went over the wire: tcpdump, and reading its file |
//! | `stats.rs` | what the apps wrote down |
//! | `apps/` | the small programs that run in pods |
//! | `demo/` | `make demo` |
//! | `cluster/` | a real Kubernetes, for the tests that need one |
//! | `wire/` | the other end of the control plane's port 15012 |
//! | `image.rs` | images for a cluster, without a container engine |
//!
//! Bound: pods are numbered 2 to 65,000; logs are files in `target/e2e/`, those of dead runs are removed by the next.

pub mod apps;
pub mod capture;
pub mod cluster;
pub mod demo;
mod error;
pub mod image;
pub mod manifest;
mod mesh;
pub mod probe;
mod process;
mod sandbox;
pub mod stats;
pub mod tools;
pub mod wire;

pub use error::{Error, Result};
pub use mesh::{APP_UID, Mesh, MeshOptions, Pod, PodSpec, TRUST_DOMAIN, Vip};
pub use process::Process;
pub use sandbox::Sandbox;

/// The gRPC echo service (`proto/echo.proto`).
#[expect(missing_docs, reason = "generated")]
pub mod echo {
    tonic::include_proto!("weft.e2e.v1");
}

/// The gRPC health check (`proto/health.proto`).
#[expect(missing_docs, reason = "generated")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
