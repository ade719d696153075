//! Faults that somebody asked for (`FaultInjection` of `weft.dev`; what Istio calls `HTTPFaultInjection`, and Envoy its fault
//! filter): some requests wait before they go on, some are answered and go nowhere.
//!
//! Whether a request waits and whether it is answered are drawn apart, so 10 % of each make 1 % of both: those wait first.
//! That is Envoy's rule.
//!
//! Not here: the waiting, and that no request waits past its deadline (`outbound/request.rs`).

use std::time::Duration;

use http::StatusCode;
use rand::Rng;

use super::fraction::Fraction;

/// What is done to some requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    delay: Option<(Fraction, Duration)>,
    abort: Option<(Fraction, Abort)>,
}

/// An answer in the app's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abort {
    /// Of a request.
    pub status: StatusCode,
    /// `grpc-status` of a call of gRPC.
    pub grpc_status: u8,
    /// `namespace/name` of the object that wants it.
    pub by: Box<str>,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected<'f> {
    /// It waits for so long; zero is not at all.
    pub delay: Duration,
    /// And is answered.
    pub abort: Option<&'f Abort>,
}

impl Fault {
    /// Each for its share of requests.
    pub fn new(delay: Option<(Fraction, Duration)>, abort: Option<(Fraction, Abort)>) -> Self {
        Self { delay, abort }
    }

    /// Draws for one request.
    pub fn draw(&self, rng: &mut (impl Rng + ?Sized)) -> Injected<'_> {
        let delay = self.delay.as_ref().filter(|(share, _)| share.draws(rng)).map(|(_, delay)| *delay);
        let abort = self.abort.as_ref().filter(|(share, _)| share.draws(rng)).map(|(_, abort)| abort);
        Injected { delay: delay.unwrap_or_default(), abort }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const SECOND: Duration = Duration::from_secs(1);

    fn abort() -> Abort {
        Abort { status: StatusCode::SERVICE_UNAVAILABLE, grpc_status: 14, by: "shop/faults".into() }
    }

    fn of(numerator: u32, denominator: u32) -> Fraction {
        Fraction::new(numerator, denominator).unwrap()
    }

    #[test]
    fn what_is_not_asked_for_does_not_happen() {
        let mut rng = SmallRng::seed_from_u64(1);
        let none = Injected { delay: Duration::ZERO, abort: None };
        assert_eq!(Fault::new(None, None).draw(&mut rng), none);
        assert_eq!(Fault::new(Some((of(0, 1), SECOND)), Some((of(0, 1), abort()))).draw(&mut rng), none);
        let only = Fault::new(Some((of(1, 1), SECOND)), None);
        assert_eq!(only.draw(&mut rng), Injected { delay: SECOND, abort: None });
        let only = Fault::new(None, Some((of(1, 1), abort())));
        assert_eq!(only.draw(&mut rng), Injected { delay: Duration::ZERO, abort: Some(&abort()) });
    }

    #[test]
    fn waiting_and_being_answered_are_drawn_apart() {
        let fault = Fault::new(Some((of(1, 2), SECOND)), Some((of(1, 4), abort())));
        let mut rng = SmallRng::seed_from_u64(7);
        let drawn: Vec<_> = (0..8_000).map(|_| fault.draw(&mut rng)).collect();
        let share = |of: &dyn Fn(&Injected<'_>) -> bool| drawn.iter().filter(|injected| of(injected)).count();
        // Five standard deviations of a binomial.
        for (row, got, want, within) in [
            ("wait", share(&|injected| !injected.delay.is_zero()), 4_000, 224),
            ("are answered", share(&|injected| injected.abort.is_some()), 2_000, 194),
            ("both", share(&|injected| !injected.delay.is_zero() && injected.abort.is_some()), 1_000, 148),
        ] {
            assert!(got.abs_diff(want) <= within, "{row}: {got}");
        }
    }
}
