//! The forecast of one policy: takes the load as it is measured, keeps its history, refits, and says how many replicas the load at the
//! horizon needs, or why it says nothing. Time comes with the readings; the same readings give the same answers.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    capacity::{Capacity, Pairs, Unknown},
    conformal::{Conformal, Issued},
    features::{Regressor, regressors, with_now},
    model::{Model, Unfit},
    series::{Gather, STEP, Series, slot, slots},
};
use crate::scaling::checked::ForecastPolicy;

/// Forecasts that the rolling backtest compares.
pub const COMPARED: usize = 500;

/// Comparisons below which nothing is concluded, and horizons that they have to fill: neighbours have most of what comes in common.
const COMPARED_LEAST: usize = 40;
const COMPARED_HORIZONS: u64 = 4;

/// Samples after which a model is fitted again at the latest: an hour.
const REFIT: u64 = 240;

/// What is to be foreseen, and for what.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub(super) regressors: Vec<Regressor>,
    /// Samples ahead.
    pub(super) horizon: u64,
    pub(super) quantile: f64,
    coefficients: Option<BTreeMap<String, f64>>,
    per_replica: Option<f64>,
    /// The value of the saturating signal at which a replica is full, where its capacity is to be measured.
    limit: Option<f64>,
}

impl Settings {
    /// As the policy says. `limit` is the value at which the signal beside the load counts as saturated.
    pub fn new(policy: &ForecastPolicy, limit: Option<f64>) -> Self {
        let regressors = match &policy.coefficients {
            Some(_) => regressors(&policy.features),
            None => with_now(&policy.features),
        };
        Self {
            regressors,
            horizon: slots(policy.horizon).max(1),
            quantile: policy.quantile,
            coefficients: policy.coefficients.clone(),
            per_replica: policy.per_replica,
            limit,
        }
    }

    /// How far ahead, in whole samples.
    pub fn horizon(&self) -> Duration {
        STEP * self.horizon as u32
    }

    /// The probability with which the load is to stay below what is foreseen.
    pub const fn quantile(&self) -> f64 {
        self.quantile
    }

    /// What a remembered model and its errors belong to.
    pub(super) fn key(&self) -> String {
        let names = self.regressors.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(",");
        format!("{names} {} {} {:?}", self.horizon, self.quantile, self.coefficients)
    }
}

/// A reading, about once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// The load of all replicas together.
    pub load: Option<f64>,
    /// The load of one replica, and the saturating signal.
    pub pair: Option<(f64, f64)>,
}

/// The forecast of one policy.
#[derive(Clone, Debug)]
pub struct Forecaster {
    pub(super) settings: Settings,
    gathers: [Gather; 3],
    pub(super) series: Series,
    pub(super) pairs: Pairs,
    model: Result<Model, Unfit>,
    /// The number after the last sample that the model was fitted to.
    pub(super) fitted: u64,
    pub(super) ours: Conformal,
    pub(super) last: Conformal,
    pub(super) pending: VecDeque<Pending>,
    pub(super) compared: VecDeque<Compared>,
    capacity: Result<Capacity, Unknown>,
    outlook: Result<Outlook, Off>,
}

/// Forecasts that wait for what comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pending {
    pub(super) slot: u64,
    pub(super) ours: Option<Issued>,
    pub(super) last: Issued,
}

/// How good two forecasts of the same moment were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    pub(super) ours: f32,
    pub(super) last: f32,
    pub(super) held: bool,
}

/// What is foreseen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// The load that is expected at the horizon.
    pub expected: f64,
    /// What it will not exceed, with the policy's quantile as the probability.
    pub upper: f64,
    /// The load that one replica carries.
    pub per_replica: f64,
    /// The replicas that this needs.
    pub replicas: u32,
}

/// Why there is no forecast.
#[derive(Clone, Debug, PartialEq)]
pub enum Off {
    /// Nothing was measured yet, or not lately.
    NoLoad,
    /// There is no model.
    Unfit(Unfit),
    /// A feature looks back into a gap.
    Gap,
    /// Too few of its forecasts have come true or not.
    Untried {
        /// So many have.
        found: usize,
        /// So many are needed.
        wanted: usize,
    },
    /// It is no better than the last value.
    NoBetter(Backtest),
    /// What a replica carries is not known.
    Capacity(Unknown),
    /// Nothing says what a replica carries.
    NoCapacity,
}

