//! What the kernel tells of a loaded program: its name, and while `kernel.bpf_stats_enabled` is on, how often it runs and for how long.

use std::time::Duration;

use aya::programs::{ProgramInfo, loaded_programs};

/// A loaded program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    /// Its name; empty if unknown.
    pub(super) name: String,
    /// How often it ran while it was watched; none if it never was.
    pub(super) runs: Option<u64>,
    /// How long one of these runs took, on average.
    pub(super) nanoseconds_per_run: Option<u64>,
}

/// The program of this id. Listing programs needs CAP_SYS_ADMIN; without it the id has to do.
pub(super) fn program(id: u32) -> Program {
    let mut programs = loaded_programs().map_while(Result::ok);
    let Some(info) = programs.find(|info: &ProgramInfo| info.id() == id) else { return Program::default() };
    let (runs, nanoseconds_per_run) = watched(info.run_count(), info.run_time()).unzip();
    Program { name: info.name_as_str().unwrap_or_default().to_owned(), runs, nanoseconds_per_run }
}

/// Runs and the nanoseconds of one; nothing of a program that was never watched.
fn watched(runs: u64, time: Duration) -> Option<(u64, u64)> {
    let mean = time.as_nanos().checked_div(runs.into())?;
    Some((runs, mean.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_mean_of_those_that_were_watched() {
        assert_eq!(watched(4, Duration::from_micros(1)), Some((4, 250)));
        assert_eq!(watched(0, Duration::ZERO), None);
    }

    #[test]
    fn of_a_program_that_is_not_there_nothing_is_known() {
        assert_eq!(program(u32::MAX), Program::default());
    }
}
