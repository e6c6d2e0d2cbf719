//! What should be in the kernel, from the model and what is known of its backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::Addr;

use crate::{
    balance::weights::{Condition, effective},
    model::{Model, ServiceId, ServicePort},
    node::NodeView,
    plan::{Desired, DesiredBackend, DesiredService},
};

/// Puts the effective weights into the model. `complete` says whether the model is all there should be.
pub fn desired(
    model: &Model,
    complete: bool,
    conditions: impl Fn(&ServiceId, &ServicePort) -> BTreeMap<SocketAddr, Condition>,
) -> Desired {
    let services = model.services.iter().map(|(id, port)| (id.clone(), service(port, &conditions(id, port))));
    Desired { services: services.collect(), keep_others: !complete }
}

fn service(port: &ServicePort, conditions: &BTreeMap<SocketAddr, Condition>) -> DesiredService {
    let weights = effective(port, conditions);
    let backend = |(at, spec): (&SocketAddr, &crate::model::BackendSpec)| {
        let effective = weights.get(at);
        let backend = DesiredBackend {
            node: spec.node.clone().unwrap_or_default(),
            local: spec.local,
            source: spec.source.map_or(Addr::NONE, Addr::from),
            weight: spec.weight,
            effective_weight: effective.map_or(0, |e| e.weight),
            state: effective.map_or_else(Default::default, |e| e.state),
        };
        (*at, backend)
    };
    DesiredService {
        port_name: port.port_name.clone(),
        frontends: port.frontends.clone(),
        algorithm: port.algorithm,
        affinity: port.affinity,
        maglev_size: port.maglev_size,
        backends: port.backends.iter().map(backend).collect(),
    }
}

/// The interfaces behind which backends are and that are no uplinks: replies come in by them.
pub fn backend_interfaces(model: &Model, node: &NodeView) -> BTreeSet<String> {
    let backends = model.services.values().flat_map(|port| port.backends.keys());
    let interfaces = backends.filter_map(|at| node.interface_of(at.ip()));
    interfaces.filter(|name| !node.uplinks.contains(*name)).map(str::to_owned).collect()
}
