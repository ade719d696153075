//! The HTTP/2 server's answers: 200 with 1 KiB to every request, ready made like those of HTTP/1.1.
//!
//! A server that really spoke HTTP/2 (the `h2` crate, say) would cost half of what a proxy does, and together with `h2load` on one core be
//! what is measured: proxies would wait for it, and a proxy that waits has more to do for each request, for it finds
//! fewer of them at a time. So this one speaks as much of RFC 9113 as its clients, the proxies, need: no field is
//! decoded, and what they do that it was not made for ends the connection with GOAWAY, never in silence.
//!
//! Bound: one frame of what came, and an answer of 1 KiB for each stream the client opened.

use super::responder::{BODY_LENGTH, Reply, Responder};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before a frame's payload (§4.1).
const FRAME_HEAD: usize = 9;
/// The largest payload that is taken (§4.2), which is what clients may send.
const LARGEST_FRAME: usize = 16_384;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Of SETTINGS and PING. Of DATA and HEADERS the same bit is `END_STREAM`.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The first answer of a connection: `:status: 200`, and three fields that enter the table (RFC 7541 §6.2.1).
const FIRST_FIELDS: &[u8] = b"\x88\x76\x05bench\x5f\x18application/octet-stream\x5c\x041024";
/// The others: the same four by their numbers.
const FIELDS: &[u8] = b"\x88\xc0\xbf\xbe";

/// One connection.
#[derive(Debug)]
pub(crate) struct Http2 {
    /// What came and is not a whole frame yet.
    partial: Vec<u8>,
    begun: bool,
    answered: bool,
    /// What the client's connection window still takes.
    window: i64,
    /// The stream whose head goes on in CONTINUATION, if its request ends with it.
    ending: Option<u32>,
    /// Streams that wait for the window.
    owed: std::collections::VecDeque<u32>,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            partial: Vec::new(),
            begun: false,
            answered: false,
            window: 65_535,
            ending: None,
            owed: std::collections::VecDeque::new(),
        }
    }
}

/// What this server was not made for.
struct Unforeseen(&'static str);

impl Responder for Http2 {
    fn receive(&mut self, bytes: &[u8]) -> Reply {
        let mut out = Vec::new();
        // Nearly always nothing was left.
        let joined;
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            joined = [&self.partial, bytes].concat();
            &joined
        };
        if !self.begun && rest.len() >= PREFACE.len() {
            if !rest.starts_with(PREFACE) {
                return Reply::Last(goaway("this is not HTTP/2"));
            }
            rest = &rest[PREFACE.len()..];
            self.begun = true;
            // MAX_CONCURRENT_STREAMS is 1,024.
            frame(&mut out, SETTINGS, 0, 0, &[0, 3, 0, 0, 4, 0]);
        }
        while self.begun && rest.len() >= FRAME_HEAD {
            let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            if length > LARGEST_FRAME {
                return Reply::Last(goaway("a frame is larger than may be"));
            }
            let Some(payload) = rest.get(FRAME_HEAD..FRAME_HEAD + length) else { break };
            if let Err(Unforeseen(what)) = self.take(rest[3], rest[4], number(&rest[5..9]), payload, &mut out) {
                return Reply::Last(goaway(what));
            }
            rest = &rest[FRAME_HEAD + length..];
        }
        self.partial = rest.to_vec();
        self.answer(&mut out);
        if out.is_empty() { Reply::Nothing } else { Reply::Send(out) }
    }
}

