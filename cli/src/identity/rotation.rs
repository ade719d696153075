//! Where a rotation is, told from the annotations of Secret `weft-ca` (`control-plane/src/identity/rotation.rs` writes them).
//! Pure. Its data, which holds the key, is never asked for.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_control_plane::identity::{ANSWERED, ROTATE, SINCE, STEP, WITHDRAW_AT};

use crate::duration;
use crate::roots;

/// Where a rotation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rotation {
    /// `stable`, `distributing`, `switched` or `retiring`; empty where nothing is written.
    pub(crate) step: String,
    /// When that began.
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<SystemTime>,
    /// When the old root is withdrawn.
    #[serde(serialize_with = "maybe", skip_serializing_if = "Option::is_none")]
    pub(crate) withdraw_at: Option<SystemTime>,
    /// Whether a rotation is asked for that has not begun.
    pub(crate) asked: bool,
}

impl Rotation {
    /// As `annotations` say.
    pub(crate) fn of(annotations: &BTreeMap<String, String>) -> Self {
        let note = |name| annotations.get(name).map(String::as_str).filter(|note| !note.is_empty());
        let instant = |name| OffsetDateTime::parse(note(name)?, &Rfc3339).ok().map(SystemTime::from);
        Self {
            step: note(STEP).unwrap_or_default().to_owned(),
            since: instant(SINCE),
            withdraw_at: instant(WITHDRAW_AT),
            asked: note(ROTATE).is_some() && note(ROTATE) != note(ANSWERED),
        }
    }

    /// Whether one is under way or about to be.
    pub(crate) fn runs(&self) -> bool {
        self.asked || !matches!(&*self.step, "stable" | "")
    }

    /// What it is doing, in a line.
    pub(crate) fn doing(&self) -> &'static str {
        match &*self.step {
            "distributing" => "the new root is trusted; the old one still signs",
            "switched" => "the new root signs; every replica is about to see that",
            "retiring" => "the new root signs; the old one is trusted until nothing is left that it signed",
            _ if self.asked => "a rotation is asked for and about to begin",
            "stable" => "no rotation is under way",
            _ => "nothing is written down: the control plane has not started yet, or is older than this weft",
        }
    }

    /// What must happen before it goes on; none where nothing is under way.
    pub(crate) fn waits_for(&self, now: SystemTime) -> Option<String> {
        match &*self.step {
            "distributing" => Some(
                "every connected proxy to acknowledge the new trust bundle, and at least 3 min for pods that are starting; \
                 it goes on without those that do not once every certificate from before has ended"
                    .to_owned(),
            ),
            "switched" => Some("every replica to see the switch, at most 3 min".to_owned()),
            "retiring" => Some(match self.withdraw_at {
                Some(at) if at > now => format!(
                    "the last certificate by the old root to end, at {} ({})",
                    duration::stamp(at),
                    duration::relative(at, now)
                ),
                _ => "the leader to withdraw the old root, which is due".to_owned(),
            }),
            _ if self.asked => Some("the leader of the control plane to begin".to_owned()),
            _ => None,
        }
    }

    /// What the root at `index` of the trust bundle is for: the one that signs comes first.
    pub(crate) fn role(&self, index: usize) -> &'static str {
        match (index, &*self.step) {
            (0, _) => "signs",
            (1, "distributing") => "next",
            (1, "switched" | "retiring") => "retiring",
            _ => "trusted",
        }
    }
}

fn maybe<S: serde::Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => roots::rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(notes: &[(&str, &str)]) -> Rotation {
        Rotation::of(&notes.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    const WHEN: &str = "2026-11-25T20:00:00Z";

    #[test]
    fn each_step_says_what_it_waits_for() {
        let now = SystemTime::from(OffsetDateTime::parse("2026-11-25T20:30:00Z", &Rfc3339).unwrap());
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], bool, Option<&'a str>);
        let rows: &[Row<'_>] = &[
            ("nothing is written", &[], false, None),
            ("stable", &[(STEP, "stable"), (SINCE, WHEN)], false, None),
            ("answered", &[(STEP, "stable"), (ROTATE, "a"), (ANSWERED, "a")], false, None),
            ("asked", &[(STEP, "stable"), (ROTATE, "b"), (ANSWERED, "a")], true, Some("the leader")),
            ("distributing", &[(STEP, "distributing"), (SINCE, WHEN)], true, Some("every connected proxy")),
            (
                "asked again meanwhile",
                &[(STEP, "switched"), (ROTATE, "b"), (ANSWERED, "a")],
                true,
                Some("every replica"),
            ),
            ("retiring", &[(STEP, "retiring"), (WITHDRAW_AT, "2026-11-26T20:31:00Z")], true, Some("in 1 d")),
            ("retiring, due", &[(STEP, "retiring"), (WITHDRAW_AT, WHEN)], true, Some("which is due")),
            ("no time", &[(STEP, "retiring"), (WITHDRAW_AT, "soon")], true, Some("which is due")),
        ];
        for (row, notes, runs, waits_for) in rows {
            let rotation = rotation(notes);
            assert_eq!(rotation.runs(), *runs, "{row}");
            let said = rotation.waits_for(now);
            match waits_for {
                Some(expected) => assert!(said.as_deref().is_some_and(|s| s.contains(expected)), "{row}: {said:?}"),
                None => assert_eq!(said, None, "{row}"),
            }
        }
    }

    #[test]
    fn roots_have_the_role_that_the_step_gives_them() {
        for (step, roles) in [
            ("stable", ["signs", "trusted"]),
            ("distributing", ["signs", "next"]),
            ("switched", ["signs", "retiring"]),
            ("retiring", ["signs", "retiring"]),
        ] {
            let rotation = rotation(&[(STEP, step)]);
            assert_eq!([rotation.role(0), rotation.role(1)], roles, "{step}");
        }
    }
}
