//! What pods use of their nodes, as agents tell the coordinator: of those alone that it asks for, because a policy reads it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::wire::{PodUsage, Report};
use crate::{scaling::UsageSample, signals::usage::Usage};

/// Pods by their nodes, each by its `metadata.uid`.
pub type Pods = BTreeMap<String, BTreeSet<String>>;

/// What each node has said last.
#[derive(Debug, Default)]
pub struct Usages(HashMap<String, HashMap<String, UsageSample>>);

impl Usages {
    /// Takes in a node's report, heard at `now`.
    pub fn take(&mut self, node: &str, report: &Report, now: Duration) {
        let Some(age) = report.usage_age else {
            self.0.remove(node);
            return;
        };
        let at = now.saturating_sub(Duration::from_millis(age.into()));
        let sample = |sent: &PodUsage| UsageSample { cpu: Duration::from_nanos(sent.cpu), memory: sent.memory, at };
        let pods = report.usage.iter().map(|sent| (sent.uid.clone(), sample(sent)));
        self.0.insert(node.to_owned(), pods.collect());
    }

    /// What these pods use, as far as their own nodes have said so.
    pub fn of(&self, pods: &Pods) -> HashMap<String, UsageSample> {
        let known = |(node, uids): (&String, &BTreeSet<String>)| {
            let said = self.0.get(node)?;
            Some(uids.iter().filter_map(|uid| Some((uid.clone(), *said.get(uid)?))).collect::<Vec<_>>())
        };
        pods.iter().filter_map(known).flatten().collect()
    }
}

/// What pods use, as it is sent.
pub fn sent(usage: &BTreeMap<String, Usage>) -> Vec<PodUsage> {
    let pod = |(uid, usage): (&String, &Usage)| {
        let cpu = u64::try_from(usage.cpu.as_nanos()).unwrap_or(u64::MAX);
        PodUsage { uid: uid.clone(), cpu, memory: usage.memory }
    };
    usage.iter().map(pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_speaks_for_its_own_pods_and_only_as_long_as_it_does() {
        let mut usages = Usages::default();
        let used = |cpu| Usage { cpu: Duration::from_millis(cpu), memory: 7 };
        let report = |pods: &[(&str, u64)], age| {
            let usage = pods.iter().map(|(uid, cpu)| ((*uid).to_owned(), used(*cpu))).collect();
            Report { usage: sent(&usage), usage_age: age, ..Report::default() }
        };
        let now = Duration::from_secs(100);
        usages.take("n1", &report(&[("a", 1500), ("b", 10)], Some(300)), now);
        usages.take("n2", &report(&[("a", 9999)], Some(0)), now);
        let of = |node: &str, uids: &[&str]| (node.to_owned(), uids.iter().map(ToString::to_string).collect());
        let wanted = Pods::from([of("n1", &["a", "c"]), of("n3", &["b"])]);
        let at = Duration::from_millis(99_700);
        let a = UsageSample { cpu: Duration::from_millis(1500), memory: 7, at };
        assert_eq!(usages.of(&wanted), HashMap::from([("a".to_owned(), a)]), "n2 does not have it, c did not say");
        usages.take("n1", &report(&[], None), now);
        assert_eq!(usages.of(&wanted), HashMap::new());
    }
}
