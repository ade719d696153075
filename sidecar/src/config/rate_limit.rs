//! A RateLimit of the wire, compiled: of this workload's ports, or of a route's rule.

use std::time::Duration;

use http::header::HeaderName;
use weft_proto::v1;

use super::compile::{CompileError, In};
use crate::resilience::{Rate, RateKey, RateLimit};

/// With nothing used.
pub(super) fn compile_rate_limit(wire: &v1::RateLimit) -> Result<RateLimit, CompileError> {
    let ports = wire.ports.iter().enumerate().map(|(index, port)| {
        let number = u16::try_from(*port).ok().filter(|port| *port != 0);
        let valid = number.ok_or_else(|| CompileError::new(format_args!("{port} is not a port")));
        valid.field(format_args!("ports[{index}]"))
    });
    let per = wire.per.as_ref().map_or(0, |per| per.value);
    let rate = Rate::new(wire.requests, Duration::from_millis(per), wire.burst).map_err(CompileError::new)?;
    let key = match v1::RateKey::try_from(wire.key) {
        Ok(v1::RateKey::All) => RateKey::All,
        Ok(v1::RateKey::Identity) => RateKey::Identity,
        Ok(v1::RateKey::SourceIp) => RateKey::SourceIp,
        Ok(v1::RateKey::Header) => RateKey::Header(HeaderName::from_bytes(wire.header.as_bytes()).field("header")?),
        Err(_) => return Err(CompileError::new("not known to this version of the sidecar")).field("key"),
    };
    Ok(RateLimit::new(&*wire.name, ports.collect::<Result<_, CompileError>>()?, key, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::RateLimit {
        v1::RateLimit {
            name: "shop/limit".into(),
            ports: vec![8080],
            requests: 10,
            per: Some(v1::Millis { value: 1_000 }),
            burst: 2,
            key: v1::RateKey::Header.into(),
            header: "X-User".into(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Break = fn(&mut v1::RateLimit);
        let rows: [(Break, &str); 7] = [
            (|l| l.ports.push(0), "ports[1]: 0 is not a port"),
            (|l| l.requests = 0, "0 requests in 1s, 2 at once, is no rate"),
            (|l| l.per = None, "10 requests in 0ns"),
            (|l| l.burst = 0, "10 requests in 1s, 0 at once"),
            (|l| l.key = 9, "key: not known to this version"),
            (|l| l.header = "a b".into(), "header: "),
            (|l| l.header.clear(), "header: "),
        ];
        for (change, says) in rows {
            let mut wrong = wire();
            change(&mut wrong);
            let error = compile_rate_limit(&wrong).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
        let limit = |ports: &[u32]| compile_rate_limit(&v1::RateLimit { ports: ports.to_vec(), ..wire() }).unwrap();
        assert_eq!(limit(&[8080]).to_string(), "shop/limit: 10 in 1s, 2 at once of each x-user, 0 known, ports [8080]");
        assert_eq!(limit(&[]).to_string(), "shop/limit: 10 in 1s, 2 at once of each x-user, 0 known");
    }
}
