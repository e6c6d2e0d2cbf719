//! What the numbers of policies are made from, beside connections: requests, and what pods or other servers use.

pub mod requests;
pub mod servers;
pub mod usage;
