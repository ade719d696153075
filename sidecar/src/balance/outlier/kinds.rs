//! Failures in a row as Envoy counts them: three counts of each endpoint, one for each kind of failure that may eject it.
//!
//! | a try                                   | 5xx | gateway | local | …with the split: 5xx | gateway | local |
//! |---|---|---|---|---|---|---|
//! | was answered below 500                  | 0   | 0       |       | 0                    | 0       | 0     |
//! | was answered 502, 503 or 504            | +1  | +1      |       | +1                   | +1      | 0     |
//! | was answered by another 5xx             | +1  | 0       |       | +1                   | 0       | 0     |
//! | failed without an answer                | +1  | +1      |       |                      |         | +1    |
//! | was a connection for bytes, and is made | 0   | 0       |       |                      |         | 0     |
//!
//! Without the split (`splitExternalLocalOriginErrors`) a lost connection is a 503 to Envoy, and a timeout a 504. Of gRPC a status in the head counts as the HTTP status that Envoy takes it for
//! (`outbound/judge.rs`). Where a count reaches its number the endpoint is to be ejected, in `enforcing_percent` of cases; in the
//! others that count begins anew. Asked in Envoy's order: gateway, 5xx, local.
//!
//! Two differences. Envoy forgets an endpoint's local failures whenever a connection to it is handed out, so that resets and
//! timeouts, which come after that, are never two in a row; its documentation says they are counted, and here they are. And
//! where the cap forbids an ejection Envoy begins to count anew; here the next failure tries again.
//!
//! Pure. Bound: one word per endpoint.

use crate::balance::policy::{Consecutive, EnvoyOutlier, TryResult};

/// Which failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::balance) enum Failing {
    Gateway,
    ServerError,
    Local,
}

/// Failures in a row of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::balance) struct Counts {
    pub(in crate::balance) server_error: u16,
    pub(in crate::balance) gateway: u16,
    pub(in crate::balance) local: u16,
}

impl Counts {
    pub(in crate::balance) fn unpack(bits: u64) -> Self {
        Self { server_error: bits as u16, gateway: (bits >> 16) as u16, local: (bits >> 32) as u16 }
    }

    pub(in crate::balance) fn pack(self) -> u64 {
        u64::from(self.server_error) | u64::from(self.gateway) << 16 | u64::from(self.local) << 32
    }

    /// After one more try.
    pub(in crate::balance) fn after(self, result: TryResult, split: bool) -> Self {
        let more = |count: u16| count.saturating_add(1);
        let answered = |gateway| Self { server_error: more(self.server_error), gateway, local: 0 };
        match (result, split) {
            (TryResult::Neutral, _) => self,
            (TryResult::Success, _) | (TryResult::Connected, false) => Self::default(),
            (TryResult::AppError { gateway: false }, _) => answered(0),
            (TryResult::AppError { gateway: true } | TryResult::GatewayError, _) => answered(more(self.gateway)),
            (TryResult::Failure, false) => answered(more(self.gateway)),
            (TryResult::Silent, false) => Self { server_error: u16::MAX, gateway: u16::MAX, local: 0 },
            (TryResult::Connected, true) => Self { local: 0, ..self },
            (TryResult::Failure, true) => Self { local: more(self.local), ..self },
            (TryResult::Silent, true) => Self { local: u16::MAX, ..self },
        }
    }

    /// The longest row.
    pub(in crate::balance) fn most(self) -> u16 {
        self.server_error.max(self.gateway).max(self.local)
    }

    pub(in crate::balance) fn without(self, failing: Failing) -> Self {
        match failing {
            Failing::Gateway => Self { gateway: 0, ..self },
            Failing::ServerError => Self { server_error: 0, ..self },
            Failing::Local => Self { local: 0, ..self },
        }
    }

    fn of(self, failing: Failing) -> u16 {
        match failing {
            Failing::Gateway => self.gateway,
            Failing::ServerError => self.server_error,
            Failing::Local => self.local,
        }
    }
}

impl EnvoyOutlier {
    /// What ejects by failures in a row, in Envoy's order.
    fn in_a_row(&self) -> impl Iterator<Item = (Failing, Consecutive)> {
        let local = self.local.as_ref().and_then(|local| local.consecutive);
        let kinds =
            [(Failing::Gateway, self.gateway), (Failing::ServerError, self.server_error), (Failing::Local, local)];
        kinds.into_iter().filter_map(|(failing, by)| Some((failing, by?)))
    }

    /// Whether anything does.
    pub(in crate::balance) fn counts_in_a_row(&self) -> bool {
        self.in_a_row().next().is_some()
    }

    /// Whether failures to get an answer are told apart from answers.
    pub(in crate::balance) fn splits(&self) -> bool {
        self.local.is_some()
    }

