//! Random operations. One says whom it is about and nothing of what is there, so that a list stays a list of operations when some are
//! left out of it.

use fastrand::Rng;
use lb_common::BackendState;
use serde::{Deserialize, Serialize};

use crate::{
    frames::{ACK, FIN, Part, RST, SYN, Shape},
    life::Key,
    world,
};

/// Identifications of fragmented packets: few, so that several packets have the same.
const IDS: u32 = 6;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// A client sends a packet; with `xdp`, XDP sees it before tc.
    Client { key: Key, flags: u8, payload: u8, shape: Shape, xdp: bool },
    /// The backend of this flow, or if there is none the one of this number, sends a packet to whom it takes for the client; with
    /// `first`, XDP sees it first if it comes from elsewhere, and egress instead of ingress if it comes from the node.
    Backend { key: Key, backend: usize, flags: u8, payload: u8, shape: Shape, first: bool },
    /// Somebody says that a packet of this flow did not arrive: the one whom it was sent to, or a router before him. With `reply` it came
    /// from the backend, which is that of the flow, or if there is none the one of this number; with `first`, XDP sees the error first, or
    /// egress instead of ingress if it comes from the node.
    Error { key: Key, backend: usize, reply: bool, router: bool, first: bool },
    /// Another node forwards a client's packet to a backend of this one, whose number is 0 or 1; it matters only to some frontends.
    Forwarded { key: Key, backend: usize, flags: u8, payload: u8, shape: Shape },
    /// Seconds pass.
    Wait(u32),
    /// The agent sweeps.
    Sweep,
    /// The agent changes a backend, and its frontend's table with it; a removed one may be listed still, or not.
    Backing {
        index: u32,
        #[serde(with = "state_by_name")]
        state: BackendState,
        unlisted: bool,
    },
    /// The agent gives a removed backend's index to a new one, if nothing is open.
    Renew { index: u32 },
    /// The agent removes a frontend, or brings it back when all its flows are forgotten.
    Frontend(usize),
    /// The agent admits a client to a frontend, or does so no longer; it matters only to some frontends.
    Admit { frontend: usize, client: usize, admitted: bool },
    /// The agent ends, and another one takes its place.
    Restart,
}

impl Operation {
    /// Whether it matters to this frontend, as far as can be told without what was before: frontends may share backends.
    pub(crate) fn is_about(&self, frontend: usize) -> bool {
        match self {
            Self::Client { key, .. }
            | Self::Backend { key, .. }
            | Self::Forwarded { key, .. }
            | Self::Error { key, .. } => key.2 == frontend,
            Self::Backing { index, .. } | Self::Renew { index } => world::frontend_of(*index) == frontend,
            Self::Frontend(other) | Self::Admit { frontend: other, .. } => *other == frontend,
            Self::Wait(_) | Self::Sweep | Self::Restart => true,
        }
    }
}

