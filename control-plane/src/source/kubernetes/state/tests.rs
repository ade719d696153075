//! The state machine by tables, and by any history at all: what is in force is what a fresh list would give.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::notes::kubelet_version;
use super::*;
use crate::model::{Age, Meta, Namespace, Node, Pod};

const NOBODY: &Unenforced = &Unenforced::NONE;

fn meta(name: &ObjectName, labels: &[(&str, &str)], age: i64) -> Meta {
    Meta {
        name: name.clone(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        annotations: BTreeMap::new(),
        generation: 0,
        age: Age(age, String::new(), 0),
    }
}

/// What an object is in these tests: a number stands for its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Good(i64),
    Bad,
    Ignored,
}

fn served(name: &str, uid: u32, is: Is) -> Served {
    let name = ObjectName::new("", name);
    let problems = match is {
        Is::Bad => vec![Problem {
            file: format!("Namespace {name}"),
            line: 0,
            column: 0,
            field: "spec".to_owned(),
            severity: Severity::Error,
            message: "bad".to_owned(),
            object: Some(ObjectKey { kind: Kind::Namespace, name: name.clone() }),
        }],
        _ => Vec::new(),
    };
    Served {
        uid: uid.to_string(),
        resource_version: String::new(),
        form: match is {
            Is::Good(content) => {
                let age = i64::from(uid) * 1_000 + content;
                Form::Good(Box::new(Object::Namespace(Namespace { meta: meta(&name, &[], age) })))
            }
            Is::Bad => Form::Bad,
            Is::Ignored => Form::Ignored,
        },
        kubelet: None,
        problems,
        name,
    }
}

fn good(name: &str, content: i64) -> Served {
    served(name, 0, Is::Good(content))
}

/// A state in which everything but Namespaces was listed.
fn others_listed() -> State {
    let mut state = State::default();
    for (kind, _) in KINDS.iter().filter(|(kind, _)| *kind != Kind::Namespace) {
        state.on(*kind, Happening::Absent);
    }
    state
}

fn started(objects: &[Served]) -> State {
    let mut state = others_listed();
    list(&mut state, objects);
    state.take(NOBODY).unwrap();
    state
}

fn list(state: &mut State, objects: &[Served]) {
    state.on(Kind::Namespace, Happening::Init);
    for object in objects {
        state.on(Kind::Namespace, Happening::InitApply(object.clone()));
    }
    state.on(Kind::Namespace, Happening::InitDone);
}

/// `a=1` for what came, `-a` for what went, `!a` for what is wrong; empty where there is no edit.
fn taken(state: &mut State) -> Vec<String> {
    let Some(edit) = state.take(NOBODY) else { return Vec::new() };
    let upserts = edit.objects.upserts.iter().map(|o| format!("{}={}", o.meta().name, o.meta().age.0));
    let removes = edit.objects.removes.iter().map(|key| format!("-{}", key.name));
    let wrong = edit.problems.iter().map(|problem| format!("!{}", problem.file.trim_start_matches("Namespace ")));
    upserts.chain(removes).chain(wrong).collect()
}

#[test]
fn the_first_edit_waits_for_every_kind_and_comes_even_if_it_is_empty() {
    let mut state = State::default();
    for (kind, _) in &KINDS {
        assert_eq!(state.take(NOBODY), None);
        state.on(*kind, Happening::Init);
        assert_eq!(state.take(NOBODY), None);
        state.on(*kind, Happening::InitDone);
    }
    assert_eq!(state.take(NOBODY), Some(Edit::default()));
    assert_eq!(state.take(NOBODY), None);
}

#[test]
fn a_list_is_taken_in_one_stroke() {
    let mut state = started(&[good("a", 1), good("b", 1), good("c", 1)]);
    state.on(Kind::Namespace, Happening::Init);
    state.on(Kind::Namespace, Happening::InitApply(good("a", 1)));
    state.on(Kind::Namespace, Happening::InitApply(good("b", 2)));
    assert!(!state.is_due(), "half a list is nothing");
    // It breaks off, and another begins.
    list(&mut state, &[good("a", 1), good("b", 3), good("d", 1)]);
    assert_eq!(taken(&mut state), ["b=3", "d=1", "-c"]);
    list(&mut state, &[good("a", 1), good("b", 3), good("d", 1)]);
    assert!(!state.is_due(), "the same list again is no change");
    state.on(Kind::Namespace, Happening::InitDone);
    assert!(!state.is_due(), "the end of no list is nothing");
}

