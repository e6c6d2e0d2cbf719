//! How likely a frontend's selection table leads to each backend.

use std::collections::BTreeMap;

use lb_common::{Algorithm, Frontend, Selection, service::TableKind};

use crate::cli::view::View;

/// The run of slots of a frontend's table; empty if there is no backend.
pub fn slots(view: &View, table: Selection) -> &[u64] {
    if table.len == 0 {
        return &[];
    }
    view.tables.slots.get(&table.offset).map_or(&[], Vec::as_slice)
}

/// The probability of each backend for a client nothing is known of: 0..=1, summing to 1.
pub fn of(view: &View, frontend: &Frontend, table: Selection) -> BTreeMap<u32, f64> {
    let slots = slots(view, table);
    let Some(algorithm) = Algorithm::from_number(frontend.algorithm) else { return BTreeMap::new() };
    match (algorithm.table(), algorithm) {
        (TableKind::Alias, Algorithm::LeastConnections) => best_of_two(&alias(slots), |index| score(view, index)),
        (TableKind::Alias, _) => alias(slots),
        (TableKind::Sequence | TableKind::Maglev, _) => shares(slots),
    }
}

/// Each slot is equally likely.
fn shares(slots: &[u64]) -> BTreeMap<u32, f64> {
    let mut odds = BTreeMap::new();
    for slot in slots {
        *odds.entry(*slot as u32).or_default() += 1.0 / slots.len() as f64;
    }
    odds
}

/// Each pair is equally likely; its threshold divides it between owner and alias.
fn alias(slots: &[u64]) -> BTreeMap<u32, f64> {
    let pairs = slots.len() / 2;
    let mut odds = BTreeMap::new();
    for pair in slots.chunks_exact(2) {
        let owner = (pair[0] >> 32) as f64 / f64::from(u32::MAX);
        *odds.entry(pair[0] as u32).or_default() += owner / pairs as f64;
        if owner < 1.0 {
            *odds.entry(pair[1] as u32).or_default() += (1.0 - owner) / pairs as f64;
        }
    }
    odds
}

/// What least-connections compares: (active + pending + remote + 1) / weight, as numerator and denominator.
pub fn score(view: &View, index: u32) -> (u64, u64) {
    let load = view.counters(index).load;
    let weight = view.tables.backends.get(&index).map_or(1, |backend| backend.effective_weight.max(1));
    (load.active + load.pending + load.sockets + load.remote + 1, u64::from(weight))
}

/// Two choices by `odds`, the lower score wins, the first if they are equal.
fn best_of_two(odds: &BTreeMap<u32, f64>, score: impl Fn(u32) -> (u64, u64)) -> BTreeMap<u32, f64> {
    let mut won: BTreeMap<u32, f64> = odds.keys().map(|index| (*index, 0.0)).collect();
    for (first, chance_first) in odds {
        for (second, chance_second) in odds {
            let ((load_a, weight_a), (load_b, weight_b)) = (score(*first), score(*second));
            let winner = if load_a * weight_b <= load_b * weight_a { first } else { second };
            *won.entry(*winner).or_default() += chance_first * chance_second;
        }
    }
    won
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(odds: &BTreeMap<u32, f64>, expected: &[(u32, f64)]) {
        assert_eq!(odds.len(), expected.len(), "{odds:?}");
        for (index, chance) in expected {
            assert!((odds[index] - chance).abs() < 1e-6, "{odds:?}");
        }
    }

    fn pair(owner: u32, chance: f64, alias: u32) -> [u64; 2] {
        [((chance * f64::from(u32::MAX)) as u64) << 32 | u64::from(owner), u64::from(alias)]
    }

    #[test]
    fn a_sequence_gives_its_shares() {
        close(&shares(&[0, 0, 1, 0]), &[(0, 0.75), (1, 0.25)]);
        close(&shares(&[]), &[]);
    }

    #[test]
    fn an_alias_table_gives_its_weights() {
        // Weights 3 : 1.
        let slots = [pair(0, 1.0, 0), pair(1, 0.5, 0)].concat();
        close(&alias(&slots), &[(0, 0.75), (1, 0.25)]);
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        let odds = BTreeMap::from([(0, 0.5), (1, 0.5)]);
        // Backend 1 loses unless it is drawn twice.
        close(&best_of_two(&odds, |index| if index == 0 { (1, 100) } else { (9, 100) }), &[(0, 0.75), (1, 0.25)]);
        // Equal scores: as if there were one choice.
        close(&best_of_two(&odds, |_| (4, 100)), &[(0, 0.5), (1, 0.5)]);
        // Twice the load on twice the weight is equal.
        close(&best_of_two(&odds, |index| if index == 0 { (2, 100) } else { (4, 200) }), &[(0, 0.5), (1, 0.5)]);
    }
}
