//! BackendTLSPolicy of the Gateway API, by the schema of v1, and ConfigMaps, of which only certificate authorities are read.
//!
//! What an API server lets pass is never refused here: a policy that were not there would be plain text. What it means, and
//! what of it cannot be done, is `translate/`'s to say, which lets no connection through instead.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::Origin;
use crate::model::{BackendTlsPolicy, Certificate, ConfigMap, LocalRef, Meta, PolicyTarget, SubjectAltName};
use crate::source::files::field::Field;
use crate::source::files::values;

const MAX_TARGETS: usize = 16;
const MAX_CA_REFS: usize = 8;
const MAX_NAMES: usize = 5;
/// Most bytes of certificates in one ConfigMap: they travel with each Service that the policy is for. A web browser's list is
/// three times as long, and is built into proxies (`wellKnownCACertificates: System`).
const MAX_BUNDLE: usize = 64 * 1024;
/// The key that holds certificates.
const CA_KEY: &str = "ca.crt";

const SPEC: &[&str] = &["targetRefs", "validation", "options"];
const TARGET: &[&str] = &["group", "kind", "name", "sectionName"];
const VALIDATION: &[&str] = &["caCertificateRefs", "wellKnownCACertificates", "hostname", "subjectAltNames"];

pub(super) fn policy(meta: Meta, document: &Field<'_>, origin: Origin) -> Option<BackendTlsPolicy> {
    document.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
    let spec = document.require("spec").filter(|spec| spec.only(SPEC, &[]))?;
    let targets = spec.require("targetRefs").map(|list| list.items_up_to(MAX_TARGETS)).unwrap_or_default();
    let validation = spec.require("validation").filter(|validation| validation.only(VALIDATION, &[]))?;
    let refs = validation.get("caCertificateRefs").map(|list| list.items_up_to(MAX_CA_REFS)).unwrap_or_default();
    let names = validation.get("subjectAltNames").map(|list| list.items_up_to(MAX_NAMES)).unwrap_or_default();
    let well_known = validation.get("wellKnownCACertificates").and_then(|field| field.text().map(str::to_owned));
    let hostname = values::text_of(&validation.require("hostname")?, 253)?.to_owned();
    let options = spec.get("options").map(|options| options.entries()).unwrap_or_default();
    let options: BTreeSet<_> = options.iter().map(|(key, _)| (*key).to_owned()).collect();
    let policy = BackendTlsPolicy {
        targets: targets.iter().filter_map(target).collect(),
        hostname,
        ca_refs: refs.iter().filter_map(local_ref).collect(),
        well_known: well_known.filter(|text| !text.is_empty()),
        names: names.iter().filter_map(name).collect(),
        options: options.into_iter().collect(),
        meta,
    };
    if origin == Origin::Manifest {
        check(&policy, &spec, &validation);
    }
    Some(policy)
}

/// What the CRD holds by rules over several fields.
fn check(policy: &BackendTlsPolicy, spec: &Field<'_>, validation: &Field<'_>) {
    match (policy.ca_refs.is_empty(), &policy.well_known) {
        (true, None) => validation.error("needs caCertificateRefs, or wellKnownCACertificates"),
        (false, Some(_)) => validation.error("cannot have both caCertificateRefs and wellKnownCACertificates"),
        _ => {}
    }
    let Some(list) = spec.get("targetRefs") else { return };
    if policy.targets.is_empty() {
        list.error("must hold at least one target");
    }
    for (index, target) in policy.targets.iter().enumerate() {
        let same = |other: &&PolicyTarget| {
            (&other.group, &other.kind, &other.name) == (&target.group, &target.kind, &target.name)
                && (other.section_name == target.section_name || other.section_name.is_none())
        };
        if policy.targets[..index].iter().any(|other| same(&other)) {
            list.error(format_args!("name {} {} twice; give each a sectionName of its own", target.kind, target.name));
        }
    }
}

fn target(field: &Field<'_>) -> Option<PolicyTarget> {
    if !field.only(TARGET, &[]) {
        return None;
    }
    let LocalRef { group, kind, name } = parts(field)?;
    let section_name = field.get("sectionName").and_then(|section| section.text().map(str::to_owned));
    Some(PolicyTarget { group, kind, name, section_name: section_name.filter(|section| !section.is_empty()) })
}

fn local_ref(field: &Field<'_>) -> Option<LocalRef> {
    if !field.only(&["group", "kind", "name"], &[]) {
        return None;
    }
    parts(field)
}

fn parts(field: &Field<'_>) -> Option<LocalRef> {
    let text = |key: &str| Some(field.require(key)?.text()?.to_owned());
    Some(LocalRef { group: text("group")?, kind: text("kind")?, name: text("name")? })
}

fn name(field: &Field<'_>) -> Option<SubjectAltName> {
    if !field.only(&["type", "hostname", "uri"], &[]) {
        return None;
    }
    let text = |key: &str| Some(values::text_of(&field.require(key)?, 253)?.to_owned());
    match field.require("type")?.one_of(&["Hostname", "URI"])? {
        "Hostname" => text("hostname").map(SubjectAltName::Hostname),
        _ => text("uri").map(SubjectAltName::Uri),
    }
}

pub(super) fn config_map(meta: Meta, document: &Field<'_>) -> ConfigMap {
    let ca = document.get("data").and_then(|data| data.get(CA_KEY)).and_then(|field| field.text());
    ConfigMap { meta, ca: ca.map_or_else(|| Err(format!("it has no key {CA_KEY}")), certificates) }
}

/// # Errors
/// Says why it is no list of certificates that proxies could trust.
fn certificates(pem: &str) -> Result<Vec<Certificate>, String> {
    let mut out: Vec<Certificate> = Vec::new();
    let mut size = 0;
    for (index, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let certificate = certificate.map_err(|error| format!("{CA_KEY} is not PEM: {error}"))?;
        if let Err(error) = webpki::anchor_from_trusted_cert(&certificate) {
            return Err(format!("certificate {index} of {CA_KEY} is not one that can be trusted: {error}"));
        }
        let certificate = Certificate(certificate.to_vec());
        if !out.contains(&certificate) {
            size += certificate.0.len();
            out.push(certificate);
        }
    }
    if out.is_empty() {
        return Err(format!("{CA_KEY} holds no certificate in PEM"));
    }
    if size > MAX_BUNDLE {
        return Err(format!(
            "{CA_KEY} holds {size} bytes of certificates, more than {MAX_BUNDLE}; for public servers use \
             wellKnownCACertificates: System"
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_that_can_be_trusted_are_kept() {
        let key = rcgen::KeyPair::generate().unwrap();
        let root = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let twice = format!("# ours\n{root}{root}");
        assert_eq!(certificates(&twice).unwrap().len(), 1, "once each, comments aside");
        for (row, pem, why) in [
            ("nothing", "", "no certificate in PEM"),
            ("no PEM", "certificate", "no certificate in PEM"),
            ("a key", &*key.serialize_pem(), "no certificate in PEM"),
            (
                "no certificate within",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "certificate 0 of ca.crt is not one",
            ),
            ("broken off", "-----BEGIN CERTIFICATE-----\nAAAA\n", "ca.crt is not PEM"),
        ] {
            let error = certificates(pem).expect_err(row);
            assert!(error.contains(why), "{row}: {error}");
        }
    }
}
