//! What went over the wire between pods: tcpdump on the bridge, and reading what it wrote.
//!
//! We read the file ourselves, since the questions are few: which connections were there, did each speak mesh TLS, with
//! which key exchange, and does a text that an app sent appear anywhere. A connection's two directions are put together
//! by sequence number, so that a text split over segments is still found.
//!
//! Bound: the first 32 MiB per direction are kept; what comes after is not looked at.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::Context;
use crate::{Error, Mesh, Process, Result, probe};

/// The hybrid key exchange X25519MLKEM768, as TLS numbers it.
pub const X25519_MLKEM768: u16 = 0x11ec;
/// TLS 1.3, as `supported_versions` spells it.
pub const TLS_1_3: u16 = 0x0304;
const KEEP: usize = 32 << 20;

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts capturing all TCP between pods; returns when tcpdump listens.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mesh: &Mesh, name: &str) -> Result<Self> {
        let file = mesh.folder().join(format!("{name}.pcap"));
        let mut command = mesh.sandbox().command(None);
        command.args(["tcpdump", "-i", "br0", "-n", "-s", "0", "-U", "-B", "32768", "-Z", "root", "-w"]);
        command.arg(mesh.sandbox().inside(&file)).arg("tcp");
        let mut tcpdump = Process::start(command, &mesh.folder().join("logs"), &format!("tcpdump-{name}"))?;
        probe::wait_until("tcpdump listening", Duration::from_secs(10), || {
            tcpdump.errors().contains("listening on") || !tcpdump.is_running()
        })?;
        if !tcpdump.is_running() {
            return Err(Error::Command { what: "tcpdump".to_owned(), output: tcpdump.errors() });
        }
        Ok(Self { tcpdump, file })
    }

    /// Stops and reads what was captured.
    ///
    /// # Errors
    /// When tcpdump lost packets, or the file is not a capture.
    pub fn finish(mut self) -> Result<Traffic> {
        // tcpdump takes packets from the kernel a second's worth at a time, and forgets at its end what it has not taken.
        std::thread::sleep(Duration::from_millis(1500));
        self.tcpdump.signal(Signal::SIGINT);
        self.tcpdump.wait(Duration::from_secs(10))?;
        let said = self.tcpdump.errors();
        let lost = said.lines().find(|line| line.contains("dropped by kernel"));
        if lost.is_some_and(|line| !line.trim_start().starts_with("0 ")) {
            return Err(Error::Command { what: "tcpdump".to_owned(), output: said });
        }
        let bytes = std::fs::read(&self.file).context(|| format!("reading {}", self.file.display()))?;
        Traffic::read(&bytes).ok_or_else(|| Error::Malformed { path: self.file, what: "not a pcap file".to_owned() })
    }
}

/// All connections of a capture.
#[derive(Debug, Default)]
pub struct Traffic {
    /// In the order of their first packets.
    pub connections: Vec<Connection>,
    /// Packets read.
    pub packets: usize,
}

/// One TCP connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Who opened it.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// What the client sent.
    pub to_server: Vec<u8>,
    /// What the server sent.
    pub to_client: Vec<u8>,
    /// It was open already when the capture began: what it speaks was agreed before.
    pub before: bool,
}

/// What a connection spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoke {
    /// Nothing: opened and closed.
    Nothing,
    /// It was open before the capture began, so nobody saw what was agreed.
    Unseen,
    /// Mesh TLS: a ClientHello that offers `weft/…`, answered with this version and key exchange group.
    MeshTls {
        /// As in `supported_versions`.
        version: u16,
        /// As in `key_share`.
        group: u16,
    },
    /// TLS of somebody else, or not answered.
    OtherTls,
    /// Anything else.
    Plain,
}

impl Connection {
    /// Whether it carried `marker`, in either direction.
    pub fn contains(&self, marker: &[u8]) -> bool {
        find(&self.to_server, marker) || find(&self.to_client, marker)
    }

