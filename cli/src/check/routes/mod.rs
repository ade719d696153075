//! `weft check routes`: every route whose parent is a Service, what is not as it should be, and how many proxies have it; and every
//! object of Weft's own kinds.
//!
//! | file | what it does |
//! |---|---|
//! | `judge.rs` | what a route's status says (pure; `weft check` uses it as well) |
//! | `own.rs` | what the status of an object of Weft's own kinds says (pure) |
//! | `advice.rs` | what to do about it (pure) |
//! | `gather.rs` | asks for objects of every kind there is, and the control plane for counts |
//! | `files.rs` | without a cluster: reads the files of the status directory |
//! | `show.rs` | the table (pure) |
//!
//! Counts are a courtesy: without them everything else is said all the same.

use std::process::ExitCode;

use serde::Serialize;
use weft_control_plane::status::counts::Counts;

use self::files::Refused;
use self::gather::Gathered;
use self::judge::{Proxies, judge_in};
use self::own::Own;
use super::finding::Level;
use crate::args::{RoutesArgs, Target};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::output::{self, Colours};

mod advice;
mod files;
mod gather;
mod judge;
mod own;
mod show;

pub(super) use judge::{At, Problem, has_service_parent, judge};

/// All that is to be said of the routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether there is no problem.
    ok: bool,
    /// How many problems there are, of all routes and objects.
    problems: usize,
    /// Each route at each of its parents; the worst first, then by name.
    routes: Vec<At>,
    /// Each object of Weft's own kinds; the worst first, then by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objects: Vec<Own>,
    /// What is refused of the manifests of a mesh without a cluster: as bad as a problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Refused>,
    /// Kinds that cannot be looked at, and why: as bad as a problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
    /// Why there are no counts, or not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts_unknown: Option<String>,
}

/// `weft check routes`.
///
/// # Errors
/// When the API server cannot be asked, or nobody takes the output.
pub(crate) async fn run(target: &Target, args: &RoutesArgs) -> Result<ExitCode, Error> {
    let only = args.namespace.as_deref();
    let report = match &args.status_dir {
        Some(directory) => Report::new(files::objects(directory, only)?, true, Ok(Counts::default())),
        None => {
            let (cluster, mesh) = (Cluster::of(target).await?, target.mesh());
            let gathered = gather::objects(&cluster, only).await?;
            // Where nothing is routed there is nothing to count.
            let counts = match &*gathered.routes {
                [] => Ok(Counts::default()),
                _ => gather::counts(&cluster, &mesh, only).await,
            };
            Report::new(gathered, false, counts)
        }
    };
    output::print_as(args.output.output, &report, |colours: &Colours| show::show(&report, only, *colours))?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    /// Of what was gathered, `files`: from files.
    fn new(gathered: Gathered, files: bool, counts: Result<Counts, String>) -> Self {
        let routes = gathered.routes.iter().flat_map(|route| judge_in(route, files)).collect();
        let objects = gathered.own.iter().map(|object| own::judge(object, files)).collect();
        Self::of(routes, objects, gathered.unknown, counts).with_refused(gathered.refused)
    }

    fn with_refused(self, refused: Vec<Refused>) -> Self {
        Self { ok: self.ok && refused.is_empty(), refused, ..self }
    }

    fn of(mut routes: Vec<At>, mut objects: Vec<Own>, unknown: Vec<String>, counts: Result<Counts, String>) -> Self {
        let counts_unknown = match &counts {
            Ok(counts) if counts.silent.is_empty() => None,
            Ok(counts) => Some(format!("not heard from {}", counts.silent.join(", "))),
            Err(why) => Some(why.clone()),
        };
        if let Ok(counts) = &counts {
            routes.iter_mut().for_each(|at| at.proxies = counted(at, counts));
        }
        routes.sort_by(|a, b| {
            (b.level(), &a.namespace, &a.name, &a.kind).cmp(&(a.level(), &b.namespace, &b.name, &b.kind))
        });
        objects.sort_by(|a, b| {
            (b.level(), &a.namespace, &a.name, &a.kind).cmp(&(a.level(), &b.namespace, &b.name, &b.kind))
        });
        let of_routes = routes.iter().map(|at| at.problems.len());
        let problems = of_routes.chain(objects.iter().map(|own| own.problems.len())).sum();
        let (ok, refused) = (problems == 0 && unknown.is_empty(), Vec::new());
        Self { ok, problems, routes, objects, refused, unknown, counts_unknown }
    }
}

