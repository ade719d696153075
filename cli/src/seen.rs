//! What asking the API server came to: found, not there, or cannot be said. Whoever asks for several things is told of each,
//! so that one that may not be read does not cost the others.
//!
//! Bound: lists are read in pages of [`PAGE`].

use std::fmt::Debug;

use kube::api::ListParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::cluster::explain;

const PAGE: u32 = 500;

/// A fact, or why there is none.
#[derive(Debug, Clone)]
pub(crate) enum Seen<T> {
    /// It is there.
    Found(T),
    /// It is not there.
    Absent,
    /// It cannot be said: why.
    Unknown(String),
}

impl<T> Seen<T> {
    /// What is there.
    pub(crate) fn found(&self) -> Option<&T> {
        match self {
            Seen::Found(value) => Some(value),
            Seen::Absent | Seen::Unknown(_) => None,
        }
    }

    /// What `change` makes of what is there.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Seen::Found(value) => Seen::Found(change(value)),
            Seen::Absent => Seen::Absent,
            Seen::Unknown(why) => Seen::Unknown(why),
        }
    }
}

/// All pages of a list; of each object what `keep` makes of it. A kind that does not exist is absent.
pub(crate) async fn list<K, T>(api: Api<K>, params: ListParams, keep: impl Fn(K) -> T) -> Seen<Vec<T>>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut params = params.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if status.code == 404 => return Seen::Absent,
            Err(error) => return Seen::Unknown(explain(&error)),
        };
        all.extend(page.items.into_iter().map(&keep));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Seen::Found(all),
        }
    }
}

/// What asking for one object came to.
pub(crate) fn seen<T>(outcome: Result<Option<T>, kube::Error>) -> Seen<T> {
    match outcome {
        Ok(Some(value)) => Seen::Found(value),
        Ok(None) => Seen::Absent,
        Err(error) => Seen::Unknown(explain(&error)),
    }
}
