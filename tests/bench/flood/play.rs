//! One variant from beginning to end: rest, a flood at nobody, a flood at the frontend, a flood at nobody again, so that what drifts
//! meanwhile meets what is compared alike.

use std::{
    net::{SocketAddr, SocketAddrV4},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use weir_tests::manifests::Manifests;

use crate::{
    balancer::Running,
    clients::{self, Kept, PATIENCE},
    cpus::Cpus,
    generator::{self, Sent},
    network::{FRONTEND, Frames, NOBODY, Network, OUTSIDE},
    report::{Exact, Phase, Run},
    variant::Variant,
};

/// When it is looked what has remained of a flood: half-open connections have 20 s.
const AFTER: Duration = Duration::from_secs(30);
/// How long closed connections take to be gone from the wire.
const SETTLE: Duration = Duration::from_secs(2);

/// What all phases share.
struct Scene<'a> {
    network: &'a Network,
    balancer: &'a Running<'a>,
    kept: Kept,
    cpus: &'a Cpus,
}

/// Measures a variant under a flood of this length.
pub(crate) fn play(variant: Variant, flooded: Duration, cpus: &Cpus) -> Result<Run> {
    let (network, manifests) = (Network::new(variant)?, Manifests::new()?);
    let balancer = Running::start(variant, &network, &manifests)?;
    let client = &network.topology.client;
    let (others, answered) = (Frames::of(client)?.sent, Frames::of(&network.attacker)?.received);
    let kept = Kept::open(client, SocketAddr::V4(FRONTEND))?;
    let scene = Scene { network: &network, balancer: &balancer, kept, cpus };
    let rest = scene.phase(None, flooded / 6)?;
    let nobody = scene.phase(Some(NOBODY), flooded / 4)?;
    let flood = scene.phase(Some(FRONTEND), flooded)?;
    let ended = Instant::now();
    let nobody = nobody + scene.phase(Some(NOBODY), flooded / 4)?;
    thread::sleep((ended + AFTER).saturating_duration_since(Instant::now()));
    let after = balancer.room()?;
    drop(scene);
    thread::sleep(SETTLE);
    let exact = balancer.counted()?.map(|counted| -> Result<Exact> {
        Ok(Exact {
            syns: flood.delivered,
            others: Frames::of(client)?.sent - others,
            sent_on: counted.packets_in,
            drops: counted.drops,
            answered: Frames::of(&network.attacker)?.received - answered,
            accepted: network.accepted(),
            connections: counted.connections,
            agree: counted.agree,
            repairs: counted.repairs,
        })
    });
    Ok(Run { name: variant.name(), rest, nobody, flood, after, exact: exact.transpose()? })
}

impl Scene<'_> {
    /// Lets clients come and a flood go on for so long.
    fn phase(&self, target: Option<SocketAddrV4>, time: Duration) -> Result<Phase> {
        let (client, attacker) = (&self.network.topology.client, &self.network.attacker);
        let frames = Frames::of(attacker)?.sent;
        thread::scope(|scope| {
            let coming = time.saturating_sub(PATIENCE);
            let newcomers = scope.spawn(move || clients::newcomers(client, SocketAddr::V4(FRONTEND), coming));
            let (begun, before) = (Instant::now(), self.kept.counts());
            let generator = scope.spawn(|| self.send(target, time, frames));
            thread::sleep(time * 3 / 4);
            let room = self.balancer.room()?;
            let sent = join(generator)?;
            let (seconds, after) = (begun.elapsed().as_secs_f64(), self.kept.counts());
            let delivered = Frames::of(attacker)?.sent - frames;
            let newcomers = join(newcomers)?;
            let phase = Phase {
                seconds,
                sent: sent.taken,
                refused: sent.refused,
                delivered,
                exchanges: after.exchanges - before.exchanges,
                resets: after.resets - before.resets,
                stalled: after.stalled - before.stalled,
                came: newcomers.came,
                served: newcomers.served,
                at_once: newcomers.at_once,
                room,
            };
            eprintln!("  {phase:?}");
            Ok(phase)
        })
    }

    /// Floods a target; without one it is only time that passes.
    fn send(&self, target: Option<SocketAddrV4>, time: Duration, seed: u64) -> Result<Sent> {
        let Some(target) = target else {
            thread::sleep(time);
            return Ok(Sent::default());
        };
        self.network.attacker.enter(|| {
            self.cpus.stay_with_generator()?;
            generator::flood(OUTSIDE, &mut self.network.syns(target, seed), time)
        })?
    }
}

/// The result of a thread, or its panic.
fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
