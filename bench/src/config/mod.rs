//! Configurations of the peers. Each does what Weft does by default, as far as it can, and nothing that Weft does not:
//! `README.md` lists what was made equal and what could not be.

pub(crate) mod certificates;
pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod nginx;
