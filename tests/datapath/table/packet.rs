//! A packet as a test states it, and its bytes. All checksums are full computations by etherparse: none of Weir's code is in here.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

use lb_common::{Protocol, dsr::DEFAULT_PORT};

use super::verify::sum;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// What the packet carries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// TCP with these flags.
    Tcp(u8),
    /// A TCP reset with this sequence number, or with this acknowledgment.
    Reset(Answer),
    Udp,
    /// UDP without a checksum.
    UdpNoSum,
    Icmp(Icmp),
    /// An ICMP message of this type, with a number and a turn.
    Echo(u8),
    /// A protocol by its number, of which nobody reads more.
    Other(u8),
}

/// What a reset names of the segment that it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// The sequence number that was acknowledged.
    Sequence(u32),
    /// The one behind the segment.
    Acknowledgment(u32),
}

/// The sequence number of every segment that is given no other.
pub(crate) const SEQUENCE: u32 = 0x1020_3040;
/// The acknowledgment number of every segment that has one and is given no other.
pub(crate) const ACKNOWLEDGMENT: u32 = 0x5060_7080;

/// An ICMP message that quotes a packet, up to so many bytes of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Icmp {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    pub(crate) word: u32,
    pub(crate) quoted: Box<Spec>,
    pub(crate) bytes: usize,
}

/// What stands around and between the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    /// IPv4: 12 bytes of options. IPv6: hop-by-hop options.
    Options,
    /// IPv4: 40 bytes of options. IPv6: hop-by-hop, destination, routing and authentication headers.
    ManyOptions,
    /// Bytes behind the end of the IP packet, as Ethernet's least length makes them.
    Padded,
    Vlan,
    DoubleVlan,
}

/// Which part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
    /// Not a part: carries a packet, and is not to be fragmented.
    Carrier,
}

/// A packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) body: Body,
    pub(crate) payload: Vec<u8>,
    pub(crate) shape: Shape,
    pub(crate) part: Part,
    /// Which packet a fragment is of.
    pub(crate) id: u32,
    /// Sequence and acknowledgment number of a TCP segment.
    pub(crate) numbers: [u32; 2],
    /// Made by Weir itself: no flow label, and may be fragmented.
    pub(crate) ours: bool,
}

pub(crate) fn packet(body: Body, src: SocketAddr, dst: SocketAddr) -> Spec {
    Spec {
        macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
        src,
        dst,
        ttl: 64,
        body,
        payload: Vec::new(),
        shape: Shape::Plain,
        part: Part::Whole,
        id: 7,
        numbers: [SEQUENCE, ACKNOWLEDGMENT],
        ours: false,
    }
}

pub(crate) fn tcp(flags: u8, src: SocketAddr, dst: SocketAddr) -> Spec {
    packet(Body::Tcp(flags), src, dst)
}

pub(crate) fn udp(src: SocketAddr, dst: SocketAddr) -> Spec {
    packet(Body::Udp, src, dst).payload(20)
}

impl Spec {
    pub(crate) fn src(self, src: SocketAddr) -> Self {
        Self { src, ..self }
    }

    pub(crate) fn dst(self, dst: SocketAddr) -> Self {
        Self { dst, ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// With so many bytes of payload.
    pub(crate) fn payload(self, bytes: usize) -> Self {
        Self { payload: (0..bytes).map(|i| (i * 7 + 3) as u8).collect(), ..self }
    }

    pub(crate) fn numbers(self, sequence: u32, acknowledgment: u32) -> Self {
        Self { numbers: [sequence, acknowledgment], ..self }
    }

    pub(crate) fn shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    pub(crate) fn part(self, part: Part) -> Self {
        Self { part, ..self }
    }

    pub(crate) fn id(self, id: u32) -> Self {
        Self { id, ..self }
    }

    /// The fragment with the id that is in a frame of its form.
    pub(crate) fn id_of(self, frame: &[u8]) -> Self {
        let (at, length) = if self.src.is_ipv4() { (self.l3() + 4, 2) } else { (self.l4() - 4, 4) };
        let bytes = frame.get(at..at + length).unwrap_or_default();
        self.id(bytes.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)))
    }

    /// The datagram in which Weir forwards this packet from one of a node's addresses to a backend, for a frontend with this port. Its
    /// source port is left open.
    pub(crate) fn carried(&self, from: IpAddr, backend: SocketAddr, frontend: u16, protocol: Protocol) -> Self {
        let header = [b'W', b'e', 1, protocol as u8];
        let [ports, backend_port] = [frontend, backend.port()].map(u16::to_be_bytes);
        let datagram =
            packet(Body::UdpNoSum, SocketAddr::new(from, 50_000), SocketAddr::new(backend.ip(), DEFAULT_PORT));
        let payload = [&header[..], &ports, &backend_port, &self.ip()].concat();
        Self { ours: true, macs: self.macs, payload, part: Part::Carrier, ..datagram }
    }

