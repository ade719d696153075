//! One delta stream, decided without a socket or a clock: requests and changes go in, responses come out.
//!
//! Per type there is at most one response without an answer (ACK or NACK); what becomes due meanwhile waits and is
//! compared with the truth when the answer is there. A slow proxy therefore costs nothing but being late, and a slow
//! type never delays another. A NACK names resources in its message; those count as refused and are not sent again in that version,
//! the rest of the response counts as taken. A NACK that names none refuses them all.
//!
//! Not here: which names are due and what is sent for them (`tracked.rs`), who may open a stream (`admission.rs`), sockets
//! and time (`stream.rs`). Bound: [`MAX_SUBSCRIPTIONS`] names per stream of at most [`MAX_NAME`] bytes, as many copies
//! announced, and one response per type.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use weft_proto::SELF;
use weft_proto::discovery::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire};

use super::ResourceKind;
use super::acks::{Held, Moved};
use super::tracked::{Catalog, Tracked, Verdict};
use crate::translate::{Lookup, Resource, Touched, Translated, View};

/// Names one stream may be subscribed to at once, over all types (SEMANTICS.md §1, on-demand lookup).
pub const MAX_SUBSCRIPTIONS: usize = 10_000;
/// Bytes of a name; no Kubernetes or DNS name comes near it.
pub const MAX_NAME: usize = 1_024;
/// Bytes kept of a NACK's message.
const MAX_MESSAGE: usize = 1_024;
/// Names kept of a NACK.
const MAX_NACK_NAMES: usize = 20;

/// The types of which somebody wants to know who has which version (`acks.rs`).
const WATCHED: [ResourceKind; 2] = [ResourceKind::TrustBundle, ResourceKind::Service];

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// More than [`MAX_SUBSCRIPTIONS`].
    #[error("a stream may subscribe to at most {MAX_SUBSCRIPTIONS} names: unsubscribe from those that are not in use")]
    TooManySubscriptions,
    /// Longer than [`MAX_NAME`], or empty.
    #[error("a resource name has 1 to {MAX_NAME} bytes, and a type URL no more")]
    BadName,
}

/// A NACK, as kept for `/debug/proxies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nack {
    /// The type's label.
    pub r#type: &'static str,
    /// The resources refused, at most 20.
    pub names: Vec<String>,
    /// The proxy's reason, at most 1,024 bytes.
    pub message: String,
}

/// One type's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Names subscribed to.
    pub subscribed: usize,
    /// Resources the proxy has or is being sent.
    pub resources: usize,
    /// Of those, ACKed in their latest version sent.
    pub acked: usize,
    /// Of those, NACKed.
    pub nacked: usize,
    /// A response is out and not yet answered.
    pub outstanding: bool,
}

/// The truth as one proxy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Everything.
    pub translated: &'a Translated,
    /// The proxy's view.
    pub view: &'a View,
    /// The proxy's pod: what `self` means.
    pub pod: IpAddr,
}

/// What a session asks of the truth: a name of a type.
pub trait Truth {
    /// What `name` means now.
    fn lookup(&self, kind: ResourceKind, name: &str) -> Lookup;
}

impl Truth for Seen<'_> {
    fn lookup(&self, kind: ResourceKind, name: &str) -> Lookup {
        if name == SELF && matches!(kind, ResourceKind::Workload | ResourceKind::InboundPolicy) {
            self.translated.own(kind.type_url(), self.pod)
        } else {
            self.translated.lookup(kind.type_url(), name, self.view)
        }
    }
}

struct OfKind<'a, T>(&'a T, ResourceKind);

impl<T: Truth> Catalog for OfKind<'_, T> {
    fn lookup(&self, name: &str) -> Lookup {
        self.0.lookup(self.1, name)
    }
}

/// What a request amounted to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// It answered our outstanding response.
    pub acked: bool,
    /// It refused something.
    pub nack: Option<Nack>,
}

