//! Alias tables (Walker 1977, in Vose's form): a weighted random choice in two reads, each share exact to 2^-32.

use super::Entry;

/// The slots for these entries, all of positive weight: see [`lb_common::service::TableKind::Alias`].
///
/// Every entry gets a bin of capacity `total`. What a light entry leaves of its bin is given to a heavy one, until all are full.
pub fn slots(entries: &[Entry]) -> Vec<u64> {
    let total: u64 = entries.iter().map(|e| u64::from(e.weight)).sum();
    let mut left: Vec<u64> = entries.iter().map(|e| u64::from(e.weight) * entries.len() as u64).collect();
    let (mut light, mut heavy): (Vec<usize>, Vec<usize>) = (0..entries.len()).partition(|i| left[*i] < total);
    let mut slots: Vec<u64> = entries.iter().flat_map(|e| own_bin(e.backend)).collect();
    while let (Some(small), Some(large)) = (light.pop(), heavy.pop()) {
        let threshold = (u128::from(left[small]) << 32) / u128::from(total);
        slots[2 * small] = (threshold as u64) << 32 | u64::from(entries[small].backend);
        slots[2 * small + 1] = entries[large].backend.into();
        left[large] -= total - left[small];
        if left[large] < total { light.push(large) } else { heavy.push(large) }
    }
    slots
}

/// A bin with one owner: the threshold decides nothing, both ways lead to it.
fn own_bin(backend: u32) -> [u64; 2] {
    [u64::from(u32::MAX) << 32 | u64::from(backend), backend.into()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entries(weights: &[u16]) -> Vec<Entry> {
        let entry = |(i, w): (usize, &u16)| Entry { backend: i as u32 + 10, weight: *w, identity: i as u64 };
        weights.iter().enumerate().map(entry).collect()
    }

    /// The share of each backend in 2^-32 of a bin, added over the bins.
    fn shares(slots: &[u64]) -> BTreeMap<u32, u128> {
        let mut shares = BTreeMap::new();
        for pair in slots.chunks(2) {
            let (threshold, backend, alias) = ((pair[0] >> 32) as u128, pair[0] as u32, pair[1] as u32);
            *shares.entry(backend).or_insert(0) += threshold;
            *shares.entry(alias).or_insert(0) += (1u128 << 32) - threshold;
        }
        shares
    }

    proptest::proptest! {
        #[test]
        fn shares_are_exact(weights in proptest::collection::vec(1u16.., 1..200)) {
            let entries = entries(&weights);
            let total: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            let n = weights.len() as u128;
            let shares = shares(&slots(&entries));
            for entry in &entries {
                let wanted = u128::from(entry.weight) * n * (1 << 32) / total;
                let got = shares.get(&entry.backend).copied().unwrap_or(0);
                // One part of 2^-32 is lost at most in each bin this entry has a part in.
                proptest::prop_assert!(got.abs_diff(wanted) <= n, "{entry:?}: {got} of {wanted}");
            }
        }
    }

    /// Chi-square of 1,000,000 draws against the weights; the limit is the 99.9 % point for 7 degrees of freedom.
    #[test]
    fn draws_follow_the_weights() {
        let weights = [1u16, 5, 20, 100, 100, 250, 999, 3000];
        let slots = slots(&entries(&weights));
        let mut counts = [0u64; 8];
        let mut random = 42u64;
        for _ in 0..1_000_000 {
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let draw = lb_common::hash::mix(random);
            let pair = lb_common::hash::scale(draw, weights.len() as u32) as usize;
            let own = u64::from(draw as u32) < slots[2 * pair] >> 32;
            counts[if own { slots[2 * pair] } else { slots[2 * pair + 1] } as u32 as usize - 10] += 1;
        }
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let chi: f64 = weights
            .iter()
            .zip(counts)
            .map(|(w, seen)| {
                let wanted = 1_000_000.0 * f64::from(*w) / total;
                (seen as f64 - wanted).powi(2) / wanted
            })
            .sum();
        assert!(chi < 24.32, "chi-square {chi}: {counts:?}");
    }
}
