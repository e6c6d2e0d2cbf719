use super::*;
use crate::scaling::{
    checked::{Feature, ForecastPolicy},
    forecast::testing::policy,
};

const MINUTE: Duration = Duration::from_secs(60);

fn settings(features: &[Feature]) -> Settings {
    Settings::new(&ForecastPolicy { per_replica: Some(10.0), ..policy(features, 2 * MINUTE) }, None)
}

/// A load with a cycle of twenty minutes and some noise, which the last value is always behind.
fn wave(slot: u64) -> f64 {
    let noise = (slot.wrapping_mul(2_654_435_761) >> 7) % 100;
    100.0 + 50.0 * (slot as f64 * std::f64::consts::TAU / 80.0).sin() + noise as f64 / 25.0
}

fn fed(settings: Settings, samples: std::ops::Range<u64>, load: impl Fn(u64) -> f64) -> Forecaster {
    let mut forecaster = Forecaster::new(settings);
    samples.for_each(|slot| forecaster.sample(slot, Some(load(slot))));
    forecaster
}

#[test]
fn a_load_with_a_shape_is_foreseen() {
    let features = [Feature::Lag(MINUTE), Feature::Mean(5 * MINUTE)];
    let forecaster = fed(settings(&features), 1000..1400, wave);
    let outlook = forecaster.outlook().unwrap();
    let comes = wave(1399 + 8);
    assert!((outlook.expected - comes).abs() < 15.0, "{outlook:?}, {comes} comes");
    assert_eq!(outlook.replicas, (outlook.upper / 10.0).ceil() as u32);
    let backtest = forecaster.backtest();
    assert!(backtest.loss < 0.5 * backtest.last_value_loss, "{backtest:?}");
    assert!((0.85..=0.97).contains(&backtest.coverage), "{backtest:?}");
    let why = forecaster.why("inFlight");
    assert!(why.starts_with("inFlight in 2m is ") && why.contains(", at 0.9 not above "), "{why}");
    assert!(why.ends_with("; one replica carries 10"), "{why}");
}

/// What it says on its way from nothing to a forecast, and where it can go from there.
#[test]
fn why_it_is_off_is_said() {
    let features = [Feature::Lag(MINUTE)];
    let mut forecaster = Forecaster::new(settings(&features));
    let mut said = vec![forecaster.why("load")];
    for slot in 1000..1120 {
        forecaster.sample(slot, Some(wave(slot)));
        let why = forecaster.why("load");
        let kind = |why: &str| why.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().to_owned();
        if said.last().map(|last| kind(last)) != Some(kind(&why)) {
            said.push(why);
        }
    }
    assert_eq!(said[0], "off: the load is not known");
    assert_eq!(said[1], "off: too little history: 0 of 20 rows");
    assert_eq!(said[2], "off: only 0 of 9 forecasts have been put to the test");
    assert!(said[3].starts_with("load in 2m is "), "{said:?}");
    assert_eq!(said.len(), 4, "{said:?}");
    forecaster.sample(1120, None);
    assert_eq!(forecaster.outlook(), Err(&Off::NoLoad));
    forecaster.sample(1121, Some(wave(1121)));
    assert!(forecaster.outlook().is_ok());
    forecaster.sample(1124, Some(wave(1124)));
    assert_eq!(forecaster.outlook(), Err(&Off::Gap), "a minute before it nothing was known");
}

#[test]
fn no_better_than_the_last_value_is_off() {
    let mut walk = 500.0;
    let mut random = 88_172_645_463_325_252u64;
    let mut forecaster = Forecaster::new(settings(&[Feature::HourOfDay, Feature::Rate(MINUTE)]));
    let (mut off, mut on) = (0, 0);
    for slot in 1000..2500 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        walk += if random.is_multiple_of(2) { 1.0 } else { -1.0 };
        forecaster.sample(slot, Some(walk));
        match forecaster.outlook() {
            Ok(_) => on += 1,
            Err(Off::NoBetter(backtest)) => {
                assert!(backtest.loss >= backtest.last_value_loss);
                assert!(forecaster.why("load").contains("no better than the last value: pinball loss "));
                off += 1;
            }
            Err(_) => {}
        }
    }
    assert!(off > on, "nothing foresees a random walk: off {off}, on {on}");
}

