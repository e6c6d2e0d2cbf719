//! One check of a case: who asks which frontend, and what should come of it.

use anyhow::{Result, ensure};
use weir_tests::report::Report;

/// Who serves the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Weir,
    KubeProxy,
}

/// Who asks; nodes are counted from 1.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    /// The client outside of the cluster.
    Outside,
    /// A process of this node.
    Host(usize),
    /// A pod on this node.
    Pod(usize),
    /// A pod on this node whose sockets are left alone: its packets are balanced at its interface.
    PastSockets(usize),
    /// The pod behind the label `app: one`, which is on node 1.
    Itself,
}

/// Which frontend is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    /// The cluster address.
    Cluster(Family),
    /// The node port at this node's address.
    Node(usize, Family),
    /// A fixed address.
    At(&'static str),
    /// The name that CoreDNS knows.
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What should come of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// All requests are answered, by pods on all of these nodes and no other.
    By(&'static [usize], Source),
    /// All requests are answered, by the same pod.
    BySameOne,
    /// Refused at once.
    Refused,
    /// Neither answered nor refused.
    Silence,
}

/// Whose address the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The client's own.
    Client,
    /// The client's own with Weir, another with kube-proxy.
    ClientWithWeir,
    /// Whose does not matter.
    Any,
}

/// A check over TCP or UDP at one of the Service's ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) from: From,
    pub(super) to: To,
    pub(super) port: u16,
    pub(super) udp: bool,
    pub(super) outcome: Outcome,
}

impl Outcome {
    /// How often is asked: enough that a pod that should answer is not left out by chance.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::By([_, _, ..], _) => &["--requests=50"],
            Self::By(..) | Self::BySameOne => &["--requests=12"],
            Self::Refused => &["--requests=2"],
            Self::Silence => &["--requests=1", "--timeout=700"],
        }
    }

    /// Whether this is what came of it. `nodes` gives the place of a pod, `own` says whether an address is the client's.
    pub(super) fn judge(
        self,
        report: &Report,
        proxy: Proxy,
        node_of: impl Fn(&str) -> Option<usize>,
        own: impl Fn(&str) -> bool,
    ) -> Result<()> {
        match self {
            Self::By(nodes, source) => {
                report.expect_no_failure()?;
                let mut seen: Vec<_> = report.answers.keys().filter_map(|pod| node_of(pod)).collect();
                seen.sort_unstable();
                seen.dedup();
                ensure!(seen == nodes, "answered by nodes {seen:?}: {report:?}");
                let keeps = source == Source::Client || (source == Source::ClientWithWeir && proxy == Proxy::Weir);
                ensure!(
                    !keeps || report.sources.keys().all(|source| own(source)),
                    "not the client's address: {report:?}"
                );
            }
            Self::BySameOne => {
                report.expect_no_failure()?;
                ensure!(report.answers.len() == 1, "more than one pod answered: {report:?}");
            }
            Self::Refused => {
                let refused = report.failures.iter().all(|failure| failure.contains("refused"));
                ensure!(report.answered() == 0 && refused, "not refused: {report:?}");
                // The kernel, which answers for kube-proxy, sends an address one ICMPv6 error a second.
                let limit = if proxy == Proxy::Weir { 500 } else { 2000 };
                ensure!(report.slowest < limit, "refused only after {} ms", report.slowest);
            }
            Self::Silence => {
                let refused = report.failures.iter().any(|failure| failure.contains("refused"));
                ensure!(report.answered() == 0 && !refused, "not silent: {report:?}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answers: &[(&str, u64)], failures: &[&str]) -> Report {
        Report {
            answers: answers.iter().map(|(pod, count)| ((*pod).to_owned(), *count)).collect(),
            sources: [("10.0.0.1".to_owned(), 1)].into(),
            failed: failures.len() as u64,
            failures: failures.iter().map(|&failure| failure.to_owned()).collect(),
            slowest: 0,
        }
    }

    #[test]
    fn outcomes_are_told_apart() {
        let all = report(&[("app-1", 3), ("app-2", 1)], &[]);
        let one = report(&[("app-1", 3)], &[]);
        let refused = report(&[], &["Connection refused"]);
        let silent = report(&[], &["timed out"]);
        let mixed = report(&[("app-1", 3)], &["timed out"]);
        let judge = |outcome: Outcome, report: &Report| {
            let node_of = |pod: &str| pod.strip_prefix("app-")?.parse().ok();
            outcome.judge(report, Proxy::Weir, node_of, |source| source == "10.0.0.1").is_ok()
        };
        let both = Outcome::By(&[1, 2], Source::Client);
        assert_eq!(
            [&all, &one, &refused, &silent, &mixed].map(|report| judge(both, report)),
            [true, false, false, false, false]
        );
        let same = [&all, &one, &mixed].map(|report| judge(Outcome::BySameOne, report));
        assert_eq!(same, [false, true, false]);
        let refusals = [&one, &refused, &silent].map(|report| judge(Outcome::Refused, report));
        assert_eq!(refusals, [false, true, false]);
        let silences = [&one, &refused, &silent, &mixed].map(|report| judge(Outcome::Silence, report));
        assert_eq!(silences, [false, false, true, false]);
    }
}
