//! Sequence tables: one period of the smooth weighted round robin that nginx made known (weights 5, 1, 1 give a a b a c a a).

use super::Entry;

/// The longest period. Up to it the shares are exact, beyond it to 1/65536 per backend.
pub const MAX_PERIOD: u64 = 65_536;

/// One period for these entries, all of positive weight.
pub fn slots(entries: &[Entry]) -> Vec<u64> {
    let weights = reduced(&entries.iter().map(|e| u64::from(e.weight)).collect::<Vec<_>>());
    interleave(&weights).into_iter().map(|i| entries[i].backend.into()).collect()
}

/// The weights with a common divisor taken out, and scaled so that their sum is at most [`MAX_PERIOD`] (or their number, if that
/// is larger: each keeps at least 1).
fn reduced(weights: &[u64]) -> Vec<u64> {
    let exact = without_common_divisor(weights);
    if exact.iter().sum::<u64>() <= MAX_PERIOD { exact } else { without_common_divisor(&scaled(&exact)) }
}

fn without_common_divisor(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().map(|w| w / divisor).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Scales down to [`MAX_PERIOD`]: what is too light for a slot gets one, the others share the rest, rounded down.
fn scaled(weights: &[u64]) -> Vec<u64> {
    let mut light = vec![false; weights.len()];
    loop {
        let room = MAX_PERIOD.saturating_sub(light.iter().filter(|l| **l).count() as u64);
        let heavy: u64 = weights.iter().zip(&light).filter(|(_, l)| !**l).map(|(w, _)| w).sum();
        let share = |w: u64, light: bool| if light { 1 } else { w * room / heavy };
        let shares: Vec<u64> = weights.iter().zip(&light).map(|(w, l)| share(*w, *l)).collect();
        if shares.iter().all(|share| *share > 0) {
            return shares;
        }
        light.iter_mut().zip(&shares).for_each(|(l, share)| *l |= *share == 0);
    }
}

/// In each step every entry earns its weight, the richest is chosen (the first of equals) and pays the total.
fn interleave(weights: &[u64]) -> Vec<usize> {
    if weights.iter().all(|w| *w == 1) {
        return (0..weights.len()).collect();
    }
    let total: i64 = weights.iter().sum::<u64>() as i64;
    let mut earned = vec![0i64; weights.len()];
    (0..total).map(|_| step(&mut earned, weights, total)).collect()
}

fn step(earned: &mut [i64], weights: &[u64], total: i64) -> usize {
    let mut richest = 0;
    for i in 0..earned.len() {
        earned[i] += weights[i] as i64;
        if earned[i] > earned[richest] {
            richest = i;
        }
    }
    earned[richest] -= total;
    richest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(weights: &[u16]) -> Vec<u64> {
        let entry = |(i, w): (usize, &u16)| Entry { backend: i as u32, weight: *w, identity: i as u64 };
        slots(&weights.iter().enumerate().map(entry).collect::<Vec<_>>())
    }

    fn letters(weights: &[u16]) -> String {
        period(weights).into_iter().map(|slot| char::from(b'a' + slot as u8)).collect()
    }

    #[test]
    fn sequences() {
        let cases: &[(&[u16], &str)] = &[
            (&[5, 1, 1], "aabacaa"),
            (&[500, 100, 100], "aabacaa"),
            (&[1, 1, 1], "abc"),
            (&[100, 100], "ab"),
            (&[2, 1], "aba"),
            (&[4, 2, 3], "acbacabca"),
            (&[65535], "a"),
        ];
        for (weights, wanted) in cases {
            assert_eq!(letters(weights), *wanted, "{weights:?}");
        }
    }

    #[test]
    fn long_periods_keep_everybody_and_the_shares_to_a_slot() {
        let weights = [65535, 65534, 40001, 1, 1, 17];
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let period = period(&weights);
        assert!(period.len() as u64 <= MAX_PERIOD && period.len() as u64 > MAX_PERIOD - weights.len() as u64);
        for (i, weight) in weights.iter().enumerate() {
            let got = period.iter().filter(|slot| **slot == i as u64).count() as u64;
            let wanted = u64::from(*weight) * MAX_PERIOD / total;
            assert!(got >= 1 && got.abs_diff(wanted) <= 2, "backend {i}: {got} of {wanted}");
        }
    }

    proptest::proptest! {
        #[test]
        fn exact_and_smooth(weights in proptest::collection::vec(1u16..60, 1..12)) {
            let period = period(&weights);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let divisor = total / period.len() as u64;
            for (i, weight) in weights.iter().enumerate() {
                let mut seen = 0u64;
                for (step, slot) in period.iter().enumerate() {
                    seen += u64::from(*slot == i as u64);
                    // Smooth: no backend is ever further from its due than the number of its rivals.
                    let due = u64::from(*weight) * (step as u64 + 1) / total;
                    proptest::prop_assert!(seen.abs_diff(due) <= weights.len() as u64);
                }
                proptest::prop_assert_eq!(seen * divisor, u64::from(*weight));
            }
        }
    }
}