    /// What has come as often as ejects, and in how many percent of cases it does.
    pub(in crate::balance) fn reached(&self, counts: Counts) -> impl Iterator<Item = (Failing, u32)> {
        let reached = move |(failing, by): &(Failing, Consecutive)| by.is_reached(counts.of(*failing));
        self.in_a_row().filter(reached).map(|(failing, by)| (failing, by.enforcing_percent))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::policy::LocalOrigin;

    const RESULTS: [TryResult; 8] = [
        TryResult::Success,
        TryResult::Connected,
        TryResult::AppError { gateway: false },
        TryResult::AppError { gateway: true },
        TryResult::GatewayError,
        TryResult::Failure,
        TryResult::Silent,
        TryResult::Neutral,
    ];

    fn counts((server_error, gateway, local): (u16, u16, u16)) -> Counts {
        Counts { server_error, gateway, local }
    }

    #[test]
    fn what_each_result_does_to_the_counts() {
        const MAX: u16 = u16::MAX;
        #[rustfmt::skip]
        let rows = [
            // From 2, 2, 2:                           together       with the split
            (TryResult::Success,                      (0, 0, 0),      (0, 0, 0)),
            (TryResult::Connected,                    (0, 0, 0),      (2, 2, 0)),
            (TryResult::AppError { gateway: false },  (3, 0, 0),      (3, 0, 0)),
            (TryResult::AppError { gateway: true },   (3, 3, 0),      (3, 3, 0)),
            (TryResult::GatewayError,                 (3, 3, 0),      (3, 3, 0)),
            (TryResult::Failure,                      (3, 3, 0),      (2, 2, 3)),
            (TryResult::Silent,                       (MAX, MAX, 0),  (2, 2, MAX)),
            (TryResult::Neutral,                      (2, 2, 2),      (2, 2, 2)),
        ];
        assert_eq!(rows.len(), RESULTS.len());
        for (result, together, split) in rows {
            let from = counts((2, 2, 2));
            assert_eq!(from.after(result, false), counts(together), "{result:?}");
            assert_eq!(from.after(result, true), counts(split), "{result:?}, with the split");
        }
    }

    #[test]
    fn who_reaches_what_in_which_order() {
        let by = Consecutive::of;
        let envoy = |server_error, gateway, local: Option<Option<Consecutive>>| EnvoyOutlier {
            server_error,
            gateway,
            local: local.map(|consecutive| LocalOrigin { consecutive, ..LocalOrigin::default() }),
            ..EnvoyOutlier::default()
        };
        use Failing::{Gateway, Local, ServerError};
        type Row = (&'static str, EnvoyOutlier, (u16, u16, u16), &'static [Failing]);
        #[rustfmt::skip]
        let rows: [Row; 9] = [
            ("default, below",       EnvoyOutlier::default(),          (4, 4, 9), &[]),
            ("default, reached",     EnvoyOutlier::default(),          (5, 0, 0), &[ServerError]),
            ("gateway alone",        envoy(None, by(3), None),         (9, 3, 0), &[Gateway]),
            ("gateway first",        envoy(by(3), by(3), None),        (3, 3, 0), &[Gateway, ServerError]),
            ("none",                 envoy(None, None, None),          (9, 9, 9), &[]),
            ("local, not split",     envoy(by(5), None, None),         (0, 0, 9), &[]),
            ("local",                envoy(by(5), by(5), Some(by(2))), (4, 4, 2), &[Local]),
            ("local is off",         envoy(by(5), by(5), Some(None)),  (4, 4, 9), &[]),
            ("more than can be",     envoy(by(u32::MAX), None, None),  (u16::MAX, 0, 0), &[ServerError]),
        ];
        for (what, envoy, of, want) in rows {
            let reached: Vec<_> = envoy.reached(counts(of)).map(|(failing, _)| failing).collect();
            assert_eq!(reached, want, "{what}");
            assert_eq!(envoy.counts_in_a_row(), what != "none", "{what}");
        }
    }

    proptest! {
        #[test]
        fn counts_keep_what_is_put_in(server_error: u16, gateway: u16, local: u16) {
            let of = counts((server_error, gateway, local));
            prop_assert_eq!(Counts::unpack(of.pack()), of);
        }

        /// Each count is the number of its failures since what ended the row, whatever came in between.
        #[test]
        fn a_count_is_the_length_of_its_row(
            results in prop::collection::vec(prop::sample::select(&RESULTS[..]), 0..60), split: bool,
        ) {
            let got = results.iter().fold(Counts::default(), |counts, result| counts.after(*result, split));
            // By definition, over the list instead of step by step: `None` neither adds nor ends.
            let row = |adds: &dyn Fn(TryResult) -> Option<bool>| {
                let row: Vec<_> = results.iter().rev().filter(|result| adds(**result).is_some())
                    .take_while(|result| adds(**result) == Some(true)).collect();
                if row.contains(&&TryResult::Silent) { u16::MAX } else { row.len() as u16 }
            };
            use TryResult::*;
            let answer = |result| !matches!(result, Connected | Failure | Silent | Neutral);
            let server_error = |result| match result {
                Neutral => None,
                result if split && !answer(result) => None,
                result => Some(!matches!(result, Success | Connected)),
            };
            let gateway = |result| server_error(result).map(|adds| adds && result != AppError { gateway: false });
            let local = |result| match result {
                Neutral => None,
                result => Some(split && matches!(result, Failure | Silent)),
            };
            prop_assert_eq!(got, counts((row(&server_error), row(&gateway), row(&local))));
            prop_assert_eq!(got.most(), got.server_error.max(got.gateway).max(got.local));
        }
    }
}
