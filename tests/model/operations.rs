//! Random operations. One says whom it is about and nothing of what is there, so that a list stays a list of operations when some are
//! left out of it.

use fastrand::Rng;
use lb_common::BackendState;

use crate::{
    frames::{ACK, FIN, RST, SYN},
    life::Key,
    world,
};

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// A client sends a packet; with `xdp`, XDP sees it before tc.
    Client { key: Key, flags: u8, payload: u8, xdp: bool },
    /// The backend of this flow, or if there is none the one of this number, sends a packet to whom it takes for the client; with
    /// `first`, XDP sees it first if it comes from elsewhere, and egress instead of ingress if it comes from the node.
    Backend { key: Key, backend: usize, flags: u8, payload: u8, first: bool },
    /// Seconds pass.
    Wait(u32),
    /// The agent sweeps.
    Sweep,
    /// The agent changes a backend, and its frontend's table with it; a removed one may be listed still, or not.
    Backing { index: u32, state: BackendState, unlisted: bool },
    /// The agent gives a removed backend's index to a new one, if nothing is open.
    Renew { index: u32 },
    /// The agent removes a frontend, or brings it back when all its flows are forgotten.
    Frontend(usize),
}

/// Operations from a seed.
pub(crate) fn random(seed: u64, count: usize) -> Vec<Operation> {
    let mut rng = Rng::with_seed(seed);
    (0..count).map(|_| one(&mut rng)).collect()
}

fn one(rng: &mut Rng) -> Operation {
    match rng.u32(0..1000) {
        0..500 => client(rng),
        500..940 => backend(rng),
        940..965 => Operation::Wait(wait(rng)),
        965..975 => Operation::Sweep,
        975..992 => Operation::Backing { index: any_index(rng), state: state(rng), unlisted: rng.bool() },
        992..996 => Operation::Renew { index: any_index(rng) },
        _ => Operation::Frontend(rng.usize(0..world::FRONTENDS)),
    }
}

/// Some packet of a client.
pub(crate) fn client(rng: &mut Rng) -> Operation {
    const FLAGS: [u8; 12] = [SYN, SYN, SYN, SYN, ACK, ACK, ACK, ACK, FIN | ACK, FIN | ACK, RST | ACK, SYN | ACK];
    let odd = [FIN, SYN | FIN, SYN | RST, RST, 0, SYN | FIN | ACK];
    let flags = if rng.u32(0..20) == 0 { rng.choice(odd) } else { rng.choice(FLAGS) };
    Operation::Client { key: key(rng), flags: flags.unwrap_or(SYN), payload: rng.u8(0..40), xdp: rng.bool() }
}

/// Some packet of a backend.
pub(crate) fn backend(rng: &mut Rng) -> Operation {
    const FLAGS: [u8; 10] = [SYN | ACK, SYN | ACK, SYN | ACK, SYN | ACK, ACK, ACK, ACK, FIN | ACK, FIN | ACK, RST];
    let odd = [FIN, SYN, 0, SYN | FIN | ACK, SYN | RST | ACK];
    let flags = if rng.u32(0..20) == 0 { rng.choice(odd) } else { rng.choice(FLAGS) };
    Operation::Backend {
        key: key(rng),
        backend: rng.usize(0..world::BACKENDS),
        flags: flags.unwrap_or(ACK),
        payload: rng.u8(0..40),
        first: rng.bool(),
    }
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
