//! One policy in a cluster: from what is seen of its Service and its workload to a decision, what is to be done about it, and what is
//! told of it. Without I/O; [`super::leader`] does that.

use std::{collections::HashMap, time::Duration};

use kube::ResourceExt;
use lb_common::SocketKey;

use super::{
    drain::{Action, Candidate, Drain, Note, View},
    memory::{Memory, Record},
    replicas::{self, Replica},
    size::{self, Sizer},
    status::{Report, Standing},
    target::{TargetError, Workload},
};
use crate::{
    cluster::fleet::ServiceCounts,
    scaling::{
        Clock, Decision, Load, Observation, Pending, Place, Policy, PolicyError, Requests, ScalePolicy, Signal,
        SignalName, State, UsageSample,
        asked::Answers,
        decide,
        forecast::{HistoryError, Watch},
        policy::{ActuatorKind, Mode, ScalePolicyStatus},
        signals::Meter,
        validate,
    },
};

/// A policy and what is known of it.
pub struct Entry {
    /// The object.
    pub object: ScalePolicy,
    /// What it says, if that makes sense.
    pub policy: Result<(Policy, ActuatorKind), PolicyError>,
    /// What there is to tell.
    pub report: Report,
    /// What the API keeps of its forecast.
    pub record: Record,
    meter: Meter,
    state: State,
    forecast: Option<Watch>,
    /// The size of its replicas, if it says something of that.
    pub size: Option<Sizer>,
    drain: Drain,
    /// Victims of the last leader, until the workload was seen.
    resume: Vec<String>,
    /// Since when some replicas do not take connections, and how many do.
    waiting: Option<(Duration, u32)>,
    /// Whether it, or its workload, is refused.
    refused: bool,
    /// Why what was decided could not be done, with a reason, until it could.
    obstacle: Option<(&'static str, String)>,
}

/// What is seen of a policy's Service and workload.
pub struct Sight<'a> {
    /// The time.
    pub clock: Clock,
    /// Its replicas, as the EndpointSlices tell.
    pub replicas: &'a [Replica],
    /// What they carry.
    pub counts: &'a ServiceCounts,
    /// What their pods use, by UID, of those that are measured.
    pub usage: &'a HashMap<String, UsageSample>,
    /// What others were asked for.
    pub answers: Answers,
    /// What is scaled; none if the policy names nothing.
    pub workload: Option<Result<&'a Workload, &'a TargetError>>,
    /// Who else scales it.
    pub claimed: Option<&'a str>,
    /// The older policy for the same workload.
    pub rival: Option<&'a str>,
    /// Who else sizes its pods.
    pub sized: Option<&'a str>,
    /// When a client last asked for its Service in vain.
    pub knocked: Option<Duration>,
}

