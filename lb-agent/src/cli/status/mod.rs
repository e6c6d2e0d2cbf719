//! `weir status`: kernel, programs, maps, agent, versions, and what is wrong with them.

pub mod features;
pub mod report;

use super::output::Format;

/// `weir status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}
