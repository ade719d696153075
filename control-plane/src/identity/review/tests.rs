//! What the API server may say, and what is made of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use k8s_openapi::api::authentication::v1::UserInfo;
use tokio::sync::Semaphore;

use super::*;
use crate::identity::Refusal;
use crate::identity::proof::ProvenPod;

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn own() -> SpiffeId {
    id("spiffe://weft.local/ns/weft-system/sa/weft-control-plane")
}

fn user(name: &str) -> UserInfo {
    UserInfo { username: Some(name.to_owned()), ..UserInfo::default() }
}

fn yes(name: &str, audiences: &[&str]) -> TokenReviewStatus {
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
        user: Some(user(name)),
        error: None,
    }
}

fn no(error: &str) -> TokenReviewStatus {
    TokenReviewStatus { error: Some(error.to_owned()), ..TokenReviewStatus::default() }
}

#[test]
fn only_a_service_account_for_our_audience_is_anybody() {
    let web = "system:serviceaccount:shop:web";
    let ours = &[AUDIENCE][..];
    let ignoring = TokenReviewStatus { audiences: None, ..yes(web, &[]) };
    let doubtful = TokenReviewStatus { authenticated: None, ..yes(web, ours) };
    let nameless = TokenReviewStatus { user: None, ..yes(web, ours) };
    let rows = [
        ("good", yes(web, ours), "ok"),
        ("one audience of several", yes(web, &["other", AUDIENCE]), "ok"),
        ("another audience", yes(web, &["https://kubernetes.default.svc"]), "audience-unchecked"),
        ("an API server that ignores audiences", ignoring, "audience-unchecked"),
        ("an audience that begins alike", yes(web, &["weft-ca-2"]), "audience-unchecked"),
        ("not authenticated", no("[invalid bearer token, Token has been invalidated]"), "rejected-service-account"),
        ("past its end", no("[invalid bearer token, service account token has expired]"), "expired-service-account"),
        ("no answer to the question", doubtful, "rejected-service-account"),
        ("nobody", nameless, "not-service-account"),
        ("a person", yes("jane", ours), "not-service-account"),
        ("a node", yes("system:node:node-1", ours), "not-service-account"),
        ("half a name", yes("system:serviceaccount:shop", ours), "not-service-account"),
        ("an empty account", yes("system:serviceaccount:shop:", ours), "not-service-account"),
        ("an empty namespace", yes("system:serviceaccount::web", ours), "not-service-account"),
        ("a third part", yes("system:serviceaccount:shop:web:x", ours), "not-service-account"),
        ("a path for a name", yes("system:serviceaccount:shop:web/sa/bank", ours), "not-service-account"),
        ("the control plane", yes("system:serviceaccount:weft-system:weft-control-plane", ours), "reserved"),
        ("its own account", yes("system:serviceaccount:mesh:weft-control-plane", ours), "reserved"),
    ];
    for (row, status, expected) in rows {
        let outcome =
            answer::identity(status, "weft.local", &[own(), id("spiffe://weft.local/ns/mesh/sa/weft-control-plane")]);
        assert_eq!(outcome.as_ref().map_or_else(Refusal::reason, |_| "ok"), expected, "{row}");
        if let Ok(proven) = outcome {
            assert_eq!(proven, Proven { id: id("spiffe://weft.local/ns/shop/sa/web"), pod: None }, "{row}");
        }
    }
}

#[test]
fn the_pod_is_kept_for_the_audit_log() {
    let mut status = yes("system:serviceaccount:shop:web", &[AUDIENCE]);
    let extra = [("authentication.kubernetes.io/pod-name", "web-1"), ("authentication.kubernetes.io/pod-uid", "u-1")];
    let extra = extra.into_iter().map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).collect();
    status.user.as_mut().unwrap().extra = Some(extra);
    let proven =
        answer::identity(status, "weft.local", &[own(), id("spiffe://weft.local/ns/mesh/sa/weft-control-plane")])
            .unwrap();
    assert_eq!(proven.pod, Some(ProvenPod { name: "web-1".to_owned(), uid: "u-1".to_owned() }));
}

