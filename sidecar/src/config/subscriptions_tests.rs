//! The table against a table of rows, and against a model server that never loses a name.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const S: Kind = Kind::Service;

struct Table {
    table: Subscriptions,
    now: Instant,
    nonce: u32,
}

fn good(name: &str, aliases: &[&str]) -> Received {
    Received {
        name: name.into(),
        version: "1".into(),
        aliases: aliases.iter().map(|alias| (*alias).into()).collect(),
        bad: None,
    }
}

fn bad(name: &str, aliases: &[&str]) -> Received {
    Received { bad: Some("ports[0].port: 0 is not a port".into()), ..good(name, aliases) }
}

impl Table {
    fn new(max: usize) -> Self {
        let now = Instant::now();
        let table = Subscriptions::new(Bounds { max, ..Bounds::default() }, now);
        Self { table, now, nonce: 0 }
    }

    /// With a stream open and these names asked for.
    fn asking(names: &[&str]) -> Self {
        let mut this = Self::new(100);
        this.table.on_connected();
        for name in names {
            this.ask(name);
        }
        this.requests();
        this
    }

    fn ask(&mut self, name: &str) {
        self.table.subscribe(S, name, Wanted::OnDemand, self.now);
    }

    fn respond(&mut self, resources: &[Received], removed: &[&str]) -> Vec<bool> {
        self.nonce += 1;
        let removed: Vec<String> = removed.iter().map(|name| (*name).into()).collect();
        self.table.on_response(S, self.nonce.to_string(), resources, &removed, self.now)
    }

