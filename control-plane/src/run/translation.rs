//! The translation thread: takes edits from the source and roots from the authority, has them translated, publishes what
//! comes of it, and says what is wrong. A panic costs the edit that caused it: what was published stays published.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::discovery::Feed;
use crate::identity::Bundle;
use crate::model::{Batch, ObjectKey};
use crate::source::{self, Edit, Problem, Severity};
use crate::status::StatusSink;
use crate::translate::{Touched, Translated, Translator};

/// What translation counts.
pub(super) struct Metrics {
    edits: Counter,
    panics: Counter,
    seconds: Histogram,
    errors: Gauge,
    warnings: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            edits: Counter::default(),
            panics: Counter::default(),
            seconds: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            errors: Gauge::default(),
            warnings: Gauge::default(),
        };
        registry.register("weft_source_edits", "Edits taken in from the source", metrics.edits.clone());
        registry.register("weft_translate_panics", "Edits lost to a defect in translation", metrics.panics.clone());
        registry.register("weft_translate_duration_seconds", "From edit to resources", metrics.seconds.clone());
        registry.register("weft_source_errors", "Documents refused now", metrics.errors.clone());
        registry.register("weft_source_warnings", "Warnings about documents now", metrics.warnings.clone());
        metrics
    }
}

/// What is wrong with the objects.
#[derive(Default, PartialEq)]
struct Wrong {
    problems: Vec<Problem>,
    refused: BTreeMap<ObjectKey, String>,
}

/// The translation thread.
pub(super) struct Translation {
    pub(super) translator: Translator,
    pub(super) feed: Arc<Feed>,
    pub(super) problems: Arc<Mutex<Vec<serde_json::Value>>>,
    /// Where status is written; `None` where nobody wants it.
    pub(super) status: Option<Box<dyn StatusSink>>,
    pub(super) metrics: Metrics,
}

impl Translation {
    /// Begins; the receiver resolves when it ends, which it does with its source. The first roots of `bundle` are in the
    /// translator already.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(super) fn begin(
        mut self,
        mut edits: mpsc::Receiver<Edit>,
        mut bundle: watch::Receiver<Bundle>,
    ) -> io::Result<oneshot::Receiver<()>> {
        let (alive, ended) = oneshot::channel::<()>();
        bundle.mark_unchanged();
        let runtime = Handle::current();
        let run = move || {
            let mut known = None;
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        edit = edits.recv() => {
                            let Some(edit) = edit else { break };
                            self.apply(edit.objects);
                            self.report(&mut known, Wrong { problems: edit.problems, refused: edit.refused });
                        }
                        Ok(()) = bundle.changed() => {
                            let roots = bundle.borrow_and_update().clone();
                            self.trust(&roots);
                        }
                    }
                }
            });
            drop(alive);
        };
        std::thread::Builder::new().name("translate".into()).spawn(run)?;
        Ok(ended)
    }

    fn apply(&mut self, objects: Batch) {
        let (removed, changed) = (objects.removes.len(), objects.upserts.len());
        self.metrics.edits.inc();
        let first = !self.feed.is_synced();
        if let Some((took, routes)) = self.publish(|translator| translator.apply(objects)) {
            if first {
                tracing::info!(changed, removed, ?took, "objects taken in");
            } else {
                tracing::debug!(changed, removed, ?took, "objects taken in");
            }
            if let Some(status) = &self.status {
                status.on_state(self.feed.latest(), routes, first);
            }
        }
        self.feed.set_synced();
    }

    fn trust(&mut self, roots: &Bundle) {
        let roots = roots.iter().map(|root| root.to_vec()).collect();
        if self.publish(|translator| translator.set_trust_roots(roots)).is_some() {
            tracing::info!("proxies are told of other roots");
        }
    }

    /// Publishes what `translate` makes of things; how long that took, and the routes whose conditions changed.
    fn publish(
        &mut self,
        translate: impl FnOnce(&mut Translator) -> (Arc<Translated>, Touched),
    ) -> Option<(Duration, BTreeSet<ObjectKey>)> {
        let began = Instant::now();
        let Ok((state, mut touched)) = catch_unwind(AssertUnwindSafe(|| translate(&mut self.translator))) else {
            self.metrics.panics.inc();
            tracing::error!("a defect in translation: what changed is lost; please report the panic");
            return None;
        };
        let routes = std::mem::take(&mut touched.statuses);
        self.feed.publish(state, touched);
        let took = began.elapsed();
        self.metrics.seconds.observe(took.as_secs_f64());
        Some((took, routes))
    }

    /// Logs what is newly wrong, and shows all that is wrong.
    fn report(&self, known: &mut Option<Wrong>, wrong: Wrong) {
        if known.as_ref() == Some(&wrong) {
            return;
        }
        let now = &wrong.problems;
        let before = known.take().unwrap_or_default().problems;
        for problem in now.iter().filter(|problem| !before.contains(problem)) {
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
        let errors = now.iter().filter(|problem| problem.severity == Severity::Error).count();
        self.metrics.errors.set(i64::try_from(errors).unwrap_or(i64::MAX));
        self.metrics.warnings.set(i64::try_from(now.len() - errors).unwrap_or(i64::MAX));
        *self.problems.lock() = now.iter().map(shown).collect();
        if let Some(status) = &self.status {
            status.on_problems(now.clone(), wrong.refused.clone());
        }
        *known = Some(wrong);
    }
}

fn shown(problem: &Problem) -> serde_json::Value {
    json!({
        "severity": problem.severity.to_string(),
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "field": problem.field,
        "message": problem.message,
        "object": problem.object.as_ref().map(source::describe),
    })
}
