//! The session against a world of plain tables, and a model of the proxy at the other end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};

use super::*;
use crate::translate::{Lookup, Resource, Touched};

mod convergence;

const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// What is true: canonical name → version and aliases.
#[derive(Debug, Clone, Default)]
struct World {
    resources: BTreeMap<(ResourceKind, String), Arc<Resource>>,
    held: BTreeSet<(ResourceKind, String)>,
    touched: Touched,
}

impl World {
    /// Puts a resource there and notes what that touches.
    fn put(&mut self, kind: ResourceKind, name: &str, version: &str, aliases: &[&str]) {
        self.put_sized(kind, name, version, aliases, 10);
    }

    fn put_sized(&mut self, kind: ResourceKind, name: &str, version: &str, aliases: &[&str], bytes: usize) {
        let resource = Resource {
            type_url: kind.type_url(),
            name: name.to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            version: version.to_owned(),
            body: Bytes::from(vec![0; bytes]),
        };
        let before = self.resources.insert((kind, name.to_owned()), Arc::new(resource));
        self.touch(kind, name, aliases.iter().map(|&alias| alias.to_owned()).chain(aliases_of(before)));
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) {
        let before = self.resources.remove(&(kind, name.to_owned()));
        self.touch(kind, name, aliases_of(before));
    }

    fn hold(&mut self, kind: ResourceKind, name: &str, held: bool) {
        let key = (kind, name.to_owned());
        if held {
            self.held.insert(key)
        } else {
            self.held.remove(&key)
        };
        let aliases = aliases_of(self.resources.get(&(kind, name.to_owned())).cloned());
        self.touch(kind, name, aliases);
    }

    fn touch(&mut self, kind: ResourceKind, name: &str, aliases: impl IntoIterator<Item = String>) {
        let names = self.touched.names.entry(kind.type_url()).or_default();
        names.insert(name.to_owned());
        names.extend(aliases);
    }

    /// What changed since the last call.
    fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }
}

fn aliases_of(resource: Option<Arc<Resource>>) -> Vec<String> {
    resource.map(|resource| resource.aliases.clone()).unwrap_or_default()
}

impl Truth for World {
    fn lookup(&self, kind: ResourceKind, name: &str) -> Lookup {
        let found = self.resources.get(&(kind, name.to_owned())).or_else(|| {
            let mut all = self.resources.iter().filter(|((k, _), _)| *k == kind).map(|(_, resource)| resource);
            all.find(|resource| resource.aliases.iter().any(|alias| alias == name))
        });
        match found {
            Some(resource) if self.held.contains(&(kind, resource.name.clone())) => Lookup::Held,
            Some(resource) => Lookup::Found(Arc::clone(resource)),
            None if self.held.contains(&(kind, name.to_owned())) => Lookup::Held,
            None => Lookup::Absent,
        }
    }
}

/// A session and its world, spoken to in the protocol's words.
struct Stream {
    world: World,
    session: Session,
}

use ResourceKind::{Endpoints, Service};

impl Stream {
    fn new(services: &[(&str, &str, &[&str])]) -> Self {
        let mut world = World::default();
        for (name, version, aliases) in services {
            world.put(Service, name, version, aliases);
        }
        world.take_touched();
        Self { world, session: Session::new() }
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Received {
        self.session.on_request(request).unwrap()
    }

    fn subscribe(&mut self, kind: ResourceKind, names: &[&str]) {
        self.request(DeltaDiscoveryRequest { resource_names_subscribe: strings(names), ..of(kind) });
    }

    fn unsubscribe(&mut self, kind: ResourceKind, names: &[&str]) {
        self.request(DeltaDiscoveryRequest { resource_names_unsubscribe: strings(names), ..of(kind) });
    }

    fn reconnect(&mut self, kind: ResourceKind, names: &[&str], has: &[(&str, &str)]) {
        self.session = Session::new();
        let initial_resource_versions = has.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.request(DeltaDiscoveryRequest {
            resource_names_subscribe: strings(names),
            initial_resource_versions,
            ..of(kind)
        });
    }

    fn change(&mut self) {
        let touched = self.world.take_touched();
        self.session.on_change(&touched, POD);
    }

    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        self.session.next_response(&self.world)
    }

