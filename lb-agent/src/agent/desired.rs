//! What should be in the kernel, from the model and what is known of its backends.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lb_common::Addr;

use super::marks::Wanted;
use crate::{
    balance::weights::{Condition, effective},
    model::ServicePort,
    plan::{DesiredBackend, DesiredService},
};

/// How long a response may pause before it is over, where its Service does not say.
const RESPONSE_IDLE: Duration = Duration::from_secs(1);

/// What should be in the kernel of a service port of which policies want this; of a backend without a condition nothing is known.
pub fn desired(port: &ServicePort, conditions: &BTreeMap<SocketAddr, Condition>, wanted: Wanted) -> DesiredService {
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
        limits: port.limits,
        forwarding: port.forwarding,
        response_idle: (port.measure || wanted.measured).then(|| port.response_idle.unwrap_or(RESPONSE_IDLE)),
        wakes: wanted.wakes,
        backends: port.backends.iter().map(backend).collect(),
    }
}
