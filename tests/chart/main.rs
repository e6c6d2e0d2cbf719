//! The chart under the real Helm: what it accepts, what it makes, and that `weir` understands what it is called with. No root.
//! `cargo xtask test chart` builds Helm first.

mod helm;
mod made;
mod rejected;
