//! What the server answers, without its sockets.

/// The body of every HTTP answer.
pub(crate) const BODY_LENGTH: usize = 1024;

/// What to do about bytes that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Wait for more.
    Nothing,
    /// Send this.
    Send(Vec<u8>),
    /// Send this and end.
    Last(Vec<u8>),
    /// Send for ever, whatever.
    Endless,
}

/// One connection's answers.
pub(crate) trait Responder {
    /// Takes in what came; nothing at all means that the other side has ended.
    fn receive(&mut self, bytes: &[u8]) -> Reply;
}

/// HTTP/1.1 requests without bodies: an answer for every empty line.
#[derive(Debug, Default)]
pub(crate) struct Http1 {
    /// How much of `\r\n\r\n` the last bytes were.
    matched: usize,
}

impl Responder for Http1 {
    fn receive(&mut self, bytes: &[u8]) -> Reply {
        const END: &[u8; 4] = b"\r\n\r\n";
        let mut requests = 0;
        for &byte in bytes {
            self.matched = match byte {
                _ if byte == END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END.len() {
                self.matched = 0;
                requests += 1;
            }
        }
        if requests == 0 { Reply::Nothing } else { Reply::Send(ANSWER.repeat(requests)) }
    }
}

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: application/octet-stream\r\ncontent-length: 1024\r\n\r\n";
const ANSWER: &[u8] = &{
    let mut answer = [b'x'; HEAD.len() + BODY_LENGTH];
    let mut at = 0;
    while at < HEAD.len() {
        answer[at] = HEAD[at];
        at += 1;
    }
    answer
};

/// Bytes: the first one decides.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    mode: Option<u8>,
    taken: u64,
}

/// Asks [`Bytes`] to send for ever.
pub(crate) const DOWNLOAD: u8 = b'D';
/// Asks [`Bytes`] to take everything, and to tell at the end how much it was (8 bytes, big endian, this one included).
pub(crate) const UPLOAD: u8 = b'U';

impl Responder for Bytes {
    fn receive(&mut self, bytes: &[u8]) -> Reply {
        self.taken += bytes.len() as u64;
        let first = bytes.first().copied();
        let mode = *self.mode.get_or_insert(first.unwrap_or_default());
        match (mode, first) {
            (DOWNLOAD, _) => Reply::Endless,
            (UPLOAD, None) => Reply::Send(self.taken.to_be_bytes().to_vec()),
            (UPLOAD, Some(_)) | (_, None) => Reply::Nothing,
            (_, Some(_)) => Reply::Send(bytes.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_answer_for_each_request_however_they_are_cut() {
        let stream = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\r\n\r\n".repeat(3);
        for size in 1..=stream.len() {
            let mut http = Http1::default();
            let replies: usize = stream
                .chunks(size)
                .map(|chunk| match http.receive(chunk) {
                    Reply::Send(bytes) => bytes.len() / ANSWER.len(),
                    _ => 0,
                })
                .sum();
            assert_eq!(replies, 6, "in pieces of {size}");
        }
    }

    #[test]
    fn the_first_byte_decides_what_bytes_are_for() {
        assert_eq!(Bytes::default().receive(b"hello"), Reply::Send(b"hello".to_vec()));
        assert_eq!(Bytes::default().receive(b"D"), Reply::Endless);
        let mut upload = Bytes::default();
        assert_eq!((upload.receive(b"U12"), upload.receive(b"3456")), (Reply::Nothing, Reply::Nothing));
        assert_eq!(upload.receive(b""), Reply::Send(7_u64.to_be_bytes().to_vec()));
    }
}
