//! BackendTLSPolicy: what a Service's port asks of servers outside the mesh, and the conditions of policies.
//!
//! Of the policies for a port the oldest acts, on a tie the first by `namespace/name`; those that name the port (`sectionName`)
//! go before those that name the whole Service (GEP-713, GEP-1897). The one that acts does so whatever is wrong with it: a
//! policy that cannot be done lets nothing through, since its author asked for more than plain text, and no younger one
//! takes its place unseen.
//!
//! An ancestor is the Service itself: what is above it in a mesh are clients, which are nobody's object.

use std::borrow::Cow;
use std::net::IpAddr;

use weft_proto::v1::{self, SubjectName, subject_name};

use crate::model::{
    BackendTlsPolicy, LocalRef, Model, ObjectName, ParentRef, PolicyTarget, Service, ServicePort, SubjectAltName,
};
use crate::status::{Condition, ParentStatus, RouteStatus};

/// What a policy comes to, wherever it acts.
struct Meaning {
    wire: v1::BackendTls,
    /// A reason of the Accepted condition, and what is wrong, where it cannot be done at all.
    refused: Option<(&'static str, String)>,
    /// A reason of the ResolvedRefs condition, and what is wrong with which reference.
    bad_refs: Option<(&'static str, String)>,
}

/// What a Service's port asks of its endpoints outside the mesh; `None` where no policy is for it.
pub(super) fn of_port(service: &Service, port: &ServicePort, model: &Model) -> Option<v1::BackendTls> {
    acting(service, &port.name, model).map(|policy| meaning(policy, model).wire)
}

/// The policy that acts on a port.
fn acting<'a>(service: &Service, port: &str, model: &'a Model) -> Option<&'a BackendTlsPolicy> {
    // A port without a name cannot be named.
    let of_port = if port.is_empty() { None } else { first(&service.meta.name, Some(port), model) };
    of_port.or_else(|| first(&service.meta.name, None, model))
}

/// The first of the policies with exactly this target.
fn first<'a>(service: &ObjectName, section: Option<&str>, model: &'a Model) -> Option<&'a BackendTlsPolicy> {
    let targets = |policy: &&BackendTlsPolicy| {
        let mut targets = policy.targets.iter().filter(|target| target.is_service() && target.name == service.name);
        targets.any(|target| target.section_name.as_deref() == section)
    };
    let policies = model.backend_tls_policies_for(service).filter(targets);
    policies.min_by(|a, b| (&a.meta.age, &a.meta.name).cmp(&(&b.meta.age, &b.meta.name)))
}

fn meaning(policy: &BackendTlsPolicy, model: &Model) -> Meaning {
    let mut out = Meaning {
        wire: v1::BackendTls {
            policy: policy.meta.name.to_string(),
            server_name: policy.hostname.clone(),
            ..v1::BackendTls::default()
        },
        refused: None,
        bad_refs: None,
    };
    if let Err(why) = names(policy, &mut out.wire) {
        out.refused = Some(("Invalid", why));
    }
    match (&policy.well_known, &*policy.ca_refs) {
        (Some(known), []) if known == "System" => out.wire.system_roots = true,
        (Some(known), []) => {
            let why = format!("wellKnownCACertificates: {known} is not known; System is, or name a ConfigMap instead");
            out.refused.get_or_insert(("Invalid", why));
        }
        (None, []) => {
            let why = "validation needs caCertificateRefs or wellKnownCACertificates".to_owned();
            out.refused.get_or_insert(("Invalid", why));
        }
        (None, refs) => roots(policy, refs, model, &mut out),
        (Some(_), _) => {
            let why = "validation has both caCertificateRefs and wellKnownCACertificates; keep one".to_owned();
            out.refused.get_or_insert(("Invalid", why));
        }
    }
    if let Some((_, why)) = &out.refused {
        // Nothing else is looked at, so that proxies need not find it good.
        out.wire = v1::BackendTls {
            policy: std::mem::take(&mut out.wire.policy),
            refused: why.clone(),
            ..v1::BackendTls::default()
        };
    }
    out
}

/// The names that a certificate must have.
fn names(policy: &BackendTlsPolicy, wire: &mut v1::BackendTls) -> Result<(), String> {
    if policy.hostname.parse::<IpAddr>().is_ok() || !is_dns_name(&policy.hostname) {
        return Err(format!("validation.hostname must be a DNS name, which `{}` is not", policy.hostname));
    }
    if let Some(option) = policy.options.first() {
        return Err(format!("options has {option}, which this version does not do; remove it"));
    }
    for name in &policy.names {
        wire.names.push(match name {
            SubjectAltName::Hostname(name) if is_dns_name(name.strip_prefix("*.").unwrap_or(name)) => {
                SubjectName { kind: Some(subject_name::Kind::Dns(name.to_ascii_lowercase())) }
            }
            SubjectAltName::Uri(uri) if uri.contains(':') => {
                SubjectName { kind: Some(subject_name::Kind::Uri(uri.clone())) }
            }
            SubjectAltName::Hostname(name) | SubjectAltName::Uri(name) => {
                return Err(format!("subjectAltNames has `{name}`, which no certificate can have"));
            }
        });
    }
    Ok(())
}

