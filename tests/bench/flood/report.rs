//! The numbers as they are printed.

use std::{collections::BTreeMap, ops::Add};

use serde::Serialize;
use weir_tests::machine::Machine;

/// What was measured, on what.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// For which a frontend was flooded.
    pub(crate) seconds: u64,
    pub(crate) runs: Vec<Run>,
}

/// One variant.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    pub(crate) name: String,
    /// No flood.
    pub(crate) rest: Phase,
    /// A flood at an address that is no frontend: one half of it before the other flood, one after it.
    pub(crate) nobody: Phase,
    /// A flood at the frontend.
    pub(crate) flood: Phase,
    /// Half a minute after it.
    pub(crate) after: Room,
    /// Of Weir only.
    pub(crate) exact: Option<Exact>,
}

/// What was done, and what became of it, in a time.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Phase {
    pub(crate) seconds: f64,
    /// SYNs that the generator has sent.
    pub(crate) sent: u64,
    /// Those that the interface refused.
    pub(crate) refused: u64,
    /// Frames that the attacker's interface has delivered to the node, by its own count.
    pub(crate) delivered: u64,
    /// On connections that were open before.
    pub(crate) exchanges: u64,
    pub(crate) resets: u64,
    pub(crate) stalled: u64,
    /// New clients.
    pub(crate) came: u64,
    /// Those who were served within five seconds.
    pub(crate) served: u64,
    /// Those who were by their first SYN.
    pub(crate) at_once: u64,
    /// At three quarters of the time.
    pub(crate) room: Room,
}

/// How full a balancer's memory is.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Room {
    /// Flows, or entries of conntrack.
    pub(crate) used: u64,
    /// Flows whose client has not shown yet that it gets what is sent to it.
    pub(crate) unproven: Option<u64>,
    /// Flows that there is room for.
    pub(crate) capacity: u64,
    /// Flows with a source port of the node.
    pub(crate) source_ports: Option<u64>,
}

/// What was sent to the frontend from the first packet to the last, beside what Weir has counted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exact {
    /// SYNs that the attacker's interface has delivered while the frontend was flooded.
    pub(crate) syns: u64,
    /// All that the clients' interface has delivered.
    pub(crate) others: u64,
    /// Packets that Weir counts as sent on towards backends.
    pub(crate) sent_on: u64,
    /// Packets that it counts as dropped, by reason.
    pub(crate) drops: BTreeMap<&'static str, u64>,
    /// SYNs that were answered: frames that came back to the attacker.
    pub(crate) answered: u64,
    /// Connections that servers have accepted.
    pub(crate) accepted: u64,
    /// Connections that Weir counts.
    pub(crate) connections: u64,
    /// Whether its pending and active connections are those in its table.
    pub(crate) agree: bool,
    /// What its sweep had to repair.
    pub(crate) repairs: u64,
}

impl Add for Phase {
    type Output = Self;

    /// Both together; the room is that of the later one.
    fn add(self, later: Self) -> Self {
        Self {
            seconds: self.seconds + later.seconds,
            sent: self.sent + later.sent,
            refused: self.refused + later.refused,
            delivered: self.delivered + later.delivered,
            exchanges: self.exchanges + later.exchanges,
            resets: self.resets + later.resets,
            stalled: self.stalled + later.stalled,
            came: self.came + later.came,
            served: self.served + later.served,
            at_once: self.at_once + later.at_once,
            room: later.room,
        }
    }
}
