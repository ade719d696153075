//! Whatever the order of changes, subscriptions, deliveries, ACKs and reconnects, a proxy ends up with the truth, and on
//! the way never holds two services that claim one name.

use proptest::prelude::*;

use super::*;

const SERVICES: [&str; 4] = ["shop/a", "shop/b", "shop/c", "shop/d"];
const ALIASES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "x.shop"];

#[derive(Debug, Clone)]
enum Step {
    /// A service gets a new version, and with it the alias.
    Change {
        service: usize,
        alias: Option<usize>,
    },
    /// A service goes.
    Remove {
        service: usize,
    },
    /// A change whose note is lost.
    Lag {
        service: usize,
    },
    Hold {
        service: usize,
        held: bool,
    },
    Subscribe {
        name: usize,
    },
    Unsubscribe {
        name: usize,
    },
    /// The server writes, if it has something to say.
    Respond,
    /// The proxy reads one response and answers it.
    Deliver {
        refuse: bool,
    },
    /// The server reads one request.
    Read,
    /// The connection breaks, with all that is on its way.
    Reconnect,
}

fn step(nacks: bool) -> impl Strategy<Value = Step> {
    let service = 0..SERVICES.len();
    let name = 0..SERVICES.len() + ALIASES.len();
    let refuse = if nacks { any::<bool>().boxed() } else { Just(false).boxed() };
    prop_oneof![
        4 => (service.clone(), proptest::option::of(0..ALIASES.len())).prop_map(|(service, alias)| Step::Change { service, alias }),
        1 => service.clone().prop_map(|service| Step::Remove { service }),
        1 => service.clone().prop_map(|service| Step::Lag { service }),
        1 => (service, any::<bool>()).prop_map(move |(service, held)| Step::Hold { service, held: held && nacks }),
        3 => name.clone().prop_map(|name| Step::Subscribe { name }),
        1 => name.prop_map(|name| Step::Unsubscribe { name }),
        6 => Just(Step::Respond),
        5 => refuse.prop_map(|refuse| Step::Deliver { refuse }),
        6 => Just(Step::Read),
        1 => Just(Step::Reconnect),
    ]
}

/// The proxy's end, and the two directions of the connection.
#[derive(Default)]
struct Proxy {
    subscribed: BTreeSet<String>,
    has: BTreeMap<String, (String, Vec<String>)>,
    responses: VecDeque<DeltaDiscoveryResponse>,
    requests: VecDeque<DeltaDiscoveryRequest>,
}

impl Proxy {
    fn meaning(&self, name: &str) -> Option<String> {
        let mut all = self.has.iter();
        let found =
            all.find(|(canonical, (_, aliases))| *canonical == name || aliases.iter().any(|alias| alias == name));
        found.map(|(canonical, _)| canonical.clone())
    }

    fn subscribe(&mut self, name: &str) {
        if self.subscribed.insert(name.to_owned()) {
            self.requests
                .push_back(DeltaDiscoveryRequest { resource_names_subscribe: strings(&[name]), ..of(Service) });
        }
    }

    fn unsubscribe(&mut self, name: &str) {
        let meant = self.meaning(name);
        if self.subscribed.remove(name) {
            if let Some(meant) = meant
                && !self.subscribed.iter().any(|other| self.meaning(other).as_ref() == Some(&meant))
            {
                self.has.remove(&meant);
            }
            self.requests
                .push_back(DeltaDiscoveryRequest { resource_names_unsubscribe: strings(&[name]), ..of(Service) });
        }
    }

    /// Applies one response in one stroke.
    fn deliver(&mut self, refuse: bool) {
        let Some(response) = self.responses.pop_front() else { return };
        for name in &response.removed_resources {
            self.has.remove(name); // What to refuse there would be?
        }
        if !refuse {
            for resource in response.resources {
                let wanted = self.has.contains_key(&resource.name)
                    || self.subscribed.contains(&resource.name)
                    || resource.aliases.iter().any(|alias| self.subscribed.contains(alias));
                if wanted {
                    self.has.insert(resource.name, (resource.version, resource.aliases));
                }
            }
        }
        let error_detail = refuse.then(|| Status { message: "no".to_owned(), ..Status::default() });
        self.requests.push_back(DeltaDiscoveryRequest { response_nonce: response.nonce, error_detail, ..of(Service) });
    }

    fn reconnect(&mut self) {
        self.responses.clear();
        self.requests.clear();
        self.requests.push_back(DeltaDiscoveryRequest {
            resource_names_subscribe: self.subscribed.iter().cloned().collect(),
            initial_resource_versions: self.has.iter().map(|(n, (version, _))| (n.clone(), version.clone())).collect(),
            ..of(Service)
        });
    }

    fn claims_are_unique(&self) -> bool {
        let aliases: Vec<&String> = self.has.values().flat_map(|(_, aliases)| aliases).collect();
        aliases.iter().collect::<BTreeSet<_>>().len() == aliases.len()
    }
}

