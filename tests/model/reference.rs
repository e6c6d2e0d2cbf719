//! The model: flows in a map, and what follows from them counted over again each time. Nothing in it is clever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    Addr, Algorithm, BackendLoad, BackendState, DropReason, FlowState, Port, SocketKey, Traffic, counters::Recount,
    fragment::FRAGMENT_TIME, hash,
};

use lb_ebpf::env::Hook;

use crate::{
    errors::IcmpError,
    frames::{ACK, Datagram, Part, RST, SYN, Shape},
    life::{Carried, Choice, Fate, Flow, Key, Presence, Trail, next, time_limit},
    world::{self, Condition, Selection},
};

/// What the fragments of one packet have in common: addresses, identification, and in IPv4 the protocol.
type Pieces = (IpAddr, IpAddr, u32, u8);

fn pieces(packet: Datagram, id: u32) -> Pieces {
    (packet.src.ip(), packet.dst.ip(), id, if packet.src.is_ipv4() { packet.protocol() } else { 0 })
}

/// Whether a packet without a flow is answered with a reset.
fn is_answered(packet: Datagram) -> bool {
    packet.flags.is_some_and(|flags| flags & RST == 0)
}

/// Everything.
pub(crate) struct Model {
    /// The time.
    pub(crate) now: u32,
    /// The flows.
    pub(crate) flows: HashMap<Key, Flow>,
    /// The same by what their replies say: the backend's socket, and whom that takes for its client.
    replies: HashMap<(SocketKey, SocketAddr), Key>,
    /// The backends, by index.
    pub(crate) conditions: Vec<Condition>,
    /// The frontends.
    pub(crate) presence: [Presence; world::FRONTENDS],
    /// Their tables.
    pub(crate) selections: Vec<Selection>,
    /// `connections`, `closed`, `resets` of the backends; what is open now is counted from the flows.
    ever: Vec<BackendLoad>,
    /// Packets and bytes of the backends.
    pub(crate) traffic: Vec<Traffic>,
    /// Dropped packets.
    pub(crate) drops: BTreeMap<DropReason, u64>,
    cursors: [u64; world::FRONTENDS],
    /// States that flows have been in.
    pub(crate) met: BTreeSet<u8>,
    /// Flows to backends on the node that needed full NAT.
    pub(crate) masked_local: u64,
    /// By client: backend, its incarnation, when it was chosen.
    affinity: HashMap<usize, (u32, u32, u32)>,
    /// By client, or of all, and by frontend.
    rates: HashMap<(Option<usize>, usize), Rate>,
    /// Clients that are not admitted to a frontend.
    pub(crate) outside: HashSet<(usize, usize)>,
    /// First fragments that passed.
    trails: HashMap<Pieces, Trail>,
    /// ICMP errors about packets that are for nobody.
    errors: Rate,
    /// Fragments that followed one.
    pub(crate) followed: u64,
    /// Packets of unknown flows that were forwarded by the ring.
    pub(crate) picked_up: u64,
    /// Packets that came from another node.
    pub(crate) received: u64,
}

/// What came and counts still: each second as many are forgotten as may come.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    came: u32,
    at: u32,
}

impl Rate {
    fn take(&mut self, rate: u32, burst: u32, now: u32) -> bool {
        self.came = self.came.saturating_sub(rate.saturating_mul(now - self.at));
        self.at = now;
        let comes = self.came < burst;
        self.came += u32::from(comes);
        comes
    }
}

impl Model {
    /// Nothing has happened yet.
    pub(crate) fn new(conditions: Vec<Condition>, selections: Vec<Selection>, now: u32) -> Self {
        Self {
            now,
            flows: HashMap::new(),
            replies: HashMap::new(),
            presence: [Presence::Live; world::FRONTENDS],
            selections,
            ever: vec![BackendLoad::default(); conditions.len()],
            traffic: vec![Traffic::default(); conditions.len()],
            drops: DropReason::ALL.iter().map(|reason| (*reason, 0)).collect(),
            cursors: [0; world::FRONTENDS],
            met: BTreeSet::new(),
            masked_local: 0,
            affinity: HashMap::new(),
            rates: HashMap::new(),
            outside: HashSet::new(),
            trails: HashMap::new(),
            errors: Rate::default(),
            followed: 0,
            picked_up: 0,
            received: 0,
            conditions,
        }
    }

