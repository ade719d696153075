//! Whether the cluster is one that Weft runs on. Pure.

use std::time::Duration;

use super::facts::{Crd, Facts, NodeFacts};
use super::finding::{Finding, Group, count, some};
use crate::cluster::Server;
use crate::duration;
use crate::seen::Seen;

const GROUP: Group = Group::Kubernetes;
/// The oldest API server that Weft runs on.
const OLDEST: (u32, u32) = (1, 27);
/// From this kubelet on, native sidecars work: an init container that goes on (`restartPolicy: Always`).
const NATIVE_SIDECARS: (u32, u32) = (1, 29);
/// Routes may have a Service as their parent from this release on.
const OLDEST_GATEWAY_API: (u32, u32) = (1, 1);
/// The release that Weft is tested with.
const GATEWAY_API: &str = "v1.6.3";
/// Certificates are good from this long before they are made.
const SKEW: Duration = Duration::from_secs(30);

/// All checks of the cluster.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![api_server(&facts.url, &facts.server)];
    if let Seen::Found(server) = &facts.server {
        findings.extend(clock(server));
        findings.push(kubelets(&facts.nodes));
        findings.push(gateway_api(&facts.gateway));
    }
    findings
}

fn api_server(url: &str, server: &Seen<Server>) -> Finding {
    let server = match server {
        Seen::Found(server) => server,
        Seen::Absent => return Finding::error(GROUP, "api-server", format!("{url} is no API server")),
        Seen::Unknown(why) => return Finding::error(GROUP, "api-server", why),
    };
    match server.minor {
        Some(version) if version < OLDEST => {
            let oldest = format!("{}.{}", OLDEST.0, OLDEST.1);
            let what = format!("the API server is {}, and Weft needs {oldest} or later", server.version);
            Finding::error(GROUP, "api-server", what).fix("upgrade Kubernetes")
        }
        Some(_) => Finding::ok(GROUP, "api-server", format!("API server {} at {url}", server.version)),
        None => Finding::warning(GROUP, "api-server", format!("the API server's version is odd: {}", server.version)),
    }
}

/// Certificates have a beginning and an end, so clocks matter. What is seen here is this machine's; nodes are as likely to
/// be wrong, but nobody says.
fn clock(server: &Server) -> Option<Finding> {
    let clock = server.clock?;
    let (apart, which) = match server.ours.duration_since(clock) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    Some(if apart > SKEW {
        let what = format!("this machine's clock is {} {which} the API server's", duration::show(apart));
        Finding::warning(GROUP, "clock", what)
            .fix("let both follow NTP: where clocks of the cluster differ by more than 60 s, certificates are refused")
    } else {
        Finding::ok(GROUP, "clock", "the API server's clock agrees with this machine's")
    })
}

fn kubelets(nodes: &Seen<Vec<NodeFacts>>) -> Finding {
    let nodes = match nodes {
        Seen::Found(nodes) => nodes,
        Seen::Absent => return Finding::warning(GROUP, "kubelets", "there are no nodes").fix("add a node"),
        Seen::Unknown(why) => return Finding::unknown(GROUP, "kubelets", "nodes", why),
    };
    if nodes.is_empty() {
        return Finding::error(GROUP, "kubelets", "there are no nodes").fix("add a node: nothing can run");
    }
    let old: Vec<String> = nodes
        .iter()
        .filter(|node| minor(&node.kubelet).is_some_and(|version| version < NATIVE_SIDECARS))
        .map(|node| format!("{} ({})", node.name, node.kubelet))
        .collect();
    if old.is_empty() {
        let what = format!("{} with native sidecars", count(nodes.len(), "node"));
        return Finding::ok(GROUP, "kubelets", what);
    }
    let what = format!("{} too old for native sidecars: {}", count(old.len(), "kubelet"), some(&old, 5));
    Finding::warning(GROUP, "kubelets", what).fix(
        "upgrade to 1.29 or later; until then sidecars are classic containers, and Jobs get none unless they ask for it",
    )
}

