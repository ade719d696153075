//! What annotations say: a pod's before its namespace's before the settings'. Lists replace, they do not add up; an empty
//! list is one, too. Pure.
//!
//! Two annotations are also read by the control plane from the pod itself (which ports do not speak mesh TLS, which are
//! opaque), so what comes from elsewhere is written to the pod: [`Asked::to_spell_out`].

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::settings::{InjectSettings, Resources, SidecarMode};
use super::values::{self, PortRange, Quantity};
use super::{INJECTED, Mode, Refusal, ranges};

/// Ports of the app that are reached without the sidecar.
pub(super) const EXCLUDE_INBOUND_PORTS: &str = "weft.dev/exclude-inbound-ports";
const EXCLUDE_OUTBOUND_PORTS: &str = "weft.dev/exclude-outbound-ports";
const EXCLUDE_OUTBOUND_CIDRS: &str = "weft.dev/exclude-outbound-cidrs";
const INCLUDE_OUTBOUND_CIDRS: &str = "weft.dev/include-outbound-cidrs";
const OPAQUE_PORTS: &str = "weft.dev/opaque-ports";
const CPU_REQUEST: &str = "weft.dev/proxy-cpu-request";
const CPU_LIMIT: &str = "weft.dev/proxy-cpu-limit";
const MEMORY_REQUEST: &str = "weft.dev/proxy-memory-request";
const MEMORY_LIMIT: &str = "weft.dev/proxy-memory-limit";
const LOG_LEVEL: &str = "weft.dev/log-level";
const IMAGE: &str = "weft.dev/image";
const TRACE_SAMPLING: &str = "weft.dev/trace-sampling";
/// How long a drain may take.
pub(super) const DRAIN_SECONDS: &str = "weft.dev/drain-seconds";
/// Native or classic.
pub(super) const SIDECAR_MODE: &str = "weft.dev/sidecar-mode";

/// Every annotation of injection: its key, what it takes, and what it does. The documentation's table is held against this.
pub const KNOWN: [(&str, &str, &str); 14] = [
    (EXCLUDE_INBOUND_PORTS, "ports: 9090,9091", "reached without the sidecar: no mesh TLS, no policy, no metrics"),
    (EXCLUDE_OUTBOUND_PORTS, "ports and ranges: 5432,9000-9010", "destination ports that the app reaches directly"),
    (EXCLUDE_OUTBOUND_CIDRS, "address ranges: 10.1.0.0/16", "destinations that the app reaches directly"),
    (INCLUDE_OUTBOUND_CIDRS, "address ranges: 10.0.0.0/8", "only these destinations go through the sidecar"),
    (OPAQUE_PORTS, "ports: 3306", "ports of the app whose bytes are not looked into"),
    (CPU_REQUEST, "an amount: 100m, or none", "the sidecar's CPU request"),
    (CPU_LIMIT, "an amount: 2, or none", "the sidecar's CPU limit"),
    (MEMORY_REQUEST, "an amount: 64Mi, or none", "the sidecar's memory request"),
    (MEMORY_LIMIT, "an amount: 512Mi, or none", "the sidecar's memory limit"),
    (LOG_LEVEL, "error, warn, info, debug, trace, or directives", "what the sidecar logs"),
    (IMAGE, "an image", "the sidecar's image; refused unless injection.allowImageAnnotation is true"),
    (TRACE_SAMPLING, "a percentage: 1%", "the share of the app's own requests that start a trace"),
    (DRAIN_SECONDS, "whole seconds: 20", "how long the sidecar's drain may take; the grace period less 2 s"),
    (SIDECAR_MODE, "native or classic", "how the sidecar runs; on a Job's pod, classic injects it all the same"),
];