    /// A packet that another node has forwarded to the backend of this index.
    pub(crate) fn node_sends(
        &mut self,
        key: Key,
        packet: Datagram,
        target: u32,
        choice: &dyn Fn() -> Option<Choice>,
    ) -> Result<Fate, String> {
        if self.presence[key.2] != Presence::Live {
            return Ok(Fate::Passes);
        }
        self.received += 1;
        let fate = self.send(key, packet, false, Some(target), choice)?;
        // Nobody else is to see it.
        Ok(if matches!(fate, Fate::Passes | Fate::Forwarded(..)) { self.drop(DropReason::StaleTable) } else { fate })
    }

    /// A client's packet at a hook; `choice` says what the programs chose for the flow, if it is new.
    pub(crate) fn client_sends(
        &mut self,
        key: Key,
        packet: Datagram,
        xdp: bool,
        choice: &dyn Fn() -> Option<Choice>,
    ) -> Result<Fate, String> {
        self.send(key, packet, xdp, None, choice)
    }

    fn drop(&mut self, reason: DropReason) -> Fate {
        *self.drops.entry(reason).or_default() += 1;
        Fate::Drops
    }

    fn send(
        &mut self,
        key: Key,
        packet: Datagram,
        xdp: bool,
        target: Option<u32>,
        choice: &dyn Fn() -> Option<Choice>,
    ) -> Result<Fate, String> {
        if let Part::Later(id) = packet.shape.part {
            return Ok(if xdp { Fate::Passes } else { self.follow(packet, id, false) });
        }
        if self.presence[key.2] != Presence::Live || xdp && packet.shape.part != Part::Whole {
            return Ok(Fate::Passes);
        }
        let opens = packet.flags.is_none_or(|flags| flags & (SYN | ACK | RST) == SYN);
        let returns = |flow: &Flow| flow.forwarded && target.is_some();
        if opens && self.flows.get(&key).is_some_and(|flow| returns(flow) || self.is_over(flow)) {
            self.set(key, FlowState::Free, false);
        }
        if !opens
            && target.is_none()
            && !self.flows.contains_key(&key)
            && let Some(backend) = self.picked_up(key)
        {
            self.picked_up += 1;
            return Ok(self.forward(key, packet, backend));
        }
        if self.flows.get(&key).is_none_or(returns) {
            let reason = if !opens { Some(DropReason::NoFlow) } else { self.open(key, target, choice)? };
            if let Some(reason) = reason {
                let unknown = reason == DropReason::NoFlow && is_answered(packet);
                if unknown || matches!(reason, DropReason::NoBackend | DropReason::BackendsFull) {
                    return Ok(self.refuse(packet, reason, xdp));
                }
                return Ok(self.drop(reason));
            }
        }
        let flow = self.flows[&key];
        if self.conditions[flow.backend as usize].is_gone() && is_answered(packet) {
            if !xdp && flow.state != FlowState::Closing {
                self.see(key, true, Some(RST));
            }
            return Ok(self.refuse(packet, DropReason::BackendGone, xdp));
        }
        if xdp && world::is_local(flow.backend) {
            return Ok(Fate::Passes);
        }
        self.see(key, true, packet.flags);
        if flow.forwarded {
            return Ok(self.forward(key, packet, flow.backend));
        }
        let traffic = &mut self.traffic[flow.backend as usize];
        traffic.packets_in += 1;
        traffic.bytes_in += packet.ip_bytes();
        let to = Datagram {
            src: self.peer(key),
            dst: world::endpoint(flow.backend).socket(),
            ttl: packet.ttl - 1,
            ..packet
        };
        self.leave_trail(packet, to, flow.backend, false);
        Ok(Fate::Becomes(to))
    }

