//! Who has which version of a Service or the trust bundle: what `weft.dev/Programmed` and a root's rotation wait for
//! (SEMANTICS.md §2 "Status", §4). Pure tables, told by each stream after each of its events.
//!
//! A question names the version that the asker serves, because replicas are not at the same point in time: a proxy whose
//! replica is behind, or ahead, has not ACKed *that* version. Versions are hashes of content, equal on all replicas.
//!
//! Bound: two words per Service a proxy has, and a reason of at most [`MAX_REASON`] bytes where it refused one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weft_proto::v1::{Laggard, Progress, ServiceQuestion};

use super::ResourceKind;
use super::tracked::Verdict;

/// Proxies named in an answer.
pub const MAX_LAGGARDS: usize = 5;
/// Bytes of a reason kept per refused resource.
pub(super) const MAX_REASON: usize = 256;

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Acks {
    streams: HashMap<u64, Stream>,
    services: HashMap<Arc<str>, HashMap<u64, Held>>,
}

#[derive(Debug)]
struct Stream {
    pod: String,
    namespace: String,
    services: HashSet<Arc<str>>,
    trust: Option<Held>,
}

/// What a proxy has of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// A digest of the version's text: proxies announce what they like, and equality is all that is asked.
    version: u64,
    verdict: Verdict,
    /// Why it refused; empty otherwise.
    refused: Box<str>,
}

/// A resource whose copy at the proxy, or what the proxy says of it, is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its type.
    pub kind: ResourceKind,
    /// Its canonical name.
    pub name: Arc<str>,
    /// What the proxy has now; `None` when nothing.
    pub held: Option<Held>,
}

impl Held {
    pub(super) fn new(version: &str, verdict: Verdict, refused: &str) -> Self {
        let refused = if verdict == Verdict::Nacked { &refused[..refused.floor_char_boundary(MAX_REASON)] } else { "" };
        Self { version: digest(version), verdict, refused: refused.into() }
    }

    fn has(&self, version: u64) -> bool {
        self.version == version && self.verdict == Verdict::Acked
    }

    fn refuses(&self, version: u64) -> &str {
        if self.version == version { &self.refused } else { "" }
    }
}

impl Acks {
    /// A proxy is connected.
    pub(super) fn enter(&mut self, stream: u64, pod: &str, namespace: &str) {
        let (pod, namespace) = (pod.to_owned(), namespace.to_owned());
        self.streams.insert(stream, Stream { pod, namespace, services: HashSet::new(), trust: None });
    }

    /// It is gone.
    pub(super) fn leave(&mut self, stream: u64) {
        let Some(gone) = self.streams.remove(&stream) else { return };
        for service in gone.services {
            if let Some(holders) = self.services.get_mut(&service) {
                holders.remove(&stream);
                if holders.is_empty() {
                    self.services.remove(&service);
                }
            }
        }
    }

    /// Something of it has moved.
    pub(super) fn on_moved(&mut self, stream: u64, moved: Moved) {
        let Some(proxy) = self.streams.get_mut(&stream) else { return };
        match (moved.kind, moved.held) {
            (ResourceKind::TrustBundle, held) => proxy.trust = held,
            (_, Some(held)) => {
                proxy.services.insert(Arc::clone(&moved.name));
                self.services.entry(moved.name).or_default().insert(stream, held);
            }
            (_, None) => {
                proxy.services.remove(&moved.name);
                if let Some(holders) = self.services.get_mut(&moved.name) {
                    holders.remove(&stream);
                    if holders.is_empty() {
                        self.services.remove(&moved.name);
                    }
                }
            }
        }
    }

    /// How far those who have a Service are.
    pub(super) fn service(&self, question: &ServiceQuestion) -> Progress {
        let default = digest(&question.version);
        let forms: HashMap<&str, u64> =
            question.namespaces.iter().map(|form| (&*form.namespace, digest(&form.version))).collect();
        let mut tally = Tally::default();
        for (stream, held) in self.services.get(&*question.service).into_iter().flatten() {
            let Some(proxy) = self.streams.get(stream) else { continue };
            let asked = &question.client_namespace;
            if asked.is_empty() || *asked == proxy.namespace {
                let version = forms.get(&*proxy.namespace).copied().unwrap_or(default);
                tally.count(&proxy.pod, held.has(version), held.refuses(version));
            }
        }
        tally.finish()
    }

    /// How far all are with the trust bundle. Who has none has not ACKed it.
    pub(super) fn trust_bundle(&self, version: &str) -> Progress {
        let version = digest(version);
        let mut tally = Tally::default();
        for proxy in self.streams.values() {
            let held = proxy.trust.as_ref();
            let refused = held.map_or("", |held| held.refuses(version));
            tally.count(&proxy.pod, held.is_some_and(|held| held.has(version)), refused);
        }
        tally.finish()
    }
}

#[derive(Default)]
struct Tally<'a> {
    proxies: u32,
    acked: u32,
    /// Those that refused first, then by name, so that an answer does not depend on a table's order.
    laggards: Vec<(bool, &'a str, &'a str)>,
}

impl<'a> Tally<'a> {
    fn count(&mut self, pod: &'a str, acked: bool, refused: &'a str) {
        self.proxies += 1;
        if acked {
            self.acked += 1;
            return;
        }
        let laggard = (refused.is_empty(), pod, refused);
        let place = self.laggards.partition_point(|other| *other < laggard);
        if place < MAX_LAGGARDS {
            self.laggards.insert(place, laggard);
            self.laggards.truncate(MAX_LAGGARDS);
        }
    }

