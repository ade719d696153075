//! Round trips, steps, and what a Secret may not hold.

use std::time::Duration;

use super::*;
use crate::identity::rotation::{Facts, Times};

const DOMAIN: &str = "weft.local";

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn written(content: &Content) -> Secret {
    let mut secret = Secret::default();
    content.write(&mut secret);
    secret
}

fn note(secret: &mut Secret, key: &str, value: &str) {
    secret.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

#[test]
fn a_rotation_goes_through_the_secret_step_by_step() {
    let times = Times::new(Duration::from_secs(86_400));
    let (mut now, first) = (start(), Content::new(DOMAIN, start()).unwrap());
    let mut secret = written(&first);
    note(&mut secret, "mine", "stays");
    note(&mut secret, ROTATE, "2026-11-24");
    let old = first.current.certificate().clone();
    let mut story = Vec::new();
    for _ in 0..20 {
        let content = Content::read(&secret, now).unwrap();
        let roots = content.bundle();
        story.push((content.rotation.word(), roots.len(), roots[0] == old));
        let facts = Facts { now, asked: content.asked(), all_acked: true };
        match content.rotation.next(&facts, &times) {
            Next::Wait(None) => break,
            Next::Wait(Some(due)) => {
                story.pop();
                now = due;
            }
            next => content.after(next, DOMAIN, now).unwrap().write(&mut secret),
        }
    }
    let expected = [
        ("stable", 1, true),
        ("distributing", 2, true),
        ("switched", 2, false),
        ("retiring", 2, false),
        ("stable", 1, false),
    ];
    assert_eq!(story, expected);
    assert_eq!(now.duration_since(start()).unwrap(), Duration::from_secs(180 + 180 + 86_400 + 60));
    assert_eq!(secret.metadata.annotations.as_ref().unwrap()["mine"], "stays");
    assert_eq!(secret.data.unwrap().keys().collect::<Vec<_>>(), ["root.pem"], "no old key is left");
}

#[test]
fn once_switched_the_old_key_is_gone() {
    let content = Content::new(DOMAIN, start()).unwrap();
    let content = content.after(Next::Distribute, DOMAIN, start()).unwrap();
    let content = content.after(Next::Switch, DOMAIN, start()).unwrap();
    let data = written(&content).data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["previous.pem", "root.pem"]);
    assert!(!String::from_utf8_lossy(&data["previous.pem"].0).contains("PRIVATE"));
}

#[test]
fn what_is_not_what_we_wrote_is_refused_by_name_and_never_quoted() {
    let one = written(&Content::new(DOMAIN, start()).unwrap()).data.unwrap()["root.pem"].0.clone();
    let two = written(&Content::new(DOMAIN, start()).unwrap()).data.unwrap()["root.pem"].0.clone();
    let (one, two) = (String::from_utf8(one).unwrap(), String::from_utf8(two).unwrap());
    let split = |pem: &str| pem.find("-----BEGIN CERTIFICATE").unwrap();
    let (key, certificate) = one.split_at(split(&one));
    let other = &two[split(&two)..];
    let entry = |key: &str, value: &str| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
    let rows = [
        ("nothing", vec![], "root.pem is missing"),
        ("another key only", vec![entry("tls.crt", &one)], "root.pem is missing"),
        ("empty", vec![entry("root.pem", "")], "root.pem: no private key"),
        ("no key", vec![entry("root.pem", certificate)], "root.pem: no private key"),
        ("no certificate", vec![entry("root.pem", key)], "root.pem: no certificate"),
        (
            "another's certificate",
            vec![entry("root.pem", &format!("{key}{other}"))],
            "root.pem: its certificate is for",
        ),
        ("large", vec![entry("root.pem", &one.repeat(100))], "root.pem: it is larger"),
        ("a damaged next", vec![entry("root.pem", &one), entry("next.pem", "x")], "next.pem: no private key"),
        (
            "a damaged previous",
            vec![entry("root.pem", &one), entry("previous.pem", "x")],
            "previous.pem: no certificate",
        ),
        (
            "too many",
            vec![entry("root.pem", &one), entry("next.pem", &two), entry("previous.pem", other)],
            "next.pem and previous.pem are never",
        ),
    ];
    for (row, data, expected) in rows {
        let secret = Secret { data: Some(data.into_iter().collect()), ..Secret::default() };
        let why = Content::read(&secret, start()).err().unwrap_or_default();
        assert!(why.starts_with(expected), "{row}: {why}");
        assert!(!why.contains("BEGIN"), "{row}: {why}");
    }
}

#[test]
fn lost_or_edited_annotations_make_it_wait_and_never_skip() {
    let (began, now) = (start(), start() + Duration::from_secs(50));
    let content = Content::new(DOMAIN, began).unwrap();
    let distributing = content.after(Next::Distribute, DOMAIN, began).unwrap();
    let switched = distributing.after(Next::Switch, DOMAIN, began).unwrap();
    let retiring =
        switched.after(Next::Retire { withdraw_at: began + Duration::from_secs(99) }, DOMAIN, began).unwrap();
    type Edits = &'static [(&'static str, &'static str)];
    #[rustfmt::skip]
    let rows: [(&str, &Content, Edits, Rotation); 8] = [
        ("untouched",              &distributing, &[],                       Rotation::Distributing { since: began }),
        ("stable, says somebody",  &distributing, &[(STEP, "stable")],       Rotation::Distributing { since: now }),
        ("switched, says somebody",&distributing, &[(STEP, "switched")],     Rotation::Distributing { since: now }),
        ("a time that is none",    &distributing, &[(SINCE, "yesterday")],   Rotation::Distributing { since: now }),
        ("a time to come",         &distributing, &[(SINCE, "2999-01-01T00:00:00Z")], Rotation::Distributing { since: now }),
        ("untouched",              &switched,     &[],                       Rotation::Switched { since: began }),
        ("stable, says somebody",  &retiring,     &[(STEP, "stable")],       Rotation::Switched { since: now }),
        ("no end",                 &retiring,     &[(WITHDRAW_AT, "")],      Rotation::Switched { since: now }),
    ];
    for (row, content, edits, expected) in rows {
        let mut secret = written(content);
        edits.iter().for_each(|(key, value)| note(&mut secret, key, value));
        assert_eq!(Content::read(&secret, now).unwrap().rotation, expected, "{row}");
    }
    let mut bare = written(&retiring);
    bare.metadata.annotations = None;
    assert_eq!(Content::read(&bare, now).unwrap().rotation, Rotation::Switched { since: now });
}

#[test]
fn each_new_value_asks_once() {
    let mut secret = written(&Content::new(DOMAIN, start()).unwrap());
    let asked = |secret: &Secret| Content::read(secret, start()).unwrap().asked();
    assert!(!asked(&secret));
    note(&mut secret, ROTATE, "");
    assert!(!asked(&secret), "an empty value asks for nothing");
    note(&mut secret, ROTATE, "a");
    assert!(asked(&secret));
    Content::read(&secret, start()).unwrap().after(Next::Distribute, DOMAIN, start()).unwrap().write(&mut secret);
    assert!(!asked(&secret));
    note(&mut secret, ROTATE, "b");
    assert!(asked(&secret));
}
