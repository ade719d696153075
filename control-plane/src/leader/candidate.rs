//! One replica's part in the election, as a pure function of what it has seen and when. `leader.rs` reads and writes.
//!
//! Moments are this process's own: a Lease's `renewTime` is another machine's clock, and only tells whether it *changed*.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::time::{Duration, Instant};

use super::Times;

/// A Lease that says to be good for longer is not believed: somebody edited it.
const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// Read the Lease.
    Look,
    /// Write this one: create it where it has no resourceVersion, else replace that version.
    Write(Box<Lease>),
    /// Nothing before this moment, unless something is heard.
    Wait(Instant),
}

/// What is known of the election.
#[derive(Debug)]
pub(super) struct Candidate {
    name: String,
    holder: String,
    times: Times,
    seen: Option<Seen>,
    /// When the write that made or kept us the leader began.
    renewed: Option<Instant>,
    /// What was seen may be old.
    stale: bool,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    lease: Option<Lease>,
    /// When the record became what it is, as far as we saw.
    since: Instant,
    /// When it was last read, or written.
    at: Instant,
}

impl Candidate {
    pub(super) fn new(lease: &str, holder: &str, times: Times) -> Self {
        let (name, holder) = (lease.to_owned(), holder.to_owned());
        Self { name, holder, times, seen: None, renewed: None, stale: false, not_before: None }
    }

    /// Until when we lead, if nothing more is heard; in the past when we do not.
    pub(super) fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + self.times.deadline)
    }

    pub(super) fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Who is known to lead, for the log.
    pub(super) fn holder(&self) -> Option<&str> {
        let spec = self.seen.as_ref()?.lease.as_ref()?.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// What to do at `now`; `wall` goes into the Lease for people to read.
    pub(super) fn next(&self, now: Instant, wall: Timestamp) -> Next {
        if let Some(not_before) = self.not_before.filter(|not_before| now < *not_before) {
            return Next::Wait(not_before);
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.stale) else { return Next::Look };
        if let Some(renewed) = self.renewed.filter(|_| self.leads(now)) {
            let due = renewed + self.times.renew;
            return if now < due { Next::Wait(due) } else { self.claim(seen, wall) };
        }
        let held_by_another = self.holder().is_some_and(|holder| holder != self.holder);
        if !held_by_another {
            // Free, or ours from before a restart. What is that old is read again first.
            return if now < seen.at + self.times.look { self.claim(seen, wall) } else { Next::Look };
        }
        let ends = seen.since + lease_of(seen.lease.as_ref()).unwrap_or(self.times.lease);
        if now < ends {
            let look = seen.at + self.times.look;
            if now < look { Next::Wait(look.min(ends)) } else { Next::Look }
        } else if seen.at < ends {
            // Perhaps it was renewed and we did not hear.
            Next::Look
        } else {
            self.claim(seen, wall)
        }
    }

    /// Somebody says that the Lease changed.
    pub(super) fn on_change(&mut self, now: Instant) {
        // Our own renewals say so as well, and whoever else writes it makes our next renewal fail.
        self.stale |= !self.leads(now);
    }

    /// The Lease as it is, `None` when there is none.
    pub(super) fn on_seen(&mut self, lease: Option<Lease>, now: Instant) {
        self.stale = false;
        self.not_before = None;
        let same = self.seen.as_ref().filter(|seen| spec_of(seen.lease.as_ref()) == spec_of(lease.as_ref()));
        let since = same.map_or(now, |seen| seen.since);
        self.seen = Some(Seen { lease, since, at: now });
        if self.holder() != Some(&*self.holder) {
            self.renewed = None;
        }
    }

    /// Our write, which `began` then, stands, and this is the Lease.
    pub(super) fn on_written(&mut self, lease: Lease, began: Instant, now: Instant) {
        self.on_seen(Some(lease), now);
        self.renewed = Some(began);
    }

    /// Our write was refused, because somebody else wrote first.
    pub(super) fn on_conflict(&mut self) {
        self.stale = true;
    }

    /// A request failed; another is not to be made at once.
    pub(super) fn on_failure(&mut self, now: Instant) {
        self.not_before = Some(now + self.times.retry);
    }

    /// The Lease that lets the next lead at once, if it is ours.
    pub(super) fn release(&self, now: Instant, wall: Timestamp) -> Option<Lease> {
        let mut lease = self.seen.as_ref().filter(|_| self.leads(now))?.lease.clone()?;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(wall));
        Some(lease)
    }

    fn claim(&self, seen: &Seen, wall: Timestamp) -> Next {
        let mut lease = seen.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.holder) {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |before| before.saturating_add(1)));
            spec.holder_identity = Some(self.holder.clone());
            spec.acquire_time = Some(MicroTime(wall));
        }
        spec.lease_duration_seconds = i32::try_from(self.times.lease.as_secs()).ok();
        spec.renew_time = Some(MicroTime(wall));
        Next::Write(Box::new(lease))
    }
}

fn spec_of(lease: Option<&Lease>) -> Option<&LeaseSpec> {
    lease?.spec.as_ref()
}

/// How long it says to be good after its last change.
fn lease_of(lease: Option<&Lease>) -> Option<Duration> {
    let seconds = u64::try_from(spec_of(lease)?.lease_duration_seconds?).ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_LEASE))
}

#[cfg(test)]
mod tests;
