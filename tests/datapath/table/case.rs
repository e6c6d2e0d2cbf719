//! A case: a Service, packets in their order, and what must become of each. One table of cases, several subjects that run it.

use ipnet::IpNet;
use lb_common::{BackendState, DropReason};
use lb_ebpf::{env::Hook, flow::Direction};

use super::{
    net::{Interface, Way},
    packet::Spec,
    world::World,
};

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expect {
    /// Goes on as it came.
    Pass,
    /// Goes on as it came, for the next hook; a flow may have been made.
    Defer,
    /// Ends, for this reason, and no flow is made.
    Drop(DropReason),
    /// Ends, for this reason, which was found out when its flow was made already.
    DropLate(DropReason),
    /// Is dropped for this reason, and becomes this error to its sender, out of the interface it came by.
    Answered(DropReason, Box<Spec>),
    /// Becomes this frame, out of the interface it came by.
    Reply(Vec<u8>),
    /// Leaves like this, counted for this backend (ICMP errors are not); `carried` bytes of what came were around it.
    Out { way: Way, out: Box<Spec>, counted: Option<(usize, Direction)>, carried: usize },
}

impl Expect {
    /// What must become of the packet, without its bytes.
    pub(crate) fn in_short(&self) -> String {
        match self {
            Self::Answered(reason, _) => format!("Answered({reason:?})"),
            Self::Out { way, .. } => format!("Out({way:?})"),
            other => format!("{other:?}"),
        }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A packet comes.
    Send { hook: Hook, via: Interface, frame: Vec<u8>, expect: Expect },
    /// Seconds pass.
    Wait(u32),
    /// A backend's state changes.
    State(usize, BackendState),
    /// A backend is removed, and nothing lists it any more.
    Gone(usize),
    /// The selection tables are replaced: backends have these weights now.
    Weights(Vec<u16>),
    /// The traffic policy for clients outside becomes `Local`.
    LocalOutside,
    /// The source ranges are these now.
    Ranges(Vec<IpNet>),
    /// The frontends are removed.
    RemoveFrontends,
    /// A sweep is made: entries left, expired, forgotten.
    Sweep([u64; 3]),
    /// A backend's counts are: active, pending, connections, closed, resets.
    Load(usize, [u64; 5]),
    /// A backend's requests are: in flight, begun, answers begun.
    Requests(usize, [u64; 3]),
    /// So many flows are in the table.
    Flows(usize),
    /// These frontends' services were told of since this was last asked.
    Woken(Vec<u32>),
}

/// A case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) world: World,
    pub(crate) steps: Vec<Step>,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, world: World) -> Self {
        Self { name: name.into(), world, steps: Vec::new() }
    }

    fn leaves(
        &mut self,
        at: (Hook, Interface),
        packet: &Spec,
        way: Way,
        out: Spec,
        counted: Option<(usize, Direction)>,
    ) {
        let carried = packet.overhead();
        self.send(at, packet.frame(), Expect::Out { way, out: Box::new(out), counted, carried });
    }

    fn send(&mut self, (hook, via): (Hook, Interface), frame: Vec<u8>, expect: Expect) {
        self.steps.push(Step::Send { hook, via, frame, expect });
    }

    pub(crate) fn passes(&mut self, at: (Hook, Interface), frame: impl Into<Vec<u8>>) {
        self.send(at, frame.into(), Expect::Pass);
    }

    pub(crate) fn defers(&mut self, at: (Hook, Interface), packet: &Spec) {
        self.send(at, packet.frame(), Expect::Defer);
    }

    pub(crate) fn drops(&mut self, at: (Hook, Interface), frame: impl Into<Vec<u8>>, reason: DropReason) {
        self.send(at, frame.into(), Expect::Drop(reason));
    }

    pub(crate) fn drops_late(&mut self, at: (Hook, Interface), packet: &Spec, reason: DropReason) {
        self.send(at, packet.frame(), Expect::DropLate(reason));
    }

    /// A packet that is answered with an ICMP error.
    pub(crate) fn answers(&mut self, at: (Hook, Interface), packet: &Spec, reason: DropReason, kind: (u8, u8, u32)) {
        self.send(at, packet.frame(), Expect::Answered(reason, Box::new(packet.answered(kind))));
    }

    /// A packet that nobody serves.
    pub(crate) fn refuses(&mut self, via: Interface, packet: &Spec) {
        self.refuses_for(via, packet, DropReason::NoBackend);
    }

    /// A packet that is answered as by nobody, for this reason: XDP leaves the answer to tc.
    pub(crate) fn refuses_for(&mut self, via: Interface, packet: &Spec, reason: DropReason) {
        self.passes((Hook::Xdp, via), packet.frame());
        self.send((Hook::Ingress, via), packet.frame(), Expect::Answered(reason, Box::new(packet.refused())));
    }

    /// A frame that is answered by another.
    pub(crate) fn replies(&mut self, at: (Hook, Interface), frame: Vec<u8>, answer: Vec<u8>) {
        self.send(at, frame, Expect::Reply(answer));
    }

    /// A packet towards a backend, and how it leaves.
    pub(crate) fn inwards(&mut self, at: (Hook, Interface), packet: &Spec, way: Way, out: Spec, backend: usize) {
        self.leaves(at, packet, way, out, Some((backend, Direction::In)));
    }

    /// A packet of a backend, and how it leaves.
    pub(crate) fn outwards(&mut self, at: (Hook, Interface), packet: &Spec, way: Way, out: Spec, backend: usize) {
        self.leaves(at, packet, way, out, Some((backend, Direction::Out)));
    }

    /// An ICMP error, and how it leaves.
    pub(crate) fn translates(&mut self, at: (Hook, Interface), packet: &Spec, way: Way, out: Spec) {
        self.leaves(at, packet, way, out, None);
    }

    /// A packet that leaves for another node, which counts it.
    pub(crate) fn forwards(&mut self, at: (Hook, Interface), packet: &Spec, way: Way, out: Spec) {
        self.leaves(at, packet, way, out, None);
    }

    /// A packet that carries another one, which is answered for this reason.
    pub(crate) fn answers_inner(&mut self, via: Interface, packet: &Spec, reason: DropReason, answer: Spec) {
        self.send((Hook::Ingress, via), packet.frame(), Expect::Answered(reason, Box::new(answer)));
    }

    pub(crate) fn then(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(crate) fn load(&mut self, backend: usize, counts: [u64; 5]) {
        self.steps.push(Step::Load(backend, counts));
    }
}
