use std::vec::Vec;

use FlowState::{Closing, Established, FinBackend, FinClient, Free, SynReceived, SynSent, UdpAnswered, UdpOneWay};
use lb_common::{BackendLoad, FlowState, abi::timeout};

use super::{Direction, Step, count_change, first_state, idle_limit};
use crate::{
    env::Env as _,
    memory::Memory,
    parse::{protocol, tcp},
};

const STATES: [FlowState; 9] =
    [Free, SynSent, SynReceived, Established, FinClient, FinBackend, Closing, UdpOneWay, UdpAnswered];
const TCP: [FlowState; 6] = [SynSent, SynReceived, Established, FinClient, FinBackend, Closing];
const FLAGS: [u8; 8] = [
    tcp::SYN,
    tcp::SYN | tcp::ACK,
    tcp::ACK,
    tcp::FIN | tcp::ACK,
    tcp::FIN,
    tcp::SYN | tcp::FIN,
    tcp::RST,
    tcp::RST | tcp::ACK,
];

fn next(state: FlowState, direction: Direction, flags: u8) -> FlowState {
    Step { direction, protocol: protocol::TCP, flags }.next(state)
}

/// For each state, what each packet of [`FLAGS`] makes of it.
fn check(direction: Direction, table: [(FlowState, [FlowState; 8]); 6]) {
    for (state, row) in table {
        let found: Vec<_> = FLAGS.iter().map(|flags| next(state, direction, *flags)).collect();
        assert_eq!(found, row, "{state:?} {direction:?}");
    }
}

#[test]
fn what_a_client_does() {
    //                 SYN, SYN|ACK, ACK, FIN|ACK, FIN, SYN|FIN, RST, RST|ACK
    check(
        Direction::In,
        [
            (SynSent, [SynSent, SynSent, SynSent, SynSent, SynSent, SynSent, Closing, Closing]),
            (SynReceived, [SynReceived, SynReceived, Established, FinClient, FinClient, SynReceived, Closing, Closing]),
            (Established, [Established, Established, Established, FinClient, FinClient, FinClient, Closing, Closing]),
            (FinClient, [FinClient, FinClient, FinClient, FinClient, FinClient, FinClient, Closing, Closing]),
            (FinBackend, [FinBackend, FinBackend, FinBackend, Closing, Closing, Closing, Closing, Closing]),
            (Closing, [Closing; 8]),
        ],
    );
}

#[test]
fn what_a_backend_does() {
    check(
        Direction::Out,
        [
            (SynSent, [SynSent, SynReceived, SynSent, SynSent, SynSent, SynSent, Closing, Closing]),
            (
                SynReceived,
                [SynReceived, SynReceived, SynReceived, FinBackend, FinBackend, FinBackend, Closing, Closing],
            ),
            (
                Established,
                [Established, Established, Established, FinBackend, FinBackend, FinBackend, Closing, Closing],
            ),
            (FinClient, [FinClient, FinClient, FinClient, Closing, Closing, Closing, Closing, Closing]),
            (FinBackend, [FinBackend, FinBackend, FinBackend, FinBackend, FinBackend, FinBackend, Closing, Closing]),
            (Closing, [Closing; 8]),
        ],
    );
}

#[test]
fn udp_is_answered_once_and_flags_mean_nothing() {
    for flags in 0..=u8::MAX {
        for (state, direction, after) in [
            (UdpOneWay, Direction::In, UdpOneWay),
            (UdpOneWay, Direction::Out, UdpAnswered),
            (UdpAnswered, Direction::In, UdpAnswered),
            (UdpAnswered, Direction::Out, UdpAnswered),
        ] {
            assert_eq!(Step { direction, protocol: protocol::UDP, flags }.next(state), after, "{flags:#x}");
        }
    }
}

#[test]
fn only_four_flags_matter_and_no_packet_frees_or_reopens() {
    const KNOWN: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK;
    for state in TCP {
        for direction in [Direction::In, Direction::Out] {
            for flags in 0..=u8::MAX {
                let after = next(state, direction, flags);
                assert_eq!(after, next(state, direction, flags & KNOWN), "{state:?} {direction:?} {flags:#x}");
                assert!(TCP.contains(&after), "{state:?} {direction:?} {flags:#x}: {after:?}");
                assert!(!after.is_pending() || state.is_pending(), "{state:?} {direction:?} {flags:#x}");
                assert!(!after.is_active() || state != Closing, "{state:?} {direction:?} {flags:#x}");
            }
        }
    }
    assert_eq!((first_state(protocol::TCP), first_state(protocol::UDP)), (SynSent, UdpOneWay));
}

#[test]
fn every_state_has_its_idle_limit() {
    for tcp_idle in [1, 20, 255, 256, 8000, u32::MAX >> 1] {
        let limits = crate::env::Limits { tcp_idle, ..Memory::new(1).limits() };
        for state in STATES.into_iter().filter(|state| *state != Free) {
            let expected = match state {
                SynSent | SynReceived => timeout::TCP_SYN,
                Closing => timeout::TCP_CLOSING,
                UdpOneWay => timeout::UDP_ONE_WAY,
                UdpAnswered => timeout::UDP,
                _ => tcp_idle,
            };
            assert_eq!(idle_limit(&limits, state as u32), expected, "{state:?}");
        }
    }
}

#[test]
fn every_change_of_state_is_counted_once() {
    for before in STATES {
        for after in STATES {
            for reset in [false, true] {
                let env = Memory::new(1);
                count_change(&env, 3, before, after, reset);
                let was_open = before.is_active() || before.is_pending();
                let is_open = after.is_active() || after.is_pending();
                let step = |is: bool, was: bool| u64::from(is).wrapping_sub(u64::from(was));
                let ends = was_open && !is_open;
                let expected = BackendLoad {
                    active: step(after.is_active(), before.is_active()),
                    pending: step(after.is_pending(), before.is_pending()),
                    connections: u64::from(after.is_active() && !before.is_active()),
                    closed: u64::from(ends),
                    resets: u64::from(ends && reset),
                    ..BackendLoad::default()
                };
                assert_eq!(env.counts(3), expected, "{before:?} -> {after:?}, reset {reset}");
                assert_eq!(env.counts(2), BackendLoad::default(), "nobody else's counts change");
            }
        }
    }
}
