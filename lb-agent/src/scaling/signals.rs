//! The numbers that policies read.

/// A number that a scaling rule or target reads: a mean over the ready backends of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Connections open now.
    ActiveConnections,
    /// New connections in a second.
    ConnectionsPerSecond,
    /// IP bytes in a second, both directions.
    BytesPerSecond,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 3] = [
        Self::ActiveConnections,
        Self::ConnectionsPerSecond,
        Self::BytesPerSecond,
    ];

    /// The name in policies, output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActiveConnections => "activeConnections",
            Self::ConnectionsPerSecond => "connectionsPerSecond",
            Self::BytesPerSecond => "bytesPerSecond",
        }
    }

    /// The signal of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