    /// The next response as text, ACKed: `shop/a@1[10.0.0.1,a] -gone`.
    #[track_caller]
    fn acked(&mut self) -> String {
        let Some(response) = self.next() else { return "nothing".to_owned() };
        let text = text_of(&response);
        self.answer(&response, None);
        text
    }

    fn answer(&mut self, response: &DeltaDiscoveryResponse, error: Option<&str>) -> Received {
        self.request(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|message| Status { message: message.to_owned(), ..Status::default() }),
            ..DeltaDiscoveryRequest::default()
        })
    }
}

fn of(kind: ResourceKind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..DeltaDiscoveryRequest::default() }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn text_of(response: &DeltaDiscoveryResponse) -> String {
    let mut parts: Vec<String> = response
        .resources
        .iter()
        .map(|resource| format!("{}@{}[{}]", resource.name, resource.version, resource.aliases.join(",")))
        .collect();
    parts.sort();
    parts.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
    parts.join(" ")
}

#[test]
fn asking_by_any_name_is_answered_with_the_canonical_one_and_all_aliases() {
    for name in ["shop/a", "10.0.0.7", "a.shop"] {
        let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7", "a.shop"])]);
        stream.subscribe(Service, &[name]);
        assert_eq!(stream.acked(), "shop/a@1[10.0.0.7,a.shop]", "{name}");
        assert_eq!(stream.acked(), "nothing", "{name}");
    }
}

#[test]
fn a_reconnect_that_names_what_it_has_is_sent_only_what_changed() {
    let services: &[(&str, &str, &[&str])] = &[("shop/a", "1", &["10.0.0.7"]), ("shop/b", "2", &["10.0.0.8"])];
    type Row = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
    let rows: &[Row] = &[
        ("unchanged", &["shop/a", "shop/b"], &[("shop/a", "1"), ("shop/b", "2")], "nothing"),
        ("unchanged, asked by alias", &["10.0.0.7", "10.0.0.8"], &[("shop/a", "1"), ("shop/b", "2")], "nothing"),
        ("one changed", &["shop/a", "shop/b"], &[("shop/a", "1"), ("shop/b", "1")], "shop/b@2[10.0.0.8]"),
        ("one is gone", &["shop/a", "shop/c"], &[("shop/a", "1"), ("shop/c", "1")], "-shop/c"),
        ("one is gone by alias", &["10.0.0.9"], &[("shop/c", "1")], "-10.0.0.9 -shop/c"),
        ("one is new", &["shop/a", "shop/b"], &[("shop/a", "1")], "shop/b@2[10.0.0.8]"),
        ("one lost its subscription", &[], &[("shop/a", "0")], "shop/a@1[10.0.0.7]"),
    ];
    for (row, names, has, expected) in rows {
        let mut stream = Stream::new(services);
        stream.reconnect(Service, names, has);
        assert_eq!(stream.acked(), *expected, "{row}");
        assert_eq!(stream.acked(), "nothing", "{row}");
    }
}

#[test]
fn a_resource_not_sent_again_is_counted_once() {
    let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7"]), ("shop/b", "1", &[])]);
    stream.reconnect(Service, &["10.0.0.7", "shop/a", "shop/b"], &[("shop/a", "1")]);
    assert_eq!(stream.acked(), "shop/b@1[]");
    assert_eq!(stream.session.take_totals(Service), (1, 1));
    assert_eq!(stream.session.take_totals(Service), (0, 0));
}

