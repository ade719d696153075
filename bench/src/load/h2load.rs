//! What h2load says.

use crate::apps::Outcome;
use crate::error::{Error, Result};

/// Reads its report.
///
/// # Errors
/// When it is none.
pub(super) fn read(said: &str) -> Result<Outcome> {
    summary(said).ok_or_else(|| Error::Unreadable { tool: "h2load".to_owned(), output: said.to_owned() })
}

fn summary(said: &str) -> Option<Outcome> {
    let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start));
    // "finished in 10.01s, 62519.40 req/s, 64.34MB/s"
    let rate: f64 = line("finished in ")?.split(", ").nth(1)?.strip_suffix(" req/s")?.trim().parse().ok()?;
    // "requests: 625194 total, 625706 started, 625194 done, 625194 succeeded, 0 failed, 0 errored, 0 timeout"
    let counts = line("requests: ")?;
    let count = |what: &str| counts.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok());
    let (succeeded, failed) = (count("succeeded")?, count("failed")? + count("errored")? + count("timeout")?);
    // "status codes: 625194 2xx, 0 3xx, 0 4xx, 0 5xx": of the responses whose head has come, so it may be more.
    let codes = line("status codes: ")?;
    let others: u64 = ["3xx", "4xx", "5xx"]
        .iter()
        .filter_map(|kind| codes.split(", ").find_map(|part| part.strip_suffix(kind)?.trim().parse::<u64>().ok()))
        .sum();
    let mut outcome = Outcome { operations: succeeded, failed: failed.max(others), ..Outcome::default() };
    if rate > 0.0 {
        outcome.seconds = succeeded as f64 / rate;
    }
    if outcome.failed > 0 {
        outcome.detail = format!("requests: {counts}; status codes: {codes}");
    }
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_failures_are_read() {
        let report = |requests: &str, codes: &str| {
            format!(
                "starting benchmark...\nfinished in 2.00s, 1000.00 req/s, 1.03MB/s\nrequests: {requests}\nstatus codes: {codes}\n"
            )
        };
        let good = "2000 total, 2512 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
        let rows = [
            (good, "2003 2xx, 0 3xx, 0 4xx, 0 5xx", (2000, 0)),
            (good, "1990 2xx, 0 3xx, 0 4xx, 10 5xx", (2000, 10)),
            (
                "2000 total, 2000 started, 2000 done, 1998 succeeded, 2 failed, 1 errored, 0 timeout",
                "1998 2xx, 0 3xx, 0 4xx, 0 5xx",
                (1998, 3),
            ),
        ];
        for (requests, codes, expected) in rows {
            let outcome = read(&report(requests, codes)).unwrap();
            assert_eq!((outcome.operations, outcome.failed), expected, "{requests} {codes}");
        }
        assert!(read("Could not resolve host").is_err());
    }
}
