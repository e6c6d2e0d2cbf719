use std::{format, string::String, vec, vec::Vec};

use core::sync::atomic::Ordering;

use lb_common::{Backend, request::BUCKETS};

use super::*;
use crate::{
    memory::Memory,
    packet::{Plain, TransportChange},
    parse::protocol,
};

const OF: Connection = Connection { key: 77, backend: 1 };
const MILLISECOND: u64 = 1_000_000;

/// The TCP header of a segment, of which only the numbers are read.
struct Segment([u32; 2]);

impl Packet for Segment {
    fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        assert_eq!(offset, 20 + 4, "sequence and acknowledgment number");
        let words = [self.0[0].to_be(), self.0[1].to_be()];
        // SAFETY: as large as what is asked for here.
        (size_of::<T>() == 8).then(|| unsafe { words.as_ptr().cast::<T>().read_unaligned() })
    }
    fn store<T: Plain>(&mut self, _: u32, _: T) -> Option<()> {
        None
    }
    fn length(&self) -> u32 {
        0
    }
    fn segments(&self) -> (u32, u32) {
        (1, 0)
    }
    fn fix_ip_checksum(&mut self, _: u32, _: u32) -> Option<()> {
        None
    }
    fn fix_transport_checksum(&mut self, _: u32, _: TransportChange) -> Option<()> {
        None
    }
}

/// A connection, seen from between its ends.
struct Talk {
    memory: Memory,
    /// Next sequence numbers of client and backend; near their end, so that they begin again.
    next: [u32; 2],
}

impl Talk {
    fn new() -> Self {
        let mut memory = Memory::new(1);
        let backend = Backend { incarnation: 5, response_idle: 1000, ..Backend::default() };
        memory.backends = vec![Backend::default(), backend];
        Self { memory, next: [u32::MAX - 9, u32::MAX - 4] }
    }

    fn pass(&self, direction: Direction, sequence: u32, bytes: u32, flags: u8) {
        let other = self.next[usize::from(direction == Direction::In)];
        let parsed = Parsed {
            l3: 0,
            l4: 20,
            l4_header: 32,
            ip_bytes: 52 + bytes,
            protocol: protocol::TCP,
            tcp_flags: tcp::ACK | flags,
            ..Parsed::default()
        };
        follow(&Segment([sequence, other]), &self.memory, &parsed, &OF, direction);
    }

    /// Does what a word says: `>5` and `<5` are payload of client and backend, `>` and `<` alone acknowledge, `>r5` and `<r5` are sent
    /// again, `>f`, `<f`, `>x`, `<x` are FINs and resets, `+5` lets milliseconds pass.
    fn step(&mut self, word: &str) {
        let (direction, rest) = match word.split_at(1) {
            (">", rest) => (Direction::In, rest),
            ("<", rest) => (Direction::Out, rest),
            (_, time) => {
                self.memory.time.fetch_add(time.parse::<u64>().unwrap() * MILLISECOND, Ordering::SeqCst);
                return;
            }
        };
        let mine = usize::from(direction == Direction::Out);
        let sequence = self.next[mine];
        match rest {
            "" => self.pass(direction, sequence, 0, 0),
            "f" => self.pass(direction, sequence, 0, tcp::FIN),
            "x" => self.pass(direction, sequence, 0, tcp::RST),
            _ => match rest.strip_prefix('r') {
                Some(bytes) => {
                    let bytes = bytes.parse().unwrap();
                    self.pass(direction, sequence.wrapping_sub(bytes), bytes, 0);
                }
                None => {
                    let bytes = rest.parse().unwrap();
                    self.pass(direction, sequence, bytes, 0);
                    self.next[mine] = sequence.wrapping_add(bytes);
                }
            },
        }
    }

    /// In flight, begun, and the milliseconds that answers took to begin.
    fn seen(&self) -> String {
        let measure = self.memory.measured(1);
        let now = self.memory.time.load(Ordering::SeqCst);
        let in_flight = self.memory.last_request(OF.key).is_some_and(|r| r.is_in_flight(now, 1000 * MILLISECOND));
        let answers: u64 = measure.buckets.iter().sum();
        format!("{} {} {}/{}", u8::from(in_flight), measure.requests, answers, measure.nanoseconds / MILLISECOND)
    }
}

