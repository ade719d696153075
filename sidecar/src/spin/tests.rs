use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const QUICK: Duration = Duration::from_micros(50);

/// Whoever answers as quickly as this again and again.
fn quick() -> Waits {
    let waits = Waits::default();
    for _ in 0..100 {
        waits.0.came(QUICK, None, now());
    }
    waits
}

/// A spinner that has saved up all it may.
async fn spinner() -> Seconds {
    let spun = Seconds::default();
    tokio::spawn(keep(spun.clone()));
    turns().await;
    tokio::time::advance(Duration::from_secs(1)).await;
    spun
}

/// Lets the spinner have its turn, some times.
async fn turns() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

fn rounds() -> u64 {
    with_worker(|worker| worker.round).unwrap()
}

fn spins() -> bool {
    with_worker(|worker| worker.unpaid.is_some()).unwrap()
}

fn is_spun_for(awaited: &Awaited<'_>) -> bool {
    matches!(awaited.seat, Some(Seat::Spun(_)))
}

#[tokio::test(start_paused = true)]
async fn it_spins_until_the_response_is_here_and_pays_for_it() {
    let (waits, spun) = (quick(), spinner().await);
    let awaited = waits.begin(now());
    assert!(is_spun_for(&awaited));
    turns().await;
    assert_eq!((rounds(), spins()), (0, true));
    tokio::time::advance(QUICK).await;
    awaited.over(now());
    turns().await;
    assert_eq!((rounds(), spins()), (1, false));
    assert_eq!(spun.get(), QUICK.as_secs_f64());
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_when_the_time_is_over() {
    let (waits, _) = (quick(), spinner().await);
    let awaited = waits.begin(now());
    turns().await;
    tokio::time::advance(QUICK * 3).await;
    turns().await;
    assert_eq!((rounds(), spins()), (1, false));
    // What comes now counts for nobody who is spun for meanwhile.
    let next = waits.begin(now());
    assert!(is_spun_for(&next));
    awaited.over(now());
    turns().await;
    assert_eq!((rounds(), spins()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn of_several_it_waits_for_the_last() {
    let (waits, _) = (quick(), spinner().await);
    let (first, second) = (waits.begin(now()), waits.begin(now()));
    first.over(now());
    turns().await;
    assert!(spins());
    // Nobody waits for it any more.
    drop(second);
    turns().await;
    assert!(!spins());
}

#[tokio::test(start_paused = true)]
async fn who_is_not_spun_for_is_served_all_the_same() {
    let (waits, _) = (quick(), spinner().await);
    let awaited = waits.begin(now());
    turns().await;
    let (mut here, mut there) = tokio::net::UnixStream::pair().unwrap();
    let echo = tokio::spawn(async move {
        let mut byte = [0];
        while matches!(there.read(&mut byte).await, Ok(1)) && there.write_all(&byte).await.is_ok() {}
    });
    for n in 0..100 {
        here.write_all(&[n]).await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), n);
    }
    assert_eq!((rounds(), spins()), (0, true));
    drop((here, awaited));
    echo.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_time_left_it_sleeps() {
    let (waits, spun) = (quick(), spinner().await);
    let mut slept = 0;
    for _ in 0..200 {
        let awaited = waits.begin(now());
        slept += u32::from(!is_spun_for(&awaited));
        turns().await;
        tokio::time::advance(QUICK).await;
        awaited.over(now());
        turns().await;
    }
    assert!(slept > 0 && !spins());
    assert!(spun.get() < 0.007, "{} s", spun.get());
}

#[tokio::test(start_paused = true)]
async fn without_a_spinner_nothing_is_measured() {
    let waits = quick();
    let before = format!("{waits:?}");
    let awaited = waits.begin(now());
    assert!(awaited.seat.is_none());
    tokio::time::advance(Duration::from_secs(1)).await;
    awaited.over(now());
    assert_eq!(format!("{waits:?}"), before);
}
