//! What a policy can read: the key under which a number is measured, asked for and shown.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use super::policy::{Per, PodMetricSpec, PrometheusSpec, SignalName};

/// A number that a scaling rule or target reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// One that Weir measures itself; all but `ttfb`, which has a quantile.
    Measured(SignalName),
    /// Seconds until a response begins, at a quantile.
    Ttfb(Quantile),
    /// What a Prometheus server answers.
    Prometheus(Arc<PrometheusSpec>),
    /// What the replicas' own metrics say.
    PodMetric(Arc<PodMetricSpec>),
}

/// A part of a whole, in thousandths, so that two that look the same are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantile(u16);

impl Quantile {
    /// The quantile nearest to a number from 0 to 1.
    pub fn new(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * 1000.0).round() as u16)
    }

    /// As a number from 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl Signal {
    /// Whether the value is of the whole Service and not a mean over its ready replicas.
    pub fn per(&self) -> Per {
        match self {
            Self::Prometheus(query) => query.per,
            _ => Per::Replica,
        }
    }

    /// The age at which its value is too old to decide from.
    pub const fn stale(&self) -> Duration {
        match self {
            Self::Measured(_) | Self::Ttfb(_) => Duration::from_secs(2),
            // Asked of others, who are not asked every second.
            Self::Prometheus(_) | Self::PodMetric(_) => Duration::from_secs(30),
        }
    }

    /// Whether the value is a part of what the containers request, which a resize changes.
    pub const fn is_percent(&self) -> bool {
        matches!(self, Self::Measured(SignalName::Cpu | SignalName::Memory))
    }
}

impl SignalName {
    /// Every name.
    pub const ALL: [Self; 11] = [
        Self::Cpu,
        Self::Memory,
        Self::CpuCores,
        Self::MemoryBytes,
        Self::ActiveConnections,
        Self::ConnectionsPerSecond,
        Self::InFlight,
        Self::RequestsPerSecond,
        Self::BytesPerSecond,
        Self::Ttfb,
        Self::Skew,
    ];

    /// As it is written in policies, output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::CpuCores => "cpuCores",
            Self::MemoryBytes => "memoryBytes",
            Self::ActiveConnections => "activeConnections",
            Self::ConnectionsPerSecond => "connectionsPerSecond",
            Self::InFlight => "inFlight",
            Self::RequestsPerSecond => "requestsPerSecond",
            Self::BytesPerSecond => "bytesPerSecond",
            Self::Ttfb => "ttfb",
            Self::Skew => "skew",
        }
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Measured(name) => name.fmt(f),
            Self::Ttfb(quantile) => write!(f, "ttfb({quantile})"),
            Self::Prometheus(of) => write!(f, "prometheus({})", of.query),
            Self::PodMetric(of) => write!(f, "podMetric({})", of.name),
        }
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<SignalName> for Signal {
    fn from(name: SignalName) -> Self {
        Self::Measured(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_resource() {
        for name in SignalName::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.name());
        }
    }

    #[test]
    fn a_signal_is_shown_by_what_it_reads() {
        let query = PrometheusSpec { query: "sum(up)".to_owned(), ..PrometheusSpec::default() };
        let metric = PodMetricSpec { name: "vllm:num_requests_waiting".to_owned(), ..PodMetricSpec::default() };
        for (signal, shown) in [
            (Signal::from(SignalName::Cpu), "cpu"),
            (Signal::Ttfb(Quantile::new(0.95)), "ttfb(0.95)"),
            (Signal::Prometheus(Arc::new(query)), "prometheus(sum(up))"),
            (Signal::PodMetric(Arc::new(metric)), "podMetric(vllm:num_requests_waiting)"),
        ] {
            assert_eq!(signal.to_string(), shown);
            assert_eq!(serde_json::to_value(&signal).unwrap(), shown);
        }
    }
}
