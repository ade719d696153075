//! Who is measured: a proxy, and where it can be set up in more than one way, how.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::cpu::{LOAD_CORE, PROXY_CORE};

/// Whose program it is. `--subjects` chooses among these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Family {
    /// Nothing between client and server.
    NoProxy,
    /// This repository's, as shipped.
    Weft,
    /// Envoy, in the role it has in Istio.
    Envoy,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

/// How it is set up where that is not as the case says. Such rows stand beside the chief ones and never replace them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// As the case says.
    Usual,
    /// The key exchange is X25519.
    X25519,
    /// The key exchange is X25519MLKEM768.
    Hybrid,
    /// TLS sessions are resumed.
    Resumed,
    /// Two workers, on both cores, which they share with the load.
    TwoWorkers,
    /// It sleeps also for a response that is about to come (`WEFT_BUSY_POLL=off`).
    Asleep,
}

impl Variant {
    /// How many workers the proxies have.
    pub(crate) const fn workers(self) -> usize {
        match self {
            Self::TwoWorkers => 2,
            _ => 1,
        }
    }

    /// Where the proxies run.
    pub(crate) const fn cores(self) -> &'static [usize] {
        match self {
            Self::TwoWorkers => &[PROXY_CORE, LOAD_CORE],
            _ => &[PROXY_CORE],
        }
    }
}

/// A row of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) family: Family,
    pub(crate) variant: Variant,
}

/// Nobody.
pub(crate) const NO_PROXY: Subject = Subject::usual(Family::NoProxy);
/// Envoy, whom all ratios refer to.
pub(crate) const ENVOY: Subject = Subject::usual(Family::Envoy);
/// Ourselves.
pub(crate) const WEFT: Subject = Subject::usual(Family::Weft);

impl Subject {
    pub(crate) const fn usual(family: Family) -> Self {
        Self { family, variant: Variant::Usual }
    }

    pub(crate) const fn with(family: Family, variant: Variant) -> Self {
        Self { family, variant }
    }

    /// Whom its ratios refer to: Envoy set up the same way where there is one, else Envoy as the case says.
    pub(crate) fn reference(self) -> Self {
        match self.variant {
            Variant::Hybrid | Variant::TwoWorkers => Self { family: Family::Envoy, ..self },
            _ => ENVOY,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.family {
            Family::NoProxy => "no-proxy",
            Family::Weft => "weft",
            Family::Envoy => "envoy",
            Family::Haproxy => "haproxy",
            Family::Nginx => "nginx",
        })?;
        f.write_str(match self.variant {
            Variant::Usual => "",
            Variant::X25519 => "-x25519",
            Variant::Hybrid => "-hybrid",
            Variant::Resumed => "-resumed",
            Variant::TwoWorkers => "-2-workers",
            Variant::Asleep => "-asleep",
        })
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
