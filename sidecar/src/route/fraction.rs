//! A share of requests, drawn for each by itself (Gateway API `Fraction`).

use rand::Rng;

/// `numerator` of `denominator`; both are what somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
}

/// A share that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} of {1} is no share of requests")]
pub struct InvalidShare(u32, u32);

impl Fraction {
    /// A share; none and all are shares.
    ///
    /// # Errors
    /// When that is more than all, or a part of nothing.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, InvalidShare> {
        if denominator == 0 || numerator > denominator {
            return Err(InvalidShare(numerator, denominator));
        }
        Ok(Self { numerator, denominator })
    }

    /// Whether this request is one of them.
    pub fn draws(self, rng: &mut (impl Rng + ?Sized)) -> bool {
        self.numerator == self.denominator || rng.random_range(0..self.denominator) < self.numerator
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn a_share_is_at_most_all_and_of_something() {
        for (numerator, denominator, good) in [(0, 1, true), (1, 1, true), (2, 1, false), (0, 0, false)] {
            assert_eq!(Fraction::new(numerator, denominator).is_ok(), good, "{numerator} of {denominator}");
        }
    }

    #[test]
    fn so_many_of_so_many_are_drawn() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut drawn = |numerator, denominator| {
            let fraction = Fraction::new(numerator, denominator).unwrap();
            (0..10_000).filter(|_| fraction.draws(&mut rng)).count()
        };
        assert_eq!((drawn(0, 5), drawn(5, 5)), (0, 10_000));
        // Five standard deviations of a binomial.
        let got = drawn(1, 4);
        assert!(got.abs_diff(2_500) < 217, "{got}");
    }
}
