//! How many cores this container may use by its CPU limit, which the scheduler enforces by stopping all of it for the rest of a
//! period: there, time spun away is time taken from requests.

use std::path::Path;

/// Version 2 of control groups: quota and period in one file, of this container's own group.
const V2: &str = "/sys/fs/cgroup/cpu.max";
/// Version 1: a file for each.
const V1: [&str; 2] = ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"];

/// Whether the CPU limit is below one core. Where none can be read there is none.
pub(crate) fn is_below_one_core() -> bool {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let both = read(V2).or_else(|| Some(format!("{} {}", read(V1[0])?.trim(), read(V1[1])?.trim())));
    both.is_some_and(|text| is_below(&text))
}

/// `QUOTA PERIOD` in µs; no limit is `max`, in version 1 `-1`.
fn is_below(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    matches!((words.next(), words.next()), (Some(Ok(quota)), Some(Ok(period))) if quota < period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_one_core_is_recognised() {
        for (text, below) in [
            ("max 100000\n", false),
            ("-1 100000", false),
            ("200000 100000\n", false),
            ("100000 100000\n", false),
            ("99999 100000\n", true),
            ("10000 100000", true),
            ("", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_below(text), below, "{text:?}");
        }
    }
}
