//! The names resources go by.

use std::fmt;
use std::str::FromStr;

/// The name of the [`MeshSettings`](crate::v1::MeshSettings) resource.
pub const MESH_SETTINGS: &str = "mesh";

/// The name under which a proxy asks for its own [`Workload`](crate::v1::Workload) and
/// [`InboundPolicy`](crate::v1::InboundPolicy).
pub const SELF: &str = "self";

/// `namespace/name` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// `namespace/name:port`: the endpoints behind one port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointsName {
    /// The service.
    pub service: ServiceName,
    /// The service's port, not the endpoints'.
    pub port: u16,
}

impl ServiceName {
    /// A name from its parts, which are taken as they are.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The endpoints behind `port`.
    pub fn endpoints(&self, port: u16) -> EndpointsName {
        EndpointsName { service: self.clone(), port }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for EndpointsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// A text that is no resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a resource name")]
pub struct InvalidName(String);

impl FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty()
                    && !name.is_empty()
                    && !name.contains(['/', ':'])
                    && !namespace.contains(':') =>
            {
                Ok(Self::new(namespace, name))
            }
            _ => Err(InvalidName(text.to_owned())),
        }
    }
}

impl FromStr for EndpointsName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidName(text.to_owned());
        let (service, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
        Ok(Self { service: service.parse()?, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_as_they_parse() {
        let name: EndpointsName = "shop/reviews:8080".parse().unwrap();
        assert_eq!(name, ServiceName::new("shop", "reviews").endpoints(8080));
        assert_eq!(name.to_string(), "shop/reviews:8080");
        for bad in ["", "/", "a/", "/b", "a/b/c", "a/b:0", "a/b:65536", "a/b:", "10.0.0.1"] {
            assert!(bad.parse::<EndpointsName>().is_err(), "{bad}");
        }
    }
}