impl Http2 {
    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Unforeseen> {
        match kind {
            HEADERS => {
                let ends = flags & END_STREAM != 0;
                if flags & END_HEADERS == 0 {
                    self.ending = ends.then_some(stream);
                } else if ends {
                    self.owed.push_back(stream);
                }
            }
            CONTINUATION if flags & END_HEADERS != 0 => self.owed.extend(self.ending.take()),
            DATA => {
                let Ok(length) = u32::try_from(payload.len()) else { return Err(Unforeseen("too much data")) };
                if length > 0 {
                    frame(out, WINDOW_UPDATE, 0, 0, &length.to_be_bytes());
                    frame(out, WINDOW_UPDATE, 0, stream, &length.to_be_bytes());
                }
                if flags & END_STREAM != 0 {
                    self.owed.push_back(stream);
                }
            }
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    match (u16::from_be_bytes([setting[0], setting[1]]), number(&setting[2..])) {
                        (1, size) if size < 4096 => return Err(Unforeseen("the table of fields is to be small")),
                        (4, size) if (size as usize) < BODY_LENGTH => {
                            return Err(Unforeseen("a stream's window does not take an answer"));
                        }
                        _ => {}
                    }
                }
                frame(out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 && payload.len() == 4 => self.window += i64::from(number(payload)),
            RST_STREAM => self.owed.retain(|&owed| owed != stream),
            // PRIORITY, acknowledgements, windows of streams: they have their answer in one piece.
            _ => {}
        }
        Ok(())
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        const BODY: [u8; BODY_LENGTH] = [b'x'; BODY_LENGTH];
        while self.window >= BODY.len() as i64
            && let Some(stream) = self.owed.pop_front()
        {
            let fields = if std::mem::replace(&mut self.answered, true) { FIELDS } else { FIRST_FIELDS };
            frame(out, HEADERS, END_HEADERS, stream, fields);
            frame(out, DATA, END_STREAM, stream, &BODY);
            self.window -= BODY.len() as i64;
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, &byte| number << 8 | u32::from(byte)) & 0x7fff_ffff
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn goaway(why: &str) -> Vec<u8> {
    const INTERNAL_ERROR: u8 = 2;
    let mut out = Vec::new();
    frame(&mut out, GOAWAY, 0, 0, &[&[0, 0, 0, 0, 0, 0, 0, INTERNAL_ERROR], why.as_bytes()].concat());
    out
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A client of the `h2` crate before the responder, which sees what comes in pieces of at most `size` bytes.
    async fn client(size: usize, builder: &h2::client::Builder) -> h2::client::SendRequest<bytes::Bytes> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let (mut http, mut buf) = (Http2::default(), vec![0; size]);
            while let Ok(read @ 1..) = far.read(&mut buf).await {
                if let Reply::Send(bytes) | Reply::Last(bytes) = http.receive(&buf[..read]) {
                    far.write_all(&bytes).await.unwrap();
                }
            }
        });
        let (send, connection) = builder.handshake(near).await.unwrap();
        tokio::spawn(connection);
        send.ready().await.unwrap()
    }

    #[tokio::test]
    async fn a_client_gets_as_many_whole_answers_as_it_has_requests_however_they_are_cut() {
        for size in [1, 7, 100, 65_536] {
            let mut send = client(size, &h2::client::Builder::new()).await;
            let mut answers = Vec::new();
            // Of 300, which is more than the connection's first window takes.
            for n in 0..300 {
                let request = Request::get(format!("http://bench/{n}")).header("x-n", n).body(()).unwrap();
                answers.push(tokio::spawn(send.send_request(request, true).unwrap().0));
                if n % 50 == 49 {
                    for answer in answers.drain(..) {
                        let (head, mut body) = answer.await.unwrap().unwrap().into_parts();
                        assert_eq!((head.status.as_u16(), head.headers.len()), (200, 3));
                        for (name, value) in [
                            ("server", "bench"),
                            ("content-type", "application/octet-stream"),
                            ("content-length", "1024"),
                        ] {
                            assert_eq!(head.headers[name], value);
                        }
                        let data = body.data().await.unwrap().unwrap();
                        body.flow_control().release_capacity(data.len()).unwrap();
                        assert!(data.len() == BODY_LENGTH && body.is_end_stream(), "in pieces of {size}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_taken_before_the_answer() {
        let mut send = client(1000, &h2::client::Builder::new()).await;
        let (answer, mut body) = send.send_request(Request::post("http://bench/").body(()).unwrap(), false).unwrap();
        body.send_data(vec![1; 200_000].into(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }

    #[tokio::test]
    async fn what_it_was_not_made_for_it_refuses() {
        let mut small = h2::client::Builder::new();
        small.header_table_size(0);
        let mut send = client(1000, &small).await;
        let sent = send.send_request(Request::get("http://bench/").body(()).unwrap(), true);
        assert!(sent.unwrap().0.await.unwrap_err().is_go_away());
        assert!(matches!(Http2::default().receive(&[b'G'; 30]), Reply::Last(_)));
    }
}