/// The rolling backtest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backtest {
    /// Forecasts compared.
    pub forecasts: usize,
    /// The part of what came that was not above the bound.
    pub coverage: f64,
    /// Mean pinball loss of the bound, in the load's unit.
    #[serde(rename = "pinballLoss")]
    pub loss: f64,
    /// The same of the last value with the same conformal step.
    #[serde(rename = "lastValuePinballLoss")]
    pub last_value_loss: f64,
}

impl Forecaster {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        let conformal = Conformal::new(settings.quantile);
        let model = match &settings.coefficients {
            Some(coefficients) => Ok(Model::given(coefficients, &settings.regressors)),
            None => Err(Unfit::TooFew { found: 0, wanted: 0 }),
        };
        let mut forecaster = Self {
            gathers: Default::default(),
            series: Series::default(),
            pairs: Pairs::default(),
            model,
            fitted: 0,
            ours: conformal.clone(),
            last: conformal,
            pending: VecDeque::new(),
            compared: VecDeque::new(),
            capacity: Err(Unknown::TooFew { found: 0 }),
            outlook: Err(Off::NoLoad),
            settings,
        };
        forecaster.measure();
        forecaster
    }

    /// The policy has changed. What was learned about another question is forgotten; the history is not.
    pub fn configure(&mut self, settings: Settings) {
        if self.settings == settings {
            return;
        }
        let (series, pairs) = (std::mem::take(&mut self.series), std::mem::take(&mut self.pairs));
        let before = std::mem::replace(self, Self::new(settings));
        if before.settings.key() == self.settings.key() {
            let settings = self.settings.clone();
            *self = Self { settings, ..before };
        }
        (self.series, self.pairs) = (series, pairs);
        self.fitted = self.series.end();
        self.refit();
        self.measure();
    }

    /// Takes a reading. True when it completed a sample, so that there is something new to say.
    pub fn observe(&mut self, wall: SystemTime, reading: Reading) -> bool {
        let slot = slot(wall);
        let pair = reading.pair.unzip();
        let [load, of_replica, signal] = &mut self.gathers;
        let pair = (of_replica.take(slot, pair.0), signal.take(slot, pair.1));
        let Some((slot, load)) = load.take(slot, reading.load) else {
            return false;
        };
        if let (Some((_, Some(load))), Some((_, Some(signal)))) = pair {
            self.pairs.record(load, signal);
        }
        self.sample(slot, load);
        true
    }

    /// Takes a sample.
    pub fn sample(&mut self, slot: u64, load: Option<f64>) {
        if !self.series.record(slot, load) {
            return;
        }
        let load = self.series.value(slot);
        self.settle(slot, load);
        if self.due() {
            self.fitted = self.series.end();
            self.refit();
            self.measure();
        }
        self.outlook = self.look(slot, load);
    }

    /// What is foreseen, or why nothing is.
    pub const fn outlook(&self) -> Result<&Outlook, &Off> {
        self.outlook.as_ref()
    }

    /// The last forecast, in force or not.
    pub fn latest(&self) -> Option<Issued> {
        let newest = self.pending.back().filter(|newest| newest.slot + 1 == self.series.end())?;
        newest.ours
    }

    /// The regression, or the given coefficients; an error says why there is none.
    pub const fn model(&self) -> Result<&Model, &Unfit> {
        self.model.as_ref()
    }

    /// What a replica carries.
    pub const fn capacity(&self) -> Result<&Capacity, &Unknown> {
        self.capacity.as_ref()
    }

    /// The settings.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Samples in the history, gaps included.
    pub fn samples(&self) -> u64 {
        self.series.len()
    }

    /// How good its last forecasts were.
    pub fn backtest(&self) -> Backtest {
        let forecasts = self.compared.len();
        let mean = |of: &dyn Fn(&Compared) -> f64| self.compared.iter().map(of).sum::<f64>() / forecasts.max(1) as f64;
        Backtest {
            forecasts,
            coverage: mean(&|one| f64::from(u8::from(one.held))),
            loss: mean(&|one| f64::from(one.ours)),
            last_value_loss: mean(&|one| f64::from(one.last)),
        }
    }

    /// Compares what came with what was foreseen.
    fn settle(&mut self, slot: u64, load: Option<f64>) {
        let horizon = self.settings.horizon;
        while let Some(pending) = self.pending.front().copied().filter(|pending| pending.slot + horizon <= slot) {
            self.pending.pop_front();
            let Some(came) = load.filter(|_| pending.slot + horizon == slot) else {
                continue;
            };
            let last = self.last.learn(pending.last, came);
            let ours = pending.ours.and_then(|issued| self.ours.learn(issued, came));
            if let (Some(ours), Some(last)) = (ours, last) {
                self.compared.push_back(Compared { ours: ours.loss as f32, last: last.loss as f32, held: ours.held });
                self.compared.drain(..self.compared.len().saturating_sub(COMPARED));
            }
        }
    }

    /// At first with every sample, later with every fiftieth part of the history, at the latest after an hour.
    fn due(&self) -> bool {
        let since = self.series.end().checked_sub(self.fitted);
        since.is_none_or(|since| since >= (self.series.len() / 50).clamp(1, REFIT))
    }

    /// Fits the model to the history up to what it was last fitted to.
    pub(super) fn refit(&mut self) {
        let Settings { regressors, horizon, coefficients, .. } = &self.settings;
        if coefficients.is_none() {
            self.model = Model::fit(&self.series.window(0..self.fitted), regressors, *horizon);
        }
    }

    pub(super) fn measure(&mut self) {
        self.capacity = match (self.settings.per_replica, self.settings.limit) {
            (Some(per_replica), _) => Ok(Capacity { per_replica, regression: None }),
            (None, limit) => self.pairs.capacity(limit.unwrap_or_default()),
        };
    }

    fn look(&mut self, slot: u64, load: Option<f64>) -> Result<Outlook, Off> {
        let load = load.ok_or(Off::NoLoad)?;
        let horizon = self.settings.horizon;
        let point = self.model.as_ref().map(|model| model.foresee(&self.series, slot, horizon));
        let issue = |conformal: &Conformal, point| conformal.issue(point);
        let ours = point.as_ref().ok().copied().flatten().map(|point| issue(&self.ours, point));
        self.pending.push_back(Pending { slot, ours, last: issue(&self.last, load) });
        let expected = point.map_err(|unfit| Off::Unfit(unfit.clone()))?.ok_or(Off::Gap)?;
        let untried = Off::Untried { found: self.ours.known(), wanted: self.ours.wanted() };
        let upper = ours.and_then(|issued| issued.upper).ok_or(untried)?;
        let backtest = self.backtest();
        let wanted = ((COMPARED_HORIZONS * horizon) as usize).clamp(COMPARED_LEAST, COMPARED);
        if backtest.forecasts < wanted {
            return Err(Off::Untried { found: backtest.forecasts, wanted });
        }
        if backtest.loss >= backtest.last_value_loss {
            return Err(Off::NoBetter(backtest));
        }
        if self.settings.per_replica.is_none() && self.settings.limit.is_none() {
            return Err(Off::NoCapacity);
        }
        let per_replica = self.capacity.as_ref().map_err(|unknown| Off::Capacity(unknown.clone()))?.per_replica;
        Ok(Outlook { expected, upper, per_replica, replicas: replicas(upper, per_replica) })
    }
}