/// What all that comes to for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// None: by the cluster's versions.
    pub mode: Option<Mode>,
    /// Ports of the app that are reached without the sidecar.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports that the app reaches directly.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Destinations that the app reaches directly.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Of the sidecar.
    pub resources: Resources,
    /// What it logs.
    pub log_level: String,
    /// Its image; that of the redirection is the settings', whatever is asked.
    pub image: String,
    /// The share of requests that start a trace.
    pub trace_sampling: Option<String>,
    /// How long its drain may take, if said.
    pub drain_seconds: Option<u64>,
    /// Annotations of the pod that say what its namespace or the settings say.
    pub to_spell_out: Vec<(&'static str, String)>,
    /// What the pod's owner should know.
    pub warnings: Vec<String>,
}

impl Asked {
    /// Reads everything.
    ///
    /// # Errors
    /// The first annotation that does not say what it could say.
    pub(super) fn read(
        pod: Option<&BTreeMap<String, String>>,
        namespace: &BTreeMap<String, String>,
        settings: &InjectSettings,
    ) -> Result<Self, Refusal> {
        let all = Annotations { pod, namespace };
        let inbound = all.read(EXCLUDE_INBOUND_PORTS, |text| values::list(text, values::port))?;
        let outbound = all.read(EXCLUDE_OUTBOUND_PORTS, |text| values::list(text, str::parse))?;
        let excluded = all.read(EXCLUDE_OUTBOUND_CIDRS, |text| values::list(text, values::cidr))?;
        let included = all.read(INCLUDE_OUTBOUND_CIDRS, |text| values::list(text, values::cidr))?;
        let opaque = all.read(OPAQUE_PORTS, |text| values::list(text, values::port))?;
        let resources = Resources {
            cpu_request: all.amount(CPU_REQUEST, settings.resources.cpu_request.as_ref())?,
            cpu_limit: all.amount(CPU_LIMIT, settings.resources.cpu_limit.as_ref())?,
            memory_request: all.amount(MEMORY_REQUEST, settings.resources.memory_request.as_ref())?,
            memory_limit: all.amount(MEMORY_LIMIT, settings.resources.memory_limit.as_ref())?,
        };
        resources.check().map_err(Refusal::Resources)?;
        let mode = match settings.sidecar_mode {
            SidecarMode::Auto => None,
            SidecarMode::Native => Some(Mode::Native),
            SidecarMode::Classic => Some(Mode::Classic),
        };
        let exclude_inbound_ports = inbound.unwrap_or_else(|| settings.exclude_inbound_ports.clone());
        let mut exclude_outbound_cidrs = excluded.unwrap_or_else(|| settings.exclude_outbound_cidrs.clone());
        let included = included.unwrap_or_else(|| settings.include_outbound_cidrs.clone());
        if !included.is_empty() {
            exclude_outbound_cidrs.extend(ranges::all_but(&included));
        }
        let to_spell_out =
            [(EXCLUDE_INBOUND_PORTS, &exclude_inbound_ports), (OPAQUE_PORTS, &opaque.unwrap_or_default())]
                .into_iter()
                .filter(|(key, ports)| !ports.is_empty() && !all.of_pod(key))
                .map(|(key, ports)| (key, joined(ports)))
                .collect();
        Ok(Self {
            mode: all.read(SIDECAR_MODE, sidecar_mode)?.or(mode),
            exclude_inbound_ports,
            exclude_outbound_ports: outbound.unwrap_or_else(|| settings.exclude_outbound_ports.clone()),
            exclude_outbound_cidrs,
            resources,
            log_level: all.read(LOG_LEVEL, values::log_level)?.unwrap_or_else(|| settings.log_level.clone()),
            image: all
                .read(IMAGE, |text| image(text, settings.allow_image_annotation))?
                .unwrap_or_else(|| settings.image.clone()),
            trace_sampling: all.read(TRACE_SAMPLING, values::percentage)?.or_else(|| settings.trace_sampling.clone()),
            drain_seconds: all.read(DRAIN_SECONDS, seconds)?,
            to_spell_out,
            warnings: unknown(pod),
        })
    }
}

