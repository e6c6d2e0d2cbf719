use std::time::Duration;

use super::*;
use crate::scaling::{
    checked::{Feature, ForecastPolicy},
    forecast::{engine::Settings, testing::policy},
};

const MINUTE: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    let features = [Feature::Lag(MINUTE), Feature::Mean(5 * MINUTE)];
    Settings::new(&ForecastPolicy { per_replica: Some(1.0), ..policy(&features, 2 * MINUTE) }, None)
}

fn load(slot: u64) -> Option<f64> {
    let noise = (slot.wrapping_mul(2_654_435_761) >> 7) % 1000;
    (noise > 5).then(|| 100.0 + 30.0 * (slot as f64 / 40.0).sin() + noise as f64 / 100.0)
}

/// A new leader says what the old one would have said.
#[test]
fn a_memory_goes_on_where_it_ended() {
    let mut old = Forecaster::new(settings());
    (5000..5600).for_each(|slot| old.sample(slot, load(slot)));
    (0..50).for_each(|at| old.pairs.record(f64::from(at), f64::from(at) * 2.0));
    let mut new = Forecaster::new(settings());
    new.recall(&old.remember()).unwrap();
    assert_eq!((&new.series, &new.pairs, new.backtest()), (&old.series, &old.pairs, old.backtest()));
    assert_eq!(new.model(), old.model());
    for slot in 5600..5900 {
        old.sample(slot, load(slot));
        new.sample(slot, load(slot));
        match (new.outlook(), old.outlook()) {
            (Ok(new), Ok(old)) => {
                assert!((new.upper / old.upper - 1.0).abs() < 1e-5, "{new:?} {old:?}");
                assert_eq!(new.replicas, old.replicas);
            }
            (new, old) => assert_eq!(new, old),
        }
    }
    assert!(old.outlook().is_ok());
}

#[test]
fn a_memory_of_another_policy_is_only_its_history() {
    let mut old = Forecaster::new(settings());
    (5000..5600).for_each(|slot| old.sample(slot, load(slot)));
    let other = policy(&[Feature::Lag(MINUTE)], 5 * MINUTE);
    let mut new = Forecaster::new(Settings::new(&other, None));
    new.recall(&old.remember()).unwrap();
    assert_eq!(new.series, old.series);
    assert_eq!((new.ours.known(), new.pending.len(), new.compared.len()), (0, 0, 0));
    assert!(new.model().is_ok(), "fitted to what is there");
}

#[test]
fn the_longest_memory_is_small_enough() {
    let far = ForecastPolicy { quantile: 0.999, ..policy(&[Feature::Lag(MINUTE)], 1440 * MINUTE) };
    let mut full = Forecaster::new(Settings::new(&far, Some(1.0)));
    let mut random = 88_172_645_463_325_252u64;
    let mut noise = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Over all sizes that a load can have: nothing for gzip to find.
        10f64.powf((random >> 11) as f64 / (1u64 << 53) as f64 * 18.0 - 6.0)
    };
    for slot in 0..ROOM as u64 + 10 {
        full.series.record(slot, Some(noise()));
    }
    (0..capacity::ROOM).for_each(|_| full.pairs.record(noise(), noise()));
    for slot in 0..6000 {
        let issued = Issued { point: noise(), upper: Some(noise()) };
        full.ours.learn(issued, noise());
        full.last.learn(issued, noise());
        full.pending.push_back(Pending { slot, ours: Some(issued), last: issued });
        full.compared.push_back(Compared { ours: noise() as f32, last: noise() as f32, held: slot % 2 == 0 });
    }
    full.compared.truncate(COMPARED);
    let bytes = full.remember();
    assert!(bytes.len() <= LIMIT, "{} bytes", bytes.len());
    let mut again = Forecaster::new(full.settings.clone());
    again.recall(&bytes).unwrap();
    assert_eq!(again.series, full.series);
}

#[test]
fn a_damaged_memory_is_refused() {
    let mut old = Forecaster::new(settings());
    (5000..5100).for_each(|slot| old.sample(slot, load(slot)));
    let bytes = old.remember();
    let refused = |bytes: &[u8]| {
        let mut new = Forecaster::new(settings());
        let error = new.recall(bytes).unwrap_err();
        assert!(new.series.is_empty(), "nothing is half recalled");
        error
    };
    assert_eq!(refused(&[]).to_string(), "the forecast's history is damaged (it is empty); it begins anew");
    assert_eq!(refused(&[9, 1, 2]), HistoryError::Version { found: 9 });
    for end in [1, 5, 20, bytes.len() / 2, bytes.len() - 1] {
        refused(&bytes[..end]);
    }
    let mut short = Out::default();
    short.text("key");
    short.number(5);
    short.number(10);
    assert!(refused(&short.compressed()).to_string().contains("it ends too early"));
    let mut long = Out::default();
    long.text("key");
    long.number(5);
    long.number(u64::MAX);
    assert!(refused(&long.compressed()).to_string().contains("too many samples"));
}