/// As many as the load needs. What a rounding error is above a whole number needs no replica more.
fn replicas(load: f64, per_replica: f64) -> u32 {
    const ROUNDING: f64 = 1e-3;
    (load / per_replica - ROUNDING).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLoad => f.write_str("the load is not known"),
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::Gap => f.write_str("a feature looks back to where the load was not known"),
            Self::Untried { found, wanted } => {
                write!(f, "only {found} of {wanted} forecasts have been put to the test")
            }
            Self::NoBetter(Backtest { forecasts, loss, last_value_loss, .. }) => {
                let (ours, last) = (figure(*loss), figure(*last_value_loss));
                write!(
                    f,
                    "no better than the last value: pinball loss {ours} against {last} over {forecasts} forecasts"
                )
            }
            Self::Capacity(unknown) => unknown.fmt(f),
            Self::NoCapacity => f.write_str("nothing says what one replica carries; give forecast.perReplica"),
        }
    }
}

/// A number for people: four digits.
pub fn figure(value: f64) -> String {
    let digits = if value == 0.0 { 0 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 6) };
    let text = format!("{value:.*}", digits as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl Forecaster {
    /// From what it says so many replicas, or why it says nothing. `signal` is the load's name.
    pub fn why(&self, signal: &str) -> String {
        match &self.outlook {
            Err(off) => format!("off: {off}"),
            Ok(Outlook { expected, upper, per_replica, .. }) => {
                let ahead = humantime::format_duration(self.settings.horizon());
                let [expected, upper, each] = [*expected, *upper, *per_replica].map(figure);
                let quantile = self.settings.quantile;
                format!(
                    "{signal} in {ahead} is {expected}, at {quantile} not above {upper}; one replica carries {each}"
                )
            }
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
