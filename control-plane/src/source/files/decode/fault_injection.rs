//! FaultInjection of `weft.dev`, by the schema of its CRD (`charts/weft/kinds`), which is held against this by a test.

use std::time::Duration;

use super::filters::share;
use crate::model::{FaultAbort, FaultDelay, FaultInjection, Meta};
use crate::source::files::field::Field;
use crate::source::files::values;

/// Nobody waits longer to see what becomes of who waits.
const LONGEST: Duration = Duration::from_secs(3600);

/// By their numbers, from 1 on (gRPC's status codes).
const GRPC_STATUSES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const DELAY: &[&str] = &["fixedDelay", "percent", "fraction"];
const ABORT: &[&str] = &["httpStatus", "grpcStatus", "percent", "fraction"];

pub(super) fn fault_injection(meta: Meta, document: &Field<'_>) -> Option<FaultInjection> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let spec = document.require("spec")?;
    if !spec.only(&["delay", "abort"], &[]) {
        return None;
    }
    let (delay, abort) = (spec.get("delay"), spec.get("abort"));
    if delay.is_none() && abort.is_none() {
        spec.error("needs a delay, an abort, or both");
    }
    // Both are read before either is given up: all that is wrong is said at once.
    let delay = delay.map(|field| self::delay(&field));
    let abort = abort.map(|field| self::abort(&field));
    Some(FaultInjection {
        meta,
        delay: match delay {
            Some(delay) => Some(delay?),
            None => None,
        },
        abort: match abort {
            Some(abort) => Some(abort?),
            None => None,
        },
    })
}

fn delay(field: &Field<'_>) -> Option<FaultDelay> {
    if !field.only(DELAY, &[]) {
        return None;
    }
    let share = share(field);
    let fixed_field = field.require("fixedDelay")?;
    let fixed = values::duration(&fixed_field)?;
    if fixed.is_zero() || fixed > LONGEST {
        fixed_field.error("must be more than 0s and 1h at most");
        return None;
    }
    Some(FaultDelay { fixed, share: share? })
}

fn abort(field: &Field<'_>) -> Option<FaultAbort> {
    if !field.only(ABORT, &[]) {
        return None;
    }
    let share = share(field);
    let (http, grpc) = (field.get("httpStatus"), field.get("grpcStatus"));
    if http.is_none() && grpc.is_none() {
        field.error("needs httpStatus, grpcStatus, or both");
        return None;
    }
    let http = http.map(|field| field.int_in(200, 599).and_then(|status| u16::try_from(status).ok()));
    let grpc = grpc.map(|field| {
        let name = field.one_of(&GRPC_STATUSES)?;
        let index = GRPC_STATUSES.iter().position(|known| *known == name)?;
        u8::try_from(index + 1).ok()
    });
    Some(FaultAbort {
        http_status: match http {
            Some(status) => Some(status?),
            None => None,
        },
        grpc_status: match grpc {
            Some(status) => Some(status?),
            None => None,
        },
        share: share?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CRD as it is written, without whatever only an API server understands.
    #[test]
    fn the_kind_has_these_fields_and_statuses_and_no_others() {
        let kind = include_str!("../../../../../charts/weft/kinds/faultinjections.yaml");
        let listed: Vec<&str> = kind
            .split_once("enum:\n")
            .and_then(|(_, rest)| rest.split_once("percent:"))
            .map(|(list, _)| list.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect())
            .unwrap_or_default();
        assert_eq!(listed, GRPC_STATUSES);
        for field in DELAY.iter().chain(ABORT) {
            assert!(kind.contains(&format!("{field}:")), "{field} is not in the kind");
        }
    }
}
