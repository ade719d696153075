//! One response of the control plane → one new snapshot, and the answer to it. Steps, in this order: compile every
//! resource (no effect); then, under the lock of [`Config`], tell the table → commit what is good and wanted → drop what is
//! gone → settle which backends are wanted → publish.
//!
//! Compiling is the one step that may take long: 10,000 expressions take a second (`compile/cost.rs`). It happens on the
//! control thread, whose task this is, and outside the lock, which a worker takes for a destination it has not met: so it
//! delays no request, only what else the control thread does.
//!
//! These methods are also the seam between this room's decisions and the stream that carries them: `client.rs` is one
//! user, a test that plays the control plane is another.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use weft_proto::discovery::DeltaDiscoveryResponse;
use weft_proto::{EndpointsName, SELF, v1};

use super::compile::{
    CompileError, CompiledEndpoints, In, Intern, compile_endpoints, compile_inbound_policy, compile_service,
    compile_settings, compile_trust_bundle, compile_workload,
};
use super::kind::Kind;
use super::model::{InboundPolicy, MeshSettings, Service, Workload};
use super::stats::count;
use super::store::{Interner, Store};
use super::subscriptions::{Received, Request, State, Subscriptions, Wanted};
use super::{Config, Tables, named, now};

/// Characters of one NACK reason: they go into a log line and a condition.
const MAX_REASON: usize = 1024;

/// What one resource of a response became.
enum Compiled {
    Service(Box<Service>),
    Endpoints(EndpointsName, CompiledEndpoints),
    Workload(Box<Workload>),
    InboundPolicy(InboundPolicy),
    TrustBundle,
    MeshSettings(MeshSettings),
}

impl Config {
    /// A stream has opened: everything is asked for anew, naming the versions held.
    pub fn on_connected(&self) {
        self.0.tables.lock().subscriptions.on_connected();
        self.0.wake.notify_one();
    }

    /// What to send next, in order.
    pub fn next_request(&self) -> Option<Request> {
        self.0.tables.lock().subscriptions.next_request()
    }

    /// Whether [`Self::next_request`] has something.
    pub fn has_request(&self) -> bool {
        self.0.tables.lock().subscriptions.has_request()
    }

