//! `weir`: see `weir --help`.

use std::process::ExitCode;

use clap::Parser;
use lb_agent::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::execute(cli),
        Err(error) => {
            // Help goes to standard output, which may be a pipe nobody reads any more.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}
