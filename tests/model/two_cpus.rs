//! Two CPUs at once on the same few flows, while the agent sweeps and swaps tables, or another one moves the flows. Which of them comes first
//! is nobody's to say, so there is no model here; but what must hold at rest is exact.

use std::{
    sync::atomic::Ordering,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Result, ensure};
use fastrand::Rng;
use lb_agent::dataplane::{Dataplane as _, Inspect as _, bpf::Bpf};
use lb_common::{BackendState, names::map};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    operations::{self, Operation},
    sender::{Sender, Tally, dump, write_all},
    testrun::{Node, Worker, on_a_node, options},
    world::{self, ALL, Condition},
};

const ROUNDS: u64 = 24;
const PACKETS: usize = 5000;
/// In one of so many rounds the flows are moved into a table of another size.
const MOVES: u64 = 12;

#[test]
fn two_cpus_count_exactly() {
    on_a_node(options(), |mut node| {
        set_up(&mut node.bpf)?;
        let (mut now, mut total) = (1000, Tally::default());
        let mut chance = Rng::with_seed(7);
        for round in 0..ROUNDS {
            node.set_clock(now)?;
            let sent;
            (node, sent) = if round % MOVES == MOVES - 1 { moving(node, round)? } else { traffic(node, round)? };
            total = total.and(sent);
            at_rest(&node, total)?;
            now += chance.u32(2..12);
            node.set_clock(now)?;
            let report = node.bpf.sweep()?;
            ensure!(report.busy == 0, "a bucket stayed locked: {report:?}");
            linked(&node)?;
            at_rest(&node, total)?;
        }
        ensure!(total.odd == 0, "{total:?}");
        ensure!(total.sent_in > 20_000 && total.sent_out > 20_000, "too little was sent: {total:?}");
        node.set_clock(now + 100_000)?;
        node.bpf.sweep()?;
        node.bpf.sweep()?;
        at_rest(&node, total)?;
        nothing_left(&mut node)
    })
    .unwrap();
}

fn set_up(bpf: &mut Bpf) -> Result<()> {
    let conditions = vec![READY; ALL as usize];
    (0..ALL).try_for_each(|index| write_all(bpf, &world::backend(index, READY)))?;
    write_all(bpf, &world::all_admitted())?;
    (0..world::FRONTENDS).try_for_each(|f| write_all(bpf, &world::frontend(f, &world::selection(f, &conditions), 0)))
}

const READY: Condition = Condition::ready(1);

/// A round of packets on both CPUs, and on every other round the agent's work beside it.
fn traffic(mut node: Node, round: u64) -> Result<(Node, Tally)> {
    let limits = node.bpf.made_with().into();
    let tables = [node.array(map::FLOWS)?, node.array(map::FLOWS)?];
    let (programs, interfaces, tally) = (&node.programs, (node.uplink, node.pod), Tally::default());
    let senders = tables.map(|buckets| Sender { programs, interfaces, buckets, limits, tally });
    let bpf = &mut node.bpf;
    let sent = thread::scope(|scope| {
        let threads: Vec<_> = senders
            .into_iter()
            .enumerate()
            .map(|(cpu, sender)| scope.spawn(move || send(sender, cpu, round * 2 + cpu as u64, || true)))
            .collect();
        let mut chance = Rng::with_seed(round);
        while round % 2 == 1 && threads.iter().any(|thread| !thread.is_finished()) {
            maintain(bpf, &mut chance)?;
        }
        sum(threads)
    });
    Ok((node, sent?))
}

/// Packets on both CPUs until another agent has moved the flows into a table of another size, and some after that, through the programs of the
/// first: a hook may be the last that gets the new ones.
fn moving(node: Node, round: u64) -> Result<(Node, Tally)> {
    let limits = node.bpf.made_with().into();
    node.restart_beside(|Worker { programs, interfaces, tables, is_over }| {
        let senders = tables.map(|buckets| Sender { programs, interfaces, buckets, limits, tally: Tally::default() });
        let until = || is_over.load(Ordering::SeqCst);
        thread::scope(|scope| {
            let threads = senders.into_iter().enumerate();
            sum(threads
                .map(|(cpu, sender)| scope.spawn(move || send(sender, cpu, round * 2 + cpu as u64, until)))
                .collect())
        })
    })
}

