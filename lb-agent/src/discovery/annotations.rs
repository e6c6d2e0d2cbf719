//! The annotations of Services, EndpointSlices and Pods: their names, and the values they may have.

use std::time::Duration;

use ipnet::IpNet;
use lb_common::Algorithm;

use crate::{
    balance::maglev,
    model::{Feedback, Forwarding, HealthCheck, Probe},
};

/// How a backend is selected.
pub const ALGORITHM: &str = "weir.dev/algorithm";
/// The weight of a slice's endpoints, or of a Pod's.
pub const WEIGHT: &str = "weir.dev/weight";
/// Cilium's name for the same, honoured where ours is absent.
pub const CILIUM_WEIGHT: &str = "service.cilium.io/weight";
/// How clients outside reach backends of other nodes.
pub const FORWARDING: &str = "weir.dev/forwarding";
/// What moves the weights.
pub const FEEDBACK: &str = "weir.dev/feedback";
/// What is measured beside connections, packets and bytes.
pub const MEASURE: &str = "weir.dev/measure";
/// How long a response may pause before it is over.
pub const RESPONSE_IDLE: &str = "weir.dev/response-idle";
/// How long a new backend takes to reach its weight.
pub const SLOW_START: &str = "weir.dev/slow-start";
/// What a health check asks.
pub const HEALTH_CHECK: &str = "weir.dev/health-check";
/// Time between two health checks.
pub const HEALTH_CHECK_INTERVAL: &str = "weir.dev/health-check-interval";
/// So many results in a row change the state.
pub const HEALTH_CHECK_THRESHOLD: &str = "weir.dev/health-check-threshold";
/// The most connections that one backend may have.
pub const MAX_CONNECTIONS: &str = "weir.dev/max-connections-per-backend";
/// New connections a second, of one client.
pub const CLIENT_RATE: &str = "weir.dev/max-new-per-second-per-client";
/// New connections a second, to one frontend.
pub const RATE: &str = "weir.dev/max-new-per-second";
/// Kubernetes' old name for `loadBalancerSourceRanges`, honoured where the field is empty.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Whether the sockets of a Pod are balanced at connect.
pub const SOCKET_LB: &str = "weir.dev/socket-lb";
/// Size of the Maglev table.
pub const MAGLEV_SIZE: &str = "weir.dev/maglev-size";

/// A limit beyond this is none.
const MOST: u32 = 1_000_000;

/// What is wrong with a value, and what it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong.
    pub cause: String,
    /// What it may be.
    pub remedy: String,
}

fn invalid<T>(cause: impl Into<String>, remedy: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { cause: cause.into(), remedy: remedy.into() })
}

/// An algorithm's name.
pub fn algorithm(value: &str) -> Result<Algorithm, Invalid> {
    let names = Algorithm::ALL.map(Algorithm::name).join(", ");
    Algorithm::from_name(value).map_or_else(|| invalid("no such algorithm", format!("use one of {names}")), Ok)
}

/// A weight.
pub fn weight(value: &str) -> Result<u16, Invalid> {
    let range = "use a whole number from 0 (draining) to 65535";
    match value.parse::<i64>() {
        Ok(number) => u16::try_from(number).or_else(|_| invalid("the weight is out of range", range)),
        Err(_) => invalid("the weight is not a number", range),
    }
}

/// A network of clients. Kubernetes allows blanks around it and bits behind its prefix.
pub fn network(value: &str) -> Result<IpNet, Invalid> {
    let network = value.trim().parse::<IpNet>().map(|network| network.trunc());
    network.or_else(|_| invalid("not a network", "use a network such as 192.0.2.0/24 or 2001:db8::/32"))
}

/// A kind of feedback.
pub fn feedback(value: &str) -> Result<Feedback, Invalid> {
    match value {
        "none" => Ok(Feedback::None),
        "connections" => Ok(Feedback::Connections),
        "inflight" => Ok(Feedback::InFlight),
        "latency" => Ok(Feedback::Latency),
        _ => invalid("no such feedback", "use none, connections, inflight or latency"),
    }
}

/// A way to other nodes.
pub fn forwarding(value: &str) -> Result<Forwarding, Invalid> {
    match value {
        "nat" => Ok(Forwarding::Nat),
        "dsr" => Ok(Forwarding::Dsr),
        _ => invalid("no such forwarding", "use nat or dsr"),
    }
}

/// Whether requests are measured.
pub fn measure(value: &str) -> Result<bool, Invalid> {
    match value {
        "requests" => Ok(true),
        _ => invalid("no such measurement", "use requests, or remove the annotation"),
    }
}

/// A time of at least a tenth of a second and at most a day.
pub fn duration(value: &str) -> Result<Duration, Invalid> {
    let remedy = "use a time from 100ms to 24h, such as 30s";
    match humantime::parse_duration(value) {
        Ok(time) if (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&time) => Ok(time),
        Ok(_) => invalid("the time is out of range", remedy),
        Err(error) => invalid(format!("not a time: {error}"), remedy),
    }
}

