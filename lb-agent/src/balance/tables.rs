//! Selection tables: what the packet path looks a backend up in, built from the backends and their weights.
//!
//! The three forms are those of [`TableKind`]; each has a module of its own. A backend of weight 0 is in no table.

use std::net::SocketAddr;

use lb_common::{Addr, service::TableKind};

use super::{alias, maglev, sequence};

/// One backend that takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index in the `backends` map, which may differ between nodes.
    pub backend: u32,
    /// Its effective weight.
    pub weight: u16,
    /// What stands for it on every node, see [`identity`].
    pub identity: u64,
}

/// A table as it goes into the `slots` map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The run of slots.
    pub slots: Vec<u64>,
    /// [`lb_common::Selection::len`]: slots, or pairs of an alias table.
    pub len: u32,
}

/// A backend's identity: a hash of its address and port, equal on every node.
pub fn identity(backend: SocketAddr) -> u64 {
    lb_common::hash::address(lb_common::hash::SELECTION_SEED, &Addr::from(backend.ip()), backend.port().into())
}

/// Builds the table of this kind. Without an entry of positive weight it is empty.
pub fn build(kind: TableKind, entries: &[Entry], maglev_size: u32) -> Built {
    let taking: Vec<Entry> = entries.iter().filter(|e| e.weight > 0).copied().collect();
    let slots = match kind {
        TableKind::Alias => alias::slots(&taking),
        TableKind::Sequence => sequence::slots(&taking),
        TableKind::Maglev => maglev::slots(&taking, maglev_size),
    };
    let width = if kind == TableKind::Alias { 2 } else { 1 };
    Built { len: (slots.len() / width) as u32, slots }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_zero_is_in_no_table() {
        let entries = [
            Entry { backend: 7, weight: 0, identity: 1 },
            Entry { backend: 8, weight: 3, identity: 2 },
            Entry { backend: 9, weight: 1, identity: 3 },
        ];
        for kind in [TableKind::Alias, TableKind::Sequence, TableKind::Maglev] {
            let built = build(kind, &entries, 251);
            assert!(built.len > 0);
            assert!(built.slots.iter().all(|slot| *slot as u32 != 7), "{kind:?}");
            for backend in [8, 9] {
                assert!(built.slots.iter().any(|slot| *slot as u32 == backend), "{kind:?}");
            }
        }
    }

    #[test]
    fn nobody_to_take_connections_is_an_empty_table() {
        let drained = [Entry { backend: 7, weight: 0, identity: 1 }];
        for kind in [TableKind::Alias, TableKind::Sequence, TableKind::Maglev] {
            assert_eq!(build(kind, &[], 251), Built::default());
            assert_eq!(build(kind, &drained, 251), Built::default());
        }
    }

    #[test]
    fn length_counts_pairs_of_an_alias_table() {
        let entries = [1, 2, 3].map(|n| Entry { backend: n, weight: 100, identity: n.into() });
        let lengths = [TableKind::Alias, TableKind::Sequence, TableKind::Maglev].map(|kind| {
            let built = build(kind, &entries, 251);
            (built.len, built.slots.len())
        });
        assert_eq!(lengths, [(3, 6), (3, 3), (251, 251)]);
    }

    #[test]
    fn identity_tells_ports_and_addresses_apart() {
        let of = |text: &str| identity(text.parse().unwrap());
        assert_eq!(of("10.0.0.1:80"), of("10.0.0.1:80"));
        assert_ne!(of("10.0.0.1:80"), of("10.0.0.1:81"));
        assert_ne!(of("10.0.0.1:80"), of("10.0.0.2:80"));
        assert_ne!(of("[fd00::1]:80"), of("10.0.0.1:80"));
    }
}
