//! Decides when a policy's scale command runs: at once when a number is wanted, one run at a time, again after a failure with a
//! back-off that doubles up to [`MAX_BACK_OFF`]. The newest number wins over what an earlier run was asked for.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::{
    checked::PolicyId,
    command::{self, CommandError, Run},
    observation::Clock,
    status::timestamp,
};

/// The longest wait between two tries.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(60);

/// How a policy's scale command does.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActuatorStatus {
    /// The program and its own arguments.
    pub command: Vec<String>,
    /// Whether it runs now.
    pub running: bool,
    /// The last run that ended.
    pub last_run: Option<LastRun>,
    /// Why the last run failed, if it did.
    pub last_error: Option<String>,
    /// Failures since the last success.
    pub failures: u32,
    /// When it is tried again, if it failed.
    pub next_retry: Option<String>,
}

/// A run that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRun {
    /// When it was started.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// CURRENT as it was given.
    pub current: u32,
    /// DESIRED as it was given.
    pub desired: u32,
    /// Whether it succeeded.
    pub success: bool,
}

struct Running {
    run: Run,
    started: Clock,
    task: JoinHandle<Result<(), CommandError>>,
}

/// The runs of one policy's scale command.
#[derive(Default)]
pub struct Actuator {
    running: Option<Running>,
    retry_at: Option<Duration>,
    status: ActuatorStatus,
}

impl Actuator {
    /// The number of replicas that a run has just set, if one ended with success.
    pub fn finished(&mut self, clock: Clock) -> Option<u32> {
        let ended = self.running.take_if(|running| running.task.is_finished())?;
        let result = match ended.task.now_or_never()? {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the run was lost: {error}")),
        };
        self.status.running = false;
        self.status.last_run = Some(LastRun {
            started: timestamp(ended.started.wall),
            seconds: clock.now.saturating_sub(ended.started.now).as_secs_f64(),
            current: ended.run.current,
            desired: ended.run.desired,
            success: result.is_ok(),
        });
        match result {
            Ok(()) => self.succeeded(&ended.run),
            Err(error) => self.failed(&ended.run.policy, error, clock),
        }
    }

    fn succeeded(&mut self, run: &Run) -> Option<u32> {
        tracing::info!(policy = %run.policy, replicas = run.desired, "scale command succeeded");
        self.retry_at = None;
        self.status.next_retry = None;
        self.status.last_error = None;
        self.status.failures = 0;
        Some(run.desired)
    }

    fn failed(&mut self, policy: &PolicyId, error: String, clock: Clock) -> Option<u32> {
        let wait = back_off(self.status.failures);
        tracing::warn!(%policy, retry_in = ?wait, "scale command failed: {error}");
        self.retry_at = Some(clock.now + wait);
        self.status.next_retry = Some(timestamp(clock.wall + wait));
        self.status.last_error = Some(error);
        self.status.failures = self.status.failures.saturating_add(1);
        None
    }

    /// Starts a run for what is wanted now, unless one is running or the last failure is too fresh.
    pub fn drive(&mut self, wanted: Option<Run>, clock: Clock) {
        let Some(run) = wanted else {
            self.retry_at = None;
            self.status.next_retry = None;
            return;
        };
        self.status.command.clone_from(&run.argv);
        if self.running.is_some() || self.retry_at.is_some_and(|at| clock.now < at) {
            return;
        }
        let Run { current, desired, .. } = run;
        tracing::info!(policy = %run.policy, current, desired, "running the scale command");
        let shared = Arc::new(run.clone());
        let task = tokio::spawn(async move { command::run(&shared).await });
        self.status.running = true;
        self.running = Some(Running { run, started: clock, task });
    }

    /// How it does.
    pub const fn status(&self) -> &ActuatorStatus {
        &self.status
    }
}

/// The wait after so many earlier failures: 1 s, doubled each time.
fn back_off(failures: u32) -> Duration {
    MAX_BACK_OFF.min(Duration::from_secs(1_u64.checked_shl(failures).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn at(seconds: u64) -> Clock {
        let now = Duration::from_secs(seconds);
        Clock { now, wall: SystemTime::UNIX_EPOCH + now }
    }

    fn run(script: &str, desired: u32) -> Run {
        let policy = PolicyId { namespace: "shop".to_owned(), name: "web".to_owned() };
        let argv = ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        Run { argv, policy, current: 2, desired, limit: Duration::from_secs(20) }
    }

    async fn ended(actuator: &Actuator) {
        while actuator.running.as_ref().is_some_and(|running| !running.task.is_finished()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_success_is_told_once() {
        let mut actuator = Actuator::default();
        actuator.drive(Some(run("exit 0", 4)), at(10));
        assert!(actuator.status().running);
        ended(&actuator).await;
        assert_eq!(actuator.finished(at(11)), Some(4));
        assert_eq!(actuator.finished(at(12)), None);
        let status = actuator.status();
        let last = status.last_run.clone().unwrap();
        assert_eq!((last.current, last.desired, last.success), (2, 4, true));
        assert_eq!((last.started.as_str(), last.seconds), ("1970-01-01T00:00:10Z", 1.0));
        assert!(!status.running && status.last_error.is_none());
    }

    #[tokio::test]
    async fn failures_are_tried_again_later_and_later_with_the_newest_number() {
        let mut actuator = Actuator::default();
        let mut now = 100;
        for (failures, wait) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
            actuator.drive(Some(run("exit 1", 4)), at(now));
            ended(&actuator).await;
            assert_eq!(actuator.finished(at(now)), None);
            assert_eq!(actuator.status().failures, failures);
            assert_eq!(actuator.status().next_retry.as_deref(), Some(timestamp(at(now + wait).wall).as_str()));
            actuator.drive(Some(run("exit 1", 5)), at(now + wait - 1));
            assert!(!actuator.status().running, "after {failures} failures");
            now += wait;
        }
        assert!(actuator.status().last_error.as_deref().unwrap().contains("exit status: 1"));
        actuator.drive(Some(run("exit 0", 7)), at(now));
        ended(&actuator).await;
        assert_eq!(actuator.finished(at(now)), Some(7));
        assert_eq!((actuator.status().failures, &actuator.status().next_retry), (0, &None));
    }

    #[tokio::test]
    async fn one_run_at_a_time() {
        let mut actuator = Actuator::default();
        let folder = tempfile::tempdir().unwrap();
        let script = format!("echo \"$3\" >> {}/seen; sleep 0.3", folder.path().display());
        actuator.drive(Some(run(&script, 4)), at(1));
        actuator.drive(Some(run(&script, 5)), at(2));
        ended(&actuator).await;
        assert_eq!(actuator.finished(at(3)), Some(4));
        let seen = std::fs::read_to_string(folder.path().join("seen")).unwrap();
        assert_eq!(seen, "4\n");
    }

    #[tokio::test]
    async fn what_is_no_longer_wanted_is_not_tried_again() {
        let mut actuator = Actuator::default();
        actuator.drive(Some(run("exit 1", 4)), at(1));
        ended(&actuator).await;
        actuator.finished(at(1));
        actuator.drive(None, at(2));
        assert_eq!(actuator.status().next_retry, None);
        assert!(actuator.status().last_error.is_some(), "the last failure stays in sight");
    }

    #[test]
    fn the_wait_is_bounded() {
        assert_eq!([0, 3, 6, 64, u32::MAX].map(|n| back_off(n).as_secs()), [1, 8, 60, 60, 60]);
    }
}
