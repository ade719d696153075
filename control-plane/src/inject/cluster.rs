//! Whether the cluster's versions allow native sidecars: the API server and every kubelet must be 1.29 or later, where init
//! containers with `restartPolicy: Always` are on by default. One older kubelet would run them to their end, for ever.
//!
//! [`watch`] keeps the facts true: the source watches the nodes anyway, and the API server is asked again every [`REREAD`] (it
//! may be upgraded while we run). What cannot be found out leaves the last known facts; before anything is known, sidecars are
//! classic.
//!
//! Bound: two versions.

use std::fmt;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;

use super::Mode;

/// The first with native sidecars on by default.
const NATIVE: Version = Version { major: 1, minor: 29 };
const REREAD: Duration = Duration::from_secs(600);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// `1.36`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1
    pub major: u32,
    /// 36
    pub minor: u32,
}

impl Version {
    /// Reads `v1.36.2`, `v1.29.3-gke.100`, `v1.30.0+k3s1`; none where it is nothing of the kind.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim_start_matches('v').splitn(3, '.');
        let digits =
            |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        Some(Self { major: digits(numbers.next()?)?, minor: digits(numbers.next()?)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The cluster's versions, as far as known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The API server's.
    pub server: Option<Version>,
    /// The oldest kubelet's; none where there is no node (yet), and then the API server's decides.
    pub oldest_kubelet: Option<Version>,
}

impl ClusterFacts {
    /// For manifests that are injected without a cluster at hand: as any cluster in support is.
    pub const SUPPORTED: Self = Self { server: Some(NATIVE), oldest_kubelet: None };

    /// Native where everything is new enough.
    pub fn mode(&self) -> Mode {
        let old = |version: Version| version < NATIVE;
        if self.server.is_none_or(old) || self.oldest_kubelet.is_some_and(old) { Mode::Classic } else { Mode::Native }
    }
}

/// Keeps `facts` true, whose `kubelets` are the oldest as (major, minor). Never ends; drop it to stop.
pub async fn watch(client: Client, kubelets: watch::Receiver<Option<(u32, u32)>>, facts: watch::Sender<ClusterFacts>) {
    tokio::join!(server(&client, &facts), nodes(kubelets, &facts));
}

async fn server(client: &Client, facts: &watch::Sender<ClusterFacts>) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let wait = match tokio::time::timeout(TIME_LIMIT, client.apiserver_version()).await {
            Ok(Ok(info)) => {
                learn(facts, |facts| facts.server = Version::parse(&info.git_version));
                backoff = FIRST_BACKOFF;
                REREAD
            }
            failed => {
                tracing::debug!(?failed, "cannot ask the API server for its version");
                backoff = (backoff * 2).min(LAST_BACKOFF);
                backoff
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn nodes(mut kubelets: watch::Receiver<Option<(u32, u32)>>, facts: &watch::Sender<ClusterFacts>) {
    loop {
        let oldest = kubelets.borrow_and_update().map(|(major, minor)| Version { major, minor });
        learn(facts, |facts| facts.oldest_kubelet = oldest);
        if kubelets.changed().await.is_err() {
            // The source has ended, and with it the process is about to.
            return;
        }
    }
}

fn learn(facts: &watch::Sender<ClusterFacts>, change: impl FnOnce(&mut ClusterFacts)) {
    facts.send_if_modified(|facts| {
        let before = *facts;
        change(facts);
        if facts.mode() != before.mode() {
            let version = |version: Option<Version>| version.map_or("unknown".to_owned(), |version| version.to_string());
            let (server, oldest) = (version(facts.server), version(facts.oldest_kubelet));
            tracing::info!(mode = facts.mode().word(), %server, oldest_kubelet = %oldest, "how sidecars run by default");
        }
        *facts != before
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_distributions_make_of_it() {
        for (text, expected) in [
            ("v1.36.2", Some((1, 36))),
            ("v1.29.3-gke.1282000", Some((1, 29))),
            ("v1.30.0+k3s1", Some((1, 30))),
            ("1.28", Some((1, 28))),
            ("v1.27+", Some((1, 27))),
            ("v2.0.0", Some((2, 0))),
            ("", None),
            ("v1", None),
            ("vone.two", None),
        ] {
            assert_eq!(Version::parse(text).map(|version| (version.major, version.minor)), expected, "{text}");
        }
    }

    #[test]
    fn native_needs_everything_to_be_new_enough() {
        for (server, kubelet, expected) in [
            (Some("v1.36.0"), Some("v1.36.0"), Mode::Native),
            (Some("v1.29.0"), Some("v1.29.9"), Mode::Native),
            (Some("v1.29.0"), Some("v1.28.9"), Mode::Classic),
            (Some("v1.28.0"), Some("v1.28.0"), Mode::Classic),
            (Some("v1.36.0"), None, Mode::Native),
            (None, Some("v1.36.0"), Mode::Classic),
            (None, None, Mode::Classic),
        ] {
            let read = |text: Option<&str>| text.and_then(Version::parse);
            let facts = ClusterFacts { server: read(server), oldest_kubelet: read(kubelet) };
            assert_eq!(facts.mode(), expected, "{server:?} {kubelet:?}");
        }
    }
}