/// What was counted for it: nothing where it was not accepted.
fn counted(at: &At, counts: &Counts) -> Option<Proxies> {
    let found = counts.routes.iter().find(|count| {
        (&count.kind, &count.namespace, &count.name) == (&at.kind, &at.namespace, &at.name)
            && (&count.service, count.port, &count.section_name) == (&at.service, at.port, &at.section_name)
    })?;
    Some(Proxies { all: found.proxies, acked: found.acked, waiting_for: found.waiting_for.clone() })
}

/// Whether any of them is worse than late.
fn worst(report: &Report) -> Level {
    let refused = report.refused.iter().map(|_| Level::Error);
    report
        .routes
        .iter()
        .map(At::level)
        .chain(report.objects.iter().map(Own::level))
        .chain(refused)
        .max()
        .unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_control_plane::status::CONTROLLER_NAME;
    use weft_control_plane::status::counts::Count;

    use super::*;

    /// A route of this name, accepted or not.
    pub(super) fn at(name: &str, accepted: bool) -> At {
        let parent = json!({"group": "", "kind": "Service", "name": "reviews", "port": 9080});
        let status = if accepted { "True" } else { "False" };
        let condition = json!({"type": "Accepted", "status": status, "reason": "NoMatchingParent", "message": "there is no Service shop/reviews"});
        let route = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"parentRefs": [parent]},
            "status": {"parents": [{"controllerName": CONTROLLER_NAME, "parentRef": parent, "conditions": [condition]}]},
        }));
        judge(&route.unwrap()).remove(0)
    }

    /// A RateLimit, accepted or not.
    pub(super) fn own(accepted: bool) -> Own {
        let (status, reason) = if accepted { ("True", "Accepted") } else { ("False", "Invalid") };
        let condition =
            json!({"type": "Accepted", "status": status, "reason": reason, "message": "spec.per: is wrong"});
        let object = serde_json::from_value(json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "RateLimit",
            "metadata": {"name": "limit", "namespace": "shop"},
            "status": {"conditions": [condition]},
        }));
        super::own::judge(&object.unwrap(), false)
    }

    pub(super) fn count(name: &str, acked: u32, proxies: u32) -> Count {
        Count {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            service: "shop/reviews".to_owned(),
            port: Some(9080),
            proxies,
            acked,
            ..Count::default()
        }
    }

    #[test]
    fn problems_come_first_and_each_route_has_its_count() {
        let counts = Counts { routes: vec![count("b", 37, 37), count("c", 1, 2)], silent: Vec::new() };
        let routes = vec![at("c", true), at("a", true), at("b", true), at("z", false)];
        let report = Report::of(routes, Vec::new(), Vec::new(), Ok(counts));
        let text = |at: &At| {
            let counted = at.proxies.as_ref().map(|proxies| format!(" {} of {}", proxies.acked, proxies.all));
            format!("{}{}", at.name, counted.unwrap_or_default())
        };
        assert_eq!(report.routes.iter().map(text).collect::<Vec<_>>(), ["z", "a", "b 37 of 37", "c 1 of 2"]);
        assert_eq!((report.ok, report.problems, report.counts_unknown), (false, 1, None));
        let other = Counts { routes: vec![Count { port: None, ..count("b", 1, 1) }], silent: vec!["cp-b".to_owned()] };
        let report = Report::of(vec![at("b", true)], Vec::new(), Vec::new(), Ok(other));
        assert_eq!(report.routes[0].proxies, None, "another parent's");
        assert_eq!(report.counts_unknown.as_deref(), Some("not heard from cp-b"));
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_well_and_what_cannot_be_counted_is() {
        let rows = [
            ("all", vec![], Ok(Counts::default()), true),
            ("a kind that may not be read", vec!["GRPCRoutes: forbidden".to_owned()], Ok(Counts::default()), false),
            ("no counts", vec![], Err("no port-forward".to_owned()), true),
        ];
        for (row, unknown, counts, ok) in rows {
            assert_eq!(Report::of(vec![at("a", true)], Vec::new(), unknown, counts).ok, ok, "{row}");
        }
        let json =
            serde_json::to_value(Report::of(vec![at("a", false)], vec![own(false)], vec![], Ok(Counts::default())))
                .unwrap();
        assert_eq!(json["routes"][0]["problems"][0]["reason"], "NoMatchingParent");
        assert_eq!(json["routes"][0]["problems"][0]["level"], "error");
        assert_eq!((&json["problems"], &json["objects"][0]["problems"][0]["reason"]), (&json!(2), &json!("Invalid")));
        assert!(Report::of(vec![], vec![own(true)], vec![], Ok(Counts::default())).ok);
    }
}
