//! Maglev: a table of 65,537 cells, each of which belongs to an endpoint; a key belongs to the owner of cell `key mod size`.
//!
//! Formula (Maglev, NSDI 2016, section 3.4; weights as Envoy's `maglev` has them). Each endpoint has a permutation of the
//! cells, by two hashes of its address a:
//!
//! ```text
//!   cell(j) = (offset + j · skip) mod size      offset = h₁(a) mod size      skip = h₂(a) mod (size − 1) + 1
//! ```
//!
//! which is one because the size is prime. In rounds, each takes the next cell of its permutation that is still free, until
//! none is. An endpoint lighter than the heaviest sits out: in round r it takes a cell if r · w / w_max has reached the number
//! of those it has. So shares are equal to within a cell for equal weights.
//!
//! **An endpoint that goes** leaves its cells to all others evenly. Few others change hands: about one in a hundred keys
//! at 10 of 65,537. Ring hash moves a key only to a new owner of its neighbourhood, and spreads worse.
//!
//! **An endpoint that may not be picked** now (ejected, already tried): its keys are hashed again, so they spread over
//! all others, and each to the same one as long as that lasts.
//!
//! Endpoints are put in by their address's order, so that every proxy makes the same table.
//! Bound: four bytes per cell, 256 KiB. Making one takes some ten steps per cell; finding is one read.

use super::hash::mix;

/// Cells where nothing else is said: Envoy's.
pub(super) const CELLS: u32 = 65_537;

/// Envoy's largest table.
const MOST_CELLS: u32 = 5_000_011;

/// Tries at cells of endpoints that may not be picked, before giving up.
const TRIES: u64 = 16;

/// The table.
#[derive(Debug)]
pub(super) struct Maglev {
    cells: Box<[u32]>,
}

const FREE: u32 = u32::MAX;

/// An endpoint while the table is made.
struct Filling {
    /// Its index in the list.
    owner: u32,
    /// The next cell of its permutation.
    cell: u64,
    skip: u64,
    /// Its weight, the heaviest being 1, and as much as it has had of that.
    weight: f64,
    had: f64,
}

