//! An explanation as a page to read: from the request down to the endpoints. Pure.

use weft_proto::explain::{BackendShare, Endpoint, Explanation, MatchedRule, OwnAnswer};

use crate::output::{Colours, Paint, Table};

/// Where values begin.
const INDENT: usize = 13;

/// The page.
pub(super) fn show(told: &Explanation, colours: Colours) -> String {
    let mut page = Page { text: String::new(), colours };
    let Explanation { client, request, destination, policy, .. } = told;
    page.line("client", &format!("{} ({})", client.pod, client.identity));
    let method = if request.method.is_empty() { String::new() } else { format!("{} ", request.method) };
    page.line("request", &format!("{method}{} ({}), to {}", request.url, request.protocol, request.address));
    let by = &destination.by;
    match &*destination.kind {
        "service" => {
            let routes = if destination.routed { "with routes" } else { "without routes" };
            let (name, port, protocol) = (&destination.name, destination.port, &destination.protocol);
            page.line("destination", &format!("Service {name}, port {port} ({protocol}), {routes}, by {by}"));
        }
        "workload" => {
            page.line("destination", &format!("pod {}, port {}, by {by}", destination.name, destination.port))
        }
        "outside" => page.line("destination", &format!("outside the mesh, by {by}")),
        _ => page.line("destination", &format!("nowhere, by {by}")),
    }
    let verdict = if policy.allowed {
        page.colours.paint(Paint::Good, "allowed")
    } else {
        page.colours.paint(Paint::Bad, "refused")
    };
    page.line("policy", &format!("{verdict}: {}", policy.why));
    if let Some(rule) = &told.rule {
        page.rule(rule);
    } else if destination.routed && told.answer.is_some() {
        page.line("rule", "none matches");
    }
    if let Some(answer) = &told.answer {
        page.answer("answer", answer);
    }
    told.backends.iter().for_each(|share| page.backend(share));
    told.notes.iter().for_each(|note| page.line("note", note));
    page.text
}

struct Page {
    text: String,
    colours: Colours,
}

impl Page {
    fn line(&mut self, name: &str, value: &str) {
        let gap = " ".repeat(INDENT.saturating_sub(name.chars().count()));
        self.text.push_str(&format!("{}{gap}{value}\n", self.colours.paint(Paint::Heading, name)));
    }

    /// One line each, under one name.
    fn lines(&mut self, name: &str, values: &[String]) {
        for (index, value) in values.iter().enumerate() {
            self.line(if index == 0 { name } else { "" }, value);
        }
    }

    fn rule(&mut self, rule: &MatchedRule) {
        let (place, all) = rule.precedence;
        self.line("rule", &format!("{}, rule {}", rule.route.replacen('/', " ", 1), rule.rule));
        self.line("match", &format!("{} (the first that matches: {place} of {all} on this port)", rule.matched));
        self.lines("filters", &rule.filters);
        self.lines("changes", &rule.changes);
        self.lines("rule says", &rule.says);
    }

    fn answer(&mut self, name: &str, answer: &OwnAnswer) {
        let grpc = answer.grpc_status.map(|status| format!(", grpc-status {status}")).unwrap_or_default();
        let code = self.colours.paint(Paint::Bad, &format!("{} ({}{grpc})", answer.reason, answer.status));
        self.line(name, &format!("{code}, by the sidecar itself: {}", answer.detail));
    }

    fn backend(&mut self, share: &BackendShare) {
        self.text.push('\n');
        let name = if share.name.is_empty() { "answered by the sidecar" } else { &*share.name };
        let retries = if share.retries.is_empty() { String::new() } else { format!(", retries {}", share.retries) };
        self.line("backend", &format!("{name}, {} (weight {}){retries}", percent(share.percent), share.weight));
        self.lines("filters", &share.filters);
        self.lines("changes", &share.changes);
        if let Some(answer) = &share.answer {
            self.answer("answer", answer);
        }
        if !share.near.is_empty() {
            self.line("near", &share.near);
        }
        if !share.endpoints.is_empty() {
            self.text.push_str(&endpoints(&share.endpoints, self.colours));
        }
    }
}

