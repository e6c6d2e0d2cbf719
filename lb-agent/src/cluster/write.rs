//! What the coordinator writes to the API: addresses into the status of Services, the pools' status, Events. Only what differs is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::core::v1::Service,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    allocate::{Allocation, Refused, ServiceKey},
    complain::{Complaints, Notes, Subject, Teller},
    observe::Balanced,
    pool::{AddressPool, AddressPoolStatus, Pool, PoolError},
};
use crate::discovery::kube::explain;

/// The condition of a pool that has nothing left.
const EXHAUSTED: &str = "Exhausted";

/// What should be in the API.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The Services whose addresses differ from their status, and what they should be.
    pub addresses: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    /// The pools whose status differs, and what it should be.
    pub pools: BTreeMap<String, AddressPoolStatus>,
    /// What is wrong with Services and pools.
    pub complaints: Complaints,
}

/// What should be written.
pub fn wanted(
    services: &BTreeMap<ServiceKey, Balanced>,
    pools: &BTreeMap<ServiceKey, AddressPool>,
    (usable, broken): (&[Pool], &BTreeMap<String, PoolError>),
    allocation: &Allocation,
    now: Timestamp,
) -> Wanted {
    let mut wanted = Wanted::default();
    for (key, service) in services {
        let given = allocation.addresses.get(key).cloned().unwrap_or_default();
        if service.request.current.iter().copied().collect::<BTreeSet<_>>() != given {
            wanted.addresses.insert(key.clone(), given);
        }
        let notes = service_notes(service, allocation.refused.get(key).into_iter().flatten());
        if !notes.is_empty() {
            wanted.complaints.insert(Subject::service(key, &service.uid), notes);
        }
    }
    for object in pools.values() {
        let name = object.name_any();
        let status = pool_status(object, usable, broken.get(&name), allocation, now);
        let notes = pool_notes(&status);
        if !notes.is_empty() {
            wanted.complaints.insert(Subject::pool(object), notes);
        }
        if object.status.as_ref() != Some(&status) {
            wanted.pools.insert(name, status);
        }
    }
    wanted
}

fn service_notes<'a>(service: &Balanced, refused: impl Iterator<Item = &'a Refused>) -> Notes {
    let invalid = service.invalid.as_ref().map(|(field, value)| {
        let note = format!("{field}: {value:?} is no list of IP addresses: write addresses, separated by commas");
        ("InvalidAddress".to_owned(), note)
    });
    refused.map(|refused| (reason(refused).to_owned(), refused.to_string())).chain(invalid).collect()
}

/// What its conditions say, if it is bad.
fn pool_notes(status: &AddressPoolStatus) -> Notes {
    let is_bad = |c: &&Condition| c.status == if c.type_ == EXHAUSTED { "True" } else { "False" };
    let bad = status.conditions.iter().filter(is_bad);
    bad.map(|condition| (condition.reason.clone(), condition.message.clone())).collect()
}

const fn reason(refused: &Refused) -> &'static str {
    match refused {
        Refused::Exhausted { .. } => "AddressPoolExhausted",
        Refused::NotOurs { .. } => "AddressNotInPool",
        Refused::Held { .. } => "AddressInUse",
    }
}

fn pool_status(
    object: &AddressPool,
    usable: &[Pool],
    error: Option<&PoolError>,
    allocation: &Allocation,
    now: Timestamp,
) -> AddressPoolStatus {
    let pool = usable.iter().find(|pool| pool.name == object.name_any());
    let used: BTreeSet<&IpAddr> =
        allocation.addresses.values().flatten().filter(|a| pool.is_some_and(|pool| pool.contains(**a))).collect();
    let total = pool.map_or(0, Pool::total);
    let exhausted = pool.is_some() && total == used.len() as u128;
    let (ready_reason, ready_note) = match error {
        None => ("Valid", "addresses are given from this pool".to_owned()),
        Some(error @ PoolError::Overlap { .. }) => ("Overlap", error.to_string()),
        Some(error) => ("Invalid", error.to_string()),
    };
    let (full_reason, full_note) = match exhausted {
        true => ("NoneFree", "every address is given away: add addresses, or another pool"),
        false => ("SomeFree", "there are free addresses"),
    };
    let old = object.status.iter().flat_map(|status| &status.conditions);
    let condition = |type_: &str, holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        let same = old.clone().find(|c| c.type_ == type_ && c.status == status);
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            observed_generation: object.metadata.generation,
            last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
        }
    };
    AddressPoolStatus {
        observed_generation: object.metadata.generation,
        total: total.to_string(),
        used: used.len() as u32,
        conditions: vec![
            condition("Ready", error.is_none(), ready_reason, ready_note),
            condition(EXHAUSTED, exhausted, full_reason, full_note.to_owned()),
        ],
    }
}

