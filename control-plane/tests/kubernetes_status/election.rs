//! Who leads.

use std::time::{Duration, Instant};

use weft_control_plane::leader::Election;

use crate::cluster::{Cluster, PATIENCE};

async fn leads(election: &Election) -> Duration {
    let began = Instant::now();
    let mut leads = election.leads();
    tokio::time::timeout(PATIENCE, leads.wait_for(|leads| *leads)).await.expect("nobody leads").unwrap();
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn one_leads_and_is_replaced_when_it_gives_up_and_when_it_is_killed() {
    let cluster = Cluster::new("leader").await;
    let first = cluster.election("a");
    leads(&first).await;
    let (second, third) = (cluster.election("b"), cluster.election("c"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((*second.leads().borrow(), *third.leads().borrow(), &*cluster.holder().await), (false, false, "a"));

    let mut old = first.leads();
    let began = Instant::now();
    first.resign().await;
    assert!(!*old.borrow_and_update(), "who gives it up leads no more");
    let next = tokio::select! {
        _ = leads(&second) => "b",
        _ = leads(&third) => "c",
    };
    println!("given up: {next} leads after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(cluster.holder().await, next);

    let (killed, left) = if next == "b" { (second, third) } else { (third, second) };
    let began = Instant::now();
    drop(killed);
    leads(&left).await;
    println!("killed: the last leads after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
    left.resign().await;
    assert_eq!(cluster.holder().await, "");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs WEFT_TEST_KUBECONFIG"]
async fn of_those_who_stand_at_the_same_moment_one_leads() {
    let cluster = Cluster::new("race").await;
    let all: Vec<_> = (0..8).map(|index| cluster.election(&format!("c{index}"))).collect();
    let leaders = || all.iter().filter(|election| *election.leads().borrow()).count();
    let began = Instant::now();
    let mut first = None;
    while began.elapsed() < Duration::from_secs(4) {
        let leaders = leaders();
        assert!(leaders < 2, "{leaders} lead after {:?}", began.elapsed());
        if leaders == 1 && first.is_none() {
            first = Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("one of eight leads after {first:?}");
    assert!(first.is_some_and(|first| first < Duration::from_secs(1)), "{first:?}");
    let holder = cluster.holder().await;
    assert!(*all[holder[1..].parse::<usize>().unwrap()].leads().borrow(), "who holds the Lease leads: {holder}");
    cluster.end().await;
}