    fn finish(self) -> Progress {
        let laggard = |(_, pod, refused): (bool, &str, &str)| Laggard { pod: pod.into(), refused: refused.into() };
        let laggards = self.laggards.into_iter().map(laggard).collect();
        Progress { proxies: self.proxies, acked: self.acked, laggards }
    }
}

fn digest(version: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(version.as_bytes())
}

#[cfg(test)]
mod tests {
    use weft_proto::v1::NamespaceVersion;

    use super::*;

    fn acks(proxies: &[(&str, &str)]) -> Acks {
        let mut acks = Acks::default();
        for (stream, (pod, namespace)) in (1..).zip(proxies) {
            acks.enter(stream, pod, namespace);
        }
        acks
    }

    fn moved(kind: ResourceKind, name: &str, held: Option<Held>) -> Moved {
        Moved { kind, name: name.into(), held }
    }

    fn service(name: &str, version: &str, verdict: Verdict) -> Moved {
        moved(ResourceKind::Service, name, Some(Held::new(version, verdict, "bad regex")))
    }

    fn question(version: &str) -> ServiceQuestion {
        ServiceQuestion { service: "shop/a".into(), version: version.into(), ..ServiceQuestion::default() }
    }

    fn text(progress: &Progress) -> String {
        let laggards = progress.laggards.iter().map(|l| format!(" {}[{}]", l.pod, l.refused)).collect::<String>();
        format!("{}/{}{laggards}", progress.acked, progress.proxies)
    }

    #[test]
    fn only_an_ack_of_the_version_asked_for_counts() {
        use Verdict::{Acked, Nacked, Pending};
        let rows = [
            ("nobody has it", vec![], "0/0"),
            ("one has", vec![(1, "2", Acked)], "1/1"),
            ("an older version", vec![(1, "1", Acked)], "0/1 shop/x[]"),
            ("a newer version", vec![(1, "3", Acked)], "0/1 shop/x[]"),
            ("sent, not answered", vec![(1, "2", Pending)], "0/1 shop/x[]"),
            ("refused", vec![(1, "2", Nacked), (2, "2", Acked)], "1/2 shop/x[bad regex]"),
            ("an older one was refused", vec![(1, "1", Nacked)], "0/1 shop/x[]"),
            ("who refused comes first", vec![(1, "1", Acked), (2, "2", Nacked)], "0/2 shop/y[bad regex] shop/x[]"),
            ("the latest word counts", vec![(1, "2", Pending), (1, "2", Acked)], "1/1"),
        ];
        for (row, events, expected) in rows {
            let mut acks = acks(&[("shop/x", "shop"), ("shop/y", "shop")]);
            for (stream, version, verdict) in events {
                acks.on_moved(stream, service("shop/a", version, verdict));
            }
            assert_eq!(text(&acks.service(&question("2"))), expected, "{row}");
        }
    }

    #[test]
    fn each_namespace_is_held_to_its_own_form() {
        let mut acks = acks(&[("shop/x", "shop"), ("web/y", "web"), ("other/z", "other")]);
        for (stream, version) in [(1, "own"), (2, "consumer"), (3, "own")] {
            acks.on_moved(stream, service("shop/a", version, Verdict::Acked));
        }
        let forms = [("shop", "own"), ("web", "consumer")];
        let forms =
            forms.map(|(namespace, version)| NamespaceVersion { namespace: namespace.into(), version: version.into() });
        let mut question = ServiceQuestion { namespaces: forms.into(), ..question("default") };
        assert_eq!(text(&acks.service(&question)), "2/3 other/z[]");
        question.client_namespace = "web".into();
        assert_eq!(text(&acks.service(&question)), "1/1");
    }

    #[test]
    fn every_connected_proxy_must_have_the_trust_bundle() {
        let mut acks = acks(&[("shop/x", "shop"), ("shop/y", "shop")]);
        let bundle = |verdict| moved(ResourceKind::TrustBundle, "cluster.local", Some(Held::new("2", verdict, "")));
        acks.on_moved(1, bundle(Verdict::Acked));
        assert_eq!(text(&acks.trust_bundle("2")), "1/2 shop/y[]", "one has not asked for it");
        acks.on_moved(2, bundle(Verdict::Acked));
        assert_eq!((text(&acks.trust_bundle("2")), acks.trust_bundle("3").acked), ("2/2".to_owned(), 0));
    }

    #[test]
    fn who_leaves_is_forgotten_and_an_answer_names_five() {
        let names: Vec<String> = (0..8).map(|index| format!("shop/p{index}")).collect();
        let mut acks = acks(&names.iter().map(|name| (&**name, "shop")).collect::<Vec<_>>());
        for stream in 1..=8 {
            acks.on_moved(stream, service("shop/a", "1", Verdict::Acked));
        }
        assert_eq!(text(&acks.service(&question("2"))), "0/8 shop/p0[] shop/p1[] shop/p2[] shop/p3[] shop/p4[]");
        acks.on_moved(1, moved(ResourceKind::Service, "shop/a", None));
        (2..=8).for_each(|stream| acks.leave(stream));
        assert!(acks.services.is_empty() && acks.streams.len() == 1);
        acks.on_moved(5, service("shop/a", "1", Verdict::Acked));
        assert!(acks.services.is_empty(), "a stream that is gone says nothing");
    }
}