    /// What it spoke.
    pub fn spoke(&self) -> Spoke {
        if self.to_server.is_empty() && self.to_client.is_empty() {
            return Spoke::Nothing;
        }
        if self.before {
            return Spoke::Unseen;
        }
        let Some(hello) = handshake(&self.to_server, 1) else {
            return if self.to_server.first() == Some(&22) { Spoke::OtherTls } else { Spoke::Plain };
        };
        let ours = extension(&hello, 1, 16).is_some_and(|alpn| find(alpn, b"weft/"));
        let number = |kind, at| {
            let answer = handshake(&self.to_client, 2)?;
            let value = extension(&answer, 2, kind)?;
            Some(u16::from_be_bytes(value.get(at..at + 2)?.try_into().ok()?))
        };
        match (ours, number(43, 0), number(51, 0)) {
            (true, Some(version), Some(group)) => Spoke::MeshTls { version, group },
            _ => Spoke::OtherTls,
        }
    }
}

impl Traffic {
    /// How many connections contain `marker`, in either direction.
    pub fn with(&self, marker: &[u8]) -> usize {
        self.connections.iter().filter(|connection| connection.contains(marker)).count()
    }

    /// Connections to one of `servers` on a port that `wanted` says yes to, and that carried anything.
    pub fn to<'a>(
        &'a self,
        servers: &'a [IpAddr],
        wanted: impl Fn(u16) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Connection> {
        self.connections.iter().filter(move |connection| {
            servers.contains(&connection.server.ip())
                && wanted(connection.server.port())
                && connection.spoke() != Spoke::Nothing
        })
    }

    /// Reads a pcap file of Ethernet frames; `None` when it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let magic = bytes.get(0..4)?;
        let little = match magic {
            [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1] => true,
            [0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d] => false,
            _ => return None,
        };
        let number = |at: usize| -> Option<u32> {
            let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
        };
        (number(20)? == 1).then_some(())?;
        let mut flows = Flows::default();
        let mut at = 24;
        let mut packets = 0;
        while let Some(length) = number(at + 8) {
            // A packet cut off at the end of the file is where the capture ended.
            let Some(frame) = bytes.get(at + 16..at + 16 + length as usize) else { break };
            if let Some(segment) = read_frame(frame) {
                flows.add(segment);
            }
            packets += 1;
            at += 16 + length as usize;
        }
        Some(Self { connections: flows.finish(), packets })
    }
}

/// A TCP segment.
struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    syn: bool,
    ack: bool,
    payload: &'a [u8],
}

fn read_frame(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?) {
        0x0800 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            (*packet.get(9)? == 6).then_some(())?;
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            // With segmentation offload the length may say 0: then the frame's end is the packet's.
            let end = if total == 0 { packet.len() } else { total };
            (address(12)?.into(), address(16)?.into(), packet.get(header..end)?)
        }
        0x86dd => {
            (*packet.get(6)? == 6).then_some(())?;
            let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            let end = if length == 0 { packet.len() } else { 40 + length };
            (address(8)?.into(), address(24)?.into(), packet.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let flags = tcp.get(13)?;
    Some(Segment {
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        syn: flags & 2 != 0,
        ack: flags & 16 != 0,
        payload: tcp.get(header..)?,
    })
}

#[derive(Default)]
struct Flows {
    open: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    order: Vec<Connection>,
}

struct Flow {
    index: usize,
    /// Sequence number of the first byte, per direction (to the server, to the client).
    first: [Option<u32>; 2],
}

impl Flows {
    fn add(&mut self, segment: Segment<'_>) {
        let Segment { from, to, .. } = segment;
        let starts = segment.syn && !segment.ack;
        let known = self.open.contains_key(&(from, to)) || self.open.contains_key(&(to, from));
        // A SYN with a new sequence number on ports seen before is a new connection.
        let again = starts
            && self.open.get(&(from, to)).is_some_and(|flow| flow.first[0] != Some(segment.sequence.wrapping_add(1)));
        if !known || again {
            let (client, server) = if segment.syn && segment.ack { (to, from) } else { (from, to) };
            self.open.insert((client, server), Flow { index: self.order.len(), first: [None, None] });
            let before = !segment.syn;
            self.order.push(Connection { client, server, to_server: Vec::new(), to_client: Vec::new(), before });
        }
        let (direction, key) = if self.open.contains_key(&(from, to)) { (0, (from, to)) } else { (1, (to, from)) };
        let Some(flow) = self.open.get_mut(&key) else { return };
        let start = if segment.syn { segment.sequence.wrapping_add(1) } else { segment.sequence };
        let first = *flow.first[direction].get_or_insert(start);
        let Some(connection) = self.order.get_mut(flow.index) else { return };
        let kept = if direction == 0 { &mut connection.to_server } else { &mut connection.to_client };
        let offset = start.wrapping_sub(first) as usize;
        let end = offset + segment.payload.len();
        // A keep-alive probes one byte before the stream; its offset wraps and is far out of bounds.
        if segment.payload.is_empty() || end > KEEP {
            return;
        }
        if kept.len() < end {
            kept.resize(end, 0);
        }
        kept[offset..end].copy_from_slice(segment.payload);
    }

    fn finish(self) -> Vec<Connection> {
        self.order
    }
}

/// The first handshake message of a TLS stream, if it is of `kind`; it may span records.
fn handshake(stream: &[u8], kind: u8) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    let mut rest = stream;
    loop {
        (*rest.first()? == 22).then_some(())?;
        let length = usize::from(u16::from_be_bytes(rest.get(3..5)?.try_into().ok()?));
        message.extend_from_slice(rest.get(5..5 + length)?);
        rest = &rest[5 + length..];
        (*message.first()? == kind).then_some(())?;
        if let Some(length) = message.get(1..4) {
            let wanted = 4 + (usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]));
            if message.len() >= wanted {
                message.truncate(wanted);
                return Some(message);
            }
        }
    }
}

