//! What wrk says.

use crate::apps::Outcome;
use crate::error::{Error, Result};

/// Reads its report.
///
/// # Errors
/// When it is none.
pub(super) fn read(said: &str) -> Result<Outcome> {
    summary(said).ok_or_else(|| Error::Unreadable { tool: "wrk".to_owned(), output: said.to_owned() })
}

fn summary(said: &str) -> Option<Outcome> {
    let line = |start: &str| said.lines().map(str::trim).find_map(|line| line.strip_prefix(start).map(str::trim));
    // "  123456 requests in 10.00s, 141.05MB read"
    let (requests, rest) = said.lines().find_map(|line| line.trim().split_once(" requests in "))?;
    let time = rest.split(',').next()?;
    let seconds = match time.strip_suffix("ms") {
        Some(ms) => ms.parse::<f64>().ok()? / 1000.0,
        None => match time.strip_suffix('m') {
            Some(minutes) => minutes.parse::<f64>().ok()? * 60.0,
            None => time.strip_suffix('s')?.parse().ok()?,
        },
    };
    let mut outcome = Outcome { seconds, operations: requests.trim().parse().ok()?, ..Outcome::default() };
    // "Socket errors: connect 0, read 1, write 0, timeout 0", only when there are any.
    if let Some(errors) = line("Socket errors:") {
        outcome.failed +=
            errors.split(',').filter_map(|part| part.split(' ').next_back()?.parse::<u64>().ok()).sum::<u64>();
        outcome.detail = format!("socket errors: {errors}");
    }
    if let Some(bad) = line("Non-2xx or 3xx responses:") {
        outcome.failed += bad.parse::<u64>().ok()?;
        outcome.detail = format!("{bad} responses were not 2xx or 3xx");
    }
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_every_kind_of_failure_are_read() {
        let good = "Running 1s test @ http://10.96.0.10:80/\n  1 threads and 64 connections\n  21007 requests in 1.10s, \
                    23.26MB read\nRequests/sec:  19107.30\nTransfer/sec:     21.16MB\n";
        let outcome = read(good).unwrap();
        assert_eq!((outcome.operations, outcome.failed, outcome.seconds), (21007, 0, 1.1));
        let bad =
            format!("{good}  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 7\n");
        assert_eq!(read(&bad).unwrap().failed, 13);
        assert!(read("unable to connect to 10.96.0.10:80 Connection refused\n").is_err());
    }
}
