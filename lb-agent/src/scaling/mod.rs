//! Scaling: decides how many replicas of a Service there should be from what its backends carry, and has it done.

pub mod checked;
pub mod policy;
pub mod signals;

pub use checked::{Policy, PolicyError, PolicyId, validate};
pub use policy::ScalePolicy;
pub use signals::Signal;
