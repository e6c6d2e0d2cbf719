//! What a flow is to the model, and how it lives.

use lb_common::{FlowState, abi::timeout};

use crate::{
    frames::{ACK, Datagram, FIN, RST, SYN},
    testrun::TCP_IDLE,
};

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
}

/// What the programs chose, where the model leaves them a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The backend's index.
    pub(crate) backend: u32,
    /// The source port under full NAT.
    pub(crate) port: Option<u16>,
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
    use FlowState::{Closing, Established, FinBackend, FinClient, SynReceived, SynSent, UdpAnswered, UdpOneWay};
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
        FinClient if !from_client && has(FIN) => Closing,
        FinBackend if from_client && has(FIN) => Closing,
        other => other,
    }
}

/// Seconds of silence after which it is over.
pub(crate) fn time_limit(state: FlowState) -> u32 {
    match state {
        FlowState::SynSent | FlowState::SynReceived => timeout::TCP_SYN,
        FlowState::Closing => timeout::TCP_CLOSING,
        FlowState::UdpOneWay => timeout::UDP_ONE_WAY,
        FlowState::UdpAnswered => timeout::UDP,
        _ => TCP_IDLE,
    }
}
