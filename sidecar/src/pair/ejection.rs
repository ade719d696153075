//! Which answers eject an endpoint: by the mesh's own detection, and by Envoy's (SEMANTICS.md §3 "outlier detection").

use std::time::{Duration, Instant};

use weft_proto::v1;

use super::wire::App;
use super::{Pair, REVIEWS, plain};

/// One endpoint that answers with a status, and one that is well; the policy is `outlier`.
async fn failing(status: &'static str, outlier: Option<v1::OutlierDetection>) -> (Pair, App) {
    let pair = Pair::new(App::says("well").await).await;
    let fails = App::http1(move |_| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
    pair.web.endpoints(REVIEWS, &[pair.reviews.meshed(pair.app.addr).await, plain(fails.addr)]);
    pair.web.service(|port| {
        let policy = v1::BackendPolicy { outlier_detection: outlier, ..v1::BackendPolicy::default() };
        port.policy = Some(policy);
    });
    (pair, fails)
}

/// Asks until one is ejected, or for two seconds. How often the failing one was asked, and whether it was ejected.
async fn asked(pair: &Pair, fails: &App) -> (usize, u64) {
    let mut client = pair.connect().await;
    let began = Instant::now();
    loop {
        client.post("/", "x").await;
        let ejections = pair.web.metric("weft_ejections_total", REVIEWS);
        if ejections > 0 || began.elapsed() > Duration::from_secs(2) {
            return (fails.count(), ejections);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// As the control plane says it where `outlierDetection` says no more than this.
fn envoy(consecutive: v1::ConsecutiveEjection) -> Option<v1::OutlierDetection> {
    let envoy = v1::EnvoyOutlierDetection { consecutive: Some(consecutive), ..v1::EnvoyOutlierDetection::default() };
    Some(v1::OutlierDetection {
        base_ejection: Some(v1::Millis { value: 60_000 }),
        max_ejection: Some(v1::Millis { value: 60_000 }),
        envoy: Some(Box::new(envoy)),
        ..v1::OutlierDetection::default()
    })
}

#[tokio::test]
async fn a_500_ejects_by_envoys_detection_and_not_by_ours() {
    let times = |failures| Some(v1::ConsecutiveFailures { failures, enforcing_percent: None });
    let five = || v1::ConsecutiveEjection { server_error: times(5), gateway: None };
    let three_gateway = || v1::ConsecutiveEjection { server_error: None, gateway: times(3) };
    let internal = "500 Internal Server Error";
    let unavailable = "503 Service Unavailable";
    for (row, status, outlier, want) in [
        ("ours, 500", internal, None, None),
        ("ours, 503", unavailable, None, Some(5)),
        ("Envoy's, 500", internal, envoy(five()), Some(5)),
        ("Envoy's, 503", unavailable, envoy(five()), Some(5)),
        ("gateway failures, 500", internal, envoy(three_gateway()), None),
        ("gateway failures, 503", unavailable, envoy(three_gateway()), Some(3)),
        ("none", unavailable, envoy(v1::ConsecutiveEjection::default()), None),
    ] {
        let (pair, fails) = failing(status, outlier).await;
        let (asked, ejections) = asked(&pair, &fails).await;
        match want {
            Some(want) => assert_eq!((asked, ejections), (want, 1), "{row}"),
            // One that only ever fails is asked seldom, whatever is said of ejections.
            None => assert!(asked > 0 && ejections == 0, "{row}: asked {asked} times, ejected {ejections} times"),
        }
    }
}
