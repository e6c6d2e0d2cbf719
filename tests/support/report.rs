//! What the `peer` program tells of its requests; tests read it back.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// Failures beyond these are counted only.
const SHOWN_FAILURES: usize = 10;

/// Requests and what came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Answered requests by the name of the server.
    pub answers: BTreeMap<String, u64>,
    /// Answered requests by the client's address, without port, as the server saw it.
    pub sources: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub failed: u64,
    /// Why the first of them failed.
    pub failures: Vec<String>,
    /// The longest wait for an answer, in milliseconds.
    pub slowest: u64,
}

impl Report {
    /// Adds a request's end: an answer is a name, a space and an address.
    pub fn add(&mut self, answer: Result<String>, took: Duration) {
        self.slowest = self.slowest.max(took.as_millis() as u64);
        match answer.and_then(|answer| parse(&answer)) {
            Ok((name, source)) => {
                *self.answers.entry(name).or_default() += 1;
                *self.sources.entry(source).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < SHOWN_FAILURES {
                    self.failures.push(format!("{error:#}"));
                }
            }
        }
    }

    /// Answered requests.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Fails if a request failed, or none was answered.
    pub fn expect_no_failure(&self) -> Result<()> {
        ensure!(self.failed == 0 && self.answered() > 0, "{} of {} failed: {self:?}", self.failed, self.answered());
        Ok(())
    }
}

fn parse(answer: &str) -> Result<(String, String)> {
    let (name, source) = answer.split_once(' ').with_context(|| format!("not an answer: {answer:?}"))?;
    let source: SocketAddr = source.parse().with_context(|| format!("not an address: {source:?}"))?;
    Ok((name.to_owned(), source.ip().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_failures_are_counted() {
        let mut report = Report::default();
        assert!(report.expect_no_failure().is_err(), "nothing was asked");
        report.add(Ok("a 10.0.0.1:80".to_owned()), Duration::from_millis(3));
        report.add(Ok("a [fd00::1]:80".to_owned()), Duration::from_millis(2));
        assert!(report.expect_no_failure().is_ok());
        report.add(Ok("garbage".to_owned()), Duration::ZERO);
        assert_eq!((report.answers["a"], report.sources.len(), report.failed, report.slowest), (2, 2, 1, 3));
        assert!(report.expect_no_failure().is_err());
    }
}