    /// The datagram with the source port that is in a frame of its form, if that is one for it.
    fn source_of(self, frame: &[u8]) -> Self {
        let at = self.l4();
        let port = frame.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let src = SocketAddr::new(self.src.ip(), if port >= 0xc000 { port } else { self.src.port() });
        self.src(src)
    }

    /// With what nobody can foretell as it is in a frame of its form.
    pub(crate) fn seen_in(self, frame: &[u8]) -> Self {
        match self.part {
            Part::Whole => self,
            Part::First | Part::Later => self.id_of(frame),
            Part::Carrier => self.source_of(frame),
        }
    }

    /// Bytes that it has beside the packet that it carries.
    pub(crate) fn overhead(&self) -> usize {
        if self.part == Part::Carrier { self.l4() - self.l3() + 16 } else { 0 }
    }

    /// An ICMP error by `from` to this packet's sender that quotes so many bytes of this packet.
    pub(crate) fn error(&self, from: IpAddr, (kind, code, word): (u8, u8, u32), bytes: usize) -> Self {
        let icmp = Icmp { kind, code, word, quoted: Box::new(self.clone()), bytes };
        packet(Body::Icmp(icmp), SocketAddr::new(from, 0), SocketAddr::new(self.src.ip(), 0))
    }

    /// Weir's own error to this packet's sender, in the name of whom it was sent to; it quotes the headers. Its Ethernet addresses are
    /// left to the redirect.
    pub(crate) fn answered(&self, kind: (u8, u8, u32)) -> Self {
        let headers = if matches!(self.body, Body::Tcp(_)) { 20 } else { 8 };
        let bytes = self.l4() - self.l3() + headers;
        Self { ours: true, macs: self.macs, ..self.error(self.dst.ip(), kind, bytes) }
    }

    /// The answer of nobody: a reset, or port unreachable.
    pub(crate) fn refused(&self) -> Self {
        let Body::Tcp(flags) = self.body else {
            return self.answered(if self.src.is_ipv4() { (3, 3, 0) } else { (1, 4, 0) });
        };
        let [sequence, acknowledged] = self.numbers;
        let end = sequence + self.payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let answer = if flags & ACK != 0 { Answer::Sequence(acknowledged) } else { Answer::Acknowledgment(end) };
        Self { ours: true, macs: self.macs, ..packet(Body::Reset(answer), self.dst, self.src) }
    }