#[test]
fn an_event_that_changes_nothing_is_no_edit_and_those_between_two_edits_gather() {
    let mut state = started(&[good("a", 1)]);
    state.on(Kind::Namespace, Happening::Apply(good("a", 1)));
    assert!(!state.is_due(), "a heartbeat");
    for content in [2, 3] {
        state.on(Kind::Namespace, Happening::Apply(good("a", content)));
    }
    state.on(Kind::Namespace, Happening::Apply(good("b", 1)));
    state.on(Kind::Namespace, Happening::Delete(good("b", 1)));
    assert_eq!(taken(&mut state), ["a=3", "-b"]);
    state.on(Kind::Namespace, Happening::Delete(good("a", 3)));
    state.on(Kind::Namespace, Happening::Apply(good("a", 3)));
    assert_eq!(taken(&mut state), ["a=3"], "nothing is both removed and upserted");
}

#[test]
fn a_bad_object_keeps_its_last_good_form_until_it_is_good_gone_or_another() {
    let bad = |uid| served("a", uid, Is::Bad);
    let rows: &[(&str, Happening<Served>, &[&str])] = &[
        ("another bad one", Happening::Apply(bad(0)), &[]),
        ("good again as it was", Happening::Apply(good("a", 1)), &[]),
        ("good again", Happening::Apply(good("a", 2)), &["a=2"]),
        ("gone", Happening::Delete(bad(0)), &["-a"]),
        ("made anew, and bad", Happening::Apply(bad(1)), &["-a", "!a"]),
        ("made anew, and good", Happening::Apply(served("a", 1, Is::Good(1))), &["a=1001"]),
        ("no longer one of ours", Happening::Apply(served("a", 0, Is::Ignored)), &["-a"]),
        ("the kind is gone", Happening::Absent, &["-a"]),
    ];
    for (row, happening, expected) in rows {
        let mut state = started(&[good("a", 1)]);
        state.on(Kind::Namespace, Happening::Apply(bad(0)));
        assert_eq!(taken(&mut state), ["!a"], "{row}");
        list(&mut state, &[bad(0)]);
        assert!(!state.is_due(), "{row}: a list that says the same");
        state.on(Kind::Namespace, happening.clone());
        assert_eq!(taken(&mut state), *expected, "{row}");
    }
}

#[test]
fn notes_follow_their_objects() {
    let mut state = others_listed();
    let namespace = |name: &str, labels: &[(&str, &str)]| {
        let name = ObjectName::new("", name);
        let object = Object::Namespace(Namespace { meta: meta(&name, labels, 0) });
        Served { form: Form::Good(Box::new(object)), name, ..good("", 0) }
    };
    let pod = |name: &str, labels: &[(&str, &str)]| {
        let name = ObjectName::new("by-pod", name);
        let pod = Pod {
            meta: meta(&name, labels, 0),
            addresses: Vec::new(),
            service_account: String::new(),
            host_network: false,
            node: String::new(),
            ports: Vec::new(),
            finished: false,
            ready: false,
            terminating: false,
            owner: String::new(),
        };
        Served { form: Form::Good(Box::new(Object::Pod(pod))), name, ..good("", 0) }
    };
    let node = |name: &str, kubelet: &str| {
        let name = ObjectName::new("", name);
        let object = Object::Node(Node { meta: meta(&name, &[], 0) });
        let kubelet = Some(kubelet.to_owned());
        Served { form: Form::Good(Box::new(object)), name, kubelet, ..good("", 0) }
    };
    let opted_in = |state: &State| {
        let never = BTreeSet::from(["kube-system".to_owned()]);
        state.notes().opted_in(&never).into_iter().collect::<Vec<_>>().join(" ")
    };
    list(
        &mut state,
        &[
            namespace("on", &[("weft.dev/inject", "enabled")]),
            namespace("revised", &[("weft.dev/revision", "canary")]),
            namespace("off", &[("weft.dev/revision", "canary"), ("weft.dev/inject", "disabled")]),
            namespace("plain", &[]),
            namespace("kube-system", &[("weft.dev/inject", "enabled")]),
        ],
    );
    assert_eq!(opted_in(&state), "on revised");
    let injected = [("weft.dev/mesh-tls", "1")];
    for name in ["a", "b"] {
        state.on(Kind::Pod, Happening::Apply(pod(name, &injected)));
    }
    state.on(Kind::Pod, Happening::Delete(pod("a", &injected)));
    assert_eq!(opted_in(&state), "by-pod on revised");
    state.on(Kind::Pod, Happening::Apply(pod("b", &[])));
    state.on(Kind::Namespace, Happening::Apply(namespace("on", &[])));
    assert_eq!(opted_in(&state), "revised");

    assert_eq!(state.notes().oldest_kubelet(), None);
    for (name, version) in [("new", "v1.36.1"), ("old", "v1.28.9-eks-1"), ("odd", "edge")] {
        state.on(Kind::Node, Happening::Apply(node(name, version)));
    }
    assert_eq!(state.notes().oldest_kubelet(), Some((1, 28)));
    state.on(Kind::Node, Happening::Apply(node("old", "v1.29.0")));
    assert_eq!(state.notes().oldest_kubelet(), Some((1, 29)));
    state.on(Kind::Node, Happening::Init);
    state.on(Kind::Node, Happening::InitApply(node("new", "v1.36.1")));
    state.on(Kind::Node, Happening::InitDone);
    assert_eq!(state.notes().oldest_kubelet(), Some((1, 36)));
}