    /// The backend of another node that the ring gives a client, whatever is known of it here.
    fn picked_up(&mut self, key: Key) -> Option<u32> {
        let by_hash = matches!(world::algorithm(key.2), Algorithm::IpHash | Algorithm::Maglev);
        if !world::forwards(key.2) || !by_hash || self.selections[key.2].len == 0 {
            return None;
        }
        self.expected(key).first().copied().filter(|backend| !world::is_local(*backend))
    }

    /// Its backend's node counts it.
    fn forward(&mut self, key: Key, packet: Datagram, backend: u32) -> Fate {
        if let Part::First(id) = packet.shape.part {
            let (src, dst) = (packet.src, packet.dst);
            let trail = Trail { src, dst, backend, out: false, forwarded: Some(key.2), seen: self.now, id };
            self.trails.insert(pieces(packet, id), trail);
        }
        Fate::Forwarded(Carried::Packet(Datagram { ttl: packet.ttl - 1, ..packet }), backend, key.2)
    }

    /// The fragments that follow this one will go where it went.
    fn leave_trail(&mut self, packet: Datagram, to: Datagram, backend: u32, out: bool) {
        if let Part::First(id) = packet.shape.part {
            let trail = Trail { src: to.src, dst: to.dst, backend, out, forwarded: None, seen: self.now, id };
            self.trails.insert(pieces(packet, id), trail);
        }
    }

    /// Says which identification a first fragment was given: any, but no other packet between the same addresses has it.
    pub(crate) fn number(&mut self, packet: Datagram, given: u32) -> Result<(), String> {
        let Part::First(id) = packet.shape.part else { return Ok(()) };
        let (pieces, now) = (pieces(packet, id), self.now);
        let Some(mut trail) = self.trails.remove(&pieces) else { return Err(format!("{packet:?} left no trail")) };
        trail.id = given;
        let alike = |(of, other): &(&Pieces, &Trail)| {
            let same = (other.src.ip(), other.dst.ip(), other.id) == (trail.src.ip(), trail.dst.ip(), given);
            same && of.3 == pieces.3 && now - other.seen <= FRAGMENT_TIME && other.forwarded.is_none()
        };
        if let Some(other) = self.trails.iter().find(alike) {
            return Err(format!("{trail:?} has the number of {other:?}"));
        }
        self.trails.insert(pieces, trail);
        Ok(())
    }

    /// A fragment without ports goes the way of its first one, if that was not long ago.
    fn follow(&mut self, packet: Datagram, id: u32, egress: bool) -> Fate {
        let Some(trail) = self.trails.get(&pieces(packet, id)) else { return Fate::Passes };
        if self.now - trail.seen > FRAGMENT_TIME {
            return Fate::Passes;
        }
        self.followed += 1;
        if let Some(frontend) = trail.forwarded {
            let packet = Carried::Packet(Datagram { ttl: packet.ttl - 1, ..packet });
            return Fate::Forwarded(packet, trail.backend, frontend);
        }
        let traffic = &mut self.traffic[trail.backend as usize];
        let (packets, bytes) = match trail.out {
            true => (&mut traffic.packets_out, &mut traffic.bytes_out),
            false => (&mut traffic.packets_in, &mut traffic.bytes_in),
        };
        *packets += 1;
        *bytes += packet.ip_bytes();
        let ttl = if egress { packet.ttl } else { packet.ttl - 1 };
        let shape = Shape { part: Part::Later(trail.id), ..packet.shape };
        Fate::Becomes(Datagram { src: trail.src, dst: trail.dst, ttl, shape, ..packet })
    }

    /// The sender is told: by tc, and of datagrams not too often.
    fn refuse(&mut self, packet: Datagram, reason: DropReason, xdp: bool) -> Fate {
        if xdp {
            return Fate::Passes;
        }
        *self.drops.entry(reason).or_default() += 1;
        if packet.flags.is_some() || self.errors.take(1000, 50, self.now) {
            return Fate::Refused;
        }
        Fate::Drops
    }