/// In flight, begun, answers begun / the milliseconds that took, after the steps.
const TABLE: &[(&str, &str, &str)] = &[
    ("a handshake is no request", "> < >", "0 0 0/0"),
    ("a server that speaks first was not asked", "<20 > +5 <10", "0 0 0/0"),
    ("asked", "+1 >10", "1 1 0/0"),
    ("asked, and acknowledged", "+1 >10 +3 <", "1 1 0/0"),
    ("a long question is one", ">10 +5 < >10 >10 +5 <1", "1 1 1/10"),
    ("a question waits for its answer however long", "+1 >10 +90000", "1 1 0/0"),
    ("answered", ">10 +7 <5", "1 1 1/7"),
    ("an answer is over after silence", ">10 +7 <5 +999", "1 1 1/7"),
    ("and then it is", ">10 +7 <5 +1000", "0 1 1/7"),
    ("tokens keep it in flight", ">10 +50 <5 +900 <5 +900 <5 +900 <5", "1 1 1/50"),
    ("an answer that goes on is in flight again", ">10 +7 <5 +3000 <5", "1 1 1/7"),
    ("the next request begins another", ">10 +7 <5 +100 >10", "1 2 1/7"),
    ("and has an answer of its own", ">10 +7 <5 +100 >10 +20 <5", "1 2 2/27"),
    ("the same after silence", ">10 +7 <5 +5000 >10 +20 <5", "1 2 2/27"),
    ("pipelined ones are one", ">10 >10 >10 +4 <5 <5 <5", "1 1 1/4"),
    ("a question that is sent again is no other", ">10 +7 <5 +1 >r10", "1 1 1/7"),
    ("nor before its answer", ">10 +200 >r10 +7 <5", "1 1 1/207"),
    ("an answer that is sent again is none to what came after it", ">10 +7 <5 >10 +9 <r5", "1 2 1/7"),
    ("and does not prolong itself", ">10 +7 <5 +999 <r5 +1", "0 1 1/7"),
    ("the backend's FIN ends it", ">10 +7 <5 <f", "0 1 1/7"),
    ("without an answer too", "+1 >10 <f", "0 1 0/0"),
    ("the client's FIN does not: it may wait for its answer", ">10 >f +7 <5", "1 1 1/7"),
    ("a reset of the client ends it", ">10 +7 <5 >x", "0 1 1/7"),
    ("one of the backend too", "+1 >10 <x", "0 1 0/0"),
    ("after the end nothing is answered", ">10 <f +5 <5", "0 1 0/0"),
];

#[test]
fn what_is_seen_of_a_connection() {
    for (name, steps, wanted) in TABLE {
        let mut talk = Talk::new();
        steps.split(' ').for_each(|word| talk.step(word));
        assert_eq!(talk.seen(), *wanted, "{name}: {steps}");
    }
}

#[test]
fn payload_in_a_syn_is_a_question() {
    let mut talk = Talk::new();
    talk.pass(Direction::In, 100, 10, tcp::SYN);
    talk.next = [111, 500];
    talk.step(">r10");
    assert_eq!(talk.seen(), "1 1 0/0");
    talk.step("<5");
    talk.step(">10");
    assert_eq!(talk.seen(), "1 2 1/0");
}

#[test]
fn who_finds_no_room_is_counted_and_not_in_flight() {
    let mut talk = Talk::new();
    talk.memory.room = 0;
    "+1 >10 <5 >10".split(' ').for_each(|word| talk.step(word));
    assert_eq!(talk.seen(), "0 2 0/0");
    assert_eq!(talk.memory.measured(1).unseen, 2);
}

#[test]
fn a_request_names_its_backend() {
    let mut talk = Talk::new();
    talk.step(">10");
    let request = talk.memory.last_request(OF.key).unwrap();
    assert_eq!((request.backend, request.incarnation), (1, 5));
}

/// Whatever the order in which CPUs see the packets of one connection: each request is counted once, and so is the beginning of its answer.
#[test]
fn two_cpus_count_each_request_once() {
    const ROUNDS: u32 = 200;
    let talk = Talk::new();
    let pass = |direction, round: u32| talk.pass(direction, round.wrapping_mul(10), 10, 0);
    for round in 1..=ROUNDS {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| pass(Direction::In, round));
            }
        });
        let waiting = talk.memory.measured(1);
        assert_eq!((waiting.requests, waiting.buckets.iter().sum::<u64>()), (u64::from(round), u64::from(round) - 1));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| pass(Direction::Out, round));
            }
        });
    }
    let buckets: Vec<u64> = talk.memory.measured(1).buckets.to_vec();
    assert_eq!((buckets.len(), buckets.iter().sum::<u64>()), (BUCKETS, u64::from(ROUNDS)));
}
