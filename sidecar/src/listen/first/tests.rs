use tokio::io::{AsyncWriteExt as _, duplex};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_is_heard_at_once() {
    let (mut client, mut server) = duplex(64);
    client.write_all(b"hello").await.unwrap();
    let mut buf = BytesMut::new();
    let start = Instant::now();
    assert_eq!(first_bytes(&mut server, &mut buf, SILENCE).await.unwrap(), FirstSpeaker::Client);
    assert_eq!((&buf[..], start.elapsed()), (&b"hello"[..], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_waited_for_ten_milliseconds_and_loses_nothing() {
    let (mut client, mut server) = duplex(64);
    let mut buf = BytesMut::new();
    let start = Instant::now();
    assert_eq!(first_bytes(&mut server, &mut buf, SILENCE).await.unwrap(), FirstSpeaker::Silent);
    let waited = start.elapsed();
    assert!((SILENCE..SILENCE * 2).contains(&waited), "{waited:?}");
    client.write_all(b"late").await.unwrap();
    assert_eq!(first_bytes(&mut server, &mut buf, SILENCE).await.unwrap(), FirstSpeaker::Client);
    assert_eq!(&buf[..], b"late");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_is_no_silent_client() {
    let (client, mut server) = duplex(64);
    drop(client);
    assert_eq!(first_bytes(&mut server, &mut BytesMut::new(), SILENCE).await.unwrap(), FirstSpeaker::Eof);
}

#[tokio::test(start_paused = true)]
async fn a_request_line_in_pieces_is_told_when_it_shows() {
    let (mut client, mut server) = duplex(64);
    let writer = tokio::spawn(async move {
        for piece in [&b"PUR"[..], b"GE /a HT", b"TP/1.1\r\n"] {
            client.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        client
    });
    let mut buf = BytesMut::new();
    let deadline = Instant::now() + FIRST_MESSAGE;
    assert_eq!(detect_more(&mut server, &mut buf, deadline).await.unwrap(), Detected::Http1);
    assert_eq!(&buf[..], b"PURGE /a HTTP/1.1\r\n");
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_first_message_is_opaque_after_five_seconds() {
    let (mut client, mut server) = duplex(64);
    client.write_all(b"GE").await.unwrap();
    let mut buf = BytesMut::new();
    let start = Instant::now();
    assert_eq!(detect_more(&mut server, &mut buf, start + FIRST_MESSAGE).await.unwrap(), Detected::Opaque);
    let waited = start.elapsed();
    assert!((FIRST_MESSAGE..FIRST_MESSAGE + SILENCE).contains(&waited), "{waited:?}");
    assert_eq!(&buf[..], b"GE");
}

#[tokio::test]
async fn what_ends_before_it_can_be_told_is_opaque() {
    let (mut client, mut server) = duplex(64);
    client.write_all(b"GE").await.unwrap();
    drop(client);
    let deadline = Instant::now() + FIRST_MESSAGE;
    let mut buf = BytesMut::new();
    assert_eq!(detect_more(&mut server, &mut buf, deadline).await.unwrap(), Detected::Opaque);
    assert_eq!(&buf[..], b"GE");
}

#[tokio::test]
async fn replayed_bytes_come_first_and_once() {
    let (mut client, server) = duplex(64);
    client.write_all(b" world").await.unwrap();
    let mut io = Prefixed::new(BytesMut::from(&b"hello"[..]), server);
    let mut two = [0; 2];
    io.read_exact(&mut two).await.unwrap();
    assert_eq!((&two, io.prefix()), (b"he", &b"llo"[..]));
    io.write_all(b"answer").await.unwrap();
    io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    drop(client);
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "llo world");
    assert!(io.into_parts().0.is_empty());
}
