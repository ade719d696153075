//! ExtensionRef filters: what they name, as the wire has it. The only kind is FaultInjection of `weft.dev`.
//!
//! A reference that leads nowhere is not skipped, or requests would pass that it was meant to stop (Gateway API
//! `HTTPRouteFilter.extensionRef`): its rule, or share, answers 500, and ResolvedRefs says so.
//!
//! A fault that says one of the two statuses means the other by it: an HTTP status by what gRPC's clients make of one
//! (gRPC "HTTP to gRPC Status Code Mapping"), a gRPC status by `google.rpc.Code`'s own table.

use weft_proto::v1;

use super::rules::{Wrong, millis};
use super::short;
use crate::model::{ExtensionRef, FaultInjection, Model};

/// The fault that a filter names.
///
/// # Errors
/// When there is none by that name, or it names something else.
pub(super) fn named(reference: &ExtensionRef, model: &Model) -> Result<v1::Fault, Wrong> {
    let ExtensionRef { group, kind, name } = reference;
    if !reference.is_fault_injection() {
        let message = format!(
            "ExtensionRef {} is a {} of group {}: this version knows FaultInjection of weft.dev only",
            short(&name.name),
            short(kind),
            short(group)
        );
        return Err(Wrong::unresolved("InvalidKind", message));
    }
    match model.fault_injection(name) {
        Some(fault) => Ok(wire(fault)),
        None => {
            let message = format!(
                "there is no FaultInjection {name} that can be used: make it, in the route's namespace, or read its status"
            );
            Err(Wrong::unresolved("FilterNotFound", message))
        }
    }
}

fn wire(fault: &FaultInjection) -> v1::Fault {
    v1::Fault {
        name: fault.meta.name.to_string(),
        delay: fault.delay.as_ref().map(|delay| v1::FaultDelay {
            fixed: Some(millis(delay.fixed)),
            numerator: delay.share.numerator,
            denominator: delay.share.denominator,
        }),
        abort: fault.abort.as_ref().map(|abort| {
            let (http, grpc) = statuses(abort.http_status, abort.grpc_status);
            v1::FaultAbort {
                http_status: http.into(),
                grpc_status: grpc.into(),
                numerator: abort.share.numerator,
                denominator: abort.share.denominator,
            }
        }),
    }
}

/// Both, where one is given. The schema has at least one; without any it is a server that is not available.
fn statuses(http: Option<u16>, grpc: Option<u8>) -> (u16, u8) {
    const UNAVAILABLE: u8 = 14;
    match (http, grpc) {
        (Some(http), Some(grpc)) => (http, grpc),
        (Some(http), None) => (http, grpc_of(http)),
        (None, grpc) => {
            let grpc = grpc.unwrap_or(UNAVAILABLE);
            (http_of(grpc), grpc)
        }
    }
}

/// gRPC "HTTP to gRPC Status Code Mapping".
fn grpc_of(http: u16) -> u8 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `google.rpc.Code`.
fn http_of(grpc: u8) -> u16 {
    match grpc {
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_stands_for_the_other() {
        for (http, grpc, both) in [
            (Some(503), None, (503, 14)),
            (Some(418), None, (418, 2)),
            (Some(404), None, (404, 12)),
            (None, Some(8), (429, 8)),
            (None, Some(4), (504, 4)),
            (None, Some(15), (500, 15)),
            (Some(200), Some(1), (200, 1)),
        ] {
            assert_eq!(statuses(http, grpc), both, "{http:?} {grpc:?}");
        }
    }
}
