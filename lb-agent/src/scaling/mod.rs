//! Scaling: decides how many replicas of a Service there should be from what its backends carry, and has it done.

pub mod actuator;
pub mod checked;
pub mod command;
pub mod decide;
pub mod pace;
pub mod policy;
pub mod replicas;
pub mod rules;
pub mod scaler;
pub mod signals;
pub mod status;

pub use actuator::Clock;
pub use checked::{Policy, PolicyError, PolicyId, validate};
pub use decide::{Decision, State, decide};
pub use policy::ScalePolicy;
pub use scaler::Scaler;
pub use signals::{BackendKey, BackendSample, Load, ServiceSample, Signal};
pub use status::PolicyStatus;
