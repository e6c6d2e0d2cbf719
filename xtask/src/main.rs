//! Weir's tasks: `cargo xtask help`.

fn main() {}
