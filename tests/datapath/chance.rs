//! What chance decides, with chance told: weighted random, and the less loaded of two.

use lb_common::{Algorithm, BackendLoad, Protocol};
use lb_ebpf::{
    env::{Env, Hook},
    select,
};

use crate::{
    host::Memory,
    table::{
        net::{Family, Interface},
        noise::Noise,
        world::{Place, World},
    },
};

/// Random numbers that choose the first, and the second, of two columns.
const FIRST: u32 = 0;
const SECOND: u32 = 1 << 31;
/// The random number that takes a column's owner, whatever its threshold.
const OWNER: u32 = 0;

fn memory(algorithm: Algorithm, weights: &[u16]) -> (Memory, World) {
    let backends = weights.iter().map(|weight| (Place::Local, *weight)).collect();
    let world = World { algorithm, backends, ..World::new(Family::V4, Protocol::Tcp, &[]) };
    let mut memory = Memory::new();
    world.make(1).iter().for_each(|write| memory.write(write));
    (memory, world)
}

/// The choice for a new connection.
fn choose(memory: &Memory) -> Option<u32> {
    let env = memory.at(Hook::Ingress, Interface::Up0);
    let frontend = memory.tables.frontends.values().next().expect("one frontend");
    select::backend(&env, env.scratch().expect("memory has one"), frontend, frontend.outside)
}

#[test]
fn random_follows_the_weights() {
    const ROUNDS: u32 = 50_000;
    for weights in [&[1, 2, 3, 4][..], &[100, 100, 0, 100], &[65535, 1000, 1], &[7]] {
        let (memory, _) = memory(Algorithm::Random, weights);
        let mut noise = Noise(1);
        let mut found = vec![0_u32; weights.len()];
        for _ in 0..ROUNDS {
            memory.random.borrow_mut().extend([noise.next(), noise.next()]);
            found[choose(&memory).expect("somebody") as usize] += 1;
        }
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let expected = |weight: &u16| f64::from(ROUNDS) * f64::from(*weight) / sum;
        let square = |(n, weight): (&u32, &u16)| (f64::from(*n) - expected(weight)).powi(2) / expected(weight);
        let chi: f64 = found.iter().zip(weights).filter(|(_, weight)| **weight > 0).map(square).sum();
        // Three degrees of freedom: beyond this once in 100,000 runs, and the numbers are the same in each.
        assert!(chi < 25.9, "{weights:?}: {found:?}, chi-square {chi}");
        assert!(found.iter().zip(weights).all(|(n, weight)| *weight > 0 || *n == 0), "{weights:?}: {found:?}");
    }
}

#[test]
fn least_connections_takes_the_less_loaded_of_two() {
    let load = |active, pending, remote| BackendLoad { active, pending, remote, ..BackendLoad::default() };
    let sockets = |sockets, established| BackendLoad { sockets, established, ..BackendLoad::default() };
    let negative = load(-1_i64 as u64, 0, 0);
    // Weights, loads, the two choices, the winner.
    let table = [
        ([100, 100], [load(5, 0, 0), load(4, 0, 0)], [FIRST, SECOND], 1),
        ([100, 100], [load(5, 0, 0), load(4, 0, 0)], [SECOND, FIRST], 1),
        ([100, 100], [load(5, 0, 0), load(4, 0, 0)], [FIRST, FIRST], 0),
        ([100, 100], [load(4, 0, 0), load(4, 0, 0)], [SECOND, FIRST], 1),
        ([100, 100], [load(0, 3, 0), load(2, 0, 0)], [FIRST, SECOND], 1),
        ([100, 100], [load(0, 0, 9), load(8, 0, 0)], [FIRST, SECOND], 1),
        // An established connection of a socket is among the sockets.
        ([100, 100], [sockets(3, 3), load(2, 0, 0)], [FIRST, SECOND], 1),
        ([100, 100], [sockets(3, 3), load(4, 0, 0)], [FIRST, SECOND], 0),
        ([200, 100], [load(5, 0, 0), load(2, 0, 0)], [FIRST, SECOND], 0),
        ([200, 100], [load(6, 0, 0), load(2, 0, 0)], [FIRST, SECOND], 1),
        ([65535, 1], [load(60000, 0, 0), load(0, 0, 0)], [FIRST, SECOND], 0),
        ([100, 100], [negative, load(1, 0, 0)], [FIRST, SECOND], 0),
    ];
    for (weights, loads, choices, winner) in table {
        let (mut memory, _) = memory(Algorithm::LeastConnections, &weights);
        memory.set_loads(&loads);
        memory.random.borrow_mut().extend([choices[0], OWNER, choices[1], OWNER]);
        assert_eq!(choose(&memory), Some(winner), "{weights:?} {loads:?} {choices:?}");
    }
}