fn gateway_api(crd: &Seen<Crd>) -> Finding {
    let install = format!(
        "kubectl apply --server-side -f \
         https://github.com/kubernetes-sigs/gateway-api/releases/download/{GATEWAY_API}/standard-install.yaml"
    );
    let crd = match crd {
        Seen::Found(crd) => crd,
        Seen::Absent => {
            let what = "the Gateway API is not installed, so there are no HTTPRoutes (all else works)";
            return Finding::warning(GROUP, "gateway-api", what).fix(install);
        }
        Seen::Unknown(why) => return Finding::unknown(GROUP, "gateway-api", "the Gateway API's CRDs", why),
    };
    let bundle = crd.bundle.as_deref().unwrap_or("of unknown version");
    let too_old = crd.bundle.as_deref().and_then(minor).is_some_and(|version| version < OLDEST_GATEWAY_API);
    if too_old || !crd.served.iter().any(|version| version == "v1") {
        let what = format!("the Gateway API {bundle} is too old: routes for Services came with v1.1");
        return Finding::error(GROUP, "gateway-api", what).fix(install);
    }
    let channel = crd.channel.as_deref().map(|channel| format!(", {channel} channel")).unwrap_or_default();
    Finding::ok(GROUP, "gateway-api", format!("Gateway API {bundle}{channel}"))
}

/// Major and minor of `v1.36.2`, `v1.29.4-gke.100` and the like.
pub(super) fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor.get(..digits)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::finding::Level;
    use super::*;

    fn server(minor: Option<(u32, u32)>, ahead: i64) -> Server {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let shift = Duration::from_secs(ahead.unsigned_abs());
        let ours = if ahead < 0 { clock - shift } else { clock + shift };
        Server { version: "v1.x".to_owned(), minor, clock: Some(clock), ours }
    }

    #[test]
    fn an_api_server_must_be_new_enough() {
        for (minor, expected) in [
            (Some((1, 26)), Level::Error),
            (Some((1, 27)), Level::Ok),
            (Some((1, 36)), Level::Ok),
            (Some((2, 0)), Level::Ok),
            (None, Level::Warning),
        ] {
            assert_eq!(api_server("u", &Seen::Found(server(minor, 0))).level, expected, "{minor:?}");
        }
        let unreachable = api_server("u", &Seen::Unknown("cannot be reached".to_owned()));
        assert_eq!((unreachable.level, &*unreachable.what), (Level::Error, "cannot be reached"));
    }

    #[test]
    fn clocks_far_apart_are_said() {
        for (ahead, level, says) in [
            (0, Level::Ok, "agrees"),
            (30, Level::Ok, "agrees"),
            (-29, Level::Ok, "agrees"),
            (31, Level::Warning, "is 31 s ahead of"),
            (-120, Level::Warning, "is 2 min behind"),
        ] {
            let finding = clock(&server(None, ahead)).unwrap();
            assert!(finding.level == level && finding.what.contains(says), "{ahead}: {finding:?}");
        }
        assert_eq!(clock(&Server { clock: None, ..server(None, 0) }), None);
    }

    #[test]
    fn one_old_kubelet_is_named() {
        let node = |name: &str, kubelet: &str| NodeFacts { name: name.to_owned(), kubelet: kubelet.to_owned() };
        for (nodes, level, says) in [
            (vec![], Level::Error, "no nodes"),
            (vec![node("a", "v1.36.2")], Level::Ok, "1 node with native sidecars"),
            (vec![node("a", "v1.29.0"), node("b", "v1.30.4-gke.100")], Level::Ok, "2 nodes"),
            (
                vec![node("a", "v1.28.9"), node("b", "v1.30.1")],
                Level::Warning,
                "1 kubelet too old for native sidecars: a (v1.28.9)",
            ),
        ] {
            let finding = kubelets(&Seen::Found(nodes));
            assert!(finding.level == level && finding.what.contains(says), "{finding:?}");
        }
    }

    #[test]
    fn the_gateway_api_must_know_services_as_parents() {
        let crd = |served: &[&str], bundle: Option<&str>| {
            let served = served.iter().map(|&version| version.to_owned()).collect();
            Seen::Found(Crd { served, bundle: bundle.map(str::to_owned), channel: Some("standard".to_owned()) })
        };
        for (row, crd, level) in [
            ("absent", Seen::Absent, Level::Warning),
            ("current", crd(&["v1", "v1beta1"], Some("v1.6.3")), Level::Ok),
            ("no annotation", crd(&["v1"], None), Level::Ok),
            ("first with Services", crd(&["v1"], Some("v1.1.0")), Level::Ok),
            ("before Services", crd(&["v1"], Some("v1.0.0")), Level::Error),
            ("before v1", crd(&["v1beta1"], Some("v0.8.1")), Level::Error),
        ] {
            let finding = gateway_api(&crd);
            assert_eq!(finding.level, level, "{row}");
            assert_eq!(finding.fix.is_some(), level != Level::Ok, "{row}");
        }
    }
}
