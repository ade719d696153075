//! How many of the proxies that a route is for have it at this moment: "37 of 37", for `weft check routes`.
//! `weft.dev/Programmed` is decided for a generation and then stays; this is counted anew, by whichever replica is asked.
//!
//! A route acts through the resource of its Service, so routes of one Service share a question.
//!
//! Bound: one counts at a time, others wait for their turn; questions of at most [`MAX_QUESTIONS`] Services and
//! [`MAX_ASKED`] bytes, one after the other; an answer has one entry per parent that accepted a route.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_proto::v1::{Progress, ProgressRequest, ServiceQuestion};

use super::RouteStatus;
use super::programmed::{About, about};
use super::questions::{question, within};
use crate::model::ObjectKey;
use crate::replicas::{Gathered, MAX_ASKED, MAX_QUESTIONS, Progresses};
use crate::source::kind_name;
use crate::translate::Translated;

/// What was counted. Fields that a reader does not find are empty: it may be of another version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Counts {
    /// One for each parent that accepted a route, by kind and name of the route.
    pub routes: Vec<Count>,
    /// Replicas that did not answer, by pod name. While there is one, nobody knows the whole.
    pub silent: Vec<String>,
}

/// How far the proxies are that a route at one of its parents is for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Count {
    /// The route's kind: `HTTPRoute`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `namespace/name` of the Service that is its parent.
    pub service: String,
    /// The parentRef's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The parentRef's section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The generation that was accepted.
    pub generation: i64,
    /// Proxies that use the Service now and are in the route's reach.
    pub proxies: u32,
    /// Of those, who ACKed what is served now.
    pub acked: u32,
    /// Of the rest, at most 5, those that refused it first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Waiting>,
}

/// A proxy that has not ACKed it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Waiting {
    /// `namespace/name` of its pod.
    pub pod: String,
    /// Why it refused it; empty when it has not answered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub refused: String,
}

/// Counts, one request at a time.
pub struct Counting {
    replicas: Arc<dyn Progresses>,
    turn: tokio::sync::Mutex<()>,
}

impl Counting {
    /// By asking these.
    pub fn new(replicas: Arc<dyn Progresses>) -> Self {
        Self { replicas, turn: tokio::sync::Mutex::default() }
    }

    /// Counts for the routes of `state`, or of those in namespace `only`.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn count(&self, state: &Translated, only: Option<&str>) -> Counts {
        let _turn = self.turn.lock().await;
        let statuses = state.route_statuses().map(|(route, status)| (route, &**status));
        let plan = Plan::new(statuses.filter(|(route, _)| only.is_none_or(|only| route.name.namespace == only)));
        let mut answers = Vec::with_capacity(plan.questions.len());
        let mut silent = BTreeSet::new();
        while answers.len() < plan.questions.len() {
            let rest = plan.questions.iter().skip(answers.len()).take(MAX_QUESTIONS);
            let (asked, services) = within(rest.map(|about| ((), question(about, state))), MAX_ASKED);
            let gathered = self.ask(services).await;
            answers.extend((0..asked.len()).map(|index| gathered.service(index)));
            silent.extend(gathered.silent);
        }
        Counts { routes: plan.counts(&answers), silent: silent.into_iter().collect() }
    }

    async fn ask(&self, services: Vec<ServiceQuestion>) -> Gathered {
        self.replicas.ask(ProgressRequest { services, ..ProgressRequest::default() }, false).await
    }
}

/// What to ask, and whose answer is whose.
#[derive(Debug, Default)]
struct Plan {
    questions: Vec<About>,
    /// Each with the index of its question.
    asked: Vec<(Count, usize)>,
}

