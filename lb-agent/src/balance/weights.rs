//! Effective weights: static weight x slow start x health x drain x feedback, as the packet path gets them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lb_common::{Algorithm, BackendState};

use crate::model::{BackendSpec, Feedback, ServicePort};

/// The least part of its weight that a backend starts with.
const SLOW_START_FLOOR: f64 = 0.1;
/// Weights that are moved are multiplied until the smallest is at least this: steps of 1 % need it.
const RESOLUTION: u16 = 100;

/// What is known of a backend beside the manifests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// Drained by hand.
    pub drained: bool,
    /// What its health checks say; true without any.
    pub healthy: bool,
    /// How long it has been there; none if it was there before anybody looked.
    pub age: Option<Duration>,
    /// The factor of the feedback.
    pub factor: f64,
}

impl Default for Condition {
    fn default() -> Self {
        Self { drained: false, healthy: true, age: None, factor: 1.0 }
    }
}

/// What the packet path is told of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The weight it has where it takes new connections, see [`super::reach`]; 0: nowhere.
    pub weight: u16,
    /// Why.
    pub state: BackendState,
}

/// Whether feedback moves the weights of a service: consistent hashing must be the same on every node, and the others do not use
/// weights in this way.
pub fn is_moved(service: &ServicePort) -> bool {
    service.feedback != Feedback::None && matches!(service.algorithm, Algorithm::Random | Algorithm::WeightedRoundRobin)
}

/// The effective weight of each backend of a service. Of a backend without a condition nothing is known.
pub fn effective(
    service: &ServicePort,
    conditions: &BTreeMap<SocketAddr, Condition>,
) -> BTreeMap<SocketAddr, Effective> {
    let scale = scale(service, conditions);
    let weigh = |(at, spec): (&SocketAddr, &BackendSpec)| {
        let condition = conditions.get(at).copied().unwrap_or_default();
        let takes = spec.weight > 0 && !condition.drained;
        let weight = if takes { moved(service, spec.weight, condition, scale) } else { 0 };
        (*at, Effective { weight, state: state(spec, condition) })
    };
    service.backends.iter().map(weigh).collect()
}

fn state(spec: &BackendSpec, condition: Condition) -> BackendState {
    match (spec.terminating, spec.weight == 0 || condition.drained, condition.healthy) {
        (true, ..) => BackendState::Terminating,
        (_, true, _) => BackendState::Draining,
        (_, _, false) => BackendState::Unhealthy,
        _ => BackendState::Ready,
    }
}

/// What all weights of a service are multiplied by: 1 unless something moves them in fine steps.
fn scale(service: &ServicePort, conditions: &BTreeMap<SocketAddr, Condition>) -> u32 {
    let starting = conditions.values().any(|c| slow_start(service, c.age) < 1.0);
    let weights = || service.backends.values().map(|b| b.weight).filter(|w| *w > 0);
    let (Some(least), Some(most)) = (weights().min(), weights().max()) else { return 1 };
    if !starting && !is_moved(service) {
        return 1;
    }
    u32::from(RESOLUTION.div_ceil(least)).min(u32::from(u16::MAX / most)).max(1)
}

fn moved(service: &ServicePort, weight: u16, condition: Condition, scale: u32) -> u16 {
    let factor = if is_moved(service) { condition.factor } else { 1.0 };
    let exact = f64::from(weight) * f64::from(scale) * factor * slow_start(service, condition.age);
    exact.round().clamp(1.0, f64::from(u16::MAX)) as u16
}

/// The part of its weight a backend of this age has: from a tenth, in a straight line, to all.
fn slow_start(service: &ServicePort, age: Option<Duration>) -> f64 {
    match (service.slow_start, age) {
        (Some(time), Some(age)) if age < time => (age.as_secs_f64() / time.as_secs_f64()).max(SLOW_START_FLOOR),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn service(weights: &[u16]) -> ServicePort {
        let spec =
            |(n, weight): (usize, &u16)| (at(n as u8), BackendSpec { weight: *weight, ..BackendSpec::default() });
        ServicePort { backends: weights.iter().enumerate().map(spec).collect(), ..ServicePort::default() }
    }

    fn weights(service: &ServicePort, conditions: &[(u8, Condition)]) -> Vec<(u16, BackendState)> {
        let conditions = conditions.iter().map(|(n, c)| (at(*n), *c)).collect();
        effective(service, &conditions).into_values().map(|e| (e.weight, e.state)).collect()
    }

    use BackendState::{Draining, Ready, Terminating, Unhealthy};

    #[test]
    fn states_and_weights() {
        let well = Condition::default();
        let drained = Condition { drained: true, ..well };
        let ill = Condition { healthy: false, ..well };
        let plain = service(&[100, 50, 0]);
        assert_eq!(weights(&plain, &[]), [(100, Ready), (50, Ready), (0, Draining)]);
        assert_eq!(weights(&plain, &[(0, drained)]), [(0, Draining), (50, Ready), (0, Draining)]);
        assert_eq!(weights(&plain, &[(0, ill)]), [(100, Unhealthy), (50, Ready), (0, Draining)]);
        let mut leaving = service(&[100, 100]);
        leaving.backends.get_mut(&at(0)).unwrap().terminating = true;
        assert_eq!(weights(&leaving, &[(0, drained)]), [(0, Terminating), (100, Ready)]);
        assert_eq!(weights(&leaving, &[]), [(100, Terminating), (100, Ready)], "it may be the last that serves");
    }

    #[test]
    fn slow_start_is_a_straight_line_from_a_tenth() {
        let mut service = service(&[100, 100]);
        service.slow_start = Some(Duration::from_secs(10));
        for (age, wanted) in [(0.0, 10), (0.5, 10), (5.0, 50), (9.9, 99), (10.0, 100), (99.0, 100)] {
            let young = Condition { age: Some(Duration::from_secs_f64(age)), ..Condition::default() };
            assert_eq!(weights(&service, &[(1, young)])[1].0, wanted, "{age} s");
        }
    }

    #[test]
    fn small_weights_are_scaled_only_while_they_move() {
        let mut service = service(&[1, 3]);
        let slower = Condition { factor: 0.5, ..Condition::default() };
        assert_eq!(weights(&service, &[(0, slower)]), [(1, Ready), (3, Ready)], "no feedback is asked for");
        service.feedback = Feedback::Connections;
        service.algorithm = Algorithm::WeightedRoundRobin;
        assert_eq!(weights(&service, &[(0, slower)]), [(50, Ready), (300, Ready)]);
        for algorithm in [Algorithm::Maglev, Algorithm::IpHash, Algorithm::LeastConnections, Algorithm::RoundRobin] {
            service.algorithm = algorithm;
            assert_eq!(weights(&service, &[(0, slower)]), [(1, Ready), (3, Ready)], "{algorithm:?}");
        }
    }
}
