//! What the packet path would do with a connection that a client opens now: the same questions in the same order, asked of what
//! was read from the maps.

use lb_common::{
    AffinityValue, Algorithm, Backend, BackendState, FlowState, Frontend, Selection, SocketKey, hash,
    service::{FRONTEND_AFFINITY, FRONTEND_DROP_INSIDE, FRONTEND_DROP_OUTSIDE, FRONTEND_RANGES, FRONTEND_WAKES},
};

use super::{Via, odds};
use crate::{
    cli::{Error, parse::Client, view::View},
    dataplane::FlowEntry,
};

/// What a connection is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where it goes.
    pub frontend: SocketKey,
    /// Where it comes from.
    pub client: Client,
    /// Where it meets Weir.
    pub via: Via,
    /// Whether the client is a process or pod of this node.
    pub inside: bool,
}

impl Question {
    /// The selection table for this client.
    pub fn table(&self, frontend: &Frontend) -> Selection {
        if self.inside { frontend.inside } else { frontend.outside }
    }
}

/// What was read for the answer, apart from the [`View`].
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// All flows.
    pub flows: Vec<FlowEntry>,
    /// What the affinity map remembers of this client.
    pub affinity: Option<AffinityValue>,
    /// The service's round-robin cursor.
    pub cursor: Option<u64>,
    /// Seconds of the monotonic clock.
    pub now: u32,
}

/// The rule that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A tracked connection keeps its backend.
    Flow,
    /// The client keeps its backend.
    Affinity,
    /// The Service's algorithm.
    Algorithm,
    /// There is no backend.
    NoBackend,
    /// There is none on this node, and the traffic policy is `Local`.
    NoLocalBackend,
    /// The client is in none of the source ranges.
    SourceRange,
}

impl Rule {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Affinity => "affinity",
            Self::Algorithm => "algorithm",
            Self::NoBackend => "no-backend",
            Self::NoLocalBackend => "no-local-backend",
            Self::SourceRange => "source-range",
        }
    }
}

/// Which backend and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The rule that decides.
    pub rule: Rule,
    /// The backend, where it is certain.
    pub backend: Option<u32>,
    /// The source port the backend sees, for a flow under full NAT.
    pub source_port: Option<u16>,
    /// Why, in a sentence.
    pub reason: String,
}

/// The frontend that is asked about.
pub fn frontend(question: &Question, view: &View) -> Result<Frontend, Error> {
    let frontends = &view.tables.frontends;
    let others = SocketKey::other_ports(question.frontend.addr);
    let found = frontends.get(&question.frontend).or_else(|| frontends.get(&others)).copied();
    let frontend = found.ok_or_else(|| Error::UnknownFrontend {
        frontend: question.frontend,
        known: frontends.keys().filter(|key| !key.is_of_address()).map(ToString::to_string).collect(),
    })?;
    if question.frontend.addr.is_v4() != question.client.addr.is_v4() {
        return Err(Error::Family { client: question.client.addr.ip(), frontend: question.frontend });
    }
    Ok(frontend)
}

/// The decision.
pub fn decide(question: &Question, view: &View, frontend: &Frontend, known: &Knowledge) -> Decision {
    by_flow(question, view, frontend, known)
        .or_else(|| source_range(question, view, frontend))
        .or_else(|| no_backend(question, view, frontend))
        .or_else(|| by_affinity(question, view, frontend, known))
        .unwrap_or_else(|| by_algorithm(question, view, frontend, known))
}

fn by_flow(question: &Question, view: &View, frontend: &Frontend, known: &Knowledge) -> Option<Decision> {
    let port = question.client.port.filter(|_| question.via == Via::Packet)?;
    let entry = known.flows.iter().find(|entry| {
        entry.flow.id == frontend.id && entry.flow.addr == question.client.addr && entry.flow.port == port
    })?;
    let backend = view.tables.backends.get(&entry.flow.backend);
    if makes_way(entry.state, backend) {
        return None;
    }
    let source = entry.flow.snat_port.number();
    let idle = known.now.saturating_sub(entry.flow.last);
    Some(Decision {
        rule: Rule::Flow,
        backend: Some(entry.flow.backend),
        source_port: (source != 0).then_some(source),
        reason: format!("a flow of this client exists ({}, idle {idle}s), and flows never move", entry.state.name()),
    })
}

/// Whether a new connection replaces this flow instead of joining it.
fn makes_way(state: FlowState, backend: Option<&Backend>) -> bool {
    let is = |state| backend.is_none_or(|backend| backend.state == state as u8);
    match state {
        FlowState::Closing | FlowState::ForwardedFin => true,
        FlowState::SynSent | FlowState::ForwardedSyn => is(BackendState::Removed) || is(BackendState::Unhealthy),
        FlowState::UdpOneWay | FlowState::UdpAnswered | FlowState::ForwardedUdp => is(BackendState::Removed),
        _ => backend.is_some_and(Backend::is_gone),
    }
}