/// The two places where an annotation may be.
struct Annotations<'a> {
    pod: Option<&'a BTreeMap<String, String>>,
    namespace: &'a BTreeMap<String, String>,
}

impl Annotations<'_> {
    fn read<T>(
        &self,
        annotation: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        let of_pod = self.pod.and_then(|all| all.get(annotation)).map(|value| ("pod", value));
        let Some((whose, value)) = of_pod.or_else(|| self.namespace.get(annotation).map(|value| ("namespace", value)))
        else {
            return Ok(None);
        };
        let refuse = |why| Refusal::Annotation { annotation, value: values::shortened(value), whose, why };
        read(value).map(Some).map_err(refuse)
    }

    /// `none` takes a default away.
    fn amount(&self, annotation: &'static str, default: Option<&Quantity>) -> Result<Option<Quantity>, Refusal> {
        let read = |text: &str| if text.trim() == "none" { Ok(None) } else { text.parse().map(Some) };
        Ok(self.read(annotation, read)?.unwrap_or_else(|| default.cloned()))
    }

    fn of_pod(&self, annotation: &str) -> bool {
        self.pod.is_some_and(|all| all.contains_key(annotation))
    }
}

/// What runs in our name is the administrator's choice, and pods' owners' where the administrator says so.
fn image(text: &str, allowed: bool) -> Result<String, String> {
    let image = values::image(text)?;
    if allowed {
        Ok(image)
    } else {
        Err("pods may not choose it; leave it out, or let them by injection.allowImageAnnotation, a value of the chart"
            .to_owned())
    }
}

