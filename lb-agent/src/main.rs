//! `weir`: see `weir --help`.

use std::{ffi::c_char, process::ExitCode};

use clap::Parser;
use lb_agent::cli::{self, Cli};
use tikv_jemallocator::Jemalloc;

/// An agent lives for months and holds much that comes and goes: what it no longer needs goes back to the node.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// One arena, since few threads allocate and what one frees should serve the others; freed pages are given back after a second.
#[unsafe(export_name = "_rjem_malloc_conf")]
// SAFETY: jemalloc reads this symbol of its own as a pointer to a C string, which this is.
static ALLOCATOR_OPTIONS: Option<&c_char> =
    Some(unsafe { &*c"narenas:1,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true".as_ptr() });

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
