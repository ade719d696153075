//! Events of all kinds into edits, as fast as whoever takes them: an edit waits for nothing but its taker, and while it
//! waits, what comes joins it. So an endpoint's change is never behind a list of another kind (that is one edit, when it
//! is complete) nor behind more than the one edit that is being translated.
//!
//! Bound: [`DRAIN`] events join an edit that could go at once; the rest is in `state`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::kinds::{KINDS, UNENFORCED};
use super::metrics::Metrics;
use super::state::{Happening, State, Unenforced};
use super::{Watch, WatchSettings};
use crate::model::{Kind, ObjectName};
use crate::source::files::served::Served;
use crate::source::{Edit, kind_name};

/// Events taken into an edit that could go at once.
const DRAIN: usize = 1_024;
/// Edits that may wait for whoever takes them. While one does, further events gather into the next.
const EDITS: usize = 1;

/// What a follower sends.
#[derive(Debug)]
pub(super) enum Message {
    /// Of a kind that Weft reads.
    Object(Kind, Box<Happening<Served>>),
    /// A ConfigMap that was asked for; `None`: there is none.
    ConfigMap(ObjectName, Option<Box<Served>>),
    /// Of a kind that it does not enforce.
    Unenforced(&'static str, Happening<ObjectName>),
}

/// The gathering task.
pub(super) struct Gather {
    settings: WatchSettings,
    state: State,
    unenforced: Unenforced,
    metrics: Metrics,
    events: mpsc::Receiver<Message>,
    edits: mpsc::Sender<Edit>,
    oldest_kubelet: watch::Sender<Option<(u32, u32)>>,
    opted_in: watch::Sender<BTreeSet<String>>,
    named: watch::Sender<Arc<BTreeMap<String, Vec<String>>>>,
    /// ConfigMaps to ask for.
    config_maps: watch::Sender<BTreeSet<ObjectName>>,
    /// End with this.
    _followers: JoinSet<()>,
}

impl Gather {
    pub(super) fn new(
        settings: WatchSettings,
        metrics: Metrics,
        events: mpsc::Receiver<Message>,
        config_maps: watch::Sender<BTreeSet<ObjectName>>,
        followers: JoinSet<()>,
    ) -> (Self, Watch) {
        let (edits, edits_out) = mpsc::channel(EDITS);
        let (oldest_kubelet, kubelet_out) = watch::channel(None);
        let (opted_in, opted_in_out) = watch::channel(BTreeSet::new());
        let (named, named_out) = watch::channel(Arc::default());
        let gather = Self {
            settings,
            state: State::default(),
            unenforced: Unenforced::default(),
            metrics,
            events,
            edits,
            oldest_kubelet,
            opted_in,
            named,
            config_maps,
            _followers: followers,
        };
        let watch =
            Watch { edits: edits_out, oldest_kubelet: kubelet_out, opted_in: opted_in_out, unenforced: named_out };
        (gather, watch)
    }

    /// Runs until nobody takes edits any more.
    pub(super) async fn run(mut self) {
        loop {
            let edits = self.edits.clone();
            tokio::select! {
                permit = edits.reserve(), if self.state.is_due() => {
                    let Ok(permit) = permit else { return };
                    for _ in 0..DRAIN {
                        let Ok(message) = self.events.try_recv() else { break };
                        self.on(message);
                    }
                    // Beside the edit, never behind it: whoever reads an edit finds these as they were then, or newer.
                    self.publish();
                    if let Some(edit) = self.state.take(&self.unenforced) {
                        permit.send(edit);
                    }
                }
                message = self.events.recv() => match message {
                    Some(message) => {
                        self.on(message);
                        self.publish();
                    }
                    None => return,
                },
                () = edits.closed() => return,
            }
        }
    }

    fn on(&mut self, message: Message) {
        match message {
            Message::Object(kind, happening) => {
                if *happening == Happening::Absent && self.state.count(kind) > 0 {
                    tracing::info!(kind = kind_name(kind), "is not served any more: its objects are gone");
                }
                self.state.on(kind, *happening);
            }
            Message::ConfigMap(name, served) => self.state.on_config_map(name, served.map(|served| *served)),
            Message::Unenforced(kind, happening) => {
                if self.unenforced.on(kind, happening) {
                    self.state.stir();
                    self.named.send_replace(Arc::new(self.unenforced.by_namespace()));
                }
            }
        }
    }

    /// Shows what is said beside the edits, once it is about everything.
    fn publish(&self) {
        for (kind, row) in &KINDS {
            self.metrics.holds(row.kind, self.state.count(*kind));
        }
        for row in &UNENFORCED {
            self.metrics.holds(row.kind, self.unenforced.count(row.kind));
        }
        let config_maps = self.state.config_maps();
        self.config_maps.send_if_modified(|asked| {
            let changed = *asked != config_maps;
            if changed {
                *asked = config_maps;
            }
            changed
        });
        if !self.state.is_complete() {
            return;
        }
        self.oldest_kubelet.send_if_modified(|shown| {
            let oldest = self.state.notes().oldest_kubelet();
            std::mem::replace(shown, oldest) != oldest
        });
        let opted_in = self.state.notes().opted_in(&self.settings.never_injected);
        self.opted_in.send_if_modified(|shown| {
            let changed = *shown != opted_in;
            if changed {
                *shown = opted_in;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::source::files::served;

    fn namespace(name: &str) -> Message {
        let json = json!({"metadata": {"name": name, "labels": {"weft.dev/inject": "enabled"}}}).to_string();
        let served = served::read(Kind::Namespace, &mut serde_json::Deserializer::from_str(&json)).unwrap();
        Message::Object(Kind::Namespace, Box::new(Happening::Apply(served)))
    }

    fn names(edit: &Edit) -> Vec<&str> {
        edit.objects.upserts.iter().map(|object| &*object.meta().name.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_waits_for_nothing_but_its_taker_and_what_comes_meanwhile_joins_the_next() {
        let (events, incoming) = mpsc::channel(16);
        let never = WatchSettings { never_injected: ["b".to_owned()].into() };
        let (gather, mut watch) =
            Gather::new(never, Metrics::default(), incoming, watch::Sender::default(), JoinSet::new());
        let task = tokio::spawn(gather.run());
        let policy = Happening::Apply(ObjectName::new("shop", "deny"));
        events.send(Message::Unenforced("AuthorizationPolicy", policy)).await.unwrap();
        for (kind, _) in &KINDS {
            assert!(watch.edits.try_recv().is_err(), "half a cluster is nothing");
            events.send(Message::Object(*kind, Box::new(Happening::Absent))).await.unwrap();
        }
        let first = watch.edits.recv().await.unwrap();
        assert_eq!((names(&first), first.problems.len()), (vec![], 1));
        assert_eq!(watch.unenforced.borrow()["shop"], ["AuthorizationPolicy deny"]);

        let settle = || tokio::time::sleep(Duration::from_millis(1));
        for name in ["a", "b", "c"] {
            events.send(namespace(name)).await.unwrap();
            settle().await;
        }
        assert_eq!(names(&watch.edits.recv().await.unwrap()), ["a"]);
        assert_eq!(names(&watch.edits.recv().await.unwrap()), ["b", "c"]);
        assert_eq!(*watch.opted_in.borrow(), ["a".to_owned(), "c".to_owned()].into());
        assert!(watch.edits.try_recv().is_err());
        drop(watch.edits);
        task.await.unwrap();
    }
}