fn is_dns_name(name: &str) -> bool {
    rustls_pki_types::DnsName::try_from(name).is_ok()
}

/// The roots of all references that are good.
fn roots(policy: &BackendTlsPolicy, refs: &[LocalRef], model: &Model, out: &mut Meaning) {
    let mut bad: Vec<(&'static str, String)> = Vec::new();
    for reference in refs {
        let name = ObjectName::new(&*policy.meta.name.namespace, &*reference.name);
        if !reference.is_config_map() {
            let group = if reference.group.is_empty() { "core" } else { &reference.group };
            let what = format!("{} {name} of group {group}", reference.kind);
            bad.push(("InvalidKind", format!("{what} cannot hold certificates here; put them into a ConfigMap")));
            continue;
        }
        match model.config_map(&name).map(|config_map| &config_map.ca) {
            Some(Ok(certificates)) => {
                for certificate in certificates {
                    if !out.wire.roots.contains(&certificate.0) {
                        out.wire.roots.push(certificate.0.clone());
                    }
                }
            }
            Some(Err(why)) => bad.push(("InvalidCACertificateRef", format!("ConfigMap {name}: {why}"))),
            None => bad.push((
                "InvalidCACertificateRef",
                format!("there is no ConfigMap {name}, or it cannot be read; create it with a key ca.crt"),
            )),
        }
    }
    let Some((reason, _)) = bad.first() else { return };
    let reason = *reason;
    let why = bad.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; ");
    if out.wire.roots.is_empty() {
        out.refused.get_or_insert(("NoValidCACertificate", why.clone()));
    }
    out.bad_refs = Some((reason, why));
}

/// One entry for each target that is a Service; `None` where there is none.
pub(super) fn status(policy: &BackendTlsPolicy, model: &Model) -> Option<RouteStatus> {
    let meaning = meaning(policy, model);
    let condition = |kind, status, reason: &'static str, message| Condition {
        kind,
        status,
        reason: Cow::Borrowed(reason),
        message,
        observed_generation: policy.meta.generation,
    };
    let targets = policy.targets.iter().filter(|target| target.is_service());
    let parents: Vec<_> = targets
        .map(|target| {
            let accepted = match attached(policy, target, model) {
                Err((reason, message)) => condition("Accepted", false, reason, message),
                Ok(place) => match &meaning.refused {
                    Some((reason, why)) => condition(
                        "Accepted",
                        false,
                        reason,
                        format!("nothing is sent to endpoints of {place} outside the mesh: {why}"),
                    ),
                    None => condition("Accepted", true, "Accepted", format!("in effect for {place}")),
                },
            };
            let resolved = match &meaning.bad_refs {
                Some((reason, why)) => condition("ResolvedRefs", false, reason, why.clone()),
                None => condition("ResolvedRefs", true, "ResolvedRefs", "every reference is valid".to_owned()),
            };
            let ancestor = ParentRef {
                group: Some(target.group.clone()),
                kind: Some(target.kind.clone()),
                namespace: Some(policy.meta.name.namespace.clone()),
                name: target.name.clone(),
                section_name: target.section_name.clone(),
                port: None,
            };
            ParentStatus { parent_ref: ancestor, conditions: vec![accepted, resolved] }
        })
        .collect();
    (!parents.is_empty()).then_some(RouteStatus { parents })
}

/// Where a policy acts, in words.
///
/// # Errors
/// A reason of the Accepted condition and a message where it does not.
fn attached(policy: &BackendTlsPolicy, target: &PolicyTarget, model: &Model) -> Result<String, (&'static str, String)> {
    let name = ObjectName::new(&*policy.meta.name.namespace, &*target.name);
    let Some(service) = model.service(&name) else {
        return Err(("TargetNotFound", format!("there is no Service {name}; create it, or correct the targetRef")));
    };
    let section = target.section_name.as_deref();
    if let Some(section) = section
        && !service.ports.iter().any(|port| port.name == section)
    {
        return Err(("TargetNotFound", format!("Service {name} has no port named {section}")));
    }
    let place = match section {
        Some(section) => format!("port {section} of Service {name}"),
        None => format!("Service {name}"),
    };
    match first(&name, section, model) {
        Some(other) if other.meta.name != policy.meta.name => Err((
            "Conflicted",
            format!("BackendTLSPolicy {} is older, or first by name, and acts on {place}", other.meta.name),
        )),
        _ => Ok(place),
    }
}

#[cfg(test)]
mod tests;
