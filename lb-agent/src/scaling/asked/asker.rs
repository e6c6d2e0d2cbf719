//! Asks, once a second, everything that is to be asked: each question once, however many policies have it, some at a time. Who does not
//! answer is asked more seldom.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

use super::{
    Answer, Fault, Question,
    http::{Http, system_roots},
    page, promql,
};

/// So many are asked at a time; with the bound on an answer's size this bounds the memory too.
const AT_ONCE: usize = 32;

/// The longest time between two attempts.
const SELDOM: Duration = Duration::from_secs(8);

/// What is to be asked, and of a page the metrics that are read.
pub type Questions = BTreeMap<Question, BTreeSet<String>>;

/// Asks, and keeps what was answered. Works within a tokio runtime; what is still being asked ends with it.
pub struct Asker {
    /// Made when the first is asked: most have no question.
    http: Option<Http>,
    permits: Arc<Semaphore>,
    tracks: BTreeMap<Question, Track>,
}

/// What is known of a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known<'a> {
    /// The last answer, and when it was asked for.
    pub(super) answer: Option<(&'a Answer, Duration)>,
    /// Why the last attempt failed, if it did.
    pub(super) fault: Option<&'a Fault>,
}

#[derive(Default)]
struct Track {
    asking: Option<Asking>,
    answer: Option<(Answer, Duration)>,
    fault: Option<Fault>,
    failures: u32,
    again: Duration,
}

/// A question that is on its way; it ends when dropped.
struct Asking {
    since: Duration,
    task: JoinHandle<Outcome>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long it had to wait for its turn, and what came of it.
type Outcome = (Duration, Result<Answer, Fault>);

impl Default for Asker {
    fn default() -> Self {
        Self { http: None, permits: Arc::new(Semaphore::new(AT_ONCE)), tracks: BTreeMap::new() }
    }
}

impl Asker {
    #[cfg(test)]
    pub(super) fn with(http: Http) -> Self {
        Self { http: Some(http), ..Self::default() }
    }

    /// Takes in what was answered, forgets what is not asked any more, and asks what is due.
    pub fn tick(&mut self, questions: Questions, now: Duration) {
        self.tracks.retain(|question, _| questions.contains_key(question));
        self.tracks.values_mut().for_each(|track| track.hear(now));
        for (question, names) in questions {
            let track = self.tracks.entry(question.clone()).or_default();
            if track.asking.is_some() || now < track.again {
                continue;
            }
            let http = self.http.get_or_insert_with(|| Http::new(system_roots())).clone();
            let task = tokio::spawn(ask(http, Arc::clone(&self.permits), question, names));
            track.asking = Some(Asking { since: now, task });
        }
    }

    /// What is known of a question.
    pub(super) fn known(&self, question: &Question) -> Option<Known<'_>> {
        let track = self.tracks.get(question)?;
        let answer = track.answer.as_ref().map(|(answer, at)| (answer, *at));
        Some(Known { answer, fault: track.fault.as_ref() })
    }

    /// Takes in what has come. Returns whether nothing is being asked any more.
    #[cfg(test)]
    pub(super) fn is_idle(&mut self, now: Duration) -> bool {
        self.tracks.values_mut().for_each(|track| track.hear(now));
        self.tracks.values().all(|track| track.asking.is_none())
    }
}

impl Track {
    /// Takes in what has come.
    fn hear(&mut self, now: Duration) {
        let Some(mut asking) = self.asking.take_if(|asking| asking.task.is_finished()) else { return };
        // It has ended, and nobody else has aborted it.
        let Some(Ok((waited, result))) = (&mut asking.task).now_or_never() else { return };
        match result {
            Ok(answer) => {
                self.answer = Some((answer, asking.since + waited));
                (self.fault, self.failures) = (None, 0);
            }
            Err(fault) => {
                self.again = now + back_off(self.failures);
                self.failures = self.failures.saturating_add(1);
                self.fault = Some(fault);
            }
        }
    }
}

/// The pause after so many failures in a row before: none, then 1 s, doubled each time.
fn back_off(failures: u32) -> Duration {
    let doubled = |times: u32| Duration::from_secs(1_u64.checked_shl(times).unwrap_or(u64::MAX));
    failures.checked_sub(1).map_or(Duration::ZERO, |times| SELDOM.min(doubled(times)))
}

async fn ask(http: Http, permits: Arc<Semaphore>, question: Question, names: BTreeSet<String>) -> Outcome {
    let begun = Instant::now();
    // It is never closed.
    let _permit = permits.acquire_owned().await;
    let waited = begun.elapsed();
    let result = match &question {
        Question::Query(spec) => promql::ask(&http, spec).await.map(Answer::Value),
        Question::Page(address, path) => page::ask(&http, *address, path, &names).await.map(Answer::Page),
    };
    (waited, result)
}
