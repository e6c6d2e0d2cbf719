//! The command line: what can be said to `weir`, and who answers.

pub mod drain;
pub mod error;
pub mod explain;
pub mod get;
pub mod host;
pub mod labels;
pub mod map;
pub mod output;
pub mod parse;
pub mod screen;
pub mod status;
pub mod view;

pub use error::Error;
pub use screen::Screen;
