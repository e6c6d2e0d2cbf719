//! What is known of the cluster, and what of it a change concerns: a Service is made into its ports when itself, one of its slices or one
//! of its Pods' annotations has changed, and otherwise never.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::SystemTime,
};

use lb_common::{Algorithm, Protocol};

use super::{
    events::Complaint,
    slim::{PodMarks, ServiceEntry, SliceEntry},
    table::Table,
    watch::{Event, Name},
};
use crate::{
    discovery::{
        ObjectRef, Origin, Problem, ServiceObject, SliceObject,
        build::{self, Setting},
        node_ports::{NodeInfo, NodePortAddresses},
        owners::{Holders, Owners},
    },
    model::{Change, ServiceId, ServicePort},
    node::NodeView,
};

/// What has become of objects of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// Of Services.
    Service(Event<ServiceEntry>),
    /// Of EndpointSlices.
    Slice(Event<SliceEntry>),
    /// Of this node's Node.
    Node(Event<NodeInfo>),
    /// Of this node's Pods.
    Pod(Event<PodMarks>),
    /// Of the Pods of all nodes that have a weight.
    Weight(Event<u16>),
}

/// What the model depends on besides the objects of the cluster.
#[derive(Clone, Copy)]
pub struct Local<'a> {
    /// This node's name.
    pub name: &'a str,
    /// The node as its kernel says.
    pub view: &'a NodeView,
    /// `--nodeport-addresses`.
    pub node_ports: &'a NodePortAddresses,
    /// `--default-algorithm`.
    pub default_algorithm: Algorithm,
    /// `--snat-ports`.
    pub snat_ports: (u16, u16),
}

/// So many Services are gathered before it is looked which of them are known.
const EARLY: usize = 256;

