use proptest::prelude::*;

use super::*;

#[test]
fn first_bytes_tell_the_protocol() {
    use Detected::{Http1, Http2, NeedMore, Opaque, Tls};
    let long_line = format!("X-METHOD /{} HTTP/1.1\r\n", "a".repeat(MAX_PREFIX));
    for (name, bytes, expected) in [
        ("nothing", &b""[..], NeedMore),
        ("GET", b"GET / HTTP/1.1\r\n", Http1),
        ("GET as soon as it shows", b"GET /", Http1),
        ("GET, half", b"GE", NeedMore),
        ("GET and a space", b"GET ", NeedMore),
        ("an absolute target", b"GET http://a/ HTTP/1.1\r\n", Http1),
        ("an absolute target, begun", b"GET htt", NeedMore),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n", Http1),
        ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\n", Http1),
        ("CONNECT to an address", b"CONNECT [::1]:443 HTTP/1.1\r\n", Http1),
        ("PATCH", b"PATCH /a", Http1),
        ("an unknown method waits for its line", b"PURGE /a", NeedMore),
        ("an unknown method with its line", b"PURGE /a HTTP/1.1\r\n", Http1),
        ("a method in lower case with its line", b"get /a HTTP/1.0\r\n", Http1),
        ("the version alone is no line", b"PURGE  HTTP/1.1\r\n", Opaque),
        ("an unknown method, another version", b"PURGE /a HTTP/9\r\n", Opaque),
        ("a line too long", long_line.as_bytes(), Opaque),
        ("a bad request is still HTTP: the reader refuses it", b"GET / HTTP/7.7 x\n", Http1),
        ("the preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Http2),
        ("the preface, half", b"PRI * HTTP/2.0\r\n\r\nS", NeedMore),
        ("the preface, one letter", b"P", NeedMore),
        ("not quite the preface", b"PRI * HTTP/2.0\r\n\r\nXX", Opaque),
        ("PRI as a method", b"PRI /a HTTP/1.1\r\n", Http1),
        ("a ClientHello", b"\x16\x03\x01\x02\x00\x01\x00", Tls),
        ("a ClientHello, begun", b"\x16\x03\x01", NeedMore),
        ("SSL 3.0's record", b"\x16\x03\x00\x02\x00\x01", Tls),
        ("another handshake message", b"\x16\x03\x03\x02\x00\x02", Opaque),
        ("a record too large", b"\x16\x03\x03\x50", Opaque),
        ("an empty record", b"\x16\x03\x03\x00\x00\x01", Opaque),
        ("an alert", b"\x15\x03\x03\x00\x02", Opaque),
        ("Redis", b"*1\r\n$4\r\nPING\r\n", Opaque),
        ("Redis inline", b"PING\r\n", Opaque),
        ("Redis inline SET", b"SET k v\r\n", Opaque),
        ("Redis inline GET", b"GET key\r\n", Opaque),
        ("memcached get", b"get /key\r\n", Opaque),
        ("SMTP", b"EHLO host.example\r\n", Opaque),
        ("SMTP to a client named like a scheme", b"HELO http\r\n", Opaque),
        ("NATS", b"CONNECT {\"verbose\":false}\r\n", Opaque),
        ("STOMP", b"CONNECT\naccept-version:1.2\n", Opaque),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", Opaque),
        ("SSH with a comment", b"SSH-2.0-OpenSSH_9.6 Ubuntu\r\n", Opaque),
        ("PostgreSQL", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Opaque),
        ("Kafka", b"\x00\x00\x00\x23\x00\x12", Opaque),
        ("AMQP", b"AMQP\x00\x00\x09\x01", Opaque),
        ("MQTT", b"\x10\x0c\x00\x04MQTT", Opaque),
        ("a long word", b"abcdefghijklmnopqrstuvwxyz0123456789", Opaque),
        ("binary after a word", b"PURGE \x00\x01", Opaque),
        ("binary in a line that ends like a request's", b"PURGE /\x17 HTTP/1.1\r\n", Opaque),
        ("a line feed first", b"\nGET /", Opaque),
    ] {
        assert_eq!(detect(bytes), expected, "{name}");
    }
}

proptest! {
    #[test]
    fn an_answer_stays_when_more_arrives(start in prop_oneof![
        "(GET|PRI|PURGE|get|CONNECT) [\\x10-~\r\n]{0,12}( HTTP/1.1)?[\r\n]{0,3}".prop_map(String::into_bytes),
        Just(PREFACE.to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ]) {
        let mut answer = Detected::NeedMore;
        for end in 0..=start.len() {
            let now = detect(&start[..end]);
            prop_assert!(answer == Detected::NeedMore || now == answer, "{answer:?} became {now:?} at {end}");
            answer = now;
        }
    }
}