    fn requests(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.table.next_request()).collect()
    }

    fn state(&self, name: &str) -> Option<State> {
        self.table.state(S, name, self.now).cloned()
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn present(resource: &str) -> Option<State> {
    Some(State::Present(resource.into()))
}

#[test]
fn a_name_is_answered_by_the_resource_that_lists_it() {
    let mut t = Table::asking(&["10.96.0.1", "10.96.0.9"]);
    assert_eq!(t.state("10.96.0.1"), Some(State::Asked));
    assert_eq!(t.state("10.96.0.2"), None, "nobody asked");
    let wanted = t.respond(&[good("a/b", &["10.96.0.1", "10.96.0.2"]), good("c/d", &["10.96.0.3"])], &["10.96.0.9"]);
    assert_eq!(wanted, [true, false], "what nobody asked for is not kept");
    assert_eq!(t.state("10.96.0.1"), present("a/b"));
    assert_eq!(t.state("10.96.0.9"), Some(State::Absent(t.now)));
    let ack = Request { nonce: Some("1".into()), ..Request::empty(S) };
    assert_eq!(t.requests(), [ack]);
    t.ask("10.96.0.2");
    assert_eq!(t.state("10.96.0.2"), present("a/b"), "another name of a resource we hold is known at once");
}

#[test]
fn an_address_that_moves_in_one_response_is_never_absent() {
    for (what, order) in [("loser first", [0, 1]), ("winner first", [1, 0])] {
        let mut t = Table::asking(&["vip", "other"]);
        t.respond(&[good("ns/old", &["vip", "other"])], &[]);
        let resources = [good("ns/old", &["other"]), good("ns/new", &["vip"])];
        t.respond(&order.map(|index: usize| resources[index].clone()), &[]);
        assert_eq!((t.state("vip"), t.state("other")), (present("ns/new"), present("ns/old")), "{what}");
        assert!(t.table.take_gone().is_empty(), "{what}");
    }
    let mut t = Table::asking(&["vip"]);
    t.respond(&[good("ns/old", &["vip"])], &[]);
    t.respond(&[good("ns/new", &["vip"])], &["ns/old"]);
    assert_eq!(t.state("vip"), present("ns/new"), "the old one is removed in the same response");
    assert_eq!(t.table.take_gone(), [(S, "ns/old".into())]);
}

#[test]
fn what_becomes_of_names() {
    type Row = (&'static str, Vec<Received>, &'static [&'static str], Option<State>, &'static [&'static str]);
    let now = Instant::now();
    let absent = Some(State::Absent(now));
    let rows: [Row; 6] = [
        (
            "an alias no longer listed is gone, and its resource with it",
            vec![good("a/b", &[])],
            &[],
            absent.clone(),
            &["a/b"],
        ),
        ("a removed resource takes its names with it", vec![], &["a/b"], absent.clone(), &["a/b"]),
        ("a removed alias leaves the resource to nobody", vec![], &["vip"], absent, &["a/b"]),
        ("a bad update leaves the good one in place", vec![bad("a/b", &["vip"])], &[], present("a/b"), &[]),
        ("a bad thief takes nothing", vec![bad("c/d", &["vip"])], &[], present("a/b"), &[]),
        ("a good one that does not concern us", vec![good("c/d", &["x"])], &[], present("a/b"), &[]),
    ];
    for (what, resources, removed, state, gone) in rows {
        let mut t = Table::asking(&["vip"]);
        t.now = now;
        t.respond(&[good("a/b", &["vip"])], &[]);
        t.respond(&resources, removed);
        assert_eq!(t.state("vip"), state, "{what}");
        let names: Vec<Arc<str>> = t.table.take_gone().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, gone.iter().map(|name| Arc::from(*name)).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn a_bad_resource_is_refused_by_name_and_nobody_waits_for_it() {
    let mut t = Table::asking(&["vip", "good"]);
    t.respond(&[bad("a/b", &["vip"]), good("c/d", &["good"]), bad("e/f", &[])], &[]);
    assert_eq!((t.state("vip"), t.state("good")), (Some(State::Refused), present("c/d")));
    let error = "a/b: ports[0].port: 0 is not a port; e/f: ports[0].port: 0 is not a port";
    let nack = Request { nonce: Some("1".into()), error: Some(error.into()), ..Request::empty(S) };
    assert_eq!(t.requests(), [nack]);
    t.respond(&[good("a/b", &["vip"])], &[]);
    assert_eq!(t.state("vip"), present("a/b"), "until it is mended");
}

#[test]
fn does_not_exist_is_remembered_thirty_seconds_and_then_asked_anew() {
    let mut t = Table::asking(&["vip"]);
    t.respond(&[], &["vip"]);
    t.requests();
    t.pass(29);
    t.ask("vip");
    assert!(t.state("vip").is_some() && t.requests().is_empty());
    t.pass(1);
    assert_eq!(t.state("vip"), None);
    t.ask("vip");
    assert_eq!(t.state("vip"), Some(State::Asked));
    let [first, second] = &t.requests()[..] else { panic!("two requests: out, then in") };
    assert_eq!((&first.unsubscribe[..], &first.subscribe[..]), (&["vip".to_owned()][..], &[][..]));
    assert_eq!((&second.unsubscribe[..], &second.subscribe[..]), (&[][..], &["vip".to_owned()][..]));
    t.respond(&[], &["vip"]);
    t.requests();
    t.pass(31);
    t.table.sweep(t.now);
    assert!(t.table.len() == 0 && t.requests()[0].unsubscribe == ["vip"], "the sweep forgets it");
}

#[test]
fn a_reconnect_names_what_is_held_and_asks_for_everything_again() {
    let mut t = Table::asking(&["vip", "gone", "open"]);
    t.table.subscribe(Kind::MeshSettings, "mesh", Wanted::Always, t.now);
    t.respond(&[good("a/b", &["vip"])], &["gone"]);
    t.table.on_connected();
    let requests = t.requests();
    assert_eq!(requests.iter().map(|request| request.kind).collect::<Vec<_>>(), [Kind::MeshSettings, S]);
    assert_eq!(requests[1].subscribe, ["gone", "open", "vip"]);
    assert_eq!(requests[1].initial_versions, BTreeMap::from([("a/b".to_owned(), "1".to_owned())]));
    assert_eq!(requests[1].nonce, None, "an answer to the old stream is not sent on the new one");
    assert_eq!(t.state("vip"), present("a/b"));
}

#[test]
fn a_name_given_up_before_it_was_sent_is_never_sent() {
    let mut t = Table::asking(&[]);
    t.ask("first");
    assert_eq!(t.requests().len(), 1);
    t.ask("short-lived");
    t.table.unsubscribe(S, "short-lived");
    assert!(t.requests().is_empty());
}

#[test]
fn the_table_is_bounded_and_the_right_names_go() {
    let mut t = Table::new(64);
    t.table.on_connected();
    t.table.subscribe(S, "mine", Wanted::Always, t.now);
    for n in 0..32 {
        t.ask(&format!("used{n:02}"));
        t.respond(&[good(&format!("ns/used{n:02}"), &[&format!("used{n:02}")])], &[]);
        t.pass(1);
    }
    for n in 0..200 {
        t.ask(&format!("scan{n}"));
        t.respond(&[], &[&format!("scan{n}")]);
        assert!(t.table.len() <= 64, "{n}: {}", t.table.len());
    }
    for n in 0..32 {
        assert!(t.state(&format!("used{n:02}")).is_some(), "a scan of addresses nobody answers for evicts no service");
    }
    t.table.last_use(S, "ns/used00").unwrap().mark(1_000_000);
    for n in 0..40 {
        t.ask(&format!("more{n}"));
        t.respond(&[good(&format!("ns/more{n}"), &[&format!("more{n}")])], &[]);
    }
    assert!(t.state("used00").is_some() && t.state("used01").is_none(), "then the least recently used");
    assert!(t.state("mine").is_some(), "what the proxy itself needs stays");
}

#[test]
fn what_is_not_used_for_a_day_is_given_up() {
    let mut t = Table::asking(&["idle", "busy"]);
    t.respond(&[good("ns/idle", &["idle"]), good("ns/busy", &["busy"])], &[]);
    t.pass(23 * 3600);
    t.table.last_use(S, "ns/busy").unwrap().mark(t.table.ms(t.now));
    t.pass(2 * 3600);
    t.table.sweep(t.now);
    assert_eq!((t.state("idle"), t.state("busy")), (None, present("ns/busy")));
    assert_eq!(t.table.take_gone(), [(S, "ns/idle".into())]);
}

/// A control plane as the protocol has it: knows what each stream subscribed to, sends what changes.
#[derive(Default)]
struct Server {
    /// Resource → (version, aliases). A name is listed by one resource at most.
    resources: BTreeMap<String, (u32, BTreeSet<String>)>,
    subscribed: BTreeSet<String>,
    sent: BTreeMap<String, u32>,
    version: u32,
}

impl Server {
    fn holder(&self, name: &str) -> Option<&String> {
        let lists = |(resource, (_, aliases)): &(&String, &(u32, BTreeSet<String>))| {
            *resource == name || aliases.contains(name)
        };
        self.resources.iter().find(lists).map(|(resource, _)| resource)
    }

    /// Gives `resource` these aliases and takes them from all others; `None` deletes it.
    fn set(&mut self, resource: String, aliases: Option<BTreeSet<String>>) {
        self.version += 1;
        let version = self.version;
        for (_, other) in self.resources.iter_mut().filter(|(name, _)| **name != resource) {
            if let Some(taken) = &aliases
                && !other.1.is_disjoint(taken)
            {
                other.0 = version;
                other.1 = other.1.difference(taken).cloned().collect();
            }
        }
        match aliases {
            Some(aliases) => self.resources.insert(resource, (version, aliases)),
            None => self.resources.remove(&resource),
        };
    }

    /// What this stream has to hear now.
    fn changes(&mut self, newly: &BTreeSet<String>) -> (Vec<Received>, Vec<String>) {
        let wanted: BTreeSet<String> = self.subscribed.iter().filter_map(|name| self.holder(name)).cloned().collect();
        // A resource that lost its last subscribed name is sent once more, without the name.
        let lost = self.sent.keys().filter(|sent| self.resources.contains_key(*sent)).cloned();
        let relevant: BTreeSet<String> = wanted.iter().cloned().chain(lost).collect();
        let mut resources = Vec::new();
        for name in relevant {
            let (version, aliases) = &self.resources[&name];
            if self.sent.get(&name) != Some(version) {
                self.sent.insert(name.clone(), *version);
                let aliases = aliases.iter().cloned().collect();
                resources.push(Received { name, version: version.to_string(), aliases, bad: None });
            }
        }
        let mut removed: Vec<String> = newly.iter().filter(|name| self.holder(name).is_none()).cloned().collect();
        let deleted: Vec<String> =
            self.sent.keys().filter(|sent| !self.resources.contains_key(*sent)).cloned().collect();
        for name in deleted {
            self.sent.remove(&name);
            removed.push(name);
        }
        (resources, removed)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u8),
    GiveUp(u8),
    Set(u8, Option<BTreeSet<u8>>),
    Reconnect,
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let aliases = proptest::collection::btree_set(0..6u8, 0..4);
    proptest::collection::vec(
        prop_oneof![
            4 => (0..6u8).prop_map(Step::Ask),
            1 => (0..6u8).prop_map(Step::GiveUp),
            4 => (0..3u8, proptest::option::weighted(0.8, aliases)).prop_map(|(n, aliases)| Step::Set(n, aliases)),
            1 => Just(Step::Reconnect),
            1 => (0..40u8).prop_map(Step::Wait),
        ],
        1..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn after_every_exchange_the_table_says_what_the_server_says(steps in steps()) {
        let mut t = Table::new(100);
        let mut server = Server::default();
        let mut asked = BTreeSet::new();
        let mut first = true;
        t.table.on_connected();
        for step in steps {
            match step {
                Step::Ask(n) => {
                    t.ask(&format!("v{n}"));
                    asked.insert(format!("v{n}"));
                }
                Step::GiveUp(n) => {
                    t.table.unsubscribe(S, &format!("v{n}"));
                    asked.remove(&format!("v{n}"));
                }
                Step::Set(n, aliases) => {
                    let aliases = aliases.map(|all| all.into_iter().map(|n| format!("v{n}")).collect());
                    server.set(format!("r{n}"), aliases);
                }
                Step::Reconnect => {
                    t.table.on_connected();
                    server.subscribed.clear();
                    server.sent.clear();
                    first = true;
                }
                Step::Wait(seconds) => {
                    t.pass(seconds.into());
                    t.table.sweep(t.now);
                }
            }
            loop {
                let requests = t.requests();
                for request in &requests {
                    prop_assert_eq!(&request.error, &None);
                    for name in &request.unsubscribe {
                        prop_assert!(server.subscribed.remove(name), "{name} was not subscribed");
                    }
                    for (name, version) in &request.initial_versions {
                        server.sent.insert(name.clone(), version.parse().unwrap());
                    }
                    server.subscribed.extend(request.subscribe.iter().cloned());
                    let newly: BTreeSet<String> = request.subscribe.iter().cloned().collect();
                    // Whoever asks anew is answered, held or not: the client may have dropped it since. Only a stream's
                    // first request says what it holds.
                    if !std::mem::take(&mut first) {
                        for name in &newly {
                            if let Some(resource) = server.holder(name).cloned() {
                                server.sent.remove(&resource);
                            }
                        }
                    }
                    let (resources, removed) = server.changes(&newly);
                    if !resources.is_empty() || !removed.is_empty() {
                        let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
                        t.respond(&resources, &removed);
                    }
                }
                let (resources, removed) = server.changes(&BTreeSet::new());
                if !resources.is_empty() || !removed.is_empty() {
                    let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
                    t.respond(&resources, &removed);
                } else if requests.is_empty() {
                    break;
                }
            }
            let mut held = BTreeSet::new();
            for name in &asked {
                let truth = server.holder(name);
                match t.state(name) {
                    Some(State::Present(resource)) => {
                        prop_assert_eq!(Some(&*resource), truth.map(String::as_str), "{}", name);
                        held.insert(resource.to_string());
                    }
                    Some(State::Absent(_)) => prop_assert_eq!(truth, None, "{}", name),
                    None => prop_assert!(!server.subscribed.contains(name), "{name} was forgotten on one side only"),
                    state => prop_assert!(false, "{name} is {state:?}, the server says {truth:?}"),
                }
            }
            let holds: BTreeSet<String> = t.table.held(S).map(|(name, _)| name.to_owned()).collect();
            prop_assert_eq!(holds, held, "held is exactly what names lead to");
        }
    }

    #[test]
    fn the_bound_holds_whatever_is_asked(names in proptest::collection::vec(0..500u16, 1..400), max in 1..50usize) {
        let mut t = Table::new(max);
        for name in names {
            t.ask(&name.to_string());
            prop_assert!(t.table.len() <= max);
            prop_assert!(t.state(&name.to_string()).is_some(), "the newest is never the victim");
        }
    }
}