    /// A packet of a backend to whom it takes for its client, at a hook.
    pub(crate) fn backend_sends(&mut self, backend: u32, packet: Datagram, hook: Hook) -> Fate {
        if hook == Hook::Xdp && packet.shape.part != Part::Whole {
            return Fate::Passes;
        }
        let egress = hook == Hook::Egress;
        if let Part::Later(id) = packet.shape.part {
            return self.follow(packet, id, egress);
        }
        let Some(key) = self.replies.get(&(world::endpoint(backend), packet.dst)).copied() else { return Fate::Passes };
        let index = self.flows[&key].backend;
        self.see(key, false, packet.flags);
        let traffic = &mut self.traffic[index as usize];
        traffic.packets_out += 1;
        traffic.bytes_out += packet.ip_bytes();
        let to = Datagram {
            src: world::vip(key.2).socket(),
            dst: world::client(key.0, key.1, key.2),
            ttl: if egress { packet.ttl } else { packet.ttl - 1 },
            ..packet
        };
        self.leave_trail(packet, to, index, true);
        Fate::Becomes(to)
    }

    /// An error about a reply to a client, for the backend that sent it. No flow and no count changes.
    pub(crate) fn reply_is_lost(&self, key: Key, error: IcmpError) -> Fate {
        let Some(flow) = self.flows.get(&key).filter(|_| self.presence[key.2] == Presence::Live) else {
            return Fate::Passes;
        };
        if flow.forwarded {
            return Fate::Forwarded(Carried::Error(IcmpError { ttl: error.ttl - 1, ..error }), flow.backend, key.2);
        }
        let endpoint = world::endpoint(flow.backend).socket();
        let src = if flow.port.is_some() { world::source(flow.backend) } else { error.src };
        let to = self.peer(key);
        Fate::Translated(IcmpError { src, dst: endpoint.ip(), from: endpoint, to, ttl: error.ttl - 1, ..error })
    }

    /// An error about a packet to the backend of this index, for the client that sent it.
    pub(crate) fn packet_is_lost(&self, backend: u32, error: IcmpError, hook: Hook) -> Fate {
        let Some(key) = self.replies.get(&(world::endpoint(backend), error.from)) else { return Fate::Passes };
        let (client, vip) = (world::client(key.0, key.1, key.2), world::vip(key.2).socket());
        let src = if error.src == error.to.ip() { vip.ip() } else { error.src };
        let ttl = if hook == Hook::Egress { error.ttl } else { error.ttl - 1 };
        Fate::Translated(IcmpError { src, dst: client.ip(), from: client, to: vip, ttl, ..error })
    }

    /// A sweep: how many flows end because of their time, and how many because their frontend or backend is gone.
    pub(crate) fn sweep(&mut self) -> (u64, u64) {
        let (mut expired, mut forgotten) = (0, 0);
        for (key, flow) in self.flows.clone() {
            let udp = matches!(flow.state, FlowState::UdpOneWay | FlowState::UdpAnswered | FlowState::ForwardedUdp);
            let removed = self.conditions[flow.backend as usize].state == BackendState::Removed;
            if self.now - flow.last > time_limit(flow.state) {
                expired += 1;
            } else if self.presence[key.2] == Presence::Removed || udp && removed {
                forgotten += 1;
            } else {
                continue;
            }
            self.set(key, FlowState::Free, false);
        }
        for presence in &mut self.presence {
            if *presence == Presence::Removed {
                *presence = Presence::Forgotten;
            }
        }
        (expired, forgotten)
    }

    /// An index starts again.
    pub(crate) fn renew(&mut self, index: u32) {
        self.ever[index as usize] = BackendLoad::default();
        self.traffic[index as usize] = Traffic::default();
    }

    /// What a sweep finds of a backend.
    pub(crate) fn recount(&self, index: u32) -> Recount {
        let count = |of: fn(FlowState) -> bool| {
            self.flows.values().filter(|flow| flow.backend == index && of(flow.state)).count() as u64
        };
        Recount {
            active: count(FlowState::is_active),
            pending: count(FlowState::is_pending),
            closing: count(|state| state == FlowState::Closing || state.is_forwarded()),
        }
    }

