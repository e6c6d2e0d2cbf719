//! What a flow is to the model, and how it lives.

use std::net::SocketAddr;

use lb_common::{FlowState, abi::timeout};

use crate::{
    errors::IcmpError,
    frames::{ACK, Datagram, FIN, RST, SYN},
};

/// Seconds after which a silent TCP connection is forgotten here.
pub(crate) const TCP_IDLE: u32 = 900;

/// Who talks to whom: client, source port, frontend.
pub(crate) type Key = (usize, usize, usize);

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Its backend's index.
    pub(crate) backend: u32,
    /// Its state.
    pub(crate) state: FlowState,
    /// When it was last seen.
    pub(crate) last: u32,
    /// Its source port under full NAT.
    pub(crate) port: Option<u16>,
    /// Whether it is forwarded to its backend's node.
    pub(crate) forwarded: bool,
}

/// What the programs chose, where the model leaves them a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The backend's index.
    pub(crate) backend: u32,
    /// The source port under full NAT.
    pub(crate) port: Option<u16>,
}

/// What becomes of the fragments that follow a first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trail {
    /// Where the first one was sent from: its new source.
    pub(crate) src: SocketAddr,
    /// And its new destination.
    pub(crate) dst: SocketAddr,
    /// The index of the backend that it was counted for.
    pub(crate) backend: u32,
    /// Whether it came from that backend.
    pub(crate) out: bool,
    /// The frontend, if they are forwarded to the backend's node.
    pub(crate) forwarded: Option<usize>,
    /// When it passed.
    pub(crate) seen: u32,
    /// The identification that it was given.
    pub(crate) id: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on untouched.
    Passes,
    /// It ends.
    Drops,
    /// It ends, and its sender is told: by tc.
    Refused,
    /// It goes on as this.
    Becomes(Datagram),
    /// It is an ICMP error, and goes on as this one.
    Translated(IcmpError),
    /// It goes on as this, carried to the node of a frontend's backend, which has this index.
    Forwarded(Carried, u32, usize),
}

/// What is carried to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// A packet.
    Packet(Datagram),
    /// An ICMP error.
    Error(IcmpError),
}

impl Carried {
    /// Its frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        match self {
            Self::Packet(packet) => packet.frame(),
            Self::Error(error) => error.frame(),
        }
    }
}

/// Whether a frontend is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is.
    Live,
    /// It was removed, its flows may be there.
    Removed,
    /// They are not.
    Forgotten,
}

/// Its state after a packet.
pub(crate) fn next(state: FlowState, from_client: bool, flags: Option<u8>) -> FlowState {
    use FlowState::{
        Closing, Established, FinBackend, FinClient, Forwarded, ForwardedFin, ForwardedSyn, SynReceived, SynSent,
        UdpAnswered, UdpOneWay,
    };
    let Some(flags) = flags else {
        return if state == UdpOneWay && !from_client { UdpAnswered } else { state };
    };
    let has = |flag| flags & flag != 0;
    match state {
        _ if has(RST) => Closing,
        SynSent if !from_client && has(SYN) && has(ACK) => SynReceived,
        SynReceived if from_client && !has(SYN) && has(FIN) => FinClient,
        SynReceived if from_client && !has(SYN) && has(ACK) => Established,
        Established if from_client && has(FIN) => FinClient,
        SynReceived | Established if !from_client && has(FIN) => FinBackend,
        ForwardedSyn | Forwarded if has(FIN) && !has(SYN) => ForwardedFin,
        ForwardedSyn if has(ACK) && !has(SYN) => Forwarded,
        FinClient if !from_client && has(FIN) => Closing,
        FinBackend if from_client && has(FIN) => Closing,
        other => other,
    }
}

/// Seconds of silence after which it is over.
pub(crate) fn time_limit(state: FlowState) -> u32 {
    match state {
        FlowState::SynSent | FlowState::SynReceived | FlowState::ForwardedSyn => timeout::TCP_SYN,
        FlowState::Closing => timeout::TCP_CLOSING,
        FlowState::ForwardedFin => timeout::TCP_FORWARDED_FIN,
        FlowState::UdpOneWay => timeout::UDP_ONE_WAY,
        FlowState::UdpAnswered | FlowState::ForwardedUdp => timeout::UDP,
        _ => TCP_IDLE,
    }
}
