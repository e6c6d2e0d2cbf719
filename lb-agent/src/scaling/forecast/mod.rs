//! Prediction: foresees a policy's load at a horizon, and says how many replicas it will need.
//!
//! The load is sampled every 15 s ([`series`]). A multiple linear regression ([`ols`]) of the load at the horizon on what was known
//! before ([`features`]) is fitted to the last two weeks, again and again ([`model`]). How far it was off gives an upper bound
//! ([`conformal`]), and the load that one replica carries ([`capacity`]) turns that into replicas. [`engine`] holds it together, and
//! compares it all the while with the plainest of forecasts, that the load stays as it is: while the regression is no better, it is off.

pub mod capacity;
pub mod conformal;
pub mod engine;
pub mod features;
pub mod history;
pub mod model;
pub mod ols;
pub mod series;
pub mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod traces_figure;
#[cfg(test)]
mod traces_tests;
pub mod watch;

pub use engine::{Forecaster, Settings};
pub use history::HistoryError;
pub use status::ForecastReport;
pub use watch::Watch;
