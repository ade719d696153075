//! HTTP/2 end to end: streams that go both ways at once, and resets that keep their code (SEMANTICS.md §1, §3).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use tokio::time::timeout;
use weft_proto::v1;

use super::wire::{Answer2, App, Wire, ask_h2, collect};
use super::{Pair, REVIEWS, VIP, plain, routed, rule};

/// An app whose every stream is given to `script`.
async fn streams<F>(
    script: impl Fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F + Send + Sync + 'static,
) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    let script = Arc::new(script);
    App::raw(move |wire: Wire, _| {
        let script = Arc::clone(&script);
        async move {
            let Ok(mut connection) = h2::server::handshake(wire.stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(script(request, respond));
            }
        }
    })
    .await
}

fn call(path: &str) -> Request<()> {
    let uri = format!("http://reviews{path}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

#[tokio::test]
async fn a_bidirectional_stream_talks_in_turns_and_ends_with_trailers() {
    let app = streams(|request, mut respond| async move {
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            send.send_data(data, false).unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    })
    .await;
    let pair = Pair::new(app).await;
    let mut client = pair.connect().await.h2().await.ready().await.unwrap();
    let (response, mut send) = client.send_request(call("/pkg.Svc/Chat"), false).unwrap();
    let mut recv =
        timeout(Duration::from_secs(5), response).await.expect("a head before any data").unwrap().into_body();
    for number in 0..100 {
        let message = Bytes::from(format!("message {number}"));
        send.send_data(message.clone(), false).unwrap();
        let mut got = Vec::new();
        while got.len() < message.len() {
            let data = timeout(Duration::from_secs(5), recv.data()).await.expect("an answer").unwrap().unwrap();
            recv.flow_control().release_capacity(data.len()).unwrap();
            got.extend_from_slice(&data);
        }
        assert_eq!(got, message);
    }
    send.send_data(Bytes::new(), true).unwrap();
    let (rest, trailers) = collect(&mut recv).await.unwrap();
    assert_eq!((rest.len(), &trailers.unwrap()["grpc-status"]), (0, &"0".parse().unwrap()));
}

#[tokio::test]
async fn a_reset_in_mid_body_keeps_its_code() {
    for (reason, passed_on) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::INTERNAL_ERROR, Reason::INTERNAL_ERROR),
        (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (Reason::NO_ERROR, Reason::INTERNAL_ERROR),
    ] {
        let app = streams(move |_, mut respond| async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data("half".into(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            send.send_reset(reason);
        })
        .await;
        let pair = Pair::new(app).await;
        let mut client = pair.connect().await.h2().await.ready().await.unwrap();
        let (response, _) = client.send_request(call("/"), true).unwrap();
        let mut recv = response.await.unwrap().into_body();
        let error = collect(&mut recv).await.unwrap_err();
        assert_eq!(error.reason(), Some(passed_on), "{reason:?}");
    }
}

#[tokio::test]
async fn a_clients_reset_reaches_the_app_and_no_other_stream() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let app = {
        let cancelled = Arc::clone(&cancelled);
        streams(move |request, mut respond| {
            let cancelled = Arc::clone(&cancelled);
            async move {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                if request.uri().path() == "/victim" {
                    let reason = std::future::poll_fn(|cx| send.poll_reset(cx)).await.unwrap();
                    assert_eq!(reason, Reason::CANCEL);
                    cancelled.fetch_add(1, Ordering::Relaxed);
                } else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    send.send_data("alive".into(), true).unwrap();
                }
            }
        })
        .await
    };
    let pair = Pair::new(app).await;
    let client = pair.connect().await.h2().await;
    let mut client = client.ready().await.unwrap();
    let (other, _) = client.send_request(call("/other"), true).unwrap();
    let mut client = client.ready().await.unwrap();
    let (victim, mut victims) = client.send_request(call("/victim"), false).unwrap();
    let victim = victim.await.unwrap();
    victims.send_reset(Reason::CANCEL);
    drop(victim);
    let mut other = other.await.unwrap().into_body();
    assert_eq!(collect(&mut other).await.unwrap().0, "alive");
    timeout(Duration::from_secs(5), async {
        while cancelled.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the app hears of it");
}

#[tokio::test]
async fn a_stream_the_app_refuses_is_sent_again_and_one_it_breaks_is_not() {
    for (reason, runs, status) in [(Reason::REFUSED_STREAM, 2, None), (Reason::INTERNAL_ERROR, 1, Some("14"))] {
        let asked = Arc::new(AtomicUsize::new(0));
        let app = {
            let asked = Arc::clone(&asked);
            streams(move |_, mut respond| {
                let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                async move {
                    if first {
                        return respond.send_reset(reason);
                    }
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    send.send_data("ran".into(), true).unwrap();
                }
            })
            .await
        };
        let pair = Pair::new(app).await;
        let client = pair.connect().await.h2().await;
        let request = Request::from_parts(call("/").into_parts().0, Bytes::from_static(b"body"));
        let (response, _) = ask_h2(&client, request).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), runs, "{reason:?}");
        match status {
            None => assert_eq!(response.body(), "ran"),
            Some(status) => assert_eq!(response.headers()["grpc-status"], status, "{reason:?}"),
        }
    }
}

