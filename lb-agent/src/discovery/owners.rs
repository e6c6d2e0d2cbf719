//! Whose each frontend is, when several Services claim one: the older Service's, kept up Service by Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::SocketKey;

use super::{ObjectRef, Origin, Problem, ServiceObject};

/// A Service's namespace and name.
pub type ServiceName = (String, String);

/// Whose each frontend is now, as the kernel's maps say.
pub type Holders = BTreeMap<SocketKey, ServiceName>;

/// Who claims which frontends. Of several, the first has it: by age, oldest first, then by name. A Service that tells no age (files need not)
/// comes after all that do, unless it holds the frontend already: then it comes first, so that no newcomer breaks it.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    claims: BTreeMap<SocketKey, Vec<Claim>>,
    claimed: BTreeMap<ServiceName, Box<[SocketKey]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    rank: Rank,
    claimant: Arc<Claimant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Holder,
    /// In nanoseconds since 1970.
    Created(i128),
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
struct Claimant {
    name: ServiceName,
    origin: Origin,
}

impl Owners {
    /// What a Service claims now, instead of all it has claimed before. Returns the other Services that have lost or gained a frontend by it,
    /// or have not got it from another one than before.
    pub fn set(
        &mut self,
        service: &ServiceObject,
        wanted: BTreeSet<SocketKey>,
        holders: &Holders,
    ) -> BTreeSet<ServiceName> {
        let name = (service.namespace.clone(), service.name.clone());
        let claimant = Arc::new(Claimant { name: name.clone(), origin: service.origin.clone() });
        let mut affected = BTreeSet::new();
        let before = self.claimed.remove(&name).unwrap_or_default();
        for key in before.iter().filter(|key| !wanted.contains(key)) {
            self.change(*key, &name, &mut affected, None);
        }
        for key in &wanted {
            let rank = match service.created {
                Some(created) => Rank::Created(created),
                None if holders.get(key) == Some(&name) => Rank::Holder,
                None => Rank::Unknown,
            };
            self.change(*key, &name, &mut affected, Some(Claim { rank, claimant: claimant.clone() }));
        }
        if !wanted.is_empty() {
            self.claimed.insert(name, wanted.into_iter().collect());
        }
        affected
    }

    /// Forgets a Service. Returns the Services that have gained a frontend by it, or still have not got it.
    pub fn remove(&mut self, name: &ServiceName) -> BTreeSet<ServiceName> {
        let mut affected = BTreeSet::new();
        for key in self.claimed.remove(name).unwrap_or_default() {
            self.change(key, name, &mut affected, None);
        }
        affected
    }

    /// Replaces a Service's claim to a frontend.
    fn change(
        &mut self,
        key: SocketKey,
        name: &ServiceName,
        affected: &mut BTreeSet<ServiceName>,
        claim: Option<Claim>,
    ) {
        let before = self.owner(&key).cloned();
        let claims = self.claims.entry(key).or_default();
        claims.retain(|known| known.claimant.name != *name);
        if let Some(claim) = claim {
            let order = |claim: &Claim| (claim.rank, claim.claimant.name.clone());
            let place = claims.partition_point(|known| order(known) < order(&claim));
            // Mostly one: no room for more.
            claims.reserve_exact(1);
            claims.insert(place, claim);
        }
        if claims.is_empty() {
            self.claims.remove(&key);
        }
        let after = self.owner(&key).cloned();
        if before != after {
            let claims = self.claims.get(&key).into_iter().flatten().map(|claim| claim.claimant.name.clone());
            affected.extend(before.into_iter().chain(claims).filter(|other| other != name));
        }
    }

    /// Whose a frontend is.
    pub fn owner(&self, key: &SocketKey) -> Option<&ServiceName> {
        self.first(key).map(|claimant| &claimant.name)
    }

    fn first(&self, key: &SocketKey) -> Option<&Claimant> {
        self.claims.get(key).and_then(|claims| claims.first()).map(|claim| claim.claimant.as_ref())
    }

    /// Why a Service has not got a frontend; none if it is its own.
    pub fn refusal(&self, service: &ServiceObject, key: &SocketKey) -> Option<Problem> {
        let owner = self.first(key)?;
        if (&owner.name.0, &owner.name.1) == (&service.namespace, &service.name) {
            return None;
        }
        let place = match &owner.origin {
            Origin::Api => String::new(),
            origin => format!(" ({origin})"),
        };
        let (namespace, name) = &owner.name;
        Some(Problem {
            origin: service.origin.clone(),
            object: ObjectRef::new("Service", &service.namespace, &service.name),
            field: "spec".into(),
            value: key.to_string(),
            cause: format!("the frontend is claimed by Service {namespace}/{name}{place} already, which keeps it"),
            remedy: "give one of the two another address or port".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use lb_common::Protocol;

    use super::*;

    fn key(port: u16) -> SocketKey {
        SocketKey::new(([10, 96, 0, 1], port).into(), Protocol::Tcp)
    }

    fn set(owners: &mut Owners, name: &str, created: Option<i128>, ports: &[u16]) -> Vec<String> {
        let service = ServiceObject { namespace: "n".into(), name: name.into(), created, ..ServiceObject::default() };
        names(owners.set(&service, ports.iter().copied().map(key).collect(), &Holders::new()))
    }

    fn names(names: BTreeSet<ServiceName>) -> Vec<String> {
        names.into_iter().map(|(_, name)| name).collect()
    }

    fn owner(owners: &Owners, port: u16) -> &str {
        owners.owner(&key(port)).map_or("", |(_, name)| name)
    }

    #[test]
    fn the_older_one_has_it_whoever_came_first() {
        let mut owners = Owners::default();
        assert!(set(&mut owners, "young", Some(2), &[80, 81]).is_empty());
        assert_eq!(set(&mut owners, "old", Some(1), &[80]), ["young"], "which loses it");
        assert_eq!((owner(&owners, 80), owner(&owners, 81)), ("old", "young"));
        assert!(set(&mut owners, "third", Some(3), &[80, 81]).is_empty());
        assert_eq!(
            set(&mut owners, "old", Some(1), &[443]),
            ["third", "young"],
            "which has it back, and which another one keeps from it now"
        );
        assert_eq!(names(owners.remove(&("n".into(), "young".into()))), ["third"]);
        assert_eq!((owner(&owners, 80), owner(&owners, 81), owner(&owners, 443)), ("third", "third", "old"));
        assert_eq!(set(&mut owners, "third", Some(3), &[]), [""; 0]);
        assert!(owners.remove(&("n".into(), "old".into())).is_empty());
        assert_eq!(owner(&owners, 80), "");
    }

    #[test]
    fn one_made_anew_is_as_old_as_it_says_now() {
        let mut owners = Owners::default();
        set(&mut owners, "a", Some(1), &[80]);
        set(&mut owners, "b", Some(2), &[80]);
        assert_eq!(set(&mut owners, "a", Some(3), &[80]), ["b"]);
        assert_eq!(owner(&owners, 80), "b");
    }

    #[test]
    fn nothing_is_left_of_what_is_gone() {
        let mut owners = Owners::default();
        set(&mut owners, "a", Some(1), &[80, 81]);
        set(&mut owners, "a", Some(1), &[]);
        set(&mut owners, "b", None, &[80]);
        owners.remove(&("n".into(), "b".into()));
        assert!(owners.claims.is_empty() && owners.claimed.is_empty());
    }
}