/// Whether a request asks for no more than a stream may have, of whatever type it is.
///
/// # Errors
/// When it does; the stream must end.
pub(super) fn check(request: &DeltaDiscoveryRequest) -> Result<(), SessionError> {
    let DeltaDiscoveryRequest { resource_names_subscribe: asked, initial_resource_versions: has, .. } = request;
    let names = asked.iter().chain(has.keys());
    if request.type_url.len() > MAX_NAME || names.into_iter().any(|name| name.is_empty() || name.len() > MAX_NAME) {
        return Err(SessionError::BadName);
    }
    // Of what is unsubscribed from nothing is kept, but for as long as the request is.
    let most = asked.len().max(has.len()).max(request.resource_names_unsubscribe.len());
    if most > MAX_SUBSCRIPTIONS { Err(SessionError::TooManySubscriptions) } else { Ok(()) }
}

/// One stream.
#[derive(Debug, Default)]
pub struct Session {
    types: [Typed; ResourceKind::ALL.len()],
    nonce: u64,
    subscriptions: usize,
    /// The answer to a type we do not know, made at once: nothing of the kind exists.
    unknown: Option<DeltaDiscoveryResponse>,
}

#[derive(Debug, Default)]
struct Typed {
    started: bool,
    tracked: Tracked,
    outstanding: Option<Outstanding>,
    /// The latest NACK's message.
    refused: String,
}

/// A response on its way.
#[derive(Debug)]
struct Outstanding {
    nonce: String,
    resources: Vec<Arc<Resource>>,
}

impl Session {
    /// Nothing asked for.
    pub fn new() -> Self {
        let mut session = Self::default();
        for kind in WATCHED {
            session.types[kind as usize].tracked.watch();
        }
        session
    }