#[test]
fn kubelets_name_their_version_in_several_ways() {
    let rows = [
        ("v1.36.1", Some((1, 36))),
        ("v1.29.3+k3s1", Some((1, 29))),
        ("1.30+", Some((1, 30))),
        ("v1", None),
        ("", None),
        ("vX.1", None),
    ];
    for (text, expected) in rows {
        assert_eq!(kubelet_version(text), expected, "{text:?}");
    }
}

#[test]
fn what_is_not_enforced_is_listed_by_namespace_and_warned_of() {
    let (kind, name) = ("AuthorizationPolicy", |name| ObjectName::new("shop", name));
    let mut unenforced = Unenforced::NONE;
    assert!(!unenforced.on(kind, Happening::Init));
    assert!(!unenforced.on(kind, Happening::InitApply(name("a"))));
    assert!(unenforced.on(kind, Happening::InitDone));
    assert!(!unenforced.on(kind, Happening::Apply(name("a"))));
    assert!(unenforced.on(kind, Happening::Apply(name("b"))));
    let named = vec!["AuthorizationPolicy a".to_owned(), "AuthorizationPolicy b".to_owned()];
    assert_eq!(unenforced.by_namespace(), BTreeMap::from([("shop".to_owned(), named)]));
    let mut state = started(&[]);
    state.stir();
    let edit = state.take(&unenforced).unwrap();
    let first = edit.problems[0].to_string();
    assert_eq!(first, "AuthorizationPolicy shop/a: is not enforced: this version does not read AuthorizationPolicy");
    assert!(unenforced.on(kind, Happening::Delete(name("a"))));
    assert!(unenforced.on(kind, Happening::Absent) && unenforced.by_namespace().is_empty());
}

#[test]
fn problems_are_bounded() {
    let names: Vec<_> = (0..MAX_PROBLEMS + 5).map(|n| format!("n{n}")).collect();
    let bad: Vec<_> = names.iter().map(|name| served(name, 0, Is::Bad)).collect();
    let mut state = others_listed();
    list(&mut state, &bad);
    let Edit { problems, refused, .. } = state.take(NOBODY).unwrap();
    assert_eq!((problems.len(), refused.len()), (MAX_PROBLEMS, MAX_PROBLEMS + 5));
    assert_eq!(problems.last().unwrap().message, "6 more problems are not listed");
}

/// What happens in a cluster, and to our watch of it.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Somebody writes an object.
    Write(usize, Is),
    /// Somebody deletes one.
    Delete(usize),
    /// The watch breaks: what happens now goes unseen.
    Break,
    /// It goes on from where it was: everything unseen is told.
    Resume,
    /// A list begins, and breaks off after so many objects.
    Half(usize),
    /// A list.
    List,
    /// Somebody takes an edit.
    Take,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let is = prop_oneof![4 => (0..3_i64).prop_map(Is::Good), 1 => Just(Is::Bad), 1 => Just(Is::Ignored)];
    let step = prop_oneof![
        6 => (0..NAMES.len(), is).prop_map(|(name, is)| Step::Write(name, is)),
        3 => (0..NAMES.len()).prop_map(Step::Delete),
        2 => Just(Step::Break),
        2 => Just(Step::Resume),
        1 => (0..NAMES.len()).prop_map(Step::Half),
        2 => Just(Step::List),
        4 => Just(Step::Take),
    ];
    proptest::collection::vec(step, 0..60)
}

