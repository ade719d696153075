//! An endpoint's standing in 64 bits: see the table in `outlier.rs`, whose transitions move it.

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    InUse,
    Ejected,
    Probing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) phase: Phase,
    pub(super) level: u8,
    pub(super) failures: u16,
    pub(super) when: u64,
}

pub(super) const LEVEL_MAX: u8 = 0x3f;
pub(super) const WHEN_MAX: u64 = (1 << 40) - 1;

impl Word {
    pub(super) fn unpack(bits: u64) -> Self {
        Self {
            phase: match bits & 0b11 {
                1 => Phase::Ejected,
                2 => Phase::Probing,
                _ => Phase::InUse,
            },
            level: (bits >> 2) as u8 & LEVEL_MAX,
            failures: (bits >> 8) as u16,
            when: bits >> 24,
        }
    }

    pub(super) fn pack(self) -> u64 {
        let phase = match self.phase {
            Phase::InUse => 0,
            Phase::Ejected => 1,
            Phase::Probing => 2,
        };
        phase
            | u64::from(self.level.min(LEVEL_MAX)) << 2
            | u64::from(self.failures) << 8
            | self.when.min(WHEN_MAX) << 24
    }

    /// Ejections still remembered at `now`, one being forgotten every `interval_ms` (at least one).
    pub(super) fn level_at(self, now: u64, interval_ms: u64) -> u8 {
        let clean = now.saturating_sub(self.when) / interval_ms;
        self.level.saturating_sub(u8::try_from(clean).unwrap_or(u8::MAX))
    }
}