/// States of backends, as they are named in output.
mod state_by_name {
    use lb_common::BackendState;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(state: &BackendState, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(state.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BackendState, D::Error> {
        let name = String::deserialize(from)?;
        let mut known = (0..=u8::MAX).map_while(BackendState::from_number);
        known.find(|state| state.name() == name).ok_or_else(|| D::Error::custom(format!("no state is named {name}")))
    }
}

/// Operations from a seed. The agent is replaced once, somewhere in one list of `restarts`: that takes seconds.
pub(crate) fn random(seed: u64, count: usize, restarts: u64) -> Vec<Operation> {
    let mut rng = Rng::with_seed(seed);
    let mut operations: Vec<_> = (0..count).map(|_| one(&mut rng)).collect();
    if count > 0 && rng.u64(0..restarts) == 0 {
        operations[rng.usize(0..count)] = Operation::Restart;
    }
    operations
}

fn one(rng: &mut Rng) -> Operation {
    match rng.u32(0..1000) {
        0..40 => forwarded(rng),
        40..500 => client(rng),
        500..915 => backend(rng),
        915..940 => Operation::Error {
            key: key(rng),
            backend: rng.usize(0..world::BACKENDS),
            reply: rng.bool(),
            router: rng.bool(),
            first: rng.u32(0..4) == 0,
        },
        940..965 => Operation::Wait(wait(rng)),
        965..975 => Operation::Sweep,
        975..992 => Operation::Backing { index: any_index(rng), state: state(rng), unlisted: rng.bool() },
        992..996 => Operation::Renew { index: any_index(rng) },
        996..998 => Operation::Frontend(rng.usize(0..world::FRONTENDS)),
        _ => Operation::Admit {
            frontend: rng.usize(0..world::FRONTENDS),
            client: rng.usize(0..world::CLIENTS),
            admitted: rng.u32(0..4) > 0,
        },
    }
}

/// Some packet of a client.
pub(crate) fn client(rng: &mut Rng) -> Operation {
    const FLAGS: [u8; 12] = [SYN, SYN, SYN, SYN, ACK, ACK, ACK, ACK, FIN | ACK, FIN | ACK, RST | ACK, SYN | ACK];
    let odd = [FIN, SYN | FIN, SYN | RST, RST, 0, SYN | FIN | ACK];
    let flags = if rng.u32(0..20) == 0 { rng.choice(odd) } else { rng.choice(FLAGS) };
    let (key, shape) = (key(rng), shape(rng));
    Operation::Client { key, flags: flags.unwrap_or(SYN), payload: payload(rng, shape), shape, xdp: rng.bool() }
}

/// Some packet of a client that comes from another node.
fn forwarded(rng: &mut Rng) -> Operation {
    let Operation::Client { key: (client, port, _), flags, payload, shape, .. } = client(rng) else { unreachable!() };
    let frontend = rng.usize(world::NATTED..world::FRONTENDS);
    Operation::Forwarded { key: (client, port, frontend), backend: rng.usize(0..2), flags, payload, shape }
}

/// Some packet of a backend.
pub(crate) fn backend(rng: &mut Rng) -> Operation {
    const FLAGS: [u8; 10] = [SYN | ACK, SYN | ACK, SYN | ACK, SYN | ACK, ACK, ACK, ACK, FIN | ACK, FIN | ACK, RST];
    let odd = [FIN, SYN, 0, SYN | FIN | ACK, SYN | RST | ACK];
    let flags = if rng.u32(0..20) == 0 { rng.choice(odd) } else { rng.choice(FLAGS) };
    let (key, shape) = (key(rng), shape(rng));
    Operation::Backend {
        key,
        backend: rng.usize(0..world::BACKENDS),
        flags: flags.unwrap_or(ACK),
        payload: payload(rng, shape),
        shape,
        first: rng.bool(),
    }
}

/// Most packets are plain.
fn shape(rng: &mut Rng) -> Shape {
    let id = rng.u32(0..IDS);
    let part = match rng.u32(0..16) {
        0 => Part::First(id),
        1..3 => Part::Later(id),
        _ => Part::Whole,
    };
    Shape { options: rng.u32(0..8) == 0, part }
}

/// Fragments are of packets that have something to share out.
fn payload(rng: &mut Rng, shape: Shape) -> u8 {
    rng.u8(0..40) + if shape.part == Part::Whole { 0 } else { 20 }
}

/// A flow; some are hotter than others, so that some live long and some idle.
fn key(rng: &mut Rng) -> Key {
    let port = rng.usize(0..world::PORTS).min(rng.usize(0..world::PORTS));
    (rng.usize(0..world::CLIENTS), port, rng.usize(0..world::FRONTENDS))
}

fn any_index(rng: &mut Rng) -> u32 {
    world::index(rng.usize(0..world::FRONTENDS), rng.usize(0..world::BACKENDS))
}

fn wait(rng: &mut Rng) -> u32 {
    match rng.u32(0..100) {
        0..80 => rng.u32(1..3),
        80..98 => rng.u32(5..70),
        _ => rng.u32(800..1000),
    }
}

fn state(rng: &mut Rng) -> BackendState {
    use BackendState::{Draining, Ready, Removed, Terminating, Unhealthy};
    rng.choice([Ready, Ready, Ready, Draining, Terminating, Unhealthy, Unhealthy, Removed]).unwrap_or(Ready)
}
