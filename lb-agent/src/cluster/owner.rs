//! Which node announces an address: the same answer under every leader, and as few moves as can be when nodes come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::{Addr, hash};

/// What the coordinator knows of a node that is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The networks of its uplinks.
    pub networks: Vec<IpNet>,
    /// Ready, and not labelled `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub eligible: bool,
}

/// An address that is to be announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The only nodes that may: those with a ready endpoint of an `externalTrafficPolicy: Local` Service. None: all may.
    pub only: Option<BTreeSet<String>>,
}

/// The owner of each address that has one: of the nodes that may announce it, the one with the highest hash of both (rendezvous hashing,
/// Thaler and Ravishankar 1998).
pub fn owners(claims: &BTreeMap<IpAddr, Claim>, nodes: &BTreeMap<String, Node>) -> BTreeMap<IpAddr, String> {
    let owner = |(address, claim): (&IpAddr, &Claim)| {
        let may = nodes.iter().filter(|(name, node)| can(*address, claim, name, node)).map(|(name, _)| name);
        let best = may.max_by_key(|name| (weight(*address, name), *name))?;
        Some((*address, best.clone()))
    };
    claims.iter().filter_map(owner).collect()
}

fn can(address: IpAddr, claim: &Claim, name: &str, node: &Node) -> bool {
    node.eligible
        && node.networks.iter().any(|network| network.contains(&address))
        && claim.only.as_ref().is_none_or(|only| only.contains(name))
}

fn weight(address: IpAddr, name: &str) -> u64 {
    let seed = name.as_bytes().chunks(8).fold(name.len() as u64, |seed, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash::mix(seed ^ u64::from_le_bytes(word))
    });
    hash::address(seed, &Addr::from(address), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeMap<String, Node> {
        let networks: Vec<IpNet> = vec!["192.0.2.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()];
        names.iter().map(|name| ((*name).to_owned(), Node { networks: networks.clone(), eligible: true })).collect()
    }

    fn claims() -> BTreeMap<IpAddr, Claim> {
        (1..=200).map(|n| (IpAddr::from([192, 0, 2, n]), Claim::default())).collect()
    }

    #[test]
    fn a_lost_node_moves_only_its_own_addresses() {
        let all = owners(&claims(), &nodes(&["a", "b", "c"]));
        let less = owners(&claims(), &nodes(&["a", "c"]));
        assert_eq!(all.len(), 200);
        for (address, owner) in &all {
            assert!(owner == "b" || less[address] == *owner, "{address}");
            assert_ne!(less[address], "b");
        }
        for name in ["a", "b", "c"] {
            let share = all.values().filter(|owner| *owner == name).count();
            assert!((40..=95).contains(&share), "{name} has {share} of 200");
        }
    }

    #[test]
    fn who_may() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let one = |claim: Claim, nodes: BTreeMap<String, Node>| {
            owners(&[(address, claim)].into(), &nodes).into_values().next()
        };
        assert_eq!(one(Claim { only: Some(["b".to_owned()].into()) }, nodes(&["a", "b", "c"])), Some("b".into()));
        assert_eq!(one(Claim { only: Some(BTreeSet::new()) }, nodes(&["a", "b"])), None, "no endpoint anywhere");
        let mut some = nodes(&["a", "b"]);
        some.get_mut("a").unwrap().eligible = false;
        some.get_mut("b").unwrap().networks.clear();
        assert_eq!(one(Claim::default(), some), None, "excluded, and not in the subnet");
    }
}
