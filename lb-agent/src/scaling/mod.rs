//! Scaling: decides how many replicas of a Service there should be from what its backends carry, and has it done.

pub mod actuator;
pub mod asked;
pub mod checked;
pub mod command;
pub mod decide;
pub mod decision;
pub mod demand;
pub mod floor;
pub mod forecast;
pub mod holds;
pub mod knocks;
pub mod observation;
pub mod pace;
pub mod policy;
pub mod replicas;
pub mod restraint;
pub mod rules;
pub mod scaler;
pub mod signal;
pub mod signals;
pub mod status;
pub mod targets;
pub mod vertical;
pub mod voice;

pub use checked::{Place, Policy, PolicyError, PolicyId, validate};
pub use decide::{State, decide};
pub use decision::{Decision, Input};
pub use floor::AWAKE;
pub use knocks::Knocks;
pub use observation::{Clock, Failure, Forecast, Load, Observation, Pending, Reading};
pub use policy::{ScalePolicy, SignalName};
pub use scaler::Scaler;
pub use signal::{Quantile, Signal};
pub use signals::{BackendKey, BackendSample, Requests, ServiceSample, UsageSample};
pub use status::PolicyStatus;
pub use voice::{Stance, Voice};

#[cfg(test)]
mod tables;
#[cfg(test)]
pub(crate) mod testing;
