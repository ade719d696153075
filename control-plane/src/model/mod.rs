//! The indexed store of objects: what `source/` yields goes in, `translate/` asks.
//!
//! `objects` and the files named after kinds have the objects, `filters` what a route's filters say, `store` the [`Model`] that holds
//! them and answers "which routes name this Service?" without a scan. It decides nothing: what the objects mean is `translate/`'s.
//! Bound: proportional to the objects held.

mod backend_policy;
mod backend_tls;
mod connection_routes;
mod fault_injection;
mod filters;
mod grpc_route;
mod http_route;
mod objects;
mod rate_limit;
mod store;
mod traffic_policy;

pub use backend_policy::*;
pub use backend_tls::*;
pub use connection_routes::{TcpRoute, TlsRoute};
pub use fault_injection::*;
pub use filters::*;
pub use grpc_route::{GrpcRoute, MethodMatch, Route};
pub use http_route::*;
pub use objects::*;
pub use rate_limit::*;
pub use store::{Batch, Change, Model, ObjectKey, selects};
pub use traffic_policy::*;