/// A token nobody signed.
fn token(claims: &str) -> String {
    format!("{}.{}.c2lnbmF0dXJl", BASE64.encode(r#"{"alg":"RS256"}"#), BASE64.encode(claims))
}

#[test]
fn a_token_that_says_it_is_not_for_us_costs_the_api_server_nothing() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let rows = [
        ("good", token(r#"{"aud":["weft-ca"],"exp":1600}"#), "ok"),
        ("one audience as a string", token(r#"{"aud":"weft-ca","exp":1600}"#), "ok"),
        ("no end", token(r#"{"aud":["weft-ca"]}"#), "ok"),
        ("an end no clock holds", token(r#"{"aud":["weft-ca"],"exp":18446744073709551615}"#), "ok"),
        ("a minute past its end", token(r#"{"aud":["weft-ca"],"exp":940}"#), "expired-service-account"),
        ("just past its end: clocks differ", token(r#"{"aud":["weft-ca"],"exp":941}"#), "ok"),
        ("another audience", token(r#"{"aud":["vault"],"exp":1600}"#), "wrong-audience"),
        ("no audience", token(r#"{"exp":1600}"#), "wrong-audience"),
        ("claims that are no object", token("[]"), "not-service-account"),
        ("an end that is no number", token(r#"{"aud":["weft-ca"],"exp":"x"}"#), "not-service-account"),
        ("a join token", "YWJj.ZGVm".to_owned(), "not-service-account"),
        ("four parts", "a.b.c.d".to_owned(), "not-service-account"),
        ("garbage", "garbage".to_owned(), "not-service-account"),
        ("empty", String::new(), "not-service-account"),
        ("long", token(&format!(r#"{{"aud":["weft-ca"],"x":"{}"}}"#, "x".repeat(1 << 20))), "not-service-account"),
    ];
    for (row, token, expected) in rows {
        assert_eq!(answer::claims(&token, now).map_or_else(|r| r.reason(), |_| "ok"), expected, "{row}");
    }
}

/// An API server that counts questions, and answers once it may.
struct Fake {
    asked: Arc<AtomicUsize>,
    may: Arc<Semaphore>,
    says: fn() -> Result<TokenReviewStatus, String>,
}

impl Reviews for Fake {
    fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, String>> {
        Box::pin(async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.may.acquire().await.unwrap().forget();
            (self.says)()
        })
    }
}

fn reviewer(
    permits: usize,
    says: fn() -> Result<TokenReviewStatus, String>,
) -> (Arc<TokenReviewer>, Arc<AtomicUsize>, Arc<Semaphore>) {
    let (asked, may) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(permits)));
    let fake = Fake { asked: Arc::clone(&asked), may: Arc::clone(&may), says };
    (Arc::new(TokenReviewer::with(Box::new(fake), "weft.local", vec![own()])), asked, may)
}

fn good() -> Result<TokenReviewStatus, String> {
    Ok(yes("system:serviceaccount:shop:web", &[AUDIENCE]))
}

const ANYBODY: Caller = Caller::UNKNOWN;

/// One who calls from the address of this number.
fn caller(number: u8, certified: bool) -> Caller {
    Caller { source: [10, 0, 0, number].into(), certified }
}

/// A token nobody has seen before.
fn forged(number: usize) -> String {
    token(&format!(r#"{{"aud":["weft-ca"],"n":{number}}}"#))
}

const GOOD: &str = r#"{"aud":["weft-ca"]}"#;

#[tokio::test(start_paused = true)]
async fn callers_with_the_same_token_share_one_review_and_the_next_minute_needs_none() {
    let (reviewer, asked, may) = reviewer(0, good);
    let now = SystemTime::now();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let reviewer = Arc::clone(&reviewer);
            tokio::spawn(async move { reviewer.prove(&token(GOOD), ANYBODY, now).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    callers[0].abort(); // The one who began it may go.
    may.add_permits(1);
    for caller in callers.into_iter().skip(1) {
        assert_eq!(caller.await.unwrap().unwrap().id, id("spiffe://weft.local/ns/shop/sa/web"));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(reviewer.prove(&token(GOOD), ANYBODY, now + Duration::from_secs(59)).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 1, "remembered");
    may.add_permits(1);
    assert!(reviewer.prove(&token(GOOD), ANYBODY, now + Duration::from_secs(60)).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 2, "a minute later");
    assert!(reviewer.0.known.lock().flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_no_is_asked_again_and_silence_is_no_refusal() {
    let now = SystemTime::now();
    let (refusing, asked, _may) = reviewer(2, || Ok(no("invalid bearer token")));
    for round in 1..=2 {
        let outcome = refusing.prove(&token(GOOD), ANYBODY, now).await;
        assert_eq!(outcome, Err(Unproven::Refused(Refusal::RejectedServiceAccount)));
        assert_eq!(asked.load(Ordering::Relaxed), round);
    }
    let (failing, _asked, _may) = reviewer(1, || Err("connection refused".to_owned()));
    assert_eq!(failing.prove(&token(GOOD), ANYBODY, now).await, Err(Unproven::Unavailable));
    let (silent, _asked, _may) = reviewer(0, good);
    let began = tokio::time::Instant::now();
    assert_eq!(silent.prove(&token(GOOD), ANYBODY, now).await, Err(Unproven::Unavailable));
    assert_eq!(began.elapsed().as_secs(), TIME_LIMIT.as_secs());
    assert!(silent.0.known.lock().flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_is_asked_by_few_and_waited_for_by_a_bounded_number() {
    let (reviewer, asked, _may) = reviewer(0, good);
    let now = SystemTime::now();
    // Honest ones, from so many addresses that nobody has more than it keeps.
    let callers: Vec<_> = (0..FLIGHTS.total + 10)
        .map(|n| {
            let (reviewer, from) =
                (Arc::clone(&reviewer), [10, 0, (n / FLIGHTS.kept / 256) as u8, (n / FLIGHTS.kept) as u8]);
            let caller = Caller { source: from.into(), certified: false };
            tokio::spawn(async move { reviewer.prove(&forged(n), caller, now).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(asked.load(Ordering::Relaxed), MAX_REVIEWS);
    assert_eq!(callers.iter().filter(|caller| caller.is_finished()).count(), 10, "told to come back");
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Err(Unproven::Unavailable));
    }
}

#[tokio::test(start_paused = true)]
async fn made_up_tokens_keep_nobody_else_from_a_certificate() {
    let (reviewer, _asked, may) = reviewer(0, good);
    let now = SystemTime::now();
    let ask = |number: usize, caller: Caller| {
        let reviewer = Arc::clone(&reviewer);
        tokio::spawn(async move { reviewer.prove(&forged(number), caller, now).await })
    };
    let settled = || tokio::time::sleep(Duration::from_millis(1));
    // Four addresses with as many as they like: that is all there is room for.
    let forgers: Vec<_> = (0..5 * FLIGHTS.per_source).map(|n| ask(n, caller((n % 4) as u8, false))).collect();
    settled().await;
    assert_eq!(forgers.iter().filter(|forger| !forger.is_finished()).count(), FLIGHTS.total);
    let honest = ask(10_000, caller(9, false));
    settled().await;
    assert!(!honest.is_finished(), "it waits for its review as if they were not there");
    assert_eq!(reviewer.0.known.lock().flights.len(), FLIGHTS.total, "one of them came off for it");

    // Behind the address of one of them: who shows a certificate has room of its own, and what goes beyond that waits with
    // the others, and goes with them.
    let renewing: Vec<_> = (0..=RESERVED).map(|n| ask(20_000 + n, caller(0, true))).collect();
    settled().await;
    assert_eq!(reviewer.0.known.lock().flights.len(), FLIGHTS.total + RESERVED);
    let more: Vec<_> = (0..FLIGHTS.per_source).map(|n| ask(30_000 + n, caller(0, false))).collect();
    settled().await;
    assert!(renewing[..RESERVED].iter().all(|caller| !caller.is_finished()));
    assert!(renewing[RESERVED].is_finished());

    may.add_permits(2 * FLIGHTS.total);
    assert!(honest.await.unwrap().is_ok());
    for caller in renewing.into_iter().take(RESERVED) {
        assert!(caller.await.unwrap().is_ok());
    }
    for caller in more.into_iter().chain(forgers) {
        drop(caller.await.unwrap());
    }
    let room = (reviewer.0.flights.taken(), reviewer.0.reserved_flights.available_permits());
    assert_eq!((room, reviewer.0.known.lock().flights.len()), ((0, RESERVED), 0), "all is given back");
}