/// Without a fraction where there is none.
fn percent(percent: f64) -> String {
    let text = format!("{percent:.1}");
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

fn endpoints(all: &[Endpoint], colours: Colours) -> String {
    // Many clusters have no zones.
    let zones = all.iter().any(|endpoint| !endpoint.zone.is_empty());
    let columns = ["", "ENDPOINT", "POD", "ZONE", "HEALTH", "MESH TLS", "IN FLIGHT", "LATENCY"];
    let columns: Vec<&str> = columns.into_iter().filter(|column| zones || *column != "ZONE").collect();
    let mut table = Table::new(&columns);
    for endpoint in all {
        let sign = if endpoint.candidate { "✓" } else { "✗" };
        let latency = endpoint.latency_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
        let zone = format!("{}{}", endpoint.zone, if endpoint.near == Some(true) { ", near" } else { "" });
        let mut row = vec![sign.to_owned(), endpoint.address.clone(), endpoint.pod.clone()];
        row.extend(zones.then_some(zone));
        row.extend([
            health(endpoint),
            endpoint.identity.clone().unwrap_or_else(|| "no: plain text".to_owned()),
            endpoint.in_flight.to_string(),
            latency,
        ]);
        table.row(row);
    }
    let painted = |line: &str| {
        for (sign, paint) in [("✓", Paint::Good), ("✗", Paint::Warning)] {
            if let Some(rest) = line.trim_start().strip_prefix(sign) {
                return format!("  {}{rest}\n", colours.paint(paint, sign));
            }
        }
        format!("{line}\n")
    };
    table.render(2).lines().map(painted).collect()
}

/// `ready`, `ejected, a probe in 900 ms`
fn health(endpoint: &Endpoint) -> String {
    let failures = match endpoint.consecutive_failures {
        0 => String::new(),
        1 => ", 1 failure".to_owned(),
        more => format!(", {more} failures"),
    };
    match endpoint.ejected_ms {
        Some(0) => format!("ejected, a probe is due{failures}"),
        Some(ms) => format!("ejected, a probe in {ms} ms{failures}"),
        None => format!("{}{failures}", endpoint.health),
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::explain::{Asked, Client, Destination, Verdict};

    use super::*;

    fn explanation() -> Explanation {
        let endpoint = |address: &str, ejected_ms: Option<u64>, identity: Option<&str>| Endpoint {
            address: address.to_owned(),
            pod: "shop/reviews-v2-1".to_owned(),
            health: "ready".to_owned(),
            zone: String::new(),
            near: None,
            candidate: ejected_ms.is_none(),
            ejected_ms,
            consecutive_failures: if ejected_ms.is_some() { 5 } else { 0 },
            identity: identity.map(str::to_owned),
            weight: 1,
            in_flight: 2,
            latency_ms: ejected_ms.is_none().then_some(1.25),
        };
        let answered = OwnAnswer {
            reason: "invalid-backend".to_owned(),
            status: 500,
            grpc_status: None,
            detail: "there is no Service shop/nope".to_owned(),
        };
        Explanation {
            client: Client { pod: "shop/web-1".to_owned(), identity: "spiffe://c/ns/shop/sa/web".to_owned() },
            request: Asked {
                method: "GET".to_owned(),
                url: "http://reviews/v2".to_owned(),
                protocol: "HTTP/1.1".to_owned(),
                address: "10.96.0.7:80".to_owned(),
            },
            destination: Destination {
                kind: "service".to_owned(),
                name: "shop/reviews".to_owned(),
                port: 80,
                protocol: "http".to_owned(),
                by: "address 10.96.0.7".to_owned(),
                routed: true,
            },
            rule: Some(MatchedRule {
                route: "HTTPRoute/shop/reviews".to_owned(),
                rule: "1".to_owned(),
                matched: "path /v2…, header x-user = a".to_owned(),
                precedence: (2, 3),
                filters: vec!["request headers: x-a".to_owned(), "CORS: *".to_owned()],
                says: vec!["request timeout 3s".to_owned()],
                changes: vec!["x-a: none → 1".to_owned()],
            }),
            backends: vec![
                BackendShare {
                    name: "shop/reviews-v2:80".to_owned(),
                    weight: 9,
                    percent: 90.0,
                    retries: "at most 2".to_owned(),
                    endpoints: vec![
                        endpoint("10.1.0.1:80", None, Some("spiffe://c/ns/shop/sa/reviews")),
                        endpoint("10.1.0.2:80", Some(900), None),
                    ],
                    ..BackendShare::default()
                },
                BackendShare { weight: 1, percent: 10.0, answer: Some(answered), ..BackendShare::default() },
            ],
            policy: Verdict { allowed: true, why: "known to the mesh".to_owned() },
            ..Explanation::default()
        }
    }

    #[test]
    fn an_explanation_is_a_page_to_read() {
        let expected = "\
client       shop/web-1 (spiffe://c/ns/shop/sa/web)
request      GET http://reviews/v2 (HTTP/1.1), to 10.96.0.7:80
destination  Service shop/reviews, port 80 (http), with routes, by address 10.96.0.7
policy       allowed: known to the mesh
rule         HTTPRoute shop/reviews, rule 1
match        path /v2…, header x-user = a (the first that matches: 2 of 3 on this port)
filters      request headers: x-a
             CORS: *
changes      x-a: none → 1
rule says    request timeout 3s

backend      shop/reviews-v2:80, 90 % (weight 9), retries at most 2
      ENDPOINT      POD                 HEALTH                                   MESH TLS                        IN FLIGHT   LATENCY
  ✓   10.1.0.1:80   shop/reviews-v2-1   ready                                    spiffe://c/ns/shop/sa/reviews   2           1.2 ms
  ✗   10.1.0.2:80   shop/reviews-v2-1   ejected, a probe in 900 ms, 5 failures   no: plain text                  2

backend      answered by the sidecar, 10 % (weight 1)
answer       invalid-backend (500), by the sidecar itself: there is no Service shop/nope
";
        assert_eq!(show(&explanation(), Colours::NONE), expected);
    }

    #[test]
    fn where_zones_are_known_they_are_shown_and_why_one_is_preferred() {
        let mut told = explanation();
        let share = &mut told.backends[0];
        share.near = "zone a is preferred, by the endpoints' hints: 1 of 2 ready endpoints".to_owned();
        for (endpoint, zone) in share.endpoints.iter_mut().zip(["a", "b"]) {
            (endpoint.zone, endpoint.near) = (zone.to_owned(), Some(zone == "a"));
        }
        let text = show(&told, Colours::NONE);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().take(5).collect::<Vec<_>>().join(" ")).collect();
        for expected in [
            "near zone a is preferred,",
            "ENDPOINT POD ZONE HEALTH MESH",
            "✓ 10.1.0.1:80 shop/reviews-v2-1 a, near",
            "✗ 10.1.0.2:80 shop/reviews-v2-1 b ejected,",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn what_leads_nowhere_says_why() {
        let answer = |reason: &str, status, grpc_status, detail: &str| OwnAnswer {
            reason: reason.to_owned(),
            status,
            grpc_status,
            detail: detail.to_owned(),
        };
        let mut told = explanation();
        (told.rule, told.backends) = (None, Vec::new());
        told.answer = Some(answer("no-route", 404, Some(12), "no rule matches"));
        let text = show(&told, Colours::NONE);
        assert!(text.contains("rule         none matches\n"), "{text}");
        assert!(text.contains("answer       no-route (404, grpc-status 12), by the sidecar itself: no rule"), "{text}");
        told.destination =
            Destination { kind: "none".to_owned(), by: "address 192.0.2.1".to_owned(), ..Destination::default() };
        told.policy = Verdict { allowed: false, why: "outbound policy is REGISTRY_ONLY".to_owned() };
        told.notes = vec!["one".to_owned()];
        let text = show(&told, Colours::NONE);
        assert!(text.contains("destination  nowhere, by address 192.0.2.1\npolicy       refused: outbound"), "{text}");
        assert!(text.ends_with("note         one\n"), "{text}");
    }

    #[test]
    fn shares_are_read_without_needless_digits() {
        for (share, expected) in [(100.0, "100 %"), (33.333, "33.3 %"), (0.04, "0 %")] {
            assert_eq!(percent(share), expected);
        }
    }
}