/// The status of a Service that has these addresses.
fn ingress(addresses: &BTreeSet<IpAddr>) -> Value {
    let entries: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
    json!({"status": {"loadBalancer": {"ingress": entries}}})
}

/// Writes to the API.
pub struct Writer {
    client: Client,
    teller: Teller,
}

impl Writer {
    /// A writer; its Events come from the coordinator of this name.
    pub fn new(client: Client, name: &str) -> Self {
        Self { teller: Teller::new(client.clone(), name.to_owned()), client }
    }

    /// Writes what is wanted. What fails is wanted again at the next change; the others go on.
    pub async fn write(&mut self, wanted: &Wanted) -> usize {
        let mut failures = 0;
        for (key, addresses) in &wanted.addresses {
            let api: Api<Service> = Api::namespaced(self.client.clone(), &key.0);
            let result = api.patch_status(&key.1, &PatchParams::default(), &Patch::Merge(ingress(addresses))).await;
            failures += usize::from(failed("services/status", &format!("Service {}/{}", key.0, key.1), result));
        }
        let api: Api<AddressPool> = Api::all(self.client.clone());
        for (name, status) in &wanted.pools {
            let status = json!({"status": status});
            let result = api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
            failures += usize::from(failed("addresspools/status", &format!("AddressPool {name}"), result));
        }
        failures + self.teller.tell(&wanted.complaints).await
    }
}

/// Logs a failure and says whether it was one that another attempt may mend: an object that is gone is none.
fn failed<T>(resource: &str, whom: &str, result: Result<T, kube::Error>) -> bool {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => false,
        Err(error) => {
            tracing::warn!("{whom}: {}", explain::api_error(&error, "patch", resource));
            true
        }
        Ok(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{allocate::Request, allocate::allocate, pool::AddressPoolSpec, pool::usable};

    fn service(name: &str, current: &[&str]) -> (ServiceKey, Balanced) {
        let key = ("shop".to_owned(), name.to_owned());
        let request = Request {
            service: key.clone(),
            v4: true,
            current: current.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..Request::default()
        };
        (key, Balanced { request, uid: "u".into(), invalid: None })
    }

    fn pool(name: &str, addresses: &str) -> (ServiceKey, AddressPool) {
        let spec = AddressPoolSpec { addresses: vec![addresses.into()], auto_assign: true, ..Default::default() };
        ((String::new(), name.into()), AddressPool::new(name, spec))
    }

    #[test]
    fn only_what_differs_is_written() {
        let services = BTreeMap::from([service("a", &["192.0.2.1"]), service("b", &[]), service("c", &[])]);
        let mut pools = BTreeMap::from([pool("p", "192.0.2.1-192.0.2.2"), pool("q", "nonsense")]);
        let objects: Vec<AddressPool> = pools.values().cloned().collect();
        let (fit, broken) = usable(&objects);
        let requests: Vec<Request> = services.values().map(|service| service.request.clone()).collect();
        let allocation = allocate(&fit, &requests);
        let first = wanted(&services, &pools, (&fit, &broken), &allocation, Timestamp::UNIX_EPOCH);
        let b = ("shop".to_owned(), "b".to_owned());
        assert_eq!(first.addresses, [(b, [IpAddr::from([192, 0, 2, 2])].into())].into());
        let reasons =
            |subject: &Subject| first.complaints[subject].iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>();
        assert_eq!(reasons(&Subject::service(&("shop".into(), "c".into()), "u")), ["AddressPoolExhausted"]);
        assert_eq!(reasons(&Subject::pool(&objects[0])), ["NoneFree"]);
        assert_eq!(reasons(&Subject::pool(&objects[1])), ["Invalid"]);
        assert_eq!(first.complaints.len(), 3, "{:?}", first.complaints);
        let of = |name: &str, type_: &str| {
            let condition = first.pools[name].conditions.iter().find(|c| c.type_ == type_).unwrap();
            (condition.status.clone(), condition.reason.clone())
        };
        assert_eq!((of("p", "Ready").0, of("p", "Exhausted").0), ("True".into(), "True".into()));
        assert_eq!(of("q", "Ready"), ("False".into(), "Invalid".into()));
        for (key, object) in &mut pools {
            object.status = first.pools.get(&key.1).cloned();
        }
        let later = Timestamp::from_second(99).unwrap();
        let again = wanted(&services, &pools, (&fit, &broken), &allocation, later);
        assert!(again.pools.is_empty(), "nothing changed, so no condition has a new time: {:?}", again.pools);
    }
}