#[test]
fn subscriptions_that_come_in_several_requests_still_claim_what_was_announced() {
    let mut stream = Stream::new(&[("shop/a", "1", &[]), ("shop/b", "1", &["10.0.0.8"])]);
    stream.reconnect(Service, &["shop/a"], &[("shop/a", "1"), ("shop/b", "1")]);
    stream.subscribe(Service, &["10.0.0.8", "shop/b"]);
    assert_eq!(stream.acked(), "nothing");
    stream.subscribe(Service, &["10.0.0.8"]);
    assert_eq!(stream.acked(), "shop/b@1[10.0.0.8]"); // By the same name again: it asks because it has not.
}

#[test]
fn asking_again_within_a_stream_is_answered_even_if_nothing_changed() {
    let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7"])]);
    stream.subscribe(Service, &["shop/a"]);
    assert_eq!(stream.acked(), "shop/a@1[10.0.0.7]");
    for name in ["shop/a", "10.0.0.7"] {
        stream.subscribe(Service, &[name]);
        assert_eq!(stream.acked(), "shop/a@1[10.0.0.7]", "{name}");
    }
    stream.subscribe(Service, &["shop/none"]);
    assert_eq!(stream.acked(), "-shop/none");
    stream.subscribe(Service, &["shop/none"]);
    assert_eq!(stream.acked(), "-shop/none");
}

#[test]
fn what_is_not_there_is_removed_under_the_name_asked_and_sent_when_it_comes() {
    let mut stream = Stream::new(&[]);
    stream.subscribe(Service, &["10.0.0.7", "a.shop"]);
    assert_eq!(stream.acked(), "-10.0.0.7 -a.shop");
    stream.world.put(Service, "shop/a", "1", &["10.0.0.7"]);
    stream.change();
    assert_eq!(stream.acked(), "shop/a@1[10.0.0.7]");
    stream.world.put(Service, "shop/a", "2", &["10.0.0.7", "a.shop"]);
    stream.change();
    assert_eq!(stream.acked(), "shop/a@2[10.0.0.7,a.shop]");
    stream.world.remove(Service, "shop/a");
    stream.change();
    assert_eq!(stream.acked(), "-10.0.0.7 -a.shop -shop/a");
}

#[test]
fn a_vip_that_moves_takes_both_services_into_one_response() {
    for (row, asked) in
        [("by the vip", &["10.0.0.7"][..]), ("by name", &["shop/a", "shop/b"]), ("by both", &["10.0.0.7", "shop/b"])]
    {
        let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7", "a.shop"]), ("shop/b", "1", &["b.shop"])]);
        stream.subscribe(Service, asked);
        while stream.acked() != "nothing" {}
        stream.world.put(Service, "shop/a", "2", &["a.shop"]);
        stream.world.put(Service, "shop/b", "2", &["10.0.0.7", "b.shop"]);
        stream.change();
        assert_eq!(stream.acked(), "shop/a@2[a.shop] shop/b@2[10.0.0.7,b.shop]", "{row}");
        // The one that lost its asked name is still known by its others, so it is kept current.
        stream.world.put(Service, "shop/a", "3", &["a.shop"]);
        stream.change();
        assert_eq!(stream.acked(), "shop/a@3[a.shop]", "{row}");
    }
}

