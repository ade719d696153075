//! Cores and processor time.
//!
//! Time comes from `/proc/PID/task/*/schedstat`, whose first number is what a thread ran, in ns, counted by the scheduler
//! at every switch: exact for a thread that sleeps, at most a tick behind for one that runs. It contains what the kernel
//! did on the thread's behalf, the delivery of its packets included, as long as the kernel is built without
//! `IRQ_TIME_ACCOUNTING`, as Debian's is.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};

/// The core of the proxies that are measured, alone there.
pub(crate) const PROXY_CORE: usize = 0;
/// The core of everything else: load, servers, control plane, this program.
pub(crate) const LOAD_CORE: usize = 1;

/// Moves this program, and so all that it starts from now on, to [`LOAD_CORE`].
///
/// # Errors
/// On a machine of one core.
pub(crate) fn leave_the_proxy_core() -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        return Err(Error::Machine(format!(
            "the benchmark needs two cores to itself, one for the proxy and one for the load; there is {cores}"
        )));
    }
    pin_thread(Pid::from_raw(0), &[LOAD_CORE])
}

/// Moves every thread of a process to `cores`; threads it starts later follow the one that starts them.
///
/// # Errors
/// When it has ended.
pub(crate) fn pin(process: Pid, cores: &[usize]) -> Result<()> {
    for thread in threads(process) {
        pin_thread(thread, cores)?;
    }
    Ok(())
}

fn pin_thread(thread: Pid, cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores
        .iter()
        .try_for_each(|core| set.set(*core))
        .and_then(|()| sched_setaffinity(thread, &set))
        .context(|| format!("moving {thread} to the cores {cores:?}"))
}

/// A process's resident memory in KiB; 0 when it has ended.
pub(crate) fn rss_kib(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

fn threads(process: Pid) -> Vec<Pid> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

/// What each thread of some processes has run so far.
#[derive(Debug, Default)]
pub(crate) struct CpuTime(BTreeMap<Pid, u64>);

impl CpuTime {
    /// Now.
    pub(crate) fn read(processes: &[Pid]) -> Self {
        let ran = |process: Pid, thread: Pid| {
            let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        let all = processes.iter().flat_map(|process| threads(*process).into_iter().map(|thread| (*process, thread)));
        Self(all.filter_map(|(process, thread)| Some((thread, ran(process, thread)?))).collect())
    }

    /// What was run between `before` and this. A thread that ended in between took its last share with it; none of the
    /// proxies ends a thread that carries traffic.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let share = |(thread, ran): (&Pid, &u64)| ran.saturating_sub(before.0.get(thread).copied().unwrap_or(0));
        Duration::from_nanos(self.0.iter().map(share).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_burnt_is_seen() {
        let own = [Pid::this()];
        let before = CpuTime::read(&own);
        let burnt = Duration::from_millis(60);
        let started = std::time::Instant::now();
        while started.elapsed() < burnt * 4 && CpuTime::read(&own).since(&before) < burnt {
            std::hint::black_box((0..10_000_u64).fold(0, u64::wrapping_add));
        }
        assert!(CpuTime::read(&own).since(&before) >= burnt / 2);
    }

    #[test]
    fn a_new_thread_counts_from_its_beginning_and_an_ended_one_not_below_nothing() {
        let at = |rows: &[(i32, u64)]| CpuTime(rows.iter().map(|(pid, ns)| (Pid::from_raw(*pid), *ns)).collect());
        let before = at(&[(1, 100), (2, 900)]);
        let after = at(&[(1, 150), (3, 7)]);
        assert_eq!(after.since(&before), Duration::from_nanos(57));
    }
}