#[test]
fn given_coefficients_are_used_as_they_are() {
    let coefficients =
        [("intercept", 1.0), ("lag:0s", 0.5), ("rate", 2.0)].map(|(name, value)| (name.to_owned(), value));
    let policy = ForecastPolicy {
        coefficients: Some(coefficients.into()),
        per_replica: Some(10.0),
        ..policy(&[Feature::Lag(Duration::ZERO), Feature::Rate(MINUTE)], 2 * MINUTE)
    };
    let forecaster = fed(Settings::new(&policy, None), 1000..1010, |slot| (slot * 15) as f64);
    let expected = 1.0 + 0.5 * 1009.0 * 15.0 + 2.0 * 1.0;
    let point = forecaster.latest().unwrap().point;
    assert!((point / expected - 1.0).abs() < 1e-2, "{point} is not {expected}");
    assert!(forecaster.model().unwrap().regression.is_none());
}

#[test]
fn capacity_is_measured_where_nobody_says_it() {
    let policy = ForecastPolicy { per_replica: None, ..policy(&[Feature::Lag(MINUTE)], 2 * MINUTE) };
    let mut forecaster = Forecaster::new(Settings::new(&policy, Some(80.0)));
    for second in 15_000..15 * 1_400 {
        let load = wave(second / 15);
        // Four replicas, each with 1 % of CPU idle and 2 % for every unit of load.
        let pair = Some((load / 4.0, 1.0 + 2.0 * load / 4.0));
        forecaster.observe(SystemTime::UNIX_EPOCH + Duration::from_secs(second), Reading { load: Some(load), pair });
    }
    let outlook = forecaster.outlook().unwrap();
    assert!((outlook.per_replica - 39.5).abs() < 0.5, "{outlook:?}");
    let nobody = fed(Settings::new(&policy, None), 1000..1400, wave);
    assert_eq!(nobody.outlook(), Err(&Off::NoCapacity));
}

#[test]
fn another_policy_keeps_the_history_and_forgets_the_rest() {
    let features = [Feature::Lag(MINUTE)];
    let mut forecaster = fed(settings(&features), 1000..1400, wave);
    let before = forecaster.outlook().copied().unwrap();
    let twice = ForecastPolicy { per_replica: Some(20.0), ..policy(&features, 2 * MINUTE) };
    forecaster.configure(Settings::new(&twice, None));
    forecaster.sample(1400, Some(wave(1400)));
    let after = forecaster.outlook().copied().unwrap();
    assert!(after.per_replica == 20.0 && after.replicas < before.replicas, "{before:?} {after:?}");
    forecaster.configure(Settings::new(&policy(&features, 4 * MINUTE), Some(1.0)));
    assert_eq!((forecaster.samples(), forecaster.backtest().forecasts), (401, 0));
    assert!(forecaster.model().is_ok());
}

#[test]
fn floors_are_whole_replicas() {
    for (load, each, wanted) in [(0.0, 8.0, 0), (8.0, 8.0, 1), (8.001, 8.0, 1), (8.1, 8.0, 2), (1e300, 1e-9, u32::MAX)]
    {
        assert_eq!(replicas(load, each), wanted, "{load} by {each}");
    }
}

#[test]
fn figures_are_for_people() {
    for (value, shown) in
        [(0.0, "0"), (1234.5678, "1235"), (12.34567, "12.35"), (0.001234, "0.001234"), (10.0, "10"), (-2.5, "-2.5")]
    {
        assert_eq!(figure(value), shown);
    }
}