#[test]
fn a_large_answer_is_split_but_a_move_is_not() {
    let mut stream = Stream::new(&[]);
    let names: Vec<String> = (0..30).map(|n| format!("shop/{n:02}")).collect();
    for name in &names {
        stream.world.put_sized(Service, name, "1", &[&format!("vip-of-{name}")], 100_000);
    }
    stream.change();
    stream.subscribe(Service, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut sizes = Vec::new();
    while let Some(response) = stream.next() {
        sizes.push(response.resources.len());
        stream.answer(&response, None);
    }
    assert_eq!(sizes, [11, 11, 8]);

    // Everything changes, and the first and the last exchange a name.
    for name in &names {
        let vip = match &**name {
            "shop/00" => "vip-of-shop/29".to_owned(),
            "shop/29" => "vip-of-shop/00".to_owned(),
            name => format!("vip-of-{name}"),
        };
        stream.world.put_sized(Service, name, "2", &[&vip], 100_000);
    }
    stream.change();
    let first = stream.next().unwrap();
    let sent: BTreeSet<&str> = first.resources.iter().map(|resource| &*resource.name).collect();
    assert!(sent.contains("shop/00") && sent.contains("shop/29") && sent.len() < 20, "{sent:?}");
}

#[test]
fn what_is_held_is_neither_sent_nor_removed() {
    let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7"])]);
    stream.subscribe(Service, &["10.0.0.7"]);
    assert_eq!(stream.acked(), "shop/a@1[10.0.0.7]");
    stream.world.put(Service, "shop/a", "2", &["10.0.0.7"]);
    stream.world.hold(Service, "shop/a", true);
    stream.change();
    assert_eq!(stream.acked(), "nothing");
    // A question it cannot answer now is answered later, even if nothing changed meanwhile.
    stream.world.put(Service, "shop/a", "1", &["10.0.0.7"]);
    stream.subscribe(Service, &["10.0.0.7"]);
    assert_eq!(stream.acked(), "nothing");
    stream.world.hold(Service, "shop/a", false);
    stream.change();
    assert_eq!(stream.acked(), "shop/a@1[10.0.0.7]");
}

#[test]
fn changes_wait_for_the_ack_and_are_sent_as_one() {
    let mut stream = Stream::new(&[("shop/a", "1", &[])]);
    stream.subscribe(Service, &["shop/a", "shop/b"]);
    let first = stream.next().unwrap();
    for version in ["2", "3", "4"] {
        stream.world.put(Service, "shop/a", version, &[]);
        stream.world.put(Service, "shop/b", version, &[]);
        stream.change();
        assert_eq!(stream.next(), None);
    }
    stream.world.remove(Service, "shop/b");
    stream.change();
    stream.answer(&first, None);
    assert_eq!(stream.acked(), "shop/a@4[]"); // `shop/b` came and went unseen.
    assert_eq!(stream.acked(), "nothing");
}

#[test]
fn endpoints_never_wait_for_services() {
    let mut stream = Stream::new(&[("shop/a", "1", &[])]);
    stream.subscribe(Service, &["shop/a"]);
    let unanswered = stream.next().unwrap();
    stream.world.put(Endpoints, "shop/a:80", "1", &[]);
    stream.change();
    stream.subscribe(Endpoints, &["shop/a:80"]);
    assert_eq!(stream.acked(), "shop/a:80@1[]");
    stream.world.put(Service, "shop/a", "2", &[]);
    stream.world.put(Endpoints, "shop/a:80", "2", &[]);
    stream.change();
    assert_eq!(stream.acked(), "shop/a:80@2[]");
    assert_eq!(stream.acked(), "nothing");
    stream.answer(&unanswered, None);
    assert_eq!(stream.acked(), "shop/a@2[]");
}

#[test]
fn a_nack_names_what_it_refuses_and_is_not_argued_with() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("one by name", "shop/a: a regex does not compile", &["shop/a"]),
        ("in quotes, among others", "`shop/b`, shop/other", &["shop/b"]),
        ("a name inside another is not that name", "shop/ab: no", &["shop/a", "shop/b"]),
        ("none by name", "out of memory", &["shop/a", "shop/b"]),
    ];
    for (row, message, refused) in rows {
        let mut stream = Stream::new(&[("shop/a", "1", &[]), ("shop/b", "1", &[])]);
        stream.subscribe(Service, &["shop/a", "shop/b"]);
        let response = stream.next().unwrap();
        let mut nack = stream.answer(&response, Some(message)).nack.unwrap();
        nack.names.sort();
        assert_eq!((&nack.names[..], &*nack.message), (&strings(refused)[..], *message), "{row}");
        let counts = stream.session.counts(Service);
        assert_eq!(
            (counts.acked, counts.nacked, counts.outstanding),
            (2 - refused.len(), refused.len(), false),
            "{row}"
        );
        // Not again in this version, whatever else changes; but in the next.
        stream.session.on_lag();
        assert_eq!(stream.acked(), "nothing", "{row}");
        stream.world.put(Service, refused[0], "2", &[]);
        stream.change();
        assert_eq!(stream.acked(), format!("{}@2[]", refused[0]), "{row}");
        assert_eq!(stream.session.counts(Service).nacked, refused.len() - 1, "{row}");
    }
}

