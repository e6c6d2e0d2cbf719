//! What the numbers of policies are made from, beside connections: what pods use.

pub mod requests;
pub mod usage;