/// The cluster, our watch of it, and whoever takes the edits.
#[derive(Default)]
struct World {
    state: State,
    cluster: BTreeMap<&'static str, (u32, Is)>,
    uids: u32,
    /// Told to the watch when it goes on; `None` while it does not break.
    unseen: Option<Vec<Happening<Served>>>,
    taken: BTreeMap<ObjectKey, Object>,
    problems: Vec<Problem>,
    /// The good forms an object has had, by name and uid.
    once: BTreeMap<(&'static str, u32), Vec<Object>>,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Write(name, is) => {
                let name = NAMES[name];
                self.uids += 1;
                let entry = self.cluster.entry(name).or_insert((self.uids, is));
                entry.1 = is;
                let served = served(name, entry.0, is);
                if let Form::Good(object) = &served.form {
                    self.once.entry((name, entry.0)).or_default().push((**object).clone());
                }
                self.tell(Happening::Apply(served));
            }
            Step::Delete(name) => {
                if let Some((uid, is)) = self.cluster.remove(NAMES[name]) {
                    self.tell(Happening::Delete(served(NAMES[name], uid, is)));
                }
            }
            Step::Break => drop(self.unseen.get_or_insert_default()),
            Step::Resume => {
                for happening in self.unseen.take().into_iter().flatten() {
                    self.state.on(Kind::Namespace, happening);
                }
            }
            Step::Half(count) => {
                // What is told after this is the next list's business.
                self.unseen = Some(Vec::new());
                let before = self.state.pending.clone();
                self.state.on(Kind::Namespace, Happening::Init);
                for (name, (uid, is)) in self.cluster.iter().take(count) {
                    self.state.on(Kind::Namespace, Happening::InitApply(served(name, *uid, *is)));
                }
                assert_eq!(self.state.pending, before, "half a list is nothing");
                self.step(Step::List);
            }
            Step::List => {
                self.unseen = None;
                let all: Vec<_> = self.cluster.iter().map(|(name, (uid, is))| served(name, *uid, *is)).collect();
                list(&mut self.state, &all);
            }
            Step::Take => {
                let Some(edit) = self.state.take(NOBODY) else { return };
                let upserted: BTreeSet<_> = edit.objects.upserts.iter().map(Object::key).collect();
                assert!(edit.objects.removes.iter().all(|key| !upserted.contains(key)), "{edit:?}");
                for key in &edit.objects.removes {
                    self.taken.remove(key);
                }
                self.taken.extend(edit.objects.upserts.into_iter().map(|object| (object.key(), object)));
                self.problems = edit.problems;
            }
        }
    }

    fn tell(&mut self, happening: Happening<Served>) {
        match &mut self.unseen {
            Some(unseen) => unseen.push(happening),
            None => self.state.on(Kind::Namespace, happening),
        }
    }
}

proptest! {
    #[test]
    fn any_history_leads_to_what_a_fresh_list_gives(history in steps(), by_list in any::<bool>()) {
        let mut world = World { state: others_listed(), ..World::default() };
        world.step(Step::List);
        for step in history {
            world.step(step);
        }
        world.step(if by_list { Step::List } else { Step::Resume });
        world.step(Step::Take);

        let all: Vec<_> = world.cluster.iter().map(|(name, (uid, is))| served(name, *uid, *is)).collect();
        let mut fresh = others_listed();
        list(&mut fresh, &all);
        let fresh = fresh.take(NOBODY).unwrap();
        prop_assert_eq!(&world.problems, &fresh.problems);
        prop_assert_eq!(world.state.count(Kind::Namespace), world.cluster.len());
        let mut rest = world.taken.clone();
        for object in fresh.objects.upserts {
            prop_assert_eq!(rest.remove(&object.key()), Some(object));
        }
        // What is left are last good forms of what is bad now.
        for (key, object) in rest {
            let (name, (uid, is)) = world.cluster.get_key_value(&*key.name.name).unwrap();
            prop_assert_eq!(*is, Is::Bad);
            prop_assert!(world.once[&(*name, *uid)].contains(&object));
        }
    }
}

mod config_maps;