#[test]
fn an_answer_to_an_older_response_says_nothing() {
    let mut stream = Stream::new(&[("shop/a", "1", &[])]);
    stream.subscribe(Service, &["shop/a"]);
    let mut response = stream.next().unwrap();
    response.nonce = "stale".to_owned();
    assert_eq!(stream.answer(&response, None), Received::default());
    assert!(stream.session.counts(Service).outstanding);
}

#[test]
fn after_unsubscribing_there_is_silence() {
    let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7"]), ("shop/b", "1", &[])]);
    stream.subscribe(Service, &["10.0.0.7", "shop/a", "shop/b", "shop/none"]);
    assert_eq!(stream.acked(), "shop/a@1[10.0.0.7] shop/b@1[] -shop/none");
    stream.unsubscribe(Service, &["shop/a", "shop/b", "shop/none", "never/asked"]);
    stream.world.put(Service, "shop/b", "2", &[]);
    stream.world.put(Service, "shop/none", "2", &[]);
    stream.world.put(Service, "shop/a", "2", &["10.0.0.7"]);
    stream.change();
    assert_eq!(stream.acked(), "shop/a@2[10.0.0.7]"); // Still asked for by its VIP.
    stream.unsubscribe(Service, &["10.0.0.7"]);
    assert_eq!(stream.session.counts(Service), Counts::default());
}

#[test]
fn unsubscribing_while_a_response_is_out_ends_with_a_removal() {
    let mut stream = Stream::new(&[("shop/a", "1", &["10.0.0.7"])]);
    stream.subscribe(Service, &["10.0.0.7"]);
    let response = stream.next().unwrap();
    stream.unsubscribe(Service, &["10.0.0.7"]);
    stream.answer(&response, None);
    assert_eq!(stream.acked(), "-shop/a");
    assert_eq!(stream.session.counts(Service), Counts::default());
}

#[test]
fn a_stream_has_a_limit() {
    let names = |from: usize, to: usize| (from..to).map(|n| format!("shop/{n}")).collect::<Vec<_>>();
    let ask = |names| DeltaDiscoveryRequest { resource_names_subscribe: names, ..of(Service) };
    let mut session = Session::new();
    session.on_request(ask(names(0, MAX_SUBSCRIPTIONS))).unwrap();
    session.on_request(ask(names(0, 10))).unwrap(); // The same again.
    let leave = DeltaDiscoveryRequest { resource_names_unsubscribe: names(0, 1), ..of(Service) };
    session.on_request(leave).unwrap();
    session.on_request(ask(names(0, 1))).unwrap();
    let more = DeltaDiscoveryRequest { resource_names_subscribe: names(0, 1), ..of(Endpoints) };
    assert_eq!(session.on_request(more), Err(SessionError::TooManySubscriptions));

    let has = names(0, MAX_SUBSCRIPTIONS + 1).into_iter().map(|name| (name, "1".to_owned())).collect();
    let announced = DeltaDiscoveryRequest { initial_resource_versions: has, ..of(Service) };
    assert_eq!(Session::new().on_request(announced), Err(SessionError::TooManySubscriptions));
    for bad in [String::new(), "x".repeat(MAX_NAME + 1)] {
        assert_eq!(Session::new().on_request(ask(vec![bad])), Err(SessionError::BadName));
    }
}