fn turned_away(rule: Rule, reason: &str) -> Decision {
    Decision { rule, backend: None, source_port: None, reason: reason.into() }
}

fn source_range(question: &Question, view: &View, frontend: &Frontend) -> Option<Decision> {
    let client = question.client.addr.ip();
    let ranges = view.tables.ranges.get(&frontend.id);
    let admitted = ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&client)));
    (frontend.flags & FRONTEND_RANGES != 0 && !admitted)
        .then(|| turned_away(Rule::SourceRange, "the client is in none of loadBalancerSourceRanges: dropped"))
}

fn no_backend(question: &Question, view: &View, frontend: &Frontend) -> Option<Decision> {
    if question.table(frontend).len > 0 {
        return None;
    }
    let elsewhere = if question.inside { FRONTEND_DROP_INSIDE } else { FRONTEND_DROP_OUTSIDE };
    Some(if frontend.flags & elsewhere != 0 {
        turned_away(Rule::NoLocalBackend, "the traffic policy is Local and the backends are on other nodes: dropped")
    } else if !view.tables.frontends.contains_key(&question.frontend) {
        turned_away(Rule::NoBackend, "no Service has this port of the cluster's address: refused")
    } else if frontend.flags & FRONTEND_WAKES != 0 {
        turned_away(
            Rule::NoBackend,
            "the frontend has no backend that takes connections: dropped, and its policy is woken",
        )
    } else {
        turned_away(Rule::NoBackend, "the frontend has no backend that takes connections: refused")
    })
}

fn by_affinity(question: &Question, view: &View, frontend: &Frontend, known: &Knowledge) -> Option<Decision> {
    if frontend.flags & FRONTEND_AFFINITY == 0 {
        return None;
    }
    let kept = known.affinity?;
    let backend = view.tables.backends.get(&kept.backend)?;
    let age = known.now.wrapping_sub(kept.last);
    let valid = backend.incarnation == kept.incarnation
        && backend.service == frontend.service
        && (backend.is_local() || question.table(frontend) == frontend.inside)
        && backend.state == BackendState::Ready as u8
        && age < frontend.affinity_seconds;
    valid.then(|| Decision {
        rule: Rule::Affinity,
        backend: Some(kept.backend),
        source_port: None,
        reason: format!(
            "sessionAffinity: the client chose it {age}s ago and keeps it for {}s",
            frontend.affinity_seconds
        ),
    })
}

fn by_algorithm(question: &Question, view: &View, frontend: &Frontend, known: &Knowledge) -> Decision {
    let table = question.table(frontend);
    let slots = odds::slots(view, table);
    let at = |index: u32| slots.get(index as usize).map(|slot| *slot as u32);
    let (client, len) = (&question.client, table.len);
    let vip = &question.frontend;
    let (backend, reason) = match Algorithm::from_number(frontend.algorithm) {
        Some(Algorithm::IpHash) => {
            let slot = hash::by_client(&client.addr, len);
            (at(slot), format!("ip-hash: the client's address leads to slot {slot} of {len}"))
        }
        Some(Algorithm::Maglev) if question.via == Via::Socket => {
            (None, "maglev: at a socket its cookie decides, a number of the kernel's".into())
        }
        Some(Algorithm::Maglev) => match client.port {
            Some(port) => {
                let slot = hash::by_tuple(&client.addr, port, &vip.addr, vip.port, vip.protocol, len);
                (at(slot), format!("maglev: the 5-tuple leads to slot {slot} of {len}"))
            }
            None => (None, "maglev: the client's port decides; give --from ADDR:PORT to know the backend".into()),
        },
        Some(Algorithm::RoundRobin | Algorithm::WeightedRoundRobin) => match known.cursor {
            Some(cursor) => {
                let step = (cursor % u64::from(len)) as u32;
                (at(step), format!("the turn: step {} of {len}, unless another connection comes first", step + 1))
            }
            None => (None, "the turn decides, and the cursor cannot be read".into()),
        },
        Some(Algorithm::LeastConnections) => (
            only(view, frontend, table),
            "two choices by weight, the lower (active + pending + sockets + remote + 1) / weight wins".into(),
        ),
        Some(Algorithm::Random) => (only(view, frontend, table), "a choice by weight".into()),
        None => (None, format!("algorithm {} is not known to this version", frontend.algorithm)),
    };
    Decision { rule: Rule::Algorithm, backend, source_port: None, reason }
}

/// The backend that chance cannot miss, if there is one.
fn only(view: &View, frontend: &Frontend, table: Selection) -> Option<u32> {
    let odds = odds::of(view, frontend, table);
    odds.first_key_value().filter(|_| odds.len() == 1).map(|(index, _)| *index)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
