//! What the packet path would do with a connection that a client opens now: the same questions in the same order, asked of what
//! was read from the maps.

use lb_common::{
    AffinityValue, Algorithm, Backend, BackendState, FlowState, Frontend, SocketKey, hash, service::FRONTEND_AFFINITY,
};

use super::odds;
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
}

impl Rule {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Affinity => "affinity",
            Self::Algorithm => "algorithm",
            Self::NoBackend => "no-backend",
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
    let found = view.tables.frontends.get(&question.frontend).copied();
    let frontend = found.ok_or_else(|| Error::UnknownFrontend {
        frontend: question.frontend,
        known: view.tables.frontends.keys().map(ToString::to_string).collect(),
    })?;
    if question.frontend.addr.is_v4() != question.client.addr.is_v4() {
        return Err(Error::Family { client: question.client.addr.ip(), frontend: question.frontend });
    }
    Ok(frontend)
}

/// The decision.
pub fn decide(question: &Question, view: &View, frontend: &Frontend, known: &Knowledge) -> Decision {
    by_flow(question, view, frontend, known)
        .or_else(|| no_backend(frontend))
        .or_else(|| by_affinity(view, frontend, known))
        .unwrap_or_else(|| by_algorithm(question, view, frontend, known))
}

fn by_flow(question: &Question, view: &View, frontend: &Frontend, known: &Knowledge) -> Option<Decision> {
    let port = question.client.port?;
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
        FlowState::Closing => true,
        FlowState::SynSent => is(BackendState::Removed) || is(BackendState::Unhealthy),
        FlowState::UdpOneWay | FlowState::UdpAnswered => is(BackendState::Removed),
        _ => false,
    }
}

fn no_backend(frontend: &Frontend) -> Option<Decision> {
    (frontend.table_len == 0).then(|| Decision {
        rule: Rule::NoBackend,
        backend: None,
        source_port: None,
        reason: "the frontend has no backend that takes connections: the packet is dropped (reason no-backend)".into(),
    })
}

fn by_affinity(view: &View, frontend: &Frontend, known: &Knowledge) -> Option<Decision> {
    if frontend.flags & FRONTEND_AFFINITY == 0 {
        return None;
    }
    let kept = known.affinity?;
    let backend = view.tables.backends.get(&kept.backend)?;
    let age = known.now.wrapping_sub(kept.last);
    let valid = backend.incarnation == kept.incarnation
        && backend.service == frontend.service
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
    let slots = odds::slots(view, frontend);
    let at = |index: u32| slots.get(index as usize).map(|slot| *slot as u32);
    let (client, len) = (&question.client, frontend.table_len);
    let vip = &question.frontend;
    let (backend, reason) = match Algorithm::from_number(frontend.algorithm) {
        Some(Algorithm::IpHash) => {
            let slot = hash::by_client(&client.addr, len);
            (at(slot), format!("ip-hash: the client's address leads to slot {slot} of {len}"))
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
            only(view, frontend),
            "two choices by weight, the lower (active + pending + remote + 1) / weight wins".into(),
        ),
        Some(Algorithm::Random) => (only(view, frontend), "a choice by weight".into()),
        None => (None, format!("algorithm {} is not known to this version", frontend.algorithm)),
    };
    Decision { rule: Rule::Algorithm, backend, source_port: None, reason }
}

/// The backend that chance cannot miss, if there is one.
fn only(view: &View, frontend: &Frontend) -> Option<u32> {
    let odds = odds::of(view, frontend);
    odds.first_key_value().filter(|_| odds.len() == 1).map(|(index, _)| *index)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
