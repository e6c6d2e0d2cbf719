//! Maglev tables (Eisenbud et al., NSDI 2016), weighted: consistent, so that a change of one backend moves little else.
//!
//! Each backend walks its own permutation of the slots and takes the first free one in each of its turns; a backend of half the
//! largest weight has every second turn. The first turn is everybody's, so that the smallest weight has a slot. Nothing depends on
//! the order of the entries or on their indexes: every node builds the same table of the same identities.

use super::Entry;

/// Table sizes and the largest number of backends each is for: at least 100 slots a backend, as in the paper, so that shares are equal
/// to 1 %, and 200 where there are more than ten. What a removal moves beyond its share falls with that number, and the kernel's memory
/// grows with it, 8 bytes a slot: ten thousand small Services have to fit. One backend takes all whatever the size. Crossing a step
/// moves more than one backend's share.
const STEPS: [(usize, u32); 8] =
    [(1, 2), (10, 1021), (20, 4093), (40, 8191), (80, 16_381), (160, 32_749), (320, 65_521), (usize::MAX, MAX_SIZE)];

/// The largest table.
pub const MAX_SIZE: u32 = 131_071;

/// The size, a prime, for this number of backends.
pub fn size_for(backends: usize) -> u32 {
    STEPS.iter().find(|(most, _)| backends <= *most).map_or(MAX_SIZE, |(_, size)| *size)
}

/// Whether a table may have this size.
pub fn is_valid_size(size: u32) -> bool {
    (2..=MAX_SIZE).contains(&size) && (2..).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d))
}

/// A backend that walks its permutation of the slots.
struct Walker {
    entry: Entry,
    next: u64,
    skip: u64,
    /// Earned parts of a turn; a turn costs the largest weight.
    earned: u32,
}

/// The slots for these entries, all of positive weight. `size` is a prime.
pub fn slots(entries: &[Entry], size: u32) -> Vec<u64> {
    let Some(largest) = entries.iter().map(|e| u32::from(e.weight)).max() else {
        return Vec::new();
    };
    let mut walkers: Vec<Walker> = entries.iter().map(|e| walker(*e, size.into(), largest)).collect();
    walkers.sort_by_key(|w| (w.entry.identity, w.entry.backend));
    let mut slots = vec![None; size as usize];
    let mut free = slots.len();
    while free > 0 {
        for walker in &mut walkers {
            walker.earned += u32::from(walker.entry.weight);
            if walker.earned >= largest && free > 0 {
                walker.earned -= largest;
                take(walker, &mut slots);
                free -= 1;
            }
        }
    }
    slots.into_iter().flatten().collect()
}

fn walker(entry: Entry, size: u64, largest: u32) -> Walker {
    let hash = lb_common::hash::mix(entry.identity);
    let skip = if size > 1 { (hash >> 32) % (size - 1) + 1 } else { 0 };
    Walker { entry, next: (hash & 0xffff_ffff) % size, skip, earned: largest - u32::from(entry.weight) }
}

/// Takes the first free slot of this permutation; there is one.
fn take(walker: &mut Walker, slots: &mut [Option<u64>]) {
    let size = slots.len() as u64;
    while slots[walker.next as usize].is_some() {
        walker.next = (walker.next + walker.skip) % size;
    }
    slots[walker.next as usize] = Some(walker.entry.backend.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(weights: &[u16]) -> Vec<Entry> {
        let identity = |i: usize| super::super::identity(([10, 0, (i >> 8) as u8, i as u8], 8080).into());
        weights
            .iter()
            .enumerate()
            .map(|(i, w)| Entry { backend: i as u32, weight: *w, identity: identity(i) })
            .collect()
    }

    /// Slots that changed although neither their old nor their new owner is the backend that changed, and all that changed, in
    /// parts of the table.
    fn moved(before: &[u64], after: &[u64], changed: u64) -> (f64, f64) {
        let differing = || before.iter().zip(after).filter(|(a, b)| a != b);
        let needless = differing().filter(|(a, b)| **a != changed && **b != changed).count();
        (needless as f64 / before.len() as f64, differing().count() as f64 / before.len() as f64)
    }

    #[test]
    fn sizes_are_primes_and_grow() {
        for (_, size) in STEPS {
            assert!(is_valid_size(size), "{size}");
        }
        for (bad, why) in [(0, "empty"), (1, "no skip"), (1024, "even"), (1_000_003, "too large")] {
            assert!(!is_valid_size(bad), "{bad}: {why}");
        }
        assert_eq!(
            [1, 2, 10, 11, 40, 41, 320, 321, 9999].map(size_for),
            [2, 1021, 1021, 4093, 8191, 16_381, 65_521, 131_071, 131_071]
        );
    }

    /// What removing any one of n equal backends moves, in 1/n of the table: the documented bounds, a little above what is measured
    /// (1.02, 1.08, 1.30, 1.40, 1.97).
    #[test]
    fn removing_one_moves_little_more_than_its_share() {
        for (n, bound) in [(3usize, 1.03), (5, 1.1), (10, 1.33), (30, 1.45), (100, 2.05)] {
            let size = size_for(n);
            let all = entries(&vec![100; n]);
            let before = slots(&all, size);
            let without = |gone: u32| all.iter().filter(|e| e.backend != gone).copied().collect::<Vec<_>>();
            let worst = (0..n as u32)
                .map(|gone| moved(&before, &slots(&without(gone), size), gone.into()).1)
                .fold(0.0, f64::max);
            println!("n {n}, size {size}: worst {:.3}/n", worst * n as f64);
            assert!(worst * n as f64 <= bound, "n {n}: worst {:.3}/n", worst * n as f64);
        }
    }

    #[test]
    fn halving_one_weight_moves_little_more_than_the_difference() {
        let mut weights = vec![100u16; 10];
        let before = slots(&entries(&weights), 4093);
        weights[4] = 50;
        let (needless, all) = moved(&before, &slots(&entries(&weights), 4093), 4);
        println!("needless {needless:.4}, all {all:.4}");
        assert!(needless <= 0.02 && all <= 0.05 + 0.02);
    }

    #[test]
    fn shares_follow_the_weights() {
        for weights in [vec![100u16; 10], vec![1, 2, 3, 4], vec![300, 100, 100, 50, 50], vec![100; 40]] {
            let size = size_for(weights.len());
            let table = slots(&entries(&weights), size);
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (i, weight) in weights.iter().enumerate() {
                let got = table.iter().filter(|slot| **slot == i as u64).count() as f64;
                let wanted = f64::from(*weight) / total * f64::from(size);
                assert!((got - wanted).abs() <= 2.0, "{weights:?} backend {i}: {got} of {wanted}");
            }
        }
    }

    #[test]
    fn the_lightest_has_a_slot() {
        let table = slots(&entries(&[65535, 1]), 1021);
        assert_eq!(table.iter().filter(|slot| **slot == 1).count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn order_and_indexes_do_not_matter(weights in proptest::collection::vec(1u16.., 1..30), turn in 0usize..30) {
            let original = entries(&weights);
            let mut other: Vec<Entry> = original.iter().map(|e| Entry { backend: 1000 - e.backend, ..*e }).collect();
            let turn = turn % other.len();
            other.rotate_left(turn);
            let renamed: Vec<u64> = slots(&other, 251).iter().map(|slot| 1000 - slot).collect();
            proptest::prop_assert_eq!(slots(&original, 251), renamed);
        }
    }
}