struct Run {
    world: World,
    session: Session,
    proxy: Proxy,
    version: u32,
}

impl Run {
    /// An alias belongs to one service at a time.
    fn change(&mut self, service: usize, alias: Option<usize>) {
        let name = SERVICES[service];
        if let Some(alias) = alias.map(|alias| ALIASES[alias]) {
            for other in SERVICES.into_iter().filter(|other| *other != name) {
                if let Some(loser) = self.world.resources.get(&(Service, other.to_owned())).cloned()
                    && loser.aliases.iter().any(|held| held == alias)
                {
                    let kept: Vec<&str> = loser.aliases.iter().map(|a| &**a).filter(|a| *a != alias).collect();
                    self.version += 1;
                    self.world.put(Service, other, &self.version.to_string(), &kept);
                }
            }
        }
        let mut aliases = aliases_of(self.world.resources.get(&(Service, name.to_owned())).cloned());
        aliases.extend(alias.map(|alias| ALIASES[alias].to_owned()));
        aliases.sort();
        aliases.dedup();
        self.version += 1;
        let aliases: Vec<&str> = aliases.iter().map(|alias| &**alias).collect();
        self.world.put(Service, name, &self.version.to_string(), &aliases);
    }

    fn tell(&mut self) {
        let touched = self.world.take_touched();
        self.session.on_change(&touched, POD);
    }

    fn take(&mut self, step: &Step) {
        let name = |name: usize| SERVICES.iter().chain(&ALIASES).nth(name).copied().unwrap();
        match *step {
            Step::Change { service, alias } => {
                self.change(service, alias);
                self.tell();
            }
            Step::Remove { service } => {
                self.world.remove(Service, SERVICES[service]);
                self.tell();
            }
            Step::Lag { service } => {
                self.change(service, None);
                self.world.take_touched();
                self.session.on_lag();
            }
            Step::Hold { service, held } => {
                self.world.hold(Service, SERVICES[service], held);
                self.tell();
            }
            Step::Subscribe { name: n } => self.proxy.subscribe(name(n)),
            Step::Unsubscribe { name: n } => self.proxy.unsubscribe(name(n)),
            Step::Respond => self.proxy.responses.extend(self.session.next_response(&self.world)),
            Step::Deliver { refuse } => self.proxy.deliver(refuse),
            Step::Read => {
                if let Some(request) = self.proxy.requests.pop_front() {
                    self.session.on_request(request).unwrap();
                }
            }
            Step::Reconnect => {
                self.session = Session::new();
                self.proxy.reconnect();
            }
        }
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut quiet = true;
            while let Some(response) = self.session.next_response(&self.world) {
                self.proxy.responses.push_back(response);
                quiet = false;
            }
            while !self.proxy.responses.is_empty() {
                self.proxy.deliver(false);
            }
            while let Some(request) = self.proxy.requests.pop_front() {
                self.session.on_request(request).unwrap();
                quiet = false;
            }
            if quiet {
                return;
            }
        }
        panic!("session and proxy never fall silent");
    }

    fn assert_converged(&self) {
        for name in &self.proxy.subscribed {
            let meaning = self.proxy.meaning(name);
            match self.world.lookup(Service, name) {
                Lookup::Found(truth) => assert_eq!(meaning.as_ref(), Some(&truth.name), "{name}"),
                Lookup::Absent => assert_eq!(meaning, None, "{name}"),
                Lookup::Held => {}
            }
        }
        for (name, (version, aliases)) in &self.proxy.has {
            match self.world.lookup(Service, name) {
                Lookup::Found(truth) => assert_eq!((version, aliases), (&truth.version, &truth.aliases), "{name}"),
                Lookup::Absent => panic!("{name} is gone"),
                Lookup::Held => {}
            }
        }
    }
}

fn run() -> Run {
    Run { world: World::default(), session: Session::new(), proxy: Proxy::default(), version: 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_proxy_ends_up_with_the_truth_and_never_with_two_claims_to_one_name(
        steps in proptest::collection::vec(step(false), 1..80)
    ) {
        let mut run = run();
        for step in &steps {
            run.take(step);
            prop_assert!(run.proxy.claims_are_unique(), "after {step:?}: {:?}", run.proxy.has);
        }
        run.settle();
        run.assert_converged();
    }

    #[test]
    fn refusals_and_holds_end_with_the_next_version(steps in proptest::collection::vec(step(true), 1..80)) {
        let mut run = run();
        for step in &steps {
            run.take(step);
        }
        run.settle();
        for (service, name) in SERVICES.into_iter().enumerate() {
            run.world.hold(Service, name, false);
            run.change(service, None);
        }
        run.tell();
        run.settle();
        run.assert_converged();
    }
}
