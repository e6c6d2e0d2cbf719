//! What is compared.

/// Who balances, where the backend is, and what it makes of the flood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) balancer: Balancer,
    pub(crate) place: Place,
    pub(crate) backend: Backend,
}

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balancer {
    /// `weir run` at tc.
    Weir,
    /// The rules of kube-proxy, with conntrack.
    Nftables,
}

/// Where the backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the node: it sees the client's address.
    Local,
    /// On another one: it sees the node's address, and a port of its own for each connection.
    Remote,
}

/// What the backend makes of the flood; it serves everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Nothing: it drops it.
    Deaf,
    /// It answers every SYN.
    Answering,
}

impl Variant {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Place::Local, Place::Remote].into_iter().flat_map(|place| {
            [Backend::Deaf, Backend::Answering].into_iter().flat_map(move |backend| {
                [Balancer::Weir, Balancer::Nftables].map(|balancer| Self { balancer, place, backend })
            })
        })
    }

    /// Its name in reports.
    pub(crate) fn name(self) -> String {
        let balancer = match self.balancer {
            Balancer::Weir => "weir",
            Balancer::Nftables => "nftables",
        };
        let place = match self.place {
            Place::Local => "local",
            Place::Remote => "remote",
        };
        let backend = match self.backend {
            Backend::Deaf => "deaf",
            Backend::Answering => "answering",
        };
        format!("{balancer}, {place}, {backend}")
    }
}