/// The size of a Maglev table.
pub fn maglev_size(value: &str) -> Result<u32, Invalid> {
    let remedy = format!("use a prime from 2 to {}, such as 4093 or 16381", maglev::MAX_SIZE);
    match value.parse() {
        Ok(size) if maglev::is_valid_size(size) => Ok(size),
        Ok(_) => invalid("not a prime in range", remedy),
        Err(_) => invalid("not a whole number", remedy),
    }
}

/// What a health check asks.
pub fn probe(value: &str) -> Result<Probe, Invalid> {
    let remedy = "use tcp, or http:/PATH such as http:/healthz";
    match value.split_once(':') {
        None if value == "tcp" => Ok(Probe::Tcp),
        Some(("http", path)) if path.starts_with('/') && path.parse::<hyper::http::uri::PathAndQuery>().is_ok() => {
            Ok(Probe::Http(path.to_owned()))
        }
        Some(("http", _)) => invalid("the path is not an absolute URL path", remedy),
        _ => invalid("no such health check", remedy),
    }
}

/// Whether a Pod wants its sockets left alone.
pub fn socket_lb_off(value: &str) -> Result<bool, Invalid> {
    match value {
        "off" => Ok(true),
        "on" => Ok(false),
        _ => invalid("no such choice", "use off, or remove the annotation"),
    }
}

/// How many results in a row change the state.
pub fn threshold(value: &str) -> Result<u32, Invalid> {
    match value.parse() {
        Ok(count @ 1..=100) => Ok(count),
        _ => invalid("the threshold is out of range", "use a whole number from 1 to 100"),
    }
}

/// The most that there may be of something.
pub fn limit(value: &str) -> Result<u32, Invalid> {
    match value.parse() {
        Ok(count @ 1..=MOST) => Ok(count),
        _ => invalid(
            "the limit is out of range",
            format!("use a whole number from 1 to {MOST}, or remove the annotation"),
        ),
    }
}

/// A health check with the defaults of its companions: every 5 s, 3 in a row.
pub fn health_check(probe: Probe, interval: Option<Duration>, threshold: Option<u32>) -> HealthCheck {
    HealthCheck { probe, interval: interval.unwrap_or(Duration::from_secs(5)), threshold: threshold.unwrap_or(3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        for (value, wanted) in [("0", 0), ("100", 100), ("65535", 65535)] {
            assert_eq!(weight(value), Ok(wanted));
        }
        for value in ["-1", "65536", "70000", "99999999999999999999", "heavy", "", "1.5"] {
            let error = weight(value).unwrap_err();
            assert!(error.remedy.contains("0 (draining) to 65535"), "{value}: {error:?}");
        }
    }

    #[test]
    fn networks() {
        for (value, wanted) in
            [("10.0.0.0/8", "10.0.0.0/8"), (" 10.0.0.1/8 ", "10.0.0.0/8"), ("fd00::/64", "fd00::/64")]
        {
            assert_eq!(network(value).map(|network| network.to_string()), Ok(wanted.to_owned()));
        }
        for value in ["10.0.0.1", "10.0.0.0/33", "all", ""] {
            assert!(network(value).unwrap_err().remedy.contains("192.0.2.0/24"), "{value}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!(algorithm("least-connections"), Ok(Algorithm::LeastConnections));
        assert!(algorithm("fastest").unwrap_err().remedy.contains("maglev"));
        assert_eq!(feedback("connections"), Ok(Feedback::Connections));
        assert_eq!([feedback("inflight"), feedback("latency")], [Ok(Feedback::InFlight), Ok(Feedback::Latency)]);
        assert!(feedback("psychic").is_err());
        assert_eq!(measure("requests"), Ok(true));
        assert!(measure("everything").unwrap_err().remedy.contains("use requests"));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        for bad in ["30", "-1s", "25h", "1ms", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(maglev_size("4093"), Ok(4093));
        assert!(maglev_size("4096").is_err() && maglev_size("-7").is_err() && maglev_size("1000003").is_err());
        assert_eq!(probe("tcp"), Ok(Probe::Tcp));
        assert_eq!(probe("http:/healthz?full=1"), Ok(Probe::Http("/healthz?full=1".into())));
        for bad in ["udp", "http:", "http:healthz", "http:/a b", "https:/x", ""] {
            assert!(probe(bad).is_err(), "{bad}");
        }
        assert_eq!(threshold("3"), Ok(3));
        assert!(threshold("0").is_err() && threshold("101").is_err());
        assert_eq!((limit("1"), limit("1000000")), (Ok(1), Ok(1_000_000)));
        for bad in ["0", "-1", "1000001", "1.5", "many", ""] {
            assert!(limit(bad).unwrap_err().remedy.contains("1 to 1000000"), "{bad}");
        }
    }
}