/// `appProtocol: kubernetes.io/h2c` says what the app speaks, whatever its client does.
#[tokio::test]
async fn an_http_1_client_reaches_an_app_declared_h2c() {
    let answer = |_: &http::request::Parts, body: &Bytes| Answer2 {
        status: 200,
        headers: HeaderMap::new(),
        body: Bytes::from([b"h2c ", &body[..]].concat()),
        trailers: None,
    };
    // On every address of the machine: one of them is `web`'s own.
    let app = App::h2_at("0.0.0.0:0".parse().unwrap(), answer).await;
    let mut pair = Pair::new(App::says("").await).await;
    pair.web.endpoints(REVIEWS, &[pair.reviews.meshed((Ipv4Addr::LOCALHOST, app.addr.port()).into()).await]);
    pair.app = app;
    pair.app.addr.set_ip(Ipv4Addr::LOCALHOST.into());
    let own = v1::Endpoint { address: pair.web.outbound.settings.args.pod_address.to_string(), ..plain(pair.app.addr) };
    for (row, endpoint) in [("meshed", None), ("plain", Some(plain(pair.app.addr))), ("this very pod", Some(own))] {
        if let Some(endpoint) = endpoint {
            pair.web.endpoints(REVIEWS, &[endpoint]);
        }
        for protocol in [v1::Protocol::Http2, v1::Protocol::Grpc] {
            pair.web.service(|port| port.protocol = protocol.into());
            let mut client = pair.web.connect(VIP).await;
            for _ in 0..2 {
                let response = client.post("/", "says hi").await;
                assert_eq!((response.head.status(), response.text()), (200, "h2c says hi"), "{row}");
                assert_eq!(response.head.start, "HTTP/1.1 200 OK");
            }
        }
    }
    assert!(pair.app.requests().iter().all(|seen| seen.head.get("x-weft-version").is_none()));
}

/// A route may lead from an HTTP/2 port to a backend whose port says `http`: only then is the client's version not kept.
#[tokio::test]
async fn an_http_2_client_is_led_to_a_backend_declared_http_1() {
    let pair = Pair::new(App::says("in one").await).await;
    for (row, endpoint) in [("meshed", None), ("plain", Some(plain(pair.app.addr)))] {
        if let Some(endpoint) = endpoint {
            pair.web.endpoints(REVIEWS, &[endpoint]);
        }
        pair.web.service(|port| {
            routed(port, rule(&[("shop/reviews", 1)]));
            port.protocol = v1::Protocol::Http2.into();
        });
        let client = pair.web.connect(VIP).await.h2().await;
        for _ in 0..2 {
            let request = Request::post("http://reviews/two?way=1").header("cookie", "a=1").header("cookie", "b=2");
            let request = request.body(Bytes::from_static(b"all of it")).unwrap();
            let (response, _) = ask_h2(&client, request).await.unwrap();
            assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"in one"[..]), "{row}");
            let requests = pair.app.requests();
            let seen = requests.last().unwrap();
            assert_eq!(seen.head.start, "POST /two?way=1 HTTP/1.1", "{row}");
            assert_eq!((seen.head.get("host"), seen.head.get("cookie")), (Some("reviews"), Some("a=1; b=2")), "{row}");
            assert_eq!(seen.head.get("x-weft-version"), None, "{row}");
        }
    }
    // gRPC would be lost on the way: it stays what it is, and this app refuses it.
    let client = pair.web.connect(VIP).await.h2().await;
    let request = Request::from_parts(call("/pkg.Svc/Call").into_parts().0, Bytes::new());
    let _ = ask_h2(&client, request).await;
    assert!(pair.app.requests().iter().all(|seen| !seen.head.start.contains("/pkg.Svc/Call")));
}

/// In HTTP/2 a CONNECT is a stream like any other (RFC 9113 §8.5), and is carried as one.
#[tokio::test]
async fn connect_over_http_2_reaches_the_app_and_the_connection_lives_on() {
    let app = App::h2(|_, _| Answer2 { status: 200, body: "fine".into(), ..Answer2::default() }).await;
    let pair = Pair::new(app).await;
    let client = pair.connect().await.h2().await;
    let request = Request::connect("db:5432").body(Bytes::new()).unwrap();
    assert_eq!(ask_h2(&client, request).await.unwrap().0.body(), "fine");
    assert_eq!(pair.app.only().head.start, "CONNECT db:5432 HTTP/2.0");
    let request = Request::from_parts(call("/").into_parts().0, Bytes::new());
    assert_eq!(ask_h2(&client, request).await.unwrap().0.body(), "fine");
}
