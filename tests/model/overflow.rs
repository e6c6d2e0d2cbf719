//! More flows than a small table has room for, and more connections to a backend than there are source ports: who has to go, who is
//! refused, and that the counters stay what the table holds.

use anyhow::{Result, ensure};
use lb_agent::dataplane::{Dataplane as _, Inspect as _, bpf::Options};
use lb_common::{BackendState, DropReason, FlowState, names::map};

use crate::{
    frames::{ACK, FIN, RST, SYN},
    life::Key,
    sender::{Sender, Tally, dump, write_all},
    testrun::{Node, on_a_node, options},
    world::{self, ALL, Condition},
};

/// The smallest table there is.
const ROOM: usize = 512;
const START: u32 = 1000;

fn small() -> Options {
    Options { flow_table_size: ROOM as u32, ..options() }
}

/// Backends in the states that `state` gives them by their number behind each frontend.
fn with_backends<T: Send>(
    options: Options,
    state: fn(u32) -> BackendState,
    test: impl FnOnce(&mut Node) -> Result<T> + Send,
) -> Result<T> {
    on_a_node(options, |mut node| {
        let condition = |index| Condition { state: state(index % world::BACKENDS as u32), ..Condition::ready(1) };
        let conditions: Vec<_> = (0..ALL).map(condition).collect();
        (0..ALL).try_for_each(|index| write_all(&mut node.bpf, &world::backend(index, condition(index))))?;
        write_all(&mut node.bpf, &world::all_admitted())?;
        for frontend in 0..world::FRONTENDS {
            // Nothing but the tables' room is a limit here.
            let writes = world::limited(frontend, &world::selection(frontend, &conditions), 0, [0; 3]);
            write_all(&mut node.bpf, &writes)?;
        }
        node.set_clock(START)?;
        test(&mut node)
    })
}

fn all_ready(_: u32) -> BackendState {
    BackendState::Ready
}

/// One backend, and it is elsewhere: every connection to it takes a source port.
fn one_remote(number: u32) -> BackendState {
    if number == 2 { BackendState::Ready } else { BackendState::Draining }
}

fn sender(node: &Node) -> Result<Sender<'_>> {
    Ok(Sender {
        programs: &node.programs,
        interfaces: (node.uplink, node.pod),
        buckets: node.array(map::FLOWS)?,
        limits: node.bpf.made_with().into(),
        tally: Tally::default(),
    })
}

/// What is counted as open is what the table holds; the number of entries.
fn exact(node: &Node) -> Result<usize> {
    let dump = dump(node)?;
    dump.check_links()?;
    let indexes: Vec<u32> = (0..ALL).collect();
    for (index, found) in indexes.iter().zip(node.bpf.counters(&indexes)?) {
        let entries = || dump.forward.iter().filter(|entry| entry.flow.backend == *index);
        let active = entries().filter(|entry| entry.state.is_active()).count() as u64;
        let pending = entries().filter(|entry| entry.state.is_pending()).count() as u64;
        let load = found.load;
        ensure!(
            (active, pending) == (load.active, load.pending),
            "{index}: {active}, {pending} of the table, {load:?}"
        );
    }
    Ok(dump.forward.len())
}

/// A connection that reaches a state.
fn connect(sender: &mut Sender<'_>, key: Key, state: FlowState) -> Result<()> {
    let packets: &[(bool, u8)] = match state {
        FlowState::SynSent => &[(true, SYN)],
        FlowState::SynReceived => &[(true, SYN), (false, SYN | ACK)],
        FlowState::FinClient => &[(true, SYN), (false, SYN | ACK), (true, ACK), (true, FIN | ACK)],
        FlowState::Closing => &[(true, SYN), (false, SYN | ACK), (true, ACK), (false, RST)],
        _ => &[(true, SYN), (false, SYN | ACK), (true, ACK)],
    };
    packets.iter().try_for_each(|(from_client, flags)| match from_client {
        true => sender.client(key, *flags, 0, false),
        false => sender.backend(key, *flags, 0),
    })
}

#[test]
fn established_flows_stay_and_newcomers_are_refused() {
    with_backends(small(), all_ready, |node| {
        let mut packets = sender(node)?;
        (0..3000).try_for_each(|port| connect(&mut packets, (0, port, 3), FlowState::Established))?;
        let before = exact(node)?;
        let flows = node.bpf.flows()?;
        ensure!(flows.iter().all(|flow| flow.state == FlowState::Established), "not all are established");
        let drops = node.bpf.drops()?;
        let refused = drops[&DropReason::TableFull] + drops[&DropReason::SnatPortsExhausted];
        ensure!(before > ROOM * 3 / 4 && before <= ROOM && refused > 2000, "{before} flows, {drops:?}");
        // They are silent for long enough now to make way for others; a table full of newcomers has forgotten most of them.
        node.set_clock(START + 31)?;
        let mut packets = sender(node)?;
        (3000..6000).try_for_each(|port| connect(&mut packets, (0, port, 3), FlowState::Established))?;
        exact(node)?;
        let old = node.bpf.flows()?.iter().filter(|flow| flow.flow.port.number() < 43000).count();
        ensure!(old * 4 < before, "{old} of {before} idle flows are still there");
        empty_afterwards(node)
    })
    .unwrap();
}

#[test]
fn a_flood_of_syns_displaces_syns_and_never_what_is_open() {
    with_backends(small(), all_ready, |node| {
        let mut packets = sender(node)?;
        (0..150).try_for_each(|port| connect(&mut packets, (0, port, 0), FlowState::Established))?;
        let open = exact(node)?;
        (0..8000).try_for_each(|port| connect(&mut packets, (1, port, 0), FlowState::SynSent))?;
        exact(node)?;
        let still = node.bpf.flows()?.iter().filter(|flow| flow.state == FlowState::Established).count();
        ensure!(open > 140 && still == open, "{still} of {open} open connections survived");
        let closed: u64 = node.bpf.counters(&[0, 1, 2, 3])?.iter().map(|c| c.load.closed).sum();
        ensure!(closed > 5000, "only {closed} were displaced");
        empty_afterwards(node)
    })
    .unwrap();
}

#[test]
fn source_ports_run_out_with_their_own_reason_and_leak_nothing() {
    let few = Options { snat_ports: (61000, 61019), ..options() };
    with_backends(few, one_remote, |node| {
        for round in 0..3 {
            let now = START + round * 100;
            node.set_clock(now)?;
            let mut packets = sender(node)?;
            (0..50).try_for_each(|port| connect(&mut packets, (0, port, 3), FlowState::Established))?;
            ensure!(exact(node)? == 20, "{} flows on 20 source ports", exact(node)?);
            let exhausted = node.bpf.drops()?[&DropReason::SnatPortsExhausted];
            ensure!(exhausted == (u64::from(round) + 1) * 30, "{exhausted} in round {round}");
            let mut packets = sender(node)?;
            (0..50).try_for_each(|port| packets.client((0, port, 3), RST, 0, false))?;
            node.set_clock(now + 11)?;
            let report = node.bpf.sweep()?;
            ensure!((report.expired, report.entries, report.orphans) == (20, 0, 0), "{report:?}");
        }
        empty_afterwards(node)
    })
    .unwrap();
}

fn empty_afterwards(node: &mut Node) -> Result<()> {
    node.set_clock(START + 100_000)?;
    let report = node.bpf.sweep()?;
    ensure!((report.entries, report.orphans) == (0, 0), "{report:?}");
    ensure!(exact(node)? == 0, "the table is not empty");
    Ok(())
}
