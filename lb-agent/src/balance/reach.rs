//! Which backends take the new connections of a frontend: the nearest kind that there is any of.
//!
//! Ready ones first, then those that terminate and still serve (KEP-1669), as kube-proxy does; then unhealthy ones, because where
//! all checks fail, the checks are likelier to be wrong than everybody. The topology's hints and the traffic policy bound each kind.

use lb_common::BackendState;

use crate::model::Reach;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its state.
    pub state: BackendState,
    /// The weight it has if it takes connections; 0: it never does.
    pub weight: u16,
    /// On this node.
    pub local: bool,
    /// Kept for others by the topology's hints.
    pub far: bool,
    /// Serving, though perhaps terminating.
    pub serving: bool,
}

impl Candidate {
    const fn is_ready(&self) -> bool {
        matches!(self.state, BackendState::Ready) && self.weight > 0
    }

    const fn is_leaving(&self) -> bool {
        matches!(self.state, BackendState::Terminating) && self.serving && self.weight > 0
    }

    const fn is_ill(&self) -> bool {
        matches!(self.state, BackendState::Unhealthy) && self.weight > 0
    }
}

/// A kind of backend.
pub type Kind = fn(&Candidate) -> bool;

const CLUSTER: &[Kind] = &[
    |c| c.is_ready() && !c.far,
    Candidate::is_ready,
    Candidate::is_leaving,
    |c| c.is_ill() && !c.far,
    Candidate::is_ill,
];
const LOCAL: &[Kind] = &[|c| c.local && c.is_ready(), |c| c.local && c.is_leaving(), |c| c.local && c.is_ill()];

/// The kind that takes connections which may go this far; none if nobody does.
pub fn kind(reach: Reach, candidates: &[Candidate]) -> Option<Kind> {
    let kinds = match reach {
        Reach::Cluster => CLUSTER,
        Reach::Local => LOCAL,
        Reach::Nowhere => &[],
    };
    kinds.iter().find(|kind| candidates.iter().any(kind)).copied()
}

#[cfg(test)]
mod tests {
    use BackendState::{Draining, Ready, Terminating, Unhealthy};

    use super::*;

    /// A backend in a word: its state (r, t, s = terminating and serving, u, d), then L if local, F if far.
    fn candidate(word: &str) -> Candidate {
        let state = match word.as_bytes()[0] {
            b'r' => Ready,
            b't' | b's' => Terminating,
            b'u' => Unhealthy,
            _ => Draining,
        };
        let serving = word.starts_with(['r', 's']);
        let weight = if state == Draining { 0 } else { 100 };
        Candidate { state, weight, local: word.contains('L'), far: word.contains('F'), serving }
    }

    /// Which of the words take connections.
    fn taking(reach: Reach, words: &[&str]) -> Vec<usize> {
        let all: Vec<Candidate> = words.iter().map(|word| candidate(word)).collect();
        let kind = kind(reach, &all);
        (0..all.len()).filter(|i| kind.is_some_and(|kind| kind(&all[*i]))).collect()
    }

    /// The cases of kube-proxy's `TestCategorizeEndpoints`, where the hints are in `far` already, and ours of health and weight.
    #[test]
    fn who_takes_connections() {
        type Case = (&'static str, &'static [&'static str], &'static [usize], &'static [usize]);
        let cases: [Case; 21] = [
            ("no endpoints", &[], &[], &[]),
            ("all ready, no hints", &["rL", "r"], &[0, 1], &[0]),
            ("hints: only near ones", &["rL", "rF", "r"], &[0, 2], &[0]),
            ("hints: Local ignores them", &["rLF", "r"], &[1], &[0]),
            ("hints: none near", &["rLF", "rF"], &[0, 1], &[0]),
            ("hints: the near one is not ready", &["u", "rF"], &[1], &[]),
            ("cluster traffic, no local endpoint", &["r", "r"], &[0, 1], &[]),
            ("local ready and remote ready", &["rL", "r", "rL"], &[0, 1, 2], &[0, 2]),
            ("ready beside terminating", &["rL", "sL", "s"], &[0], &[0]),
            ("local only terminating: Local falls back, Cluster does not", &["sL", "r"], &[1], &[0]),
            ("all terminating and serving", &["sL", "s"], &[0, 1], &[0]),
            ("remote ones terminating, Local has none", &["s", "s"], &[0, 1], &[]),
            ("terminating, not serving any more", &["tL", "t"], &[], &[]),
            ("some of the terminating serve", &["tL", "s", "sL"], &[1, 2], &[2]),
            ("terminating far ones serve too", &["sF", "sLF"], &[0, 1], &[1]),
            ("local not serving, remote ready", &["tL", "r"], &[1], &[]),
            ("unhealthy beside ready", &["uL", "r"], &[1], &[0]),
            ("all unhealthy", &["uL", "u", "dL"], &[0, 1], &[0]),
            ("unhealthy near, unhealthy far", &["u", "uF"], &[0], &[]),
            ("unhealthy beside serving", &["uL", "s"], &[1], &[0]),
            ("drained", &["dL", "d"], &[], &[]),
        ];
        for (name, words, cluster, local) in cases {
            assert_eq!(taking(Reach::Cluster, words), cluster, "{name}: Cluster");
            assert_eq!(taking(Reach::Local, words), local, "{name}: Local");
        }
    }

    #[test]
    fn weight_0_never_takes() {
        for state in [Ready, Terminating, Unhealthy] {
            let idle = Candidate { state, weight: 0, local: true, far: false, serving: true };
            assert!(kind(Reach::Cluster, &[idle]).is_none() && kind(Reach::Local, &[idle]).is_none());
        }
    }
}