impl Plan {
    fn new<'a>(statuses: impl Iterator<Item = (&'a ObjectKey, &'a RouteStatus)>) -> Self {
        let mut plan = Self::default();
        let mut known: HashMap<About, usize> = HashMap::new();
        for (route, status) in statuses {
            for parent in &status.parents {
                let Some(generation) = parent.accepted() else { continue };
                let about = about(route, &parent.parent_ref);
                let count = Count {
                    kind: kind_name(route.kind).to_owned(),
                    namespace: route.name.namespace.clone(),
                    name: route.name.name.clone(),
                    service: about.service.to_string(),
                    port: parent.parent_ref.port,
                    section_name: parent.parent_ref.section_name.clone(),
                    generation,
                    ..Count::default()
                };
                let questions = &mut plan.questions;
                let index = *known.entry(about).or_insert_with_key(|about| {
                    questions.push(about.clone());
                    questions.len() - 1
                });
                plan.asked.push((count, index));
            }
        }
        plan.asked.sort_by(|(a, _), (b, _)| {
            (&a.kind, &a.namespace, &a.name, &a.service, a.port).cmp(&(
                &b.kind,
                &b.namespace,
                &b.name,
                &b.service,
                b.port,
            ))
        });
        plan
    }

    fn counts(self, answers: &[Progress]) -> Vec<Count> {
        let filled = |(count, index): (Count, usize)| {
            let progress = answers.get(index).cloned().unwrap_or_default();
            let waiting = progress.laggards.into_iter().map(|it| Waiting { pod: it.pod, refused: it.refused });
            Count { proxies: progress.proxies, acked: progress.acked, waiting_for: waiting.collect(), ..count }
        };
        self.asked.into_iter().map(filled).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use weft_proto::v1::{Laggard, ProgressResponse};

    use super::*;
    use crate::model::{Kind, ObjectName, ParentRef};
    use crate::status::{Condition, ParentStatus};
    use crate::translate::{MeshConfig, Translator};

    fn status(accepted: bool, parents: &[(&str, Option<u16>)]) -> RouteStatus {
        let parent = |(service, port): &(&str, Option<u16>)| {
            let (namespace, name) = service.split_once('/').unwrap();
            let condition = Condition {
                kind: "Accepted",
                status: accepted,
                reason: "Accepted".into(),
                message: String::new(),
                observed_generation: 3,
            };
            let parent_ref = ParentRef {
                group: Some(String::new()),
                kind: Some("Service".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: name.to_owned(),
                section_name: None,
                port: *port,
            };
            ParentStatus { parent_ref, conditions: vec![condition] }
        };
        RouteStatus { parents: parents.iter().map(parent).collect() }
    }

    fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { kind, name: ObjectName::new(namespace, name) }
    }

    #[test]
    fn routes_of_one_service_share_a_question_and_a_consumers_is_its_own() {
        let routes = [
            (key(Kind::HttpRoute, "shop", "b"), status(true, &[("shop/reviews", Some(80)), ("shop/cart", None)])),
            (key(Kind::HttpRoute, "shop", "a"), status(true, &[("shop/reviews", None)])),
            (key(Kind::GrpcRoute, "web", "c"), status(true, &[("shop/reviews", None)])),
            (key(Kind::HttpRoute, "shop", "d"), status(false, &[("shop/reviews", None)])),
        ];
        let plan = Plan::new(routes.iter().map(|(key, status)| (key, status)));
        let questions: Vec<_> =
            plan.questions.iter().map(|about| (about.service.to_string(), about.client_namespace.clone())).collect();
        let reviews = "shop/reviews".to_owned();
        let expected = [(reviews.clone(), None), ("shop/cart".to_owned(), None), (reviews, Some("web".to_owned()))];
        assert_eq!(questions, expected);
        let laggards = vec![Laggard { pod: "shop/late".to_owned(), refused: String::new() }];
        let answers = [
            Progress { proxies: 37, acked: 36, laggards },
            Progress { proxies: 2, acked: 2, ..Progress::default() },
            Progress { proxies: 1, acked: 1, ..Progress::default() },
        ];
        let text = |count: &Count| {
            let port = count.port.map(|port| format!(":{port}")).unwrap_or_default();
            let waiting: String = count.waiting_for.iter().map(|it| format!(", not {}", it.pod)).collect();
            format!("{} {}{port} {} of {}{waiting}", count.name, count.service, count.acked, count.proxies)
        };
        let counted: Vec<_> = plan.counts(&answers).iter().map(text).collect();
        assert_eq!(
            counted,
            [
                "c shop/reviews 1 of 1",
                "a shop/reviews 36 of 37, not shop/late",
                "b shop/cart 2 of 2",
                "b shop/reviews:80 36 of 37, not shop/late",
            ],
            "a route that is not accepted is nobody's"
        );
    }

    struct Silent;

    impl Progresses for Silent {
        fn ask(&self, _: ProgressRequest, all_revisions: bool) -> BoxFuture<'_, Gathered> {
            assert!(!all_revisions);
            let silent = vec!["weft-control-plane-b".to_owned()];
            let answers = vec![ProgressResponse::default()];
            Box::pin(std::future::ready(Gathered { answers, silent }))
        }
    }

    #[test]
    fn without_routes_nobody_is_asked() {
        let state = Translator::new(MeshConfig::default()).translated();
        let counts = Counting::new(Arc::new(Silent)).count(&state, None).now_or_never();
        assert_eq!(counts, Some(Counts::default()));
    }
}
