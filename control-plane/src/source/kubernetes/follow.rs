//! One kind's watch, for ever: kube's watcher does the protocol (lists in pages or as a stream, bookmarks, going on from
//! where it was), [`Course`] decides what to do when it fails.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::api::ApiResource;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::WATCH;
use super::course::{Course, Failure, LIST_SILENCE, Then};
use super::gather::Message;
use super::kinds::Row;
use super::metrics::Metrics;

/// Objects on a page of a list, where lists are taken in pages.
const PAGE: u32 = 500;

/// What is followed, and where to.
pub(super) struct Follow {
    pub(super) client: Client,
    pub(super) row: &'static Row,
    pub(super) events: mpsc::Sender<Message>,
    pub(super) metrics: Metrics,
}

/// Why a watcher is given up.
enum End {
    /// Nobody listens any more.
    Over,
    /// Another is to begin.
    Anew,
}

/// Sends what happens until nobody listens.
pub(super) async fn follow<T>(
    follow: Follow,
    message: impl Fn(Event<T>) -> Message + Send,
    absent: impl Fn() -> Message + Send,
) where
    T: Resource<DynamicType = ApiResource> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut course = Course::new(follow.row);
    while let End::Anew = Box::pin(follow.live(&mut course, &message, &absent)).await {}
}

impl Follow {
    /// The life of one watcher.
    async fn live<T>(
        &self,
        course: &mut Course,
        message: &(impl Fn(Event<T>) -> Message + Send),
        absent: &(impl Fn() -> Message + Send),
    ) -> End
    where
        T: Resource<DynamicType = ApiResource> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let kind = self.row.kind;
        let resource = self.row.resource(course.version());
        let mut config = watcher::Config::default().timeout(u32::try_from(WATCH.as_secs()).unwrap_or(30));
        config = if course.streaming() { config.streaming_lists() } else { config.page_size(PAGE) };
        let mut stream = std::pin::pin!(watcher(Api::<T>::all_with(self.client.clone(), &resource), config));
        let mut listed = false;
        loop {
            // A watch may be quiet for as long as it likes; a dead connection is an error of the client's.
            let patience = if listed { Duration::MAX } else { LIST_SILENCE };
            let next = tokio::select! {
                next = tokio::time::timeout(patience, stream.next()) => next,
                // A quiet watch sends nothing that would show it.
                () = self.events.closed() => return End::Over,
            };
            let failure = match next {
                Ok(Some(Ok(event))) => {
                    match &event {
                        // With pages it comes before anything was asked.
                        Event::Init => {
                            listed = false;
                            self.metrics.restarted(kind);
                        }
                        event => {
                            listed |= matches!(event, Event::InitDone);
                            if course.on_progress(listed) {
                                tracing::info!(kind, "watching again");
                            }
                            self.metrics.heard(kind);
                        }
                    }
                    if self.events.send(message(event)).await.is_err() {
                        return End::Over;
                    }
                    continue;
                }
                Ok(Some(Err(error))) => Failure::of(&error, self.row, course.streaming()),
                // A watcher does not end.
                Ok(None) => return End::Anew,
                Err(_) => Failure::Silent,
            };
            self.metrics.failed(kind, failure.reason());
            let now = Instant::now();
            let next = course.on_failure(&failure, now, rand::random());
            match &failure {
                Failure::NotServed(_) | Failure::NoStreaming(_) => tracing::debug!(kind, "{failure}"),
                Failure::Gone(_) => tracing::info!(kind, "{failure}"),
                _ if course.says(&failure, now) => tracing::warn!(kind, "cannot watch: {failure}"),
                _ => tracing::debug!(kind, "cannot watch: {failure}"),
            }
            if next.then == Then::Absent && self.events.send(absent()).await.is_err() {
                return End::Over;
            }
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = self.events.closed() => return End::Over,
            }
            if next.then != Then::Resume {
                return End::Anew;
            }
        }
    }
}

#[cfg(test)]
mod tests;