    /// The whole frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = self.macs.concat();
        let tags: &[[u8; 4]] = match self.shape {
            Shape::Vlan => &[[0x81, 0, 0, 5]],
            Shape::DoubleVlan => &[[0x88, 0xa8, 0, 6], [0x81, 0, 0, 5]],
            _ => &[],
        };
        frame.extend(tags.concat());
        frame.extend(if self.src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.ip());
        if self.shape == Shape::Padded {
            frame.extend([0x5a; 11]);
        }
        frame
    }

    /// Where the IP header of the frame starts.
    pub(crate) fn l3(&self) -> usize {
        match self.shape {
            Shape::Vlan => 18,
            Shape::DoubleVlan => 22,
            _ => 14,
        }
    }

    /// Where the transport header of the frame starts.
    pub(crate) fn l4(&self) -> usize {
        self.l3() + self.ip().len() - self.transport().len()
    }

    /// The packet from its IP header on.
    pub(crate) fn ip(&self) -> Vec<u8> {
        let transport = self.transport();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header =
                    Ipv4Header::new(transport.len() as u16, self.ttl, self.protocol(), src.octets(), dst.octets())
                        .expect("fits");
                header.options = self.v4_options();
                header.set_payload_len(transport.len()).expect("fits");
                header.dont_fragment = self.part == Part::Carrier || self.part == Part::Whole && !self.ours;
                header.more_fragments = self.part == Part::First;
                header.identification = if matches!(self.part, Part::First | Part::Later) { self.id as u16 } else { 0 };
                let offset = if self.part == Part::Later { 100 } else { 0 };
                header.fragment_offset = offset.try_into().expect("13 bits");
                header.header_checksum = header.calc_header_checksum();
                [header.to_bytes().to_vec(), transport].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (next, extensions) = self.v6_extensions();
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::try_new(if self.ours { 0 } else { 0x12345 }).expect("20 bits"),
                    payload_length: (extensions.len() + transport.len()) as u16,
                    next_header: IpNumber(next),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                [header.to_bytes().to_vec(), extensions, transport].concat()
            }
            _ => panic!("{} and {} are of two families", self.src, self.dst),
        }
    }

    fn protocol(&self) -> IpNumber {
        match &self.body {
            Body::Tcp(_) | Body::Reset(_) => IpNumber::TCP,
            Body::Udp | Body::UdpNoSum => IpNumber::UDP,
            Body::Icmp(_) | Body::Echo(_) if self.src.is_ipv4() => IpNumber::ICMP,
            Body::Icmp(_) | Body::Echo(_) => IpNumber::IPV6_ICMP,
            Body::Other(number) => IpNumber(*number),
        }
    }

    fn v4_options(&self) -> Ipv4Options {
        let bytes = match self.shape {
            Shape::Options => 12,
            Shape::ManyOptions => 40,
            _ => 0,
        };
        Ipv4Options::try_from(&[1_u8; 40][..bytes]).expect("a multiple of 4")
    }

    /// The first extension header's number (or the protocol's), and the extension headers.
    fn v6_extensions(&self) -> (u8, Vec<u8>) {
        // Number and body of each, without the number of what follows.
        let mut headers: Vec<(u8, Vec<u8>)> = match self.shape {
            Shape::Options => vec![(0, vec![0, 1, 4, 0, 0, 0, 0])],
            Shape::ManyOptions => vec![
                (0, vec![0, 1, 4, 0, 0, 0, 0]),
                (60, [vec![1, 1, 12], vec![0; 12]].concat()),
                (43, [vec![2, 0, 0], vec![0; 20]].concat()),
                (51, [vec![4, 0, 0], vec![9; 20]].concat()),
            ],
            _ => vec![],
        };
        match self.part {
            Part::Whole | Part::Carrier => {}
            Part::First => headers.push((44, [&[0, 0, 1], &self.id.to_be_bytes()[..]].concat())),
            Part::Later => headers.push((44, [&[0, 0, 0x80], &self.id.to_be_bytes()[..]].concat())),
        }
        let mut next = self.protocol().0;
        let mut bytes = Vec::new();
        for (number, body) in headers.into_iter().rev() {
            bytes = [vec![next], body, bytes].concat();
            next = number;
        }
        (next, bytes)
    }

    /// The transport header and the payload.
    fn transport(&self) -> Vec<u8> {
        let (sport, dport) = (self.src.port(), self.dst.port());
        match &self.body {
            Body::Tcp(flags) => {
                let [sequence, acknowledged] = self.numbers;
                let mut header = TcpHeader::new(sport, dport, sequence, 0xfff0);
                header.acknowledgment_number = if flags & ACK != 0 { acknowledged } else { 0 };
                (header.fin, header.syn) = (flags & FIN != 0, flags & SYN != 0);
                (header.rst, header.ack) = (flags & RST != 0, flags & ACK != 0);
                [header.to_bytes().to_vec(), self.payload.clone()].concat()
            }
            Body::Reset(answer) => {
                let (sequence, acknowledgment) = match answer {
                    Answer::Sequence(sequence) => (*sequence, None),
                    Answer::Acknowledgment(number) => (0, Some(*number)),
                };
                let mut header = TcpHeader::new(sport, dport, sequence, 0);
                (header.rst, header.ack) = (true, acknowledgment.is_some());
                header.acknowledgment_number = acknowledgment.unwrap_or(0);
                header.to_bytes().to_vec()
            }
            Body::Udp | Body::UdpNoSum => {
                let length = 8 + self.payload.len() as u16;
                let header = UdpHeader { source_port: sport, destination_port: dport, length, checksum: 0 };
                [header.to_bytes().to_vec(), self.payload.clone()].concat()
            }
            Body::Icmp(icmp) => {
                let mut quoted = icmp.quoted.ip();
                quoted.truncate(icmp.bytes);
                [&[icmp.kind, icmp.code, 0, 0], &icmp.word.to_be_bytes()[..], &quoted].concat()
            }
            Body::Echo(kind) => [&[*kind, 0, 0, 0, 0x12, 0x34, 0, 9], &self.payload[..]].concat(),
            Body::Other(_) => self.payload.clone(),
        }
        .with_checksum(self)
    }
}

trait WithChecksum {
    fn with_checksum(self, spec: &Spec) -> Self;
}

impl WithChecksum for Vec<u8> {
    fn with_checksum(mut self, spec: &Spec) -> Self {
        let at = match spec.body {
            Body::Tcp(_) | Body::Reset(_) => 16,
            Body::Udp => 6,
            Body::Icmp(_) | Body::Echo(_) => 2,
            Body::UdpNoSum | Body::Other(_) => return self,
        };
        let sum = sum(spec.src.ip(), spec.dst.ip(), spec.protocol().0, &self);
        let sum = if spec.body == Body::Udp { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() };
        self[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        self
    }
}