fn sidecar_mode(text: &str) -> Result<Mode, String> {
    match text.trim() {
        "native" => Ok(Mode::Native),
        "classic" => Ok(Mode::Classic),
        _ => Err("use `native` or `classic`".to_owned()),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    let day = 24 * 3600;
    text.trim()
        .parse()
        .ok()
        .filter(|&seconds| seconds <= day)
        .ok_or_else(|| format!("use whole seconds, {day} at most"))
}

fn joined(ports: &[u16]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A mistyped key would otherwise change nothing, silently.
fn unknown(pod: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let keys = pod.into_iter().flat_map(BTreeMap::keys);
    let ours = keys.filter(|key| key.starts_with("weft.dev/") && *key != INJECTED);
    ours.filter(|key| KNOWN.iter().all(|(known, ..)| known != key))
        .map(|key| format!("weft: annotation {} is none that injection knows", values::shortened(key)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("weft.dev/{key}"), (*value).to_owned())).collect()
    }

    fn read(pod: &[(&str, &str)], namespace: &[(&str, &str)], settings: &str) -> Result<Asked, Refusal> {
        let settings = InjectSettings::parse(settings).unwrap();
        Asked::read(Some(&annotations(pod)), &annotations(namespace), &settings)
    }

    #[test]
    fn the_pod_goes_before_its_namespace_before_the_settings() {
        let settings =
            "{excludeInboundPorts: [9090], excludeOutboundPorts: [25], logLevel: warn, sidecarMode: classic}";
        let asked = read(&[], &[], settings).unwrap();
        assert_eq!((asked.exclude_inbound_ports, asked.log_level), (vec![9090], "warn".to_owned()));
        assert_eq!(asked.mode, Some(Mode::Classic));
        assert_eq!(asked.to_spell_out, [(EXCLUDE_INBOUND_PORTS, "9090".to_owned())]);

        let namespace = [("exclude-inbound-ports", "7000, 7001"), ("log-level", "debug"), ("opaque-ports", "3306")];
        let asked = read(&[], &namespace, settings).unwrap();
        assert_eq!((asked.exclude_inbound_ports, asked.log_level), (vec![7000, 7001], "debug".to_owned()));
        let spelled_out = [(EXCLUDE_INBOUND_PORTS, "7000,7001".to_owned()), (OPAQUE_PORTS, "3306".to_owned())];
        assert_eq!(asked.to_spell_out, spelled_out);

        let pod =
            [("exclude-inbound-ports", ""), ("log-level", "trace"), ("sidecar-mode", "native"), ("opaque-ports", "1")];
        let asked = read(&pod, &namespace, settings).unwrap();
        assert_eq!((asked.exclude_inbound_ports, asked.log_level), (vec![], "trace".to_owned()));
        assert_eq!((asked.mode, asked.to_spell_out), (Some(Mode::Native), vec![]));
    }

    #[test]
    fn amounts_replace_the_defaults_one_by_one() {
        let asked = read(&[("proxy-cpu-limit", "2"), ("proxy-memory-limit", "none")], &[], "").unwrap().resources;
        let texts = [&asked.cpu_request, &asked.cpu_limit, &asked.memory_request, &asked.memory_limit];
        let texts = texts.map(|amount| amount.as_ref().map_or("none", Quantity::as_str));
        assert_eq!(texts, ["10m", "2", "32Mi", "none"]);
    }

    #[test]
    fn a_bad_annotation_is_named_with_its_value_and_what_would_be_right() {
        #[rustfmt::skip]
        let rows = [
            ("exclude-inbound-ports",  "80-90",  "ranges are not taken here"),
            ("exclude-outbound-ports", "http",   "a port (1-65535) or a range such as 9000-9010"),
            ("exclude-outbound-cidrs", "10.0/8", "an address range such as 10.0.0.0/8"),
            ("include-outbound-cidrs", "*",      "an address range such as 10.0.0.0/8"),
            ("opaque-ports",           "70000",  "a port (1-65535"),
            ("proxy-cpu-request",      "fast",   "an amount such as 100m"),
            ("proxy-memory-limit",     "64MB",   "an amount such as 100m, 0.5 or 64Mi"),
            ("log-level",              "",       "error, warn, info, debug, trace"),
            ("image",                  "a b",    "an image such as weft.dev/sidecar"),
            ("image",                  "a/b:1",  "let them by injection.allowImageAnnotation"),
            ("trace-sampling",         "0.1",    "a percentage such as 1%"),
            ("drain-seconds",          "20s",    "whole seconds, 86400 at most"),
            ("drain-seconds",          "86401",  "whole seconds, 86400 at most"),
            ("sidecar-mode",           "auto",   "`native` or `classic`"),
        ];
        for (key, value, right) in rows {
            for (pod, namespace, whose) in [(&[(key, value)][..], &[][..], "pod"), (&[], &[(key, value)], "namespace")]
            {
                let message = read(pod, namespace, "").unwrap_err().to_string();
                let named = format!("annotation weft.dev/{key} of the {whose} is `{value}`: ");
                assert!(message.starts_with(&named) && message.contains(right), "{message}");
            }
        }
        let message = read(&[("proxy-memory-request", "1Gi")], &[], "").unwrap_err().to_string();
        assert!(message.contains("the memory request, 1Gi, is above the memory limit, 256Mi"), "{message}");
        let long = read(&[("image", &"x ".repeat(1000))], &[], "").unwrap_err().to_string();
        assert!(long.chars().count() < 1300 && long.contains('…'), "{long}");
    }

    #[test]
    fn a_mistyped_annotation_is_pointed_out() {
        let asked =
            read(&[("exclude-inbond-ports", "80"), ("drain-seconds", "9"), ("injected", "{}")], &[], "").unwrap();
        assert_eq!(asked.warnings, ["weft: annotation weft.dev/exclude-inbond-ports is none that injection knows"]);
    }

    #[test]
    fn included_ranges_become_exclusions() {
        let pod = [("include-outbound-cidrs", "128.0.0.0/1"), ("exclude-outbound-cidrs", "169.254.169.254")];
        let ranges = read(&pod, &[], "").unwrap().exclude_outbound_cidrs;
        let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["169.254.169.254/32", "0.0.0.0/1", "::/0"]);
    }
}