impl Entry {
    /// A policy that is seen for the first time. What an earlier leader has written is gone on with.
    pub fn new(object: ScalePolicy) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let policy = read(&object);
        Self {
            forecast: policy.as_ref().ok().and_then(|(policy, _)| Watch::of(policy)),
            size: policy.as_ref().ok().and_then(|(policy, _)| Sizer::of(policy, status.recommendation.as_ref())),
            policy,
            resume: status.draining.clone(),
            report: Report::new(status),
            record: Record::default(),
            object,
            meter: Meter::default(),
            state: State::default(),
            drain: Drain::Idle,
            waiting: None,
            refused: false,
            obstacle: None,
        }
    }

    /// Takes in what the object says now.
    pub fn adopt(&mut self, object: &ScalePolicy) {
        let changed = self.object.spec != object.spec || self.object.annotations() != object.annotations();
        if changed {
            let policy = read(object);
            if service(&self.policy) != service(&policy) {
                (self.meter, self.state, self.forecast) = Default::default();
            }
            self.forecast = policy.as_ref().ok().and_then(|(policy, _)| Watch::changed(self.forecast.take(), policy));
            let told = self.report.status.recommendation.as_ref();
            self.size = policy.as_ref().ok().and_then(|(policy, _)| Sizer::changed(self.size.take(), policy, told));
            self.policy = policy;
            self.obstacle = None;
            self.state.policy_changed();
        }
        self.object = object.clone();
    }

    /// The backends that get no new connections.
    pub fn draining(&self) -> impl Iterator<Item = SocketKey> {
        self.drain.victims().iter().flat_map(|victim| victim.sockets.iter().copied())
    }

    /// Whether what its pods use is to be measured.
    pub fn reads_usage(&self) -> bool {
        self.policy.as_ref().is_ok_and(|(policy, _)| policy.reads_usage())
    }

    /// Whether there is a forecast to remember.
    pub const fn foresees(&self) -> bool {
        self.forecast.is_some()
    }

    /// What its forecast remembers.
    pub fn memory(&self) -> Option<Memory> {
        self.forecast.as_ref().map(|watch| Memory { signal: watch.load().to_string(), bytes: watch.remember() })
    }

    /// Takes up what an earlier leader's forecast remembered, if that was of the same signal.
    pub fn recall(&mut self, memory: &Memory) -> Result<(), HistoryError> {
        match &mut self.forecast {
            Some(watch) if watch.load().to_string() == memory.signal => watch.recall(&memory.bytes),
            _ => Ok(()),
        }
    }

    /// Whether its Service's requests are to be measured.
    pub fn reads_requests(&self) -> bool {
        self.policy.as_ref().is_ok_and(|(policy, _)| policy.reads_requests())
    }

    /// Whether who asks for its Service in vain brings a replica back. One that is refused brings none.
    pub fn wakes(&self) -> bool {
        !self.refused && self.policy.as_ref().is_ok_and(|(policy, _)| policy.wakes())
    }

    /// Looks, decides, and says what is to be done.
    pub fn tick(&mut self, sight: &Sight<'_>) -> Vec<Action> {
        self.report.begin(&self.object);
        let (policy, actuator) = match &self.policy {
            Ok((policy, actuator)) => (policy.clone(), *actuator),
            Err(error) => {
                self.report.refuse(Standing::Refused, "InvalidSpec", error.to_string());
                return self.rest();
            }
        };
        let now = sight.clock.now;
        let namespace = self.object.namespace().unwrap_or_default();
        let requests = sight.workload.and_then(Result::ok).map(|workload| workload.requests).unwrap_or_default();
        let service = (namespace, policy.service.clone());
        let requested = self.size.as_ref().map_or(requests, |size| size.requests(requests));
        let mut sample = replicas::sample(&service, sight.replicas, sight.counts, sight.usage, requested);
        if !policy.reads_requests() {
            // Nobody measures them for it: not even what has carried nothing is known to have none.
            sample.backends.iter_mut().for_each(|backend| backend.requests = None);
        }
        self.meter.ask(policy.quantiles());
        let mut load = self.meter.measure(&sample).clone();
        load.readings.extend(sight.answers.readings.iter().cloned());
        let workload = match self.workload(sight, actuator, &policy) {
            Ok(workload) => workload,
            Err(Refusal { standing, reason, message }) => {
                self.refused |= standing == Standing::Refused;
                self.report.refuse(standing, reason, message);
                // What cannot be known for a moment is no reason to begin anew.
                return if standing == Standing::Unknown { Vec::new() } else { self.rest() };
            }
        };
        self.refused = false;
        let set = workload.map_or(load.replicas, |workload| workload.set);
        let mut seen = self.observe(&load, set, workload, now);
        seen.failures.clone_from(&sight.answers.failures);
        seen.knocked = sight.knocked;
        seen.resized = self.size.as_ref().and_then(Sizer::resized);
        seen.forecast = self.forecast.as_mut().and_then(|forecast| forecast.tick(&seen, sight.clock));
        let decision = decide(&policy, &mut self.state, &seen, sight.clock);
        self.obstacle = self.obstacle.take().filter(|_| decision.desired != set);
        self.report.decided(&policy, &decision, &load, set, sight.clock);
        let unrequested = unrequested(&policy, requests);
        let obstacle = self.obstacle.as_ref().or(unrequested.as_ref());
        self.report.say_ready(&policy, &decision, (obstacle, &seen.failures), now);
        let mut actions = if actuator != ActuatorKind::Scale || policy.mode == Mode::Recommend {
            self.rest()
        } else {
            self.act(&policy, &decision, sight, workload, set)
        };
        actions.extend(self.resize(&policy, &seen, sight, workload));
        actions
    }

    /// Decides on the size of the replicas, and says who gets it now.
    fn resize(
        &mut self,
        policy: &Policy,
        seen: &Observation,
        sight: &Sight<'_>,
        workload: Option<&Workload>,
    ) -> Option<Action> {
        let Some(sizer) = &mut self.size else {
            self.report.unsized_now();
            return None;
        };
        let view = size::View {
            policy,
            clock: sight.clock,
            load: seen,
            replicas: sight.replicas,
            leaving: &self.report.status.draining.clone(),
            usage: sight.usage,
            workload,
            rival: sight.sized,
        };
        let outcome = sizer.tick(&view, &mut self.report.status.recommendation);
        self.report.sized(&outcome);
        outcome.order.map(Action::Resize)
    }

    /// Nothing is done, and nobody is to go.
    fn rest(&mut self) -> Vec<Action> {
        let mut marked = std::mem::take(&mut self.resume);
        if let Drain::Leaving { victims, .. } = std::mem::take(&mut self.drain) {
            marked.extend(victims.into_iter().map(|victim| victim.name));
        }
        self.report.status.draining.clear();
        if marked.is_empty() { Vec::new() } else { vec![Action::Unmark(marked)] }
    }

    /// The workload, if it may be scaled by this policy.
    fn workload<'a>(
        &self,
        sight: &Sight<'a>,
        actuator: ActuatorKind,
        policy: &Policy,
    ) -> Result<Option<&'a Workload>, Refusal> {
        let refuse = |reason, message| Err(Refusal { standing: Standing::Refused, reason, message });
        if let Some(rival) = sight.rival {
            let message = format!("ScalePolicy {rival} has the same target, and is older; remove one of them");
            return refuse("TargetTaken", message);
        }
        let workload = match sight.workload {
            None => return Ok(None),
            Some(Ok(workload)) => workload,
            Some(Err(error)) => {
                let standing = if error.is_lasting() { Standing::Refused } else { Standing::Unknown };
                let message = format!("spec.targetRef: {error}");
                return Err(Refusal { standing, reason: error.reason(), message });
            }
        };
        if actuator == ActuatorKind::Scale && policy.mode == Mode::Apply {
            if let Some(owner) = &workload.owner {
                let message =
                    format!("spec.targetRef: it belongs to {owner}, which would set it back; name that instead");
                return refuse("TargetOwned", message);
            }
            if let Some(other) = sight.claimed {
                let message = format!(
                    "spec.targetRef: {other} scales it too; delete that, or use actuator Keda or Metric, or mode Recommend"
                );
                return refuse("TargetTaken", message);
            }
        }
        Ok(Some(workload))
    }

    fn observe(&mut self, load: &Load, set: u32, workload: Option<&Workload>, now: Duration) -> Observation {
        let missing = set.saturating_sub(load.ready);
        self.waiting = match self.waiting {
            _ if missing == 0 => None,
            Some((since, ready)) if load.ready <= ready => Some((since, load.ready)),
            _ => Some((now, load.ready)),
        };
        let rollout = workload.and_then(|workload| workload.rollout.as_deref());
        Observation {
            load: load.clone(),
            set: workload.map(|workload| workload.set),
            rollout: rollout.map(Into::into),
            pending: self.waiting.map(|(since, _)| Pending { replicas: missing, since }),
            ..Observation::default()
        }
    }

    /// Has the decision carried out.
    fn act(
        &mut self,
        policy: &Policy,
        decision: &Decision,
        sight: &Sight<'_>,
        workload: Option<&Workload>,
        set: u32,
    ) -> Vec<Action> {
        let now = sight.clock.now;
        let candidates: Vec<Candidate> = sight
            .replicas
            .iter()
            .filter(|replica| replica.is_pod)
            .map(|replica| {
                let carried = replicas::carried(replica, sight.counts);
                Candidate {
                    name: replica.name.clone(),
                    ready: replica.ready,
                    connections: carried.active + carried.pending,
                    sockets: replica.sockets.clone(),
                }
            })
            .collect();
        let resume = std::mem::take(&mut self.resume);
        if !resume.is_empty() {
            self.drain = Drain::resume(&resume, &candidates, now);
        }
        let held = workload.and_then(|workload| workload.rollout.as_deref());
        let view = View {
            set,
            wanted: decision.desired,
            candidates: &candidates,
            ordered: workload.is_some_and(|workload| workload.ordered),
            held,
            timeout: policy.drain_timeout,
        };
        let (actions, notes) = self.drain.step(&view, now);
        let draining = self.drain.victims().iter().map(|victim| victim.name.clone());
        self.report.status.draining = draining.collect();
        self.report.progress(&self.drain, decision, set, held);
        notes.into_iter().for_each(|note| self.tell(note, policy));
        actions
    }

    fn tell(&mut self, note: Note, policy: &Policy) {
        match note {
            Note::Draining(victims) => {
                let limit = policy.drain_timeout.as_secs();
                self.report.tell_normal(
                    "Draining",
                    format!("{} get no new connections, for {limit} s at most", list(&victims)),
                );
            }
            Note::TimedOut(victims) => {
                let left: Vec<String> = victims.iter().map(|(name, n)| format!("{name} ({n})")).collect();
                self.report
                    .tell_warning("DrainTimedOut", format!("these go with open connections: {}", left.join(", ")));
            }
            Note::Cancelled(victims) => {
                self.report.tell_normal("DrainCancelled", format!("{} are needed after all", list(&victims)));
            }
            Note::Stayed(victims) => {
                let text = format!("{} were to go, and the workload's controller has removed others", list(&victims));
                self.report.tell_warning("VictimsStayed", text);
            }
        }
    }

    /// An action was carried out, or not.
    pub fn acted(&mut self, action: &Action, result: Result<(), &TargetError>, clock: Clock) {
        match (action, result) {
            (Action::Scale { from, to, .. }, Ok(())) => {
                self.obstacle = None;
                self.drain.done(clock.now);
                self.report.scaled(*from, *to, clock);
            }
            (Action::Resize(order), result) => {
                if let Some(size) = &mut self.size {
                    size.ordered(order, result, clock.now);
                }
            }
            (_, Err(error)) if error.is_lasting() => {
                self.obstacle = Some((error.reason(), error.to_string()));
            }
            _ => {}
        }
    }

    /// What there is to write, if it differs from what is in the API.
    pub fn news(&self) -> Option<&ScalePolicyStatus> {
        let status = &self.report.status;
        (self.object.status.as_ref() != Some(status)).then_some(status)
    }
}

