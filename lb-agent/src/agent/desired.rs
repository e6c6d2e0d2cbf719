//! What should be in the kernel, from the model and what is known of its backends.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::Addr;

use crate::{
    balance::weights::{Condition, effective},
    model::ServicePort,
    plan::{DesiredBackend, DesiredService},
};

/// What should be in the kernel of a service port; of a backend without a condition nothing is known.
/// `wakes` says whether who asks for it is to wake it.
pub fn desired(port: &ServicePort, conditions: &BTreeMap<SocketAddr, Condition>, wakes: bool) -> DesiredService {
    let weights = effective(port, conditions);
    let backend = |(at, spec): (&SocketAddr, &crate::model::BackendSpec)| {
        let effective = weights.get(at);
        let backend = DesiredBackend {
            node: spec.node.as_deref().unwrap_or_default().to_owned(),
            local: spec.local,
            far: spec.far,
            serving: spec.serving,
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
        wakes,
    }
}
