//! What must hold for any bytes a peer, an app or the control plane may send: one function per fuzz target of `fuzz/`,
//! which panics where it does not. Compiled for tests and under libFuzzer (`cfg(fuzzing)`) only.
//!
//! The functions live here and not beside the targets for three reasons: they reach what no other crate may, a change of
//! a reader that breaks one does not compile, and `cargo test` runs every file that fuzzing has kept through them.
//!
//! | file | targets |
//! |---|---|
//! | `wire` | none: the only place that knows what a head of `http::h1` looks like, for `h1` and the differential test |
//! | `h1` | `h1_request`, `h1_response`, `h1_body` |
//! | `listen` | `client_hello`, `detect` |
//! | `fields` | `fields` |
//! | `config::fuzzing` | `resources` |
//!
//! An input that is cut into pieces begins with [`SEED`] bytes that say how; the rest is what is on the wire, so that
//! the files of a corpus can be read.

mod fields;
mod h1;
mod listen;
pub(crate) mod wire;

pub use self::fields::fields;
pub use self::h1::{h1_body, h1_request, h1_response};
pub use self::listen::{client_hello, detect};
pub use crate::config::fuzzing::{compiles, resources};

/// Bytes at the start of an input that choose its pieces.
pub const SEED: usize = 2;

/// The seed and what follows it; `None` for an input that is too short to have one.
fn seeded(data: &[u8]) -> Option<(u16, &[u8])> {
    let (seed, rest) = data.split_first_chunk::<SEED>()?;
    Some((u16::from_le_bytes(*seed), rest))
}

/// In what pieces bytes arrive.
#[derive(Debug, Clone)]
pub(crate) enum Pieces {
    /// All at once.
    Whole,
    /// One by one.
    Bytes,
    /// In pieces of 1 to 64 bytes, as this state has it.
    Seeded(u32),
}

impl Pieces {
    /// The length of the next piece, of `left` bytes, at least 1.
    pub(crate) fn next(&mut self, left: usize) -> usize {
        match self {
            Self::Whole => left,
            Self::Bytes => 1,
            Self::Seeded(state) => {
                // Xorshift: nothing but a spread is wanted of it, the same on every machine.
                *state ^= *state << 13;
                *state ^= *state >> 17;
                *state ^= *state << 5;
                // Half of the pieces are tiny: it is at line ends that splits hurt.
                let most = if *state & 0x100 == 0 { 4 } else { 64 };
                (*state as usize % most + 1).min(left)
            }
        }
    }

    /// The ways in which an input is read, beside whole.
    pub(crate) fn ways(seed: u16) -> [Self; 2] {
        [Self::Bytes, Self::Seeded(u32::from(seed) | 0x9e37_0000)]
    }
}

#[cfg(test)]
mod tests;
