//! Requests that stay with an endpoint by what is in them (SEMANTICS.md §3 "balancing").

use weft_proto::v1;
use weft_proto::v1::hash_by::By;

use super::Pair;
use super::wire::App;

/// A pair with two endpoints, whose requests stay by `by`, and the app of the second.
async fn staying(algorithm: v1::BalancingAlgorithm, by: By) -> (Pair, App) {
    let pair = Pair::new(App::says("one").await).await;
    let two = App::says("two").await;
    let endpoints = [pair.reviews.meshed(pair.app.addr).await, pair.reviews.meshed(two.addr).await];
    pair.web.endpoints("shop/reviews:80", &endpoints);
    pair.web.service(|port| {
        let balancing = v1::Balancing {
            algorithm: algorithm.into(),
            hash_by: Some(v1::HashBy { by: Some(by) }),
            ..v1::Balancing::default()
        };
        port.policy = Some(v1::BackendPolicy { balancing: Some(Box::new(balancing)), ..v1::BackendPolicy::default() });
    });
    (pair, two)
}

#[tokio::test]
async fn requests_with_the_same_header_stay_with_one_endpoint_and_others_are_spread() {
    for algorithm in [v1::BalancingAlgorithm::RingHash, v1::BalancingAlgorithm::Maglev] {
        let (pair, _two) = staying(algorithm, By::Header("x-user".into())).await;
        let mut client = pair.connect().await;
        let mut homes = Vec::new();
        for user in 0..20 {
            let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\nx-user: {user}\r\n\r\n");
            let first = client.ask(&request).await.text().to_owned();
            for _ in 0..3 {
                assert_eq!(client.ask(&request).await.text(), first, "user {user}");
            }
            homes.push(first);
        }
        assert!(homes.iter().any(|home| home == "one") && homes.iter().any(|home| home == "two"), "{homes:?}");
    }
}

#[tokio::test]
async fn a_client_without_the_cookie_is_given_one_that_leads_back_to_who_answered() {
    let lasts = Some(v1::Millis { value: 60_000 });
    let by = By::Cookie(v1::HashCookie { name: "user".into(), path: "/".into(), lasts });
    let (pair, _two) = staying(v1::BalancingAlgorithm::RingHash, by).await;
    let mut client = pair.connect().await;
    for _ in 0..10 {
        let first = client.get("/").await;
        let given = first.head.get("set-cookie").expect("a cookie").to_owned();
        let (crumb, attributes) = given.split_once("; ").expect("attributes");
        assert_eq!(attributes, "Max-Age=60; Path=/; HttpOnly");
        let request = format!("GET / HTTP/1.1\r\nhost: reviews\r\ncookie: {crumb}\r\n\r\n");
        for _ in 0..3 {
            let again = client.ask(&request).await;
            assert_eq!((again.text(), again.head.get("set-cookie")), (first.text(), None));
        }
    }
}