/// The value of extension `wanted` of a ClientHello (1) or ServerHello (2).
fn extension(hello: &[u8], kind: u8, wanted: u16) -> Option<&[u8]> {
    let two = |at: usize| Some(usize::from(u16::from_be_bytes(hello.get(at..at + 2)?.try_into().ok()?)));
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(*hello.get(at)?);
    at += if kind == 1 { 2 + two(at)? } else { 2 };
    at += if kind == 1 { 1 + usize::from(*hello.get(at)?) } else { 1 };
    let end = at + 2 + two(at)?;
    at += 2;
    while at + 4 <= end {
        let length = two(at + 2)?;
        if two(at)? == usize::from(wanted) {
            return hello.get(at + 4..at + 4 + length);
        }
        at += 4 + length;
    }
    None
}

fn find(bytes: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && bytes.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(from_port: u16, to_port: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        let total = (40 + payload.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(if from_port < to_port { [10, 0, 0, 2, 10, 0, 0, 1] } else { [10, 0, 0, 1, 10, 0, 0, 2] });
        frame.extend(from_port.to_be_bytes());
        frame.extend(to_port.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        // Ethernet pads short frames; that is no payload.
        frame.resize(frame.len().max(60), 0xee);
        frame
    }

    fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xd4, 0xc3, 0xb2, 0xa1];
        bytes.resize(20, 0);
        bytes.extend(1u32.to_le_bytes());
        for frame in frames {
            bytes.extend([0; 8]);
            bytes.extend((frame.len() as u32).to_le_bytes());
            bytes.extend((frame.len() as u32).to_le_bytes());
            bytes.extend(frame);
        }
        bytes
    }

    const SYN: u8 = 2;
    const SYN_ACK: u8 = 18;
    const ACK: u8 = 16;

    #[test]
    fn a_text_split_over_segments_that_come_in_the_wrong_order_is_found() {
        let traffic = Traffic::read(&pcap(&[
            frame(50_000, 80, 99, SYN, b""),
            frame(80, 50_000, 7, SYN_ACK, b""),
            frame(50_000, 80, 103, ACK, b"ker"),
            frame(50_000, 80, 100, ACK, b"mar"),
            frame(80, 50_000, 8, ACK, b"answer"),
            frame(50_000, 80, 99, ACK, b""),
        ]))
        .unwrap();
        let [connection] = &traffic.connections[..] else { panic!("{traffic:?}") };
        assert_eq!(connection.to_server, b"marker");
        assert_eq!(connection.to_client, b"answer");
        assert_eq!(connection.server.port(), 80);
        assert_eq!(connection.spoke(), Spoke::Plain);
        assert_eq!((traffic.with(b"arke"), traffic.with(b"nothing")), (1, 0));
    }

    #[test]
    fn ports_used_again_are_another_connection() {
        let traffic = Traffic::read(&pcap(&[
            frame(50_000, 80, 99, SYN, b""),
            frame(50_000, 80, 100, ACK, b"one"),
            frame(50_000, 80, 99, SYN, b""),
            frame(50_000, 80, 5000, SYN, b""),
            frame(50_000, 80, 5001, ACK, b"two"),
        ]))
        .unwrap();
        let sent: Vec<_> = traffic.connections.iter().map(|c| c.to_server.as_slice()).collect();
        assert_eq!(sent, [b"one", b"two"]);
    }

    /// A hello of `kind` with these extensions, in records of `size` bytes.
    fn hello(kind: u8, extensions: &[(u16, &[u8])], size: usize) -> Vec<u8> {
        let mut list = Vec::new();
        for (number, value) in extensions {
            list.extend(number.to_be_bytes());
            list.extend((value.len() as u16).to_be_bytes());
            list.extend(*value);
        }
        let mut body = vec![3, 3];
        body.extend([0; 32]);
        body.extend([0]);
        body.extend(if kind == 1 { &[0, 2, 0x13, 1, 1, 0][..] } else { &[0x13, 1, 0] });
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
        let mut message = vec![kind, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        let record = |part: &[u8]| [&[22, 3, 3][..], &(part.len() as u16).to_be_bytes(), part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    #[test]
    fn mesh_tls_is_told_from_other_tls_by_what_is_offered_and_chosen() {
        let ours = hello(1, &[(0, b"name"), (16, b"\x00\x08\x07weft/h2")], 30);
        let foreign = hello(1, &[(16, b"\x00\x03\x02h2")], 500);
        let answer = hello(2, &[(43, &[3, 4]), (51, &[0x11, 0xec, 0, 1, 9])], 500);
        for (what, to_server, to_client, expected) in [
            ("ours", ours.clone(), answer.clone(), Spoke::MeshTls { version: TLS_1_3, group: X25519_MLKEM768 }),
            ("not answered", ours.clone(), vec![], Spoke::OtherTls),
            ("cut short", ours[..40].to_vec(), vec![], Spoke::OtherTls),
            ("foreign", foreign, answer, Spoke::OtherTls),
            ("plain", b"GET / HTTP/1.1".to_vec(), b"HTTP/1.1 200".to_vec(), Spoke::Plain),
            ("server first", vec![], b"220 mail".to_vec(), Spoke::Plain),
            ("nothing", vec![], vec![], Spoke::Nothing),
        ] {
            let address = "10.0.0.1:1".parse().unwrap();
            let mut connection = Connection { client: address, server: address, to_server, to_client, before: false };
            assert_eq!(connection.spoke(), expected, "{what}");
            connection.before = true;
            let nothing = expected == Spoke::Nothing;
            assert_eq!(connection.spoke(), if nothing { Spoke::Nothing } else { Spoke::Unseen }, "{what}");
        }
    }

    #[test]
    fn a_connection_that_was_open_before_is_not_judged_by_what_it_says_later() {
        let traffic = Traffic::read(&pcap(&[
            frame(50_000, 80, 100, ACK, b"\x17\x03\x03 sealed"),
            frame(80, 50_000, 7, ACK, b"\x17\x03\x03 sealed"),
        ]))
        .unwrap();
        assert_eq!(traffic.connections.iter().map(Connection::spoke).collect::<Vec<_>>(), [Spoke::Unseen]);
    }

    #[test]
    fn what_is_no_capture_is_not_read_as_one() {
        for bytes in [&b""[..], b"pcap", &[0xd4, 0xc3, 0xb2, 0xa1], &[0; 64]] {
            assert!(Traffic::read(bytes).is_none(), "{bytes:?}");
        }
    }
}