    /// Takes in a request: an answer to a response, subscriptions, or both.
    ///
    /// # Errors
    /// When the proxy asks for more than a stream may have; the stream must end.
    pub fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Result<Received, SessionError> {
        check(&request)?;
        let Some(kind) = ResourceKind::of(&request.type_url) else {
            self.on_unknown_type(request);
            return Ok(Received::default());
        };
        let typed = &mut self.types[kind as usize];
        let received = typed.on_answer(kind, &request);
        // The protocol gives `initial_resource_versions` a meaning in a type's first request only.
        if !std::mem::replace(&mut typed.started, true) {
            for (name, version) in request.initial_resource_versions {
                typed.tracked.announce(&name, version);
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.subscriptions -= usize::from(typed.tracked.unsubscribe(name, typed.outstanding.is_some()));
        }
        for name in &request.resource_names_subscribe {
            self.subscriptions += usize::from(typed.tracked.subscribe(name));
            if self.subscriptions > MAX_SUBSCRIPTIONS {
                return Err(SessionError::TooManySubscriptions);
            }
        }
        Ok(received)
    }

    /// Takes in a change of the truth, and says whether it may concern this proxy. `pod` is the proxy's own.
    pub fn on_change(&mut self, touched: &Touched, pod: IpAddr) -> bool {
        let mut concerned = false;
        for (type_url, names) in &touched.names {
            if let Some(kind) = ResourceKind::of(type_url) {
                concerned |= self.types[kind as usize].tracked.touch_each(names);
            }
        }
        if touched.own.contains(&pod) {
            for kind in [ResourceKind::Workload, ResourceKind::InboundPolicy] {
                concerned |= self.types[kind as usize].tracked.touch(SELF);
            }
        }
        concerned
    }

    /// Takes in that changes were missed: everything is compared anew.
    pub fn on_lag(&mut self) {
        self.types.iter_mut().for_each(|typed| typed.tracked.touch_all());
    }

    /// What to send now, if anything. Call until `None` after each event.
    pub fn next_response(&mut self, truth: &impl Truth) -> Option<DeltaDiscoveryResponse> {
        if let Some(response) = self.unknown.take() {
            return Some(response);
        }
        for (typed, kind) in self.types.iter_mut().zip(ResourceKind::ALL) {
            while typed.outstanding.is_none() && typed.tracked.has_due() {
                let answer = typed.tracked.answer(&OfKind(truth, kind));
                if answer.is_empty() {
                    continue;
                }
                self.nonce += 1;
                let nonce = self.nonce.to_string();
                let response = DeltaDiscoveryResponse {
                    type_url: kind.type_url().to_owned(),
                    nonce: nonce.clone(),
                    resources: answer.resources.iter().map(|resource| wire(resource)).collect(),
                    removed_resources: answer.removed.iter().map(|name| name.to_string()).collect(),
                    ..DeltaDiscoveryResponse::default()
                };
                typed.outstanding = Some(Outstanding { nonce, resources: answer.resources });
                return Some(response);
            }
        }
        None
    }

    /// The figures of one type.
    pub fn counts(&self, kind: ResourceKind) -> Counts {
        let typed = &self.types[kind as usize];
        Counts {
            subscribed: typed.tracked.asked(),
            resources: typed.tracked.copies(),
            acked: typed.tracked.acked(),
            nacked: typed.tracked.nacked(),
            outstanding: typed.outstanding.is_some(),
        }
    }

    /// Resources of a type sent, and those not sent because the proxy had that version, since the last call.
    pub fn take_totals(&mut self, kind: ResourceKind) -> (u64, u64) {
        self.types[kind as usize].tracked.take_totals()
    }

    /// Services and trust bundles whose copy at the proxy, or what the proxy says of it, is not as it was at the last call.
    pub fn take_moved(&mut self) -> Vec<Moved> {
        let mut moved = Vec::new();
        for kind in WATCHED {
            let Typed { tracked, refused, .. } = &mut self.types[kind as usize];
            moved.extend(tracked.take_moved().map(|(name, copy)| {
                let held = copy.map(|(version, verdict)| Held::new(version, verdict, refused));
                Moved { kind, name, held }
            }));
        }
        moved
    }

    fn on_unknown_type(&mut self, request: DeltaDiscoveryRequest) {
        if request.resource_names_subscribe.is_empty() {
            return;
        }
        self.nonce += 1;
        self.unknown = Some(DeltaDiscoveryResponse {
            type_url: request.type_url,
            nonce: self.nonce.to_string(),
            removed_resources: request.resource_names_subscribe,
            ..DeltaDiscoveryResponse::default()
        });
    }
}

impl Typed {
    /// The part of a request that answers a response. An answer to anything but the outstanding one says nothing.
    fn on_answer(&mut self, kind: ResourceKind, request: &DeltaDiscoveryRequest) -> Received {
        let Some(out) = self.outstanding.take_if(|out| out.nonce == request.response_nonce) else {
            return Received::default();
        };
        let Some(error) = &request.error_detail else {
            for resource in &out.resources {
                self.tracked.judge(&resource.name, &resource.version, Verdict::Acked);
            }
            return Received { acked: true, nack: None };
        };
        let named: Vec<&str> = words(&error.message).collect();
        let all = !out.resources.iter().any(|resource| named.contains(&&*resource.name));
        let mut names = Vec::new();
        for resource in &out.resources {
            let refused = all || named.contains(&&*resource.name);
            let verdict = if refused { Verdict::Nacked } else { Verdict::Acked };
            self.tracked.judge(&resource.name, &resource.version, verdict);
            if refused && names.len() < MAX_NACK_NAMES {
                names.push(resource.name.clone());
            }
        }
        let message = clipped(&error.message).to_owned();
        self.refused.clone_from(&message);
        Received { acked: true, nack: Some(Nack { r#type: kind.label(), names, message }) }
    }
}

/// The words of a NACK's message that may be names.
fn words(message: &str) -> impl Iterator<Item = &str> {
    message
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '`' | '\'' | '"' | '(' | ')' | '='))
        .map(|word| word.trim_end_matches([':', '.']))
        .filter(|word| !word.is_empty())
}

fn clipped(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_MESSAGE)]
}

fn wire(resource: &Resource) -> Wire {
    Wire {
        name: resource.name.clone(),
        aliases: resource.aliases.clone(),
        version: resource.version.clone(),
        resource: Some(Any { type_url: resource.type_url.to_owned(), value: resource.body.to_vec() }),
        ..Wire::default()
    }
}