fn sum(threads: Vec<ScopedJoinHandle<'_, Result<Tally>>>) -> Result<Tally> {
    threads.into_iter().try_fold(Tally::default(), |sum, thread| match thread.join() {
        Ok(tally) => Ok(sum.and(tally?)),
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Sends so many packets, and as many again until there are enough.
fn send(mut sender: Sender<'_>, cpu: usize, seed: u64, is_enough: impl Fn() -> bool) -> Result<Tally> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let mut rng = Rng::with_seed(seed);
    for packet in 1.. {
        if packet % PACKETS == 0 && is_enough() {
            break;
        }
        let operation = if rng.bool() { operations::client(&mut rng) } else { operations::backend(&mut rng) };
        // So few flows that both CPUs are always at the same ones.
        match operation {
            Operation::Client { key: (c, _, f), flags, payload, xdp, .. } => {
                sender.client((c % 2, 0, f % world::NATTED), flags, payload, xdp)?
            }
            Operation::Backend { key: (c, _, f), flags, payload, .. } => {
                sender.backend((c % 2, 0, f % world::NATTED), flags, payload)?
            }
            _ => {}
        }
    }
    Ok(sender.tally)
}

/// A sweep, and one frontend's table without one of its backends, then with it again.
fn maintain(bpf: &mut Bpf, chance: &mut Rng) -> Result<()> {
    bpf.sweep()?;
    let frontend = chance.usize(0..world::FRONTENDS);
    let mut conditions = vec![READY; ALL as usize];
    conditions[world::index(frontend, chance.usize(0..world::BACKENDS)) as usize].state = BackendState::Draining;
    for (turn, conditions) in [(1, &conditions), (0, &vec![READY; ALL as usize])] {
        write_all(bpf, &world::frontend(frontend, &world::selection(frontend, conditions), turn))?;
        Bpf::grace_period()?;
    }
    Ok(())
}

/// What the counters say is what the table holds and what was sent.
fn at_rest(node: &Node, total: Tally) -> Result<()> {
    let dump = dump(node)?;
    dump.check_keys()?;
    let indexes: Vec<u32> = (0..ALL).collect();
    let counters = node.bpf.counters(&indexes)?;
    for (index, found) in indexes.iter().zip(&counters) {
        let of = |is: fn(lb_common::FlowState) -> bool| {
            dump.forward.iter().filter(|entry| entry.flow.backend == *index && is(entry.state)).count() as u64
        };
        let (active, pending) = (of(|s| s.is_active()), of(|s| s.is_pending()));
        let load = found.load;
        ensure!(
            (active, pending) == (load.active, load.pending),
            "backend {index}: {active} {pending} are in the table, {load:?}"
        );
        // A UDP flow is active from its first packet to its end; of TCP, some end while they are pending.
        let ended = load.connections - load.active;
        let udp = world::endpoint(*index).protocol == 17;
        ensure!(if udp { load.closed == ended } else { load.closed >= ended }, "backend {index}: {load:?}");
        ensure!(load.resets <= load.closed, "backend {index}: {load:?}");
    }
    let wrong = dump.forward.iter().find(|entry| world::frontend_of(entry.flow.backend) != entry.flow.id as usize);
    ensure!(wrong.is_none(), "a flow with another frontend's backend: {wrong:?}");
    let sum = |of: fn(&lb_agent::dataplane::Counters) -> u64| counters.iter().map(of).sum::<u64>();
    let counted = (sum(|c| c.traffic.packets_in), sum(|c| c.traffic.packets_out));
    ensure!(counted == (total.sent_in, total.sent_out), "{counted:?} packets were counted, {total:?} were sent");
    let drops: u64 = node.bpf.drops()?.values().sum();
    ensure!(drops == total.dropped, "{drops} drops were counted, {} made", total.dropped);
    Ok(())
}

/// Every reply entry belongs to a flow, and every flow has one unless it could not be given one in time.
fn linked(node: &Node) -> Result<()> {
    let mut dump = dump(node)?;
    dump.forward.retain(|entry| entry.flow.link != lb_ebpf::table::NO_LINK);
    dump.check_links()
}

fn nothing_left(node: &mut Node) -> Result<()> {
    let dump = dump(node)?;
    ensure!(dump.forward.is_empty() && dump.reply.is_empty(), "{:?} {:?}", dump.forward, dump.reply);
    let report = node.bpf.sweep()?;
    ensure!(report.entries == 0 && report.recounts.is_empty(), "{report:?}");
    Ok(())
}
