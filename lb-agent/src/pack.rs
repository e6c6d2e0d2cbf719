//! Maps that take no more memory than they need.

use std::{collections::BTreeMap, mem};

/// Makes a map anew, in full nodes. One that was filled in the order of its keys has nodes that are half empty, since a node that
/// overflows is split in the middle.
pub(crate) fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = mem::take(map).into_iter().collect();
}
