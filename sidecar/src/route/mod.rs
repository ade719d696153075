//! Routing: which rule a request matches, which of its targets it gets, and what filters do to it
//! (Gateway API HTTPRoute and GRPCRoute; SEMANTICS.md §2), and which rule a whole connection does (TCPRoute, TLSRoute).
//!
//! | file | decides |
//! |---|---|
//! | `matching.rs` | whether a request fulfils one match |
//! | `index.rs` | which of a port's matches are worth a look for a request |
//! | `table.rs` | which rule that makes it, and which of its targets |
//! | `filters.rs` | what filters do to requests and responses, in which order |
//! | `url.rs` | where a redirect leads, and what a request is rewritten to |
//! | `cors.rs` | what browsers are told |
//! | `hash_key.rs` | what of a request ring hash and Maglev go by |
//! | `fault.rs` | which requests wait, or are answered, because somebody asked for it |
//! | `fraction.rs` | whether a request is one of so many of so many |
//! | `session.rs` | which backend and endpoint a session is at |
//! | `connections.rs` | which rule a connection gets, by its server name or without |
//!
//! Everything that can be wrong with a route is refused when it is compiled: after that a request meets only sums of
//! weights above zero, regular expressions that compiled, and rules that exist.
//!
//! The **order** of matches is not decided here: precedence depends on the age and names of the objects, which only
//! the control plane knows. Entries come sorted, and the first that matches wins.
//!
//! Not here: what a backend is (`config/`, as the type parameter `B`), timeouts and retries (`resilience/`).
//!
//! Bound: a lookup is at most one pass over the port's entries, and one over those that share the request's path or ask for none
//! (`index.rs`); regular expressions run in time linear in the request (their
//! automata are limited in size, see `matching.rs`).

mod connections;
mod cors;
mod fault;
mod filters;
mod fraction;
mod hash_key;
mod index;
mod matching;
mod session;
mod table;
mod url;

#[cfg(test)]
mod tests;

pub use connections::{ConnectionRule, ConnectionTable, InvalidConnections};
pub use cors::{Cors, CorsConfig, InvalidCors, Shared};
pub use fault::{Abort, Fault, Injected};
pub use filters::{After, Filters, HeaderEdit, InvalidFilter, Made, Mirror, RequestFilter};
pub use fraction::{Fraction, InvalidShare};
pub use hash_key::{HashBy, HashKey, InvalidHashBy};
pub use matching::{InvalidMatch, KeyMatch, Match, PathMatch, RequestView, ValueMatch};
pub use session::{InvalidSession, Session, Token};
pub use table::{FixedAnswer, Found, InvalidTable, RouteTable, Rule, Target, WeightedTarget, WeightedTargets};
pub use url::{InvalidUrl, PathEdit, Redirect, Rewrite, Unsendable};