#[test]
fn a_type_nobody_knows_has_the_same_limits() {
    let (url, long) = ("type.googleapis.com/weft.v9.New", "x".repeat(MAX_NAME + 1));
    let many = |most| (0..most).map(|n| n.to_string()).collect::<Vec<_>>();
    let rows = [
        ("as many as there may be", url, many(MAX_SUBSCRIPTIONS), Ok(Received::default())),
        ("one more", url, many(MAX_SUBSCRIPTIONS + 1), Err(SessionError::TooManySubscriptions)),
        ("no name", url, strings(&[""]), Err(SessionError::BadName)),
        ("a long name", url, strings(&[&long]), Err(SessionError::BadName)),
        ("a long type", &long, strings(&["a"]), Err(SessionError::BadName)),
    ];
    for (row, type_url, names, expected) in rows {
        let mut session = Session::new();
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        };
        let received = session.on_request(request);
        assert_eq!(received, expected, "{row}");
        assert_eq!(session.next_response(&World::default()).is_some(), received.is_ok(), "{row}");
    }
}

#[test]
fn a_type_nobody_knows_holds_nothing() {
    let mut stream = Stream::new(&[]);
    let request = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/weft.v9.New".to_owned(),
        resource_names_subscribe: strings(&["self"]),
        ..DeltaDiscoveryRequest::default()
    };
    stream.request(request);
    let response = stream.next().unwrap();
    assert_eq!((&*response.type_url, text_of(&response)), ("type.googleapis.com/weft.v9.New", "-self".to_owned()));
    stream.answer(&response, None);
    assert_eq!(stream.next(), None);
}

#[test]
fn self_changes_with_the_pod_and_with_no_other() {
    let mut stream = Stream::new(&[]);
    stream.world.put(ResourceKind::InboundPolicy, "self", "1", &[]);
    stream.world.take_touched();
    stream.subscribe(ResourceKind::InboundPolicy, &["self"]);
    assert_eq!(stream.acked(), "self@1[]");
    stream.world.put(ResourceKind::InboundPolicy, "self", "2", &[]);
    stream.world.take_touched();
    let own = |pod: &str| Touched { own: BTreeSet::from([pod.parse().unwrap()]), ..Touched::default() };
    stream.session.on_change(&own("10.0.0.2"), POD);
    assert_eq!(stream.acked(), "nothing");
    stream.session.on_change(&own("10.0.0.1"), POD);
    assert_eq!(stream.acked(), "self@2[]");
}

#[test]
fn a_change_of_very_much_concerns_a_proxy_as_far_as_it_asked() {
    let services: Vec<String> = (0..1_000).map(|index| format!("shop/s{index:03}")).collect();
    let mut stream = Stream::new(&[]);
    for service in &services {
        stream.world.put(Service, service, "1", &[&*service.replace('/', ".")]);
    }
    stream.subscribe(Service, &["shop/s007", "shop.s500", "shop/gone"]);
    stream.world.take_touched();
    assert_eq!(stream.acked(), "shop/s007@1[shop.s007] shop/s500@1[shop.s500] -shop/gone");
    for (row, changed, expected) in [
        ("all", &services[..], "shop/s007@2[shop.s007] shop/s500@2[shop.s500]"),
        ("one of them, by its name", &services[500..501], "shop/s500@3[shop.s500]"),
        ("many others", &services[8..499], "nothing"),
        ("one other", &services[..1], "nothing"),
    ] {
        let version = expected.chars().skip_while(|c| *c != '@').nth(1).unwrap_or('9').to_string();
        for service in changed {
            stream.world.put(Service, service, &version, &[&*service.replace('/', ".")]);
        }
        let touched = stream.world.take_touched();
        assert_eq!(stream.session.on_change(&touched, POD), expected != "nothing", "{row}");
        assert_eq!(stream.acked(), expected, "{row}");
    }
}