impl Maglev {
    /// Of endpoints by the hash of their address and their weight. `cells` is a prime number, as `policy.rs` has checked
    /// ([`is_size`]).
    pub(super) fn new(endpoints: &[(u64, u32)], cells: u32) -> Self {
        let size = u64::from(cells);
        let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let mut filling: Vec<Filling> = endpoints
            .iter()
            .zip(0..)
            .map(|((address, weight), owner)| Filling {
                owner,
                cell: mix(*address) % size,
                skip: mix(!*address) % (size - 1) + 1,
                weight: f64::from((*weight).max(1)) / f64::from(heaviest),
                had: 0.0,
            })
            .collect();
        filling.sort_by_key(|filling| endpoints[filling.owner as usize].0);
        let mut table = vec![FREE; if endpoints.is_empty() { 0 } else { cells as usize }];
        let mut free = table.len();
        let mut round = 0.0;
        while free > 0 {
            round += 1.0;
            for one in &mut filling {
                if round * one.weight < one.had {
                    continue;
                }
                one.had += 1.0;
                while table[one.cell as usize] != FREE {
                    one.cell = (one.cell + one.skip) % size;
                }
                table[one.cell as usize] = one.owner;
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        Self { cells: table.into() }
    }

    /// The usable endpoint to which `key` belongs. `None` where none was found within a few tries.
    pub(super) fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let size = self.cells.len() as u64;
        if size == 0 {
            return None;
        }
        let cell = |nth: u64| if nth == 0 { key % size } else { mix(key ^ mix(nth)) % size };
        (0..TRIES).map(|nth| self.cells[cell(nth) as usize] as usize).find(|owner| usable(*owner))
    }
}

/// Whether a table may have so many cells: a prime number, as Envoy asks for, of at most its largest.
pub(super) fn is_size(cells: u32) -> bool {
    (2..=MOST_CELLS).contains(&cells)
        && (2..).take_while(|factor| factor * factor <= cells).all(|f| !cells.is_multiple_of(f))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<(u64, u32)> {
        weights.iter().zip(1u64..).map(|(weight, id)| (mix(id), *weight)).collect()
    }

    fn owners(of: &[(u64, u32)], cells: u32) -> Vec<u64> {
        let table = Maglev::new(of, cells);
        (0..100_000).map(|key| of[table.find(mix(!key), |_| true).unwrap()].0).collect()
    }

    fn cells_of(table: &Maglev, owner: u32) -> u32 {
        table.cells.iter().filter(|cell| **cell == owner).count() as u32
    }

    #[test]
    fn a_size_is_a_prime_that_is_not_too_large() {
        let rows = [(0, false), (1, false), (2, true), (65_536, false), (CELLS, true), (MOST_CELLS, true)];
        for (cells, want) in rows {
            assert_eq!(is_size(cells), want, "{cells}");
        }
        assert!(!is_size(5_000_077) && !is_size(u32::MAX));
    }

    #[test]
    fn an_empty_table_has_nobody() {
        assert_eq!(Maglev::new(&[], CELLS).find(7, |_| true), None);
    }

    #[test]
    fn cells_are_shared_by_weight_to_the_cell_or_two() {
        let rows: [&[u32]; 6] = [&[1], &[1; 3], &[1; 10], &[1, 2, 5], &[1, 99], &[3, 3, 1_000_000]];
        for weights in rows {
            let table = Maglev::new(&endpoints(weights), CELLS);
            let sum: u32 = weights.iter().sum();
            for (weight, owner) in weights.iter().zip(0..) {
                let want = f64::from(CELLS) * f64::from(*weight) / f64::from(sum);
                let got = f64::from(cells_of(&table, owner));
                assert!((got - want).abs() <= 2.0, "{weights:?}: {got} for {want}");
            }
        }
    }

    #[test]
    fn over_100_000_keys_shares_are_within_three_percent() {
        for owner in endpoints(&[1; 10]) {
            let share = owners(&endpoints(&[1; 10]), CELLS).iter().filter(|one| **one == owner.0).count() as f64 / 1e5;
            assert!((share - 0.1).abs() < 0.003, "{share}");
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter() {
        let of = endpoints(&[1, 2, 3, 4]);
        let reversed: Vec<_> = of.iter().rev().copied().collect();
        assert_eq!(owners(&of, CELLS), owners(&reversed, CELLS));
    }

    #[test]
    fn an_endpoint_that_goes_moves_its_keys_and_three_in_a_hundred_others_at_most() {
        for n in [3, 10, 50] {
            let of = endpoints(&vec![1; n]);
            let moves = owners(&of, CELLS).into_iter().zip(owners(&of[1..], CELLS));
            let moved = moves.filter(|(before, after)| *before != of[0].0 && before != after).count() as f64 / 1e5;
            assert!(moved < 0.03, "{n}: {moved}");
        }
    }

    #[test]
    fn keys_of_one_that_may_not_be_picked_spread_over_all_others() {
        let table = Maglev::new(&endpoints(&[1; 5]), CELLS);
        let mut counts = [0u32; 5];
        for key in (0..100_000).map(|key| mix(!key)).filter(|key| table.find(*key, |_| true) == Some(0)) {
            counts[table.find(key, |owner| owner != 0).unwrap()] += 1;
        }
        assert!(counts[0] == 0 && counts[1..].iter().all(|count| (4_600..5_400).contains(count)), "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_cell_has_an_owner_and_one_out_moves_only_its_own_keys(
            weights in prop::collection::vec(1u32..1_000, 1..20), out in any::<prop::sample::Index>(), key in any::<u64>(),
        ) {
            let out = out.index(weights.len());
            let table = Maglev::new(&endpoints(&weights), 251);
            prop_assert!(table.cells.iter().all(|owner| (*owner as usize) < weights.len()));
            let home = table.find(key, |_| true).unwrap();
            let found = table.find(key, |owner| owner != out);
            prop_assert!(found == Some(home) || home == out);
        }
    }
}
