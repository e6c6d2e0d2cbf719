//! Leader election by a Lease, by the rules of client-go's `leaderelection`: who holds it renews it; who does not waits until it has seen
//! nothing new of it for a whole lease, by its own clock, so that clocks need not agree. Every write carries the version that was
//! read, so of two candidates one wins. A leader that cannot renew stops leading before anyone else can start.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// A holder that does not renew for so long has lost the lease.
pub const LEASE: Duration = Duration::from_secs(8);
/// A leader that could not renew for so long stops leading.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(5);
/// Time between two attempts.
pub const RETRY: Duration = Duration::from_secs(1);

/// What is to be done about the lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Somebody else holds it.
    Wait,
    /// It is ours, or nobody's: write this.
    Take(LeaseSpec),
}

/// What a candidate knows.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    /// What was last read of the lease, and when it was first read so.
    seen: Option<(LeaseSpec, Duration)>,
    renewed: Option<Duration>,
}

impl Election {
    /// A candidate of this name.
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), seen: None, renewed: None }
    }

    /// What to do about a lease read at `now` (any steady clock), which would be renewed at `wall`.
    pub fn step(&mut self, lease: Option<&LeaseSpec>, now: Duration, wall: Timestamp) -> Step {
        let Some(lease) = lease else { return Step::Take(self.spec(None, wall)) };
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != lease) {
            self.seen = Some((lease.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        let time = lease.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(LEASE, Duration::from_secs);
        if holder == self.me || holder.is_empty() || now.saturating_sub(since) >= time {
            Step::Take(self.spec(Some(lease), wall))
        } else {
            Step::Wait
        }
    }

    /// Notes that a lease was written, begun at `now`.
    pub fn renewed(&mut self, now: Duration) {
        self.renewed = Some(now);
    }

    /// Notes that another one holds the lease.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Whether this candidate leads at `now`.
    pub fn leads(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|at| now.saturating_sub(at) < RENEW_DEADLINE)
    }

    fn spec(&self, old: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let ours = old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.me));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0) + i32::from(old.is_some() && !ours);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(LEASE.as_secs() as i32),
            acquire_time: old.filter(|_| ours).and_then(|old| old.acquire_time.clone()).or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// Takes part in the election until the future is dropped; `leads` says how it stands.
pub async fn campaign(api: Api<Lease>, name: &str, me: &str, leads: watch::Sender<bool>) {
    let mut election = Election::new(me);
    let start = Instant::now();
    let mut clock = interval(RETRY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        // Shorter than what is left of the lease after the deadline, so that a slow answer is no second leader.
        match timeout(RETRY * 2, attempt(&api, name, &mut election, start)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(lease = name, %error, "the Lease cannot be read or written"),
            Err(_) => tracing::warn!(lease = name, "the API server does not answer"),
        }
        let now = election.leads(start.elapsed());
        leads.send_if_modified(|leads| std::mem::replace(leads, now) != now);
    }
}

async fn attempt(api: &Api<Lease>, name: &str, election: &mut Election, start: Instant) -> Result<(), kube::Error> {
    let began = start.elapsed();
    let lease = api.get_opt(name).await?;
    let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
    let Step::Take(spec) = election.step(spec, began, Timestamp::now()) else {
        election.lost();
        return Ok(());
    };
    let written = match lease {
        Some(old) => api.replace(name, &PostParams::default(), &Lease { spec: Some(spec), ..old }).await,
        None => {
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await
        }
    };
    match written {
        Ok(_) => election.renewed(began),
        // Another candidate was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => election.lost(),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Gives up the lease, so that the next leader need not wait.
pub async fn release(api: &Api<Lease>, name: &str, me: &str) -> Result<(), kube::Error> {
    let Some(lease) = api.get_opt(name).await? else { return Ok(()) };
    let Some(spec) = lease.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(me)) else {
        return Ok(());
    };
    let spec = LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec };
    api.replace(name, &PostParams::default(), &Lease { spec: Some(spec), ..lease }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn take(step: Step) -> LeaseSpec {
        match step {
            Step::Take(spec) => spec,
            Step::Wait => panic!("waits"),
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_kept() {
        let mut a = Election::new("a");
        assert!(!a.leads(at(0)));
        let first = take(a.step(None, at(0), wall(0)));
        a.renewed(at(0));
        assert!(a.leads(at(4)) && !a.leads(at(5)), "it stops leading before the lease is over");
        let second = take(a.step(Some(&first), at(3), wall(3)));
        assert_eq!((second.lease_transitions, &second.acquire_time), (Some(0), &first.acquire_time));
        assert_ne!(second.renew_time, first.renew_time);
    }

    #[test]
    fn another_one_waits_for_a_whole_lease_without_news() {
        let held = take(Election::new("a").step(None, at(0), wall(0)));
        let mut b = Election::new("b");
        assert_eq!(b.step(Some(&held), at(100), wall(100)), Step::Wait, "it cannot know how old the lease is");
        assert_eq!(b.step(Some(&held), at(107), wall(107)), Step::Wait);
        let renewed = LeaseSpec { renew_time: Some(MicroTime(wall(107))), ..held };
        assert_eq!(b.step(Some(&renewed), at(108), wall(108)), Step::Wait);
        assert_eq!(b.step(Some(&renewed), at(115), wall(115)), Step::Wait);
        let taken = take(b.step(Some(&renewed), at(116), wall(116)));
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
    }

    #[test]
    fn a_lease_that_was_given_up_is_taken_at_once() {
        let held = take(Election::new("a").step(None, at(0), wall(0)));
        let free = LeaseSpec { holder_identity: Some(String::new()), ..held };
        assert_eq!(take(Election::new("b").step(Some(&free), at(1), wall(1))).lease_transitions, Some(1));
    }

    #[test]
    fn a_deposed_leader_stops_at_once() {
        let mut a = Election::new("a");
        a.renewed(at(0));
        a.lost();
        assert!(!a.leads(at(0)));
    }
}