/// A Service made into its ports.
struct Built {
    name: Name,
    trigger: Option<SystemTime>,
    ports: Vec<(ServiceId, ServicePort)>,
    problems: Vec<Problem>,
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct Store {
    services: Table<ServiceEntry>,
    slices: Table<SliceEntry>,
    nodes: Table<NodeInfo>,
    pods: Table<PodMarks>,
    weights: Table<u16>,
    /// What may not be known.
    denied: Denied,
    /// The names of each Service's slices, in its namespace.
    slices_of: BTreeMap<Name, Vec<String>>,
    owners: Owners,
    /// The names of nodes: each once, however many endpoints it has.
    node_names: BTreeSet<Arc<str>>,
    /// The ports that each Service has in the model.
    ports: BTreeMap<Name, Vec<(u16, Protocol)>>,
    problems: BTreeMap<Name, Vec<Problem>>,
    /// With how many Services left it was last looked which are known, where they are not to wait until all are.
    early: Option<usize>,
    /// The Services to look at, and when they were changed, if their objects say so.
    due: BTreeMap<Name, Option<SystemTime>>,
    /// Services whose problems are other than when they were last asked for.
    complained: BTreeSet<Name>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Denied {
    node: bool,
    pods: bool,
    weights: bool,
}

impl Store {
    /// Takes in what has become of an object.
    pub fn take(&mut self, news: News) {
        match news {
            News::Service(event) => {
                for (name, _) in self.services.take(event) {
                    self.due.entry(name).or_default();
                }
            }
            News::Slice(event) => self.take_slice(event),
            News::Node(event) => {
                self.denied.node = is_denied(self.denied.node, &event);
                if !self.nodes.take(event).is_empty() {
                    self.all_due();
                }
            }
            News::Pod(event) => {
                self.denied.pods = is_denied(self.denied.pods, &event);
                for (name, old) in self.pods.take(event) {
                    if old.and_then(|old| old.weight) != self.pods.get(&name).and_then(|marks| marks.weight) {
                        self.weight_changed(&name);
                    }
                }
            }
            News::Weight(event) => {
                self.denied.weights = is_denied(self.denied.weights, &event);
                for (name, _) in self.weights.take(event) {
                    self.weight_changed(&name);
                }
            }
        }
    }

    fn take_slice(&mut self, event: Event<SliceEntry>) {
        let listing = self.slices.is_listing();
        let event = self.share_names(event);
        for (name, old) in self.slices.take(event) {
            let new = self.slices.get(&name);
            // Of a list nobody knows how long its changes were on their way.
            let trigger = new.and_then(|new| new.trigger).filter(|_| !listing);
            let trigger = trigger.filter(|trigger| old.as_ref().and_then(|old| old.trigger) != Some(*trigger));
            let (namespace, slice) = name;
            let service = |entry: &SliceEntry| (namespace.clone(), entry.object.service.clone());
            let (before, after) = (old.as_ref().map(service), new.map(service));
            for service in before.iter().filter(|before| Some(*before) != after.as_ref()) {
                self.forget_slice(service, &slice);
                self.due.entry(service.clone()).or_default();
            }
            if let Some(service) = after {
                let slices = self.slices_of.entry(service.clone()).or_default();
                if let Err(place) = slices.binary_search(&slice) {
                    slices.reserve_exact(1);
                    slices.insert(place, slice);
                }
                let due = self.due.entry(service).or_default();
                *due = [*due, trigger].into_iter().flatten().min();
            }
        }
    }

    /// Lets the endpoints of a node share its name.
    fn share_names(&mut self, mut event: Event<SliceEntry>) -> Event<SliceEntry> {
        match &mut event {
            Event::Set(_, Some(entry)) => {
                for name in entry.object.endpoints.iter_mut().filter_map(|endpoint| endpoint.node.as_mut()) {
                    match self.node_names.get(name) {
                        Some(known) => *name = known.clone(),
                        None => drop(self.node_names.insert(name.clone())),
                    }
                }
            }
            Event::Listing => self.node_names.retain(|name| Arc::strong_count(name) > 1),
            _ => {}
        }
        event
    }

    fn forget_slice(&mut self, service: &Name, slice: &str) {
        if let Some(slices) = self.slices_of.get_mut(service) {
            slices.retain(|known| known != slice);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
    }

    /// The weight of a Pod has changed: rare enough to look for the Pod in its namespace.
    fn weight_changed(&mut self, (namespace, pod): &Name) {
        let slices = self.slices.all().range((namespace.clone(), String::new())..);
        for (_, entry) in slices.take_while(|((at, _), _)| at == namespace) {
            if entry.object.endpoints.iter().any(|endpoint| endpoint.pod.as_deref() == Some(pod)) {
                self.due.entry((namespace.clone(), entry.object.service.clone())).or_default();
            }
        }
    }

    /// The weight of a Pod: what its label says, on all nodes the same; else on its own node what its annotation says.
    fn weight(&self, namespace: &str, pod: &str) -> Option<u16> {
        // Most clusters have none: then no name is made to look for.
        if self.weights.all().is_empty() && self.pods.all().is_empty() {
            return None;
        }
        let name = (namespace.to_owned(), pod.to_owned());
        self.weights.get(&name).copied().or_else(|| self.pods.get(&name)?.weight)
    }

    /// Has everything looked at again, as when the node has other addresses.
    pub fn all_due(&mut self) {
        for name in self.services.all().keys() {
            self.due.entry(name.clone()).or_default();
        }
    }

    /// Has those Services looked at again that have an endpoint for which this holds.
    pub fn due_where(&mut self, concerned: impl Fn(std::net::IpAddr) -> bool) {
        for ((namespace, _), entry) in self.slices.all() {
            if entry.object.endpoints.iter().any(|endpoint| concerned(endpoint.address)) {
                self.due.entry((namespace.clone(), entry.object.service.clone())).or_default();
            }
        }
    }

    /// Whether all that the model is made of was told once. Until then nothing is known of what is not there.
    pub fn is_complete(&self) -> bool {
        self.services.is_complete() && self.slices.is_complete() && self.knows_node_and_pods()
    }

    fn knows_node_and_pods(&self) -> bool {
        let node = self.nodes.is_complete() || self.denied.node;
        let pods = self.pods.is_complete() || self.denied.pods;
        let weights = self.weights.is_complete() || self.denied.weights;
        node && pods && weights
    }

    /// From now on Services are made into their ports before all is heard, each when it has endpoints; some of those may be missing. Only for
    /// a kernel that holds nothing yet.
    pub fn begin_early(&mut self) {
        self.early = Some(0);
    }

    /// This node's Node, if there is one.
    pub fn node(&self) -> Option<&NodeInfo> {
        self.nodes.all().values().next()
    }

    /// Whether it is known that there is none.
    pub fn has_no_node(&self) -> bool {
        self.nodes.is_complete() && self.nodes.all().is_empty()
    }

    /// The annotations of this node's Pods, by namespace and name.
    pub fn pods(&self) -> &BTreeMap<Name, PodMarks> {
        self.pods.all()
    }

    /// The Services to look at now: none while not all is known, or with [`Store::begin_early`] those that have endpoints.
    fn take_due(&mut self) -> BTreeMap<Name, Option<SystemTime>> {
        let due = mem::take(&mut self.due);
        if self.is_complete() {
            return due;
        }
        let is_early = self.early.is_some_and(|left| due.len() > left + EARLY) && self.knows_node_and_pods();
        if !is_early {
            self.due = due;
            return BTreeMap::new();
        }
        let is_known = |name: &Name| self.services.get(name).is_some() && self.slices_of.contains_key(name);
        let (now, later) = due.into_iter().partition(|(name, _)| is_known(name));
        self.due = later;
        self.early = Some(self.due.len());
        now
    }

    /// Makes the Services that are due into their ports, and says what is other than before; nothing while not all is known.
    pub fn changes(&mut self, local: &Local<'_>) -> Vec<Change> {
        let due = self.take_due();
        if due.is_empty() {
            return Vec::new();
        }
        let mut owners = mem::take(&mut self.owners);
        let built = self.build_due(due, &mut owners, local);
        self.owners = owners;
        built.into_iter().flat_map(|built| self.note(built)).collect()
    }

    fn build_due(
        &self,
        mut due: BTreeMap<Name, Option<SystemTime>>,
        owners: &mut Owners,
        local: &Local<'_>,
    ) -> Vec<Built> {
        let unknown = NodeInfo::without_cluster(local.name, local.view);
        let pod_weight = |namespace: &str, pod: &str| self.weight(namespace, pod);
        let setting = Setting {
            node: local.view,
            info: self.node().unwrap_or(&unknown),
            node_ports: local.node_ports,
            default_algorithm: local.default_algorithm,
            pod_weight: &pod_weight,
        };
        for name in self.claim(due.keys(), owners, &setting) {
            due.entry(name).or_default();
        }
        due.into_iter().map(|(name, trigger)| self.build(name, trigger, owners, &setting, local.snat_ports)).collect()
    }

    /// Whose each frontend is from now on. Returns the other Services that this concerns.
    fn claim<'a>(
        &self,
        due: impl Iterator<Item = &'a Name>,
        owners: &mut Owners,
        setting: &Setting<'_>,
    ) -> BTreeSet<Name> {
        let mut concerned = BTreeSet::new();
        for name in due {
            concerned.extend(match self.services.get(name) {
                Some(service) => {
                    let claims = build::claims(&service.object, setting);
                    owners.set(&service.object, claims, &Holders::new())
                }
                None => owners.remove(name),
            });
        }
        concerned
    }

    fn build(
        &self,
        name: Name,
        trigger: Option<SystemTime>,
        owners: &Owners,
        setting: &Setting<'_>,
        snat_ports: (u16, u16),
    ) -> Built {
        let Some(service) = self.services.get(&name) else {
            return Built { name, trigger: None, ports: Vec::new(), problems: Vec::new() };
        };
        let names = self.slices_of.get(&name).into_iter().flatten();
        let slices: Vec<&SliceEntry> =
            names.filter_map(|slice| self.slices.get(&(name.0.clone(), slice.clone()))).collect();
        let objects: Vec<&SliceObject> = slices.iter().map(|entry| &entry.object).collect();
        let (ports, found) = build::service(&service.object, &objects, setting, owners);
        let mut problems = service.problems.clone();
        problems.extend(slices.iter().flat_map(|slice| &slice.problems).cloned());
        problems.extend(found);
        problems.extend(snat_conflict(&service.object, snat_ports));
        Built { name, trigger, ports, problems }
    }

    fn note(&mut self, built: Built) -> Vec<Change> {
        let Built { name, trigger, ports, problems } = built;
        let now: Vec<(u16, Protocol)> = ports.iter().map(|(id, _)| (id.port, id.protocol)).collect();
        let before = self.ports.remove(&name).unwrap_or_default();
        let gone = before.into_iter().filter(|port| !now.contains(port)).map(|(port, protocol)| {
            let (namespace, name) = name.clone();
            Change { id: ServiceId { namespace, name, port, protocol }, port: None, trigger: None }
        });
        let mut changes: Vec<Change> = gone.collect();
        changes.extend(ports.into_iter().map(|(id, port)| Change { id, port: Some(port), trigger }));
        if !now.is_empty() {
            self.ports.insert(name.clone(), now);
        }
        self.note_problems(name, problems);
        changes
    }

    fn note_problems(&mut self, name: Name, problems: Vec<Problem>) {
        if self.problems.get(&name).map_or(&[][..], Vec::as_slice) == problems {
            return;
        }
        if problems.is_empty() {
            self.problems.remove(&name);
        } else {
            self.problems.insert(name.clone(), problems);
        }
        self.complained.insert(name);
    }

    /// All that is wrong with the objects.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let pods = self.pods.all().values().flat_map(|marks| &marks.problems);
        self.problems.values().flatten().chain(pods)
    }

    /// What is wrong with the Services whose problems are other than when this was last asked.
    pub fn complaints(&mut self) -> Vec<Complaint> {
        let changed = mem::take(&mut self.complained).into_iter();
        let complaints = |name: Name| {
            let service = self.services.get(&name);
            let problems = self.problems.get(&name).into_iter().flatten();
            let complaint = |service: &ServiceEntry, problem: &Problem| Complaint {
                namespace: name.0.clone(),
                name: name.1.clone(),
                uid: service.uid.clone(),
                version: service.version.clone(),
                problem: problem.clone(),
            };
            service.map(|service| problems.map(|problem| complaint(service, problem)).collect::<Vec<_>>())
        };
        changed.filter_map(complaints).flatten().collect()
    }
}

/// Whether objects may not be known: until a list of them has ended.
const fn is_denied<T>(before: bool, event: &Event<T>) -> bool {
    match event {
        Event::Denied => true,
        Event::Listed => false,
        _ => before,
    }
}

/// A node port that full NAT may take as a source port.
fn snat_conflict(service: &ServiceObject, (first, last): (u16, u16)) -> Option<Problem> {
    let mut numbers = service.ports.iter().filter_map(|port| port.node_port);
    let number = numbers.find(|number| (first..=last).contains(number))?;
    Some(Problem {
        origin: Origin::Api,
        object: ObjectRef::new("Service", &service.namespace, &service.name),
        field: "spec.ports.nodePort".into(),
        value: number.to_string(),
        cause: format!("the port is in --snat-ports {first}-{last}: replies to full NAT may be taken for its clients"),
        remedy: "give it another nodePort, or the agents other --snat-ports".into(),
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