    /// A backend's counts.
    pub(crate) fn load(&self, index: u32) -> BackendLoad {
        let Recount { active, pending, .. } = self.recount(index);
        BackendLoad { active, pending, ..self.ever[index as usize] }
    }

    /// Whom the backend of a flow takes for its client.
    pub(crate) fn peer(&self, key: Key) -> SocketAddr {
        let flow = self.flows[&key];
        match flow.port {
            Some(port) => SocketAddr::new(world::source(flow.backend), port),
            None => world::client(key.0, key.1, key.2),
        }
    }

    fn is_over(&self, flow: &Flow) -> bool {
        let condition = self.conditions[flow.backend as usize];
        let state = condition.state;
        match flow.state {
            FlowState::Closing | FlowState::ForwardedFin => true,
            // Not the SYN itself, which tc sees after XDP: where all are unhealthy they are used.
            FlowState::SynSent | FlowState::ForwardedSyn if state == BackendState::Unhealthy => flow.last < self.now,
            FlowState::SynSent | FlowState::ForwardedSyn => state == BackendState::Removed,
            FlowState::UdpOneWay | FlowState::UdpAnswered | FlowState::ForwardedUdp => state == BackendState::Removed,
            _ => condition.is_gone(),
        }
    }

    fn open(
        &mut self,
        key: Key,
        target: Option<u32>,
        choice: &dyn Fn() -> Option<Choice>,
    ) -> Result<Option<DropReason>, String> {
        if world::has_ranges(key.2) && self.outside.contains(&(key.0, key.2)) {
            return Ok(Some(DropReason::SourceRange));
        }
        if let Some(target) = target {
            if self.conditions[target as usize].state == BackendState::Removed {
                return Ok(Some(DropReason::NoBackend));
            }
            return self.begin(key, &[target], choice).map(|()| None);
        }
        if self.selections[key.2].len == 0 {
            let waits = world::waits_for_another_node(key.2);
            return Ok(Some(if waits { DropReason::NoLocalBackend } else { DropReason::NoBackend }));
        }
        let expected = self.with_room(key);
        if expected.is_empty() {
            return Ok(Some(DropReason::BackendsFull));
        }
        if let Some(reason) = self.comes_too_early(key) {
            return Ok(Some(reason));
        }
        self.begin(key, &expected, choice).map(|()| None)
    }

    fn begin(&mut self, key: Key, expected: &[u32], choice: &dyn Fn() -> Option<Choice>) -> Result<(), String> {
        let chosen = choice().ok_or_else(|| format!("{key:?}: no flow was made"))?;
        if !expected.contains(&chosen.backend) {
            return Err(format!("{key:?}: backend {} was chosen, not one of {expected:?}", chosen.backend));
        }
        if world::has_affinity(key.2) {
            let incarnation = self.conditions[chosen.backend as usize].incarnation;
            self.affinity.insert(key.0, (chosen.backend, incarnation, self.now));
        }
        let forwarded = world::forwards(key.2) && !world::is_local(chosen.backend);
        if !forwarded {
            self.check_port(key, chosen)?;
        }
        self.masked_local += u64::from(world::is_local(chosen.backend) && chosen.port.is_some());
        let state = match (world::vip(key.2).protocol == 6, forwarded) {
            (true, false) => FlowState::SynSent,
            (true, true) => FlowState::ForwardedSyn,
            (false, false) => FlowState::UdpOneWay,
            (false, true) => FlowState::ForwardedUdp,
        };
        let Choice { backend, port } = chosen;
        self.flows.insert(key, Flow { backend, state: FlowState::Free, last: self.now, port, forwarded });
        if !forwarded {
            self.replies.insert((world::endpoint(backend), self.peer(key)), key);
        }
        self.set(key, state, false);
        Ok(())
    }

    /// The backends that a new flow may get: the selected one or, if that is full, any other that is not.
    fn with_room(&mut self, key: Key) -> Vec<u32> {
        let [max, ..] = world::limits(key.2);
        let selected = self.expected(key);
        if max == 0 {
            return selected;
        }
        let has_room = |index: &u32| {
            let load = self.load(*index);
            load.active + load.pending < u64::from(max)
        };
        if selected.iter().all(has_room) {
            return selected;
        }
        self.selections[key.2].slots.iter().map(|slot| *slot as u32).filter(has_room).collect()
    }

