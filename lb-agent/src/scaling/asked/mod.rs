//! Signals that are asked of others: what a Prometheus server answers to a query, and what the replicas show of themselves.
//!
//! [`questions`] says what a policy needs, [`Asker`] asks for it once a second and keeps the answers, and [`Asker::answers`] makes of them what
//! a decision reads: a value with its age, or why there is none.

mod asker;
mod http;
mod page;
mod promql;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use asker::{Asker, Questions};

use super::{
    Policy, PolicyError, Signal,
    observation::{Failure, Reading},
    policy::PrometheusSpec,
};

/// The age at which what a replica shows of itself counts as not said.
pub const SPOKEN: Duration = Duration::from_secs(5);

/// Something that others are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// What a server answers to a query.
    Query(Arc<PrometheusSpec>),
    /// What a replica shows under a path.
    Page(SocketAddr, String),
}

/// What was answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A query's value, a finite number.
    Value(f64),
    /// Sums over the series of each metric that was asked for and is there; not every one a number.
    Page(BTreeMap<String, f64>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct Fault {
    /// In a word, for a condition.
    pub reason: &'static str,
    /// The field of `prometheus` or `podMetric` that is to be looked at.
    pub part: &'static str,
    /// What is wrong, with the value.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

/// What others have answered to a policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// What is known.
    pub readings: Vec<(Signal, Reading)>,
    /// Why something is not, or not of every replica.
    pub failures: BTreeMap<Signal, Failure>,
}

/// What a policy asks others, where its ready replicas have these addresses.
pub fn questions(policy: &Policy, ready: &BTreeSet<IpAddr>, all: &mut Questions) {
    for signal in policy.signals() {
        match signal {
            Signal::Prometheus(spec) => {
                all.entry(Question::Query(Arc::clone(spec))).or_default();
            }
            Signal::PodMetric(spec) => {
                for address in ready {
                    let page = page::question(*address, spec);
                    all.entry(page).or_default().insert(spec.name.clone());
                }
            }
            Signal::Measured(_) | Signal::Ttfb(_) => {}
        }
    }
}

impl Asker {
    /// What was answered to a policy whose ready replicas have these addresses.
    pub fn answers(&self, policy: &Policy, ready: &BTreeSet<IpAddr>, now: Duration) -> Answers {
        let mut answers = Answers::default();
        for signal in policy.signals() {
            let (reading, fault) = match signal {
                Signal::Prometheus(spec) => self.value(&Question::Query(Arc::clone(spec))),
                Signal::PodMetric(spec) => page::mean(self, spec, ready, now),
                Signal::Measured(_) | Signal::Ttfb(_) => continue,
            };
            answers.readings.extend(reading.map(|reading| (signal.clone(), reading)));
            answers.failures.extend(fault.map(|fault| (signal.clone(), failure(policy, signal, fault))));
        }
        answers
    }

    fn value(&self, question: &Question) -> (Option<Reading>, Option<Fault>) {
        let Some(known) = self.known(question) else { return (None, None) };
        let reading = known.answer.and_then(|(answer, at)| match answer {
            Answer::Value(value) => Some(Reading::new(*value, at)),
            Answer::Page(_) => None,
        });
        (reading, known.fault.cloned())
    }
}

/// A fault, said of the policy's field.
fn failure(policy: &Policy, signal: &Signal, fault: Fault) -> Failure {
    let field = policy.asks.get(signal).map_or("spec", String::as_str);
    let error = PolicyError {
        path: format!("{field}.{}", fault.part),
        problem: fault.problem,
        remedy: fault.remedy.to_owned(),
    };
    Failure { reason: fault.reason, text: error.to_string().into() }
}

#[cfg(test)]
mod tests;