/// What is asked for in percent of a request that is not there, with a reason.
fn unrequested(policy: &Policy, requests: Requests) -> Option<(&'static str, String)> {
    let reads = |name: SignalName| policy.signals().contains(&&Signal::from(name));
    let lacks = |name, request: Option<u64>| request.is_none() && reads(name);
    let (resource, instead) = match requests {
        Requests { cpu, .. } if lacks(SignalName::Cpu, cpu) => ("cpu", "cpuCores"),
        Requests { memory, .. } if lacks(SignalName::Memory, memory) => ("memory", "memoryBytes"),
        _ => return None,
    };
    let message = format!(
        "signal {resource} is in percent of what a pod requests, and not every container of spec.targetRef's template requests {resource};          write resources.requests.{resource} there, or use signal {instead}"
    );
    Some(("RequestMissing", message))
}

/// Why a policy does nothing.
struct Refusal {
    standing: Standing,
    reason: &'static str,
    message: String,
}

fn read(object: &ScalePolicy) -> Result<(Policy, ActuatorKind), PolicyError> {
    let policy = validate(object)?;
    let actuator = policy.actuator(Place::Cluster)?;
    Ok((policy, actuator))
}

fn service(policy: &Result<(Policy, ActuatorKind), PolicyError>) -> Option<&str> {
    policy.as_ref().ok().map(|(policy, _)| policy.service.as_str())
}

fn list(names: &[String]) -> String {
    match names {
        [one] => format!("pod {one}"),
        more => format!("pods {}", more.join(", ")),
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
