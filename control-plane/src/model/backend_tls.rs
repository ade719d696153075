//! BackendTLSPolicy, and the ConfigMaps that it names: of a ConfigMap nothing is kept but the certificates in `ca.crt`.

use super::{Meta, ObjectName};

/// A BackendTLSPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendTlsPolicy {
    /// Metadata.
    pub meta: Meta,
    /// What it is for, in its own namespace.
    pub targets: Vec<PolicyTarget>,
    /// `validation.hostname`, as written.
    pub hostname: String,
    /// `validation.caCertificateRefs`, in its own namespace.
    pub ca_refs: Vec<LocalRef>,
    /// `validation.wellKnownCACertificates`, as written.
    pub well_known: Option<String>,
    /// `validation.subjectAltNames`
    pub names: Vec<SubjectAltName>,
    /// Keys of `options`, sorted.
    pub options: Vec<String>,
}

/// A targetRef.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicyTarget {
    /// Core group is `""`.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// A port of a Service by name.
    pub section_name: Option<String>,
}

/// A reference to an object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalRef {
    /// Core group is `""`.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// One name of a certificate, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectAltName {
    /// A DNS name, exact or `*.` and a suffix.
    Hostname(String),
    /// A URI.
    Uri(String),
}

impl PolicyTarget {
    /// Whether it is ours to answer.
    pub fn is_service(&self) -> bool {
        matches!(&*self.group, "" | "core") && self.kind == "Service"
    }
}

impl LocalRef {
    /// Whether it is of the one kind that can be a policy's target.
    pub fn is_service(&self) -> bool {
        matches!(&*self.group, "" | "core") && self.kind == "Service"
    }

    /// Whether it is of the one kind that can be read.
    pub fn is_config_map(&self) -> bool {
        matches!(&*self.group, "" | "core") && self.kind == "ConfigMap"
    }
}

impl BackendTlsPolicy {
    /// The Services it is for.
    pub fn services(&self) -> impl Iterator<Item = ObjectName> {
        let targets = self.targets.iter().filter(|target| target.is_service());
        targets.map(|target| ObjectName::new(&*self.meta.name.namespace, &*target.name))
    }

    /// The ConfigMaps it names.
    pub fn config_maps(&self) -> impl Iterator<Item = ObjectName> {
        let refs = self.ca_refs.iter().filter(|reference| reference.is_config_map());
        refs.map(|reference| ObjectName::new(&*self.meta.name.namespace, &*reference.name))
    }
}

/// A ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigMap {
    /// Metadata.
    pub meta: Meta,
    /// What is in `ca.crt`, or why that is of no use.
    pub ca: Result<Vec<Certificate>, String>,
}

/// A certificate that can be trusted, DER.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Certificate(pub Vec<u8>);
