//! The command line: what can be said to `weir`, and who answers.

pub mod error;
pub mod get;
pub mod labels;
pub mod output;
pub mod parse;
pub mod screen;
pub mod view;

pub use error::Error;
pub use screen::Screen;