    /// Why a connection that begins now comes too early.
    fn comes_too_early(&mut self, (client, _, frontend): Key) -> Option<DropReason> {
        let [_, client_rate, rate] = world::limits(frontend);
        // All clients of IPv6 are in one network.
        let client = if world::is_v4(frontend) { client } else { 0 };
        let now = self.now;
        let mut comes = |who, rate| rate == 0 || self.rates.entry((who, frontend)).or_default().take(rate, rate, now);
        if !comes(Some(client), client_rate) {
            return Some(DropReason::ClientRate);
        }
        (!comes(None, rate)).then_some(DropReason::FrontendRate)
    }

    /// The backends that a new flow may be given first.
    fn expected(&mut self, (client, port, frontend): Key) -> Vec<u32> {
        if world::has_affinity(frontend)
            && let Some((backend, incarnation, last)) = self.affinity.get(&client)
        {
            let condition = self.conditions[*backend as usize];
            if (condition.state, condition.incarnation) == (BackendState::Ready, *incarnation)
                && self.now - last < world::AFFINITY
            {
                return vec![*backend];
            }
        }
        let Selection { slots, len } = &self.selections[frontend];
        let (socket, vip) = (world::client(client, port, frontend), world::vip(frontend));
        let address = Addr::from(socket.ip());
        let slot = match world::algorithm(frontend) {
            Algorithm::Random | Algorithm::LeastConnections => return slots.iter().map(|slot| *slot as u32).collect(),
            Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => {
                self.cursors[frontend] += 1;
                ((self.cursors[frontend] - 1) % u64::from(*len)) as u32
            }
            Algorithm::IpHash => hash::by_client(&address, *len),
            Algorithm::Maglev => {
                hash::by_tuple(&address, Port::new(socket.port()), &vip.addr, vip.port, vip.protocol, *len)
            }
        };
        vec![slots[slot as usize] as u32]
    }

    /// Full NAT exactly where a reply could not be told apart, or would not come back; ports in their range, and no two replies alike.
    fn check_port(&self, key: Key, Choice { backend, port }: Choice) -> Result<(), String> {
        let peer = |address, port| SocketAddr::new(address, port);
        let taken = |peer: SocketAddr| self.replies.contains_key(&(world::endpoint(backend), peer));
        let as_client = world::is_local(backend) && !taken(world::client(key.0, key.1, key.2));
        match port {
            None if as_client => Ok(()),
            Some(port) if !as_client && port >= 61000 && !taken(peer(world::source(backend), port)) => Ok(()),
            _ => Err(format!("{key:?}: source port {port:?} towards backend {backend}")),
        }
    }

    fn see(&mut self, key: Key, from_client: bool, flags: Option<u8>) {
        let flow = self.flows.get_mut(&key).expect("a flow that was just found");
        flow.last = self.now;
        let next = next(flow.state, from_client, flags);
        self.set(key, next, flags.is_some_and(|flags| flags & RST != 0));
    }

    /// Gives a flow a state, counts what that means, and forgets the flow if that is [`FlowState::Free`].
    fn set(&mut self, key: Key, state: FlowState, reset: bool) {
        let flow = self.flows.get_mut(&key).expect("a flow that was just found");
        let open = |state: FlowState| state.is_active() || state.is_pending();
        let ever = &mut self.ever[flow.backend as usize];
        ever.connections += u64::from(!flow.state.is_active() && state.is_active());
        let ends = open(flow.state) && !open(state);
        ever.closed += u64::from(ends);
        ever.resets += u64::from(ends && reset);
        flow.state = state;
        let (endpoint, forwarded) = (world::endpoint(flow.backend), flow.forwarded);
        self.met.insert(state as u8);
        if state == FlowState::Free {
            if !forwarded {
                self.replies.remove(&(endpoint, self.peer(key)));
            }
            self.flows.remove(&key);
        }
    }
}
