//! A world: a bridge, a control plane, and pods on it.
//!
//! A pod is a network namespace with a veth to the bridge, an IPv4 and an IPv6 address, a default route, and its own
//! `/etc/hosts` and `/etc/resolv.conf`. One with a sidecar is started as Kubernetes would: `weft-sidecar redirect` as
//! root (the init container), `weft-sidecar run` as UID 1337, then the app as another user. One without gets DNAT rules
//! for the Services it calls, since there is no kube-proxy here.
//!
//! | file | what lives there |
//! |---|---|
//! | `world.rs` | the world itself: its folder, its bridge, the names and addresses of its Services |
//! | `control_plane.rs` | the control plane's pod: started, killed, asked |
//! | `pod.rs` | a pod and its sidecar: made, signalled, cut off |
//! | `vips.rs` | what kube-proxy would do for a pod without a sidecar |
//!
//! `control_plane.rs` and `pod.rs` add methods to [`Mesh`], `vips.rs` one to [`Pod`].
//!
//! Bound: 65,000 pods a world; `hosts` lists every Service of the world.

mod control_plane;
mod pod;
mod vips;
mod world;

pub use pod::{APP_UID, Pod, PodSpec};
pub use vips::Vip;
pub use world::{Mesh, MeshOptions, TRUST_DOMAIN};