    /// Waits until there may be something to ask for. For one caller at a time.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn requested(&self) {
        self.0.wake.notified().await;
    }

    /// Takes a response: compiles each resource, keeps the good ones, publishes all of them in one snapshot. The answer
    /// (ACK, or NACK naming each bad resource and field) comes out of [`Self::next_request`].
    pub fn apply(&self, response: DeltaDiscoveryResponse) {
        let Some(kind) = Kind::from_type_url(&response.type_url) else {
            tracing::warn!(type_url = response.type_url, "the control plane sent resources of an unknown type");
            return;
        };
        let stats = &self.0.stats;
        count(&stats.resources_received[kind as usize], response.resources.len());
        count(&stats.resources_removed, response.removed_resources.len());
        let _alone = self.0.applying.lock();

        let mut received = Vec::with_capacity(response.resources.len());
        let mut compiled = Vec::with_capacity(response.resources.len());
        let look = |name: &EndpointsName| self.0.tables.lock().store.known(name);
        let mut interner = Interner::new(look, &self.0.limits, &self.0.room);
        for resource in response.resources {
            let payload = resource.resource.unwrap_or_default();
            count(&stats.bytes_received, payload.value.len());
            let result = if payload.type_url == kind.type_url() {
                self.compile(kind, &resource.name, &payload.value, &mut interner)
            } else {
                Err(CompileError::new(format_args!("the payload is a `{}`", payload.type_url)))
            };
            let bad = result.as_ref().err().map(|error| {
                tracing::warn!(kind = ?kind, name = resource.name, %error, "a resource does not compile");
                error.to_string().chars().take(MAX_REASON).collect()
            });
            compiled.push(result.ok());
            received.push(Received { name: resource.name, version: resource.version, aliases: resource.aliases, bad });
        }
        let bad = received.iter().filter(|received| received.bad.is_some()).count();
        count(&stats.resources_refused, bad);
        count(if bad == 0 { &stats.acks } else { &stats.nacks }, 1);

        let now = now();
        stats.applied.store(self.ms(now) + 1, Ordering::Relaxed);
        let mut tables = self.0.tables.lock();
        let Tables { subscriptions, store } = &mut *tables;
        let wanted = subscriptions.on_response(kind, response.nonce, &received, &response.removed_resources, now);
        for ((received, compiled), wanted) in received.iter().zip(compiled).zip(wanted) {
            match compiled {
                Some(compiled) if wanted => self.commit(subscriptions, store, received, compiled, now),
                Some(_) => {}
                None => refuse(subscriptions, store, kind, received, now),
            }
        }
        if kind == Kind::Endpoints {
            for name in &response.removed_resources {
                if let Ok(name) = name.parse() {
                    store.no_endpoints(&name, now);
                }
            }
        }
        self.after_change(&mut tables, now);
        self.publish(&tables);
        let unused = tables.store.retired.unused();
        drop(tables);
        drop(unused);
    }

    /// Gives up what is not used any more. To be called every few seconds.
    pub fn sweep(&self) {
        let now = now();
        let mut tables = self.0.tables.lock();
        tables.subscriptions.sweep(now);
        self.after_change(&mut tables, now);
        let unused = tables.store.retired.unused();
        drop(tables);
        drop(unused);
    }

    fn compile(
        &self,
        kind: Kind,
        name: &str,
        payload: &[u8],
        backends: &mut dyn Intern,
    ) -> Result<Compiled, CompileError> {
        fn decode<M: prost::Message + Default>(payload: &[u8]) -> Result<M, CompileError> {
            M::decode(payload).map_err(|error| CompileError::new(format_args!("it does not decode: {error}")))
        }
        let settings = &self.0.settings;
        Ok(match kind {
            Kind::Service => Compiled::Service(compile_service(&decode(payload)?, &settings.node, backends)?.into()),
            Kind::Endpoints => {
                Compiled::Endpoints(name.parse().field("its own name")?, compile_endpoints(&decode(payload)?)?)
            }
            Kind::Workload => Compiled::Workload(compile_workload(&decode(payload)?)?.into()),
            Kind::InboundPolicy => Compiled::InboundPolicy(compile_inbound_policy(&decode(payload)?)?),
            Kind::TrustBundle => {
                let trust_domain = self.0.identity.identity().trust_domain();
                let roots = compile_trust_bundle(decode::<v1::TrustBundle>(payload)?, trust_domain)?;
                self.0.identity.set_roots(roots).map_err(CompileError::new).field("roots")?;
                Compiled::TrustBundle
            }
            Kind::MeshSettings => {
                let local = Some(&*settings.cluster_cidrs).filter(|cidrs| !cidrs.is_empty());
                Compiled::MeshSettings(compile_settings(&decode(payload)?, local)?)
            }
        })
    }

    fn commit(
        &self,
        subscriptions: &Subscriptions,
        store: &mut Store,
        received: &Received,
        compiled: Compiled,
        now: Instant,
    ) {
        let used = |kind| subscriptions.last_use(kind, &received.name).unwrap_or_default();
        match compiled {
            Compiled::Service(service) => {
                store.commit_service(&received.name, *service, used(Kind::Service), &received.aliases);
            }
            Compiled::Endpoints(name, endpoints) => {
                let dns = self.0.dns.clone();
                store.commit_endpoints(&name, endpoints, now, |endpoints, state| {
                    named::follow(name.clone(), endpoints, state, dns)
                });
            }
            Compiled::Workload(workload) => {
                store.commit_workload(&received.name, *workload, &used(Kind::Workload), &received.aliases);
                if let Some(State::Present(own)) = subscriptions.state(Kind::Workload, SELF, now)
                    && **own == *received.name
                {
                    store.set_own(own);
                }
            }
            Compiled::InboundPolicy(policy) => store.set_inbound(policy),
            Compiled::TrustBundle => {}
            Compiled::MeshSettings(settings) => store.set_settings(settings),
        }
    }

    /// Drops what the table has given up and asks for what the store needs. Publishes when anything was dropped.
    pub(super) fn after_change(&self, tables: &mut Tables, now: Instant) {
        let Tables { subscriptions, store } = tables;
        let mut dropped = false;
        // Dropping a service gives up its endpoints, and asking for endpoints may make room at a service's cost. It ends:
        // each round has fewer services than the one before.
        loop {
            let gone = subscriptions.take_gone();
            dropped |= !gone.is_empty();
            for (kind, resource) in gone {
                match kind {
                    Kind::Service => store.remove_service(&resource),
                    Kind::Workload => store.remove_workload(&resource),
                    Kind::Endpoints => {
                        if let Ok(name) = resource.parse() {
                            store.no_endpoints(&name, now);
                        }
                    }
                    // What concerns this proxy itself stays in force while it drains after its pod is gone.
                    Kind::InboundPolicy | Kind::TrustBundle | Kind::MeshSettings => {}
                }
            }
            let settled = store.settle();
            if settled.is_empty() {
                break;
            }
            for name in settled.dropped {
                subscriptions.unsubscribe(Kind::Endpoints, &name.to_string());
            }
            for name in settled.wanted {
                subscriptions.subscribe(Kind::Endpoints, &name.to_string(), Wanted::ByResource, now);
            }
        }
        self.0.stats.subscriptions.store(subscriptions.len(), Ordering::Relaxed);
        if subscriptions.has_request() {
            self.0.wake.notify_one();
        }
        if dropped {
            self.publish(tables);
        }
    }

    fn publish(&self, tables: &Tables) {
        let snapshot = tables.store.snapshot();
        let pod: Option<IpAddr> = self.0.settings.pod_address.parse().ok();
        let others = snapshot.own().is_some_and(|own| own.addresses.iter().any(|address| Some(*address) != pod));
        self.0.snapshot.store(Arc::new(snapshot));
        self.0.has_others.store(others, Ordering::Release);
        self.0.published.send_replace(());
    }
}

/// A resource that did not compile. Its last good version stays; where there is none, nobody shall wait for it, and
/// what protects this workload fails closed (SEMANTICS.md §4).
fn refuse(subscriptions: &Subscriptions, store: &mut Store, kind: Kind, received: &Received, now: Instant) {
    match kind {
        Kind::InboundPolicy if store.snapshot().inbound.is_none() => store.set_inbound(InboundPolicy::refuse_all()),
        Kind::Endpoints if subscriptions.state(kind, &received.name, now) == Some(&State::Refused) => {
            if let Ok(name) = received.name.parse()
                && !store.knows_endpoints(&name)
            {
                store.no_endpoints(&name, now);
            }
        }
        _ => {}
    }
}
