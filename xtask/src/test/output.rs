//! Counts tests in the output of `cargo test`.

use anyhow::{Result, bail};

/// The numbers of all `test result:` lines together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// Whether cargo ended with exit code 0.
    pub ended_well: bool,
}

impl Counts {
    /// Adds one line of output; other lines than `test result:` count nothing.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Good only if some test ran, none failed and cargo says so too (a program that does not compile or dies prints no result).
    pub(crate) fn verdict(&self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        if !self.ended_well {
            bail!("a test program could not be built, or died");
        }
        if self.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_several_programs_are_added() {
        let output = "running 3 tests\n\
            test a ... ok\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s\n\
            5 passed in some other program's words\n";
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.add(line));
        assert_eq!(counts, Counts { passed: 12, failed: 3, ignored: 1, ended_well: false });
    }

    #[test]
    fn only_tests_that_ran_and_passed_are_good() {
        let counts = |passed, failed, ended_well| Counts { passed, failed, ignored: 0, ended_well };
        let cases = [
            (counts(3, 0, true), None),
            (counts(3, 1, false), Some("1 tests failed")),
            (counts(3, 0, false), Some("died")),
            (counts(0, 0, true), Some("no test ran")),
        ];
        for (counts, expected) in cases {
            let error = counts.verdict().err().map(|error| error.to_string());
            match expected {
                None => assert_eq!(error, None),
                Some(part) => assert!(error.as_ref().is_some_and(|error| error.contains(part)), "{error:?} has {part}"),
            }
        }
    }
}
