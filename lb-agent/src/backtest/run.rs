//! One workload under every scaler.

use std::time::{Duration, SystemTime};

use super::{
    fleet::Shape,
    replay::{Record, Scaler, Setup, replay},
    scalers::{
        fixed::{Fixed, Oracle},
        hpa::Hpa,
        kpa::Kpa,
        weir::{UnknownSignal, Weir},
    },
    score::{Score, Yardstick, speedup},
    workload::{Nanos, SECOND, Workload},
};
use crate::scaling::Policy;

/// A workload, and how it is replayed and judged.
#[derive(Clone, Debug)]
pub struct Trial {
    workload: Workload,
    setup: Setup,
    slo: Nanos,
    /// Seconds until the HPA sees its metric.
    delay: u64,
    busy: Vec<u32>,
    demand: Vec<u32>,
}

/// How a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// How replicas are.
    pub shape: Shape,
    /// Replicas at the start; enough for the warm-up's mean load at `target` if not given.
    pub initial: Option<u32>,
    /// The share of the slots that peers aim at.
    pub target: f64,
    /// The time at the start that is not scored.
    pub warmup: Nanos,
    /// The longest waiting time that is no violation.
    pub slo: Nanos,
    /// Seconds until the HPA sees its metric.
    pub metrics_delay: u64,
}

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// The HPA on a gauge.
    Hpa,
    /// The HPA on the mean of a minute.
    HpaMinute,
    /// Knative's.
    Kpa,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hpa, Self::HpaMinute, Self::Kpa];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hpa => "hpa",
            Self::HpaMinute => "hpa-60s",
            Self::Kpa => "kpa",
        }
    }
}

/// The name of a policy of ours without its forecast.
pub const NO_FORECAST: &str = "weir-no-forecast";

/// Hears of every thousand requests.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

impl Trial {
    /// A trial of a workload.
    pub fn new(workload: Workload, conditions: &Conditions) -> Self {
        let busy = workload.busy_slots();
        let shape = conditions.shape;
        let demand = busy.iter().map(|slots| slots.div_ceil(shape.concurrency).max(1)).collect();
        let first = usize::try_from(conditions.warmup / SECOND).unwrap_or(0).clamp(1, busy.len());
        let mean = busy.iter().take(first).map(|slots| f64::from(*slots)).sum::<f64>() / first as f64;
        let enough = (mean / (conditions.target * f64::from(shape.concurrency))).ceil().max(1.0) as u32;
        let setup = Setup { shape, initial: conditions.initial.unwrap_or(enough), warmup: conditions.warmup };
        Self { workload, setup, slo: conditions.slo, delay: conditions.metrics_delay, busy, demand }
    }

    /// Requests of the workload.
    pub fn requests(&self) -> usize {
        self.workload.requests.len()
    }

    /// Slots of a replica.
    pub const fn concurrency(&self) -> u32 {
        self.setup.shape.concurrency
    }

    /// The time that is not scored.
    pub const fn warmup(&self) -> Nanos {
        self.setup.warmup
    }

    /// The longest waiting time that is no violation.
    pub const fn slo(&self) -> Nanos {
        self.slo
    }

    /// Slots that would be busy at each second if no request waited.
    pub fn busy(&self) -> &[u32] {
        &self.busy
    }

    /// Replicas on which no request would wait, at each second.
    pub fn demand(&self) -> &[u32] {
        &self.demand
    }

    /// A policy of ours.
    pub fn weir(&self, policy: &Policy, progress: Progress<'_>) -> Result<Run, UnknownSignal> {
        let epoch = u64::try_from(self.workload.epoch.unwrap_or(0)).unwrap_or(0);
        let mut scaler = Weir::new(policy, SystemTime::UNIX_EPOCH + Duration::from_secs(epoch))?;
        let share = policy.targets.first().map(|target| target.per_replica / f64::from(self.concurrency()));
        Ok(self.run("weir", share, &mut scaler, progress))
    }

    /// A policy of ours without its forecast, given what it is worth as it is.
    pub fn weir_no_forecast(&self, policy: &Policy, whole: &Run, progress: Progress<'_>) -> Result<Run, UnknownSignal> {
        let mut run = match policy.forecast {
            Some(_) => self.weir(&Policy { forecast: None, ..policy.clone() }, progress)?,
            None => whole.clone(),
        };
        run.score.scaler = NO_FORECAST;
        Ok(run)
    }

    /// Another autoscaler, at this share of the slots.
    pub fn peer(&self, peer: Peer, share: f64, progress: Progress<'_>) -> Run {
        let target = share * f64::from(self.concurrency());
        let mut scaler: Box<dyn Scaler> = match peer {
            Peer::Hpa => Box::new(Hpa::on_gauge(target, self.delay)),
            Peer::HpaMinute => Box::new(Hpa::on_mean(target, self.delay, 60)),
            Peer::Kpa => Box::new(Kpa::new(target)),
        };
        self.run(peer.name(), Some(share), scaler.as_mut(), progress)
    }

    /// A fixed fleet.
    pub fn fixed(&self, replicas: u32, progress: Progress<'_>) -> Run {
        let trial = Self { setup: Setup { initial: replicas, ..self.setup }, ..self.clone() };
        trial.run("fixed", Some(f64::from(replicas)), &mut Fixed(replicas), progress)
    }

    /// The fixed fleet whose cost is nearest to this one.
    pub fn fixed_like(&self, run: &Run, progress: Progress<'_>) -> Run {
        let scored = self.workload.length.saturating_sub(self.setup.warmup);
        let replicas = run.score.replica_seconds * SECOND as f64 / scored.max(1) as f64;
        self.fixed(replicas.round().max(1.0) as u32, progress)
    }

    /// Who knows the future.
    pub fn oracle(&self, progress: Progress<'_>) -> Run {
        self.run("oracle", None, &mut Oracle::new(&self.busy, &self.setup.shape), progress)
    }

    /// All of them once, each at its one number.
    pub fn compare(&self, policy: &Policy, target: f64, progress: Progress<'_>) -> Result<Vec<Run>, UnknownSignal> {
        let ours = self.weir(policy, progress)?;
        let without = self.weir_no_forecast(policy, &ours, progress)?;
        let fixed = self.fixed_like(&ours, progress);
        let mut runs = vec![ours, without];
        runs.extend(Peer::ALL.map(|peer| self.peer(peer, target, progress)));
        for run in &mut runs {
            run.score.elastic_speedup = speedup(&run.score, &fixed.score);
        }
        runs.extend([fixed, self.oracle(progress)]);
        Ok(runs)
    }

    fn run(&self, name: &'static str, parameter: Option<f64>, scaler: &mut dyn Scaler, progress: Progress<'_>) -> Run {
        let record = replay(&self.workload, &self.setup, scaler, progress);
        let concurrency = self.concurrency();
        let yardstick = Yardstick { slo: self.slo, warmup: self.setup.warmup, concurrency, demand: &self.demand };
        Run { score: yardstick.score(name, parameter, &record), record }
    }
}

/// A replay and what it was worth.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it was worth.
    pub score: Score,
    /// What happened.
    pub record: Record,
}
