//! What keeps a decision from what was asked for, as data: the field or the circumstance, and what it says.

use std::{fmt, sync::Arc, time::Duration};

use super::voice::Whole;

/// What kept a decision from what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restraint {
    /// `replicas.min`.
    Min(u32),
    /// `replicas.max`.
    Max(u32),
    /// An entry of the schedule is in force.
    Schedule {
        /// Its place.
        index: usize,
        /// Its least replicas.
        min: u32,
    },
    /// A client has asked for a Service without replicas.
    Awake,
    /// The last replica is not known to carry nothing.
    NotIdle,
    /// The stabilisation window of going up.
    StableUp {
        /// How long it is.
        window: Duration,
        /// The lowest recommendation within it.
        lowest: u32,
    },
    /// The stabilisation window of going down.
    StableDown {
        /// How long it is.
        window: Duration,
        /// The highest recommendation within it.
        highest: u32,
    },
    /// The largest changes within a period.
    Policies {
        /// Whether of going up.
        up: bool,
        /// How far the number may go.
        allowed: u32,
    },
    /// A direction is disabled.
    Disabled {
        /// Whether it is up.
        up: bool,
    },
    /// The policy is paused by its annotation.
    Paused,
    /// Somebody has set the number to 0.
    ZeroByHand,
    /// Endpoints that were just found may be few of many.
    MoreMayCome,
    /// Somebody else has changed the number.
    Foreign {
        /// The number before.
        from: u32,
        /// The number after.
        to: u32,
        /// How long it is still left alone.
        left: Duration,
    },
    /// A rollout is under way.
    Rollout(Arc<str>),
    /// Replicas do not get to run.
    Pending {
        /// How many.
        replicas: u32,
        /// For how long.
        waited: Duration,
    },
}

impl Restraint {
    /// The field that says so, or the circumstance.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Min(_) => "replicas.min",
            Self::Max(_) => "replicas.max",
            Self::Schedule { .. } => "schedule",
            Self::Awake => "wake-up",
            Self::NotIdle => "last replica",
            Self::StableUp { .. } => "behavior.scaleUp.stabilizationWindowSeconds",
            Self::StableDown { .. } => "behavior.scaleDown.stabilizationWindowSeconds",
            Self::Policies { up: true, .. } => "behavior.scaleUp.policies",
            Self::Policies { up: false, .. } => "behavior.scaleDown.policies",
            Self::Disabled { up: true } => "behavior.scaleUp.selectPolicy",
            Self::Disabled { up: false } => "behavior.scaleDown.selectPolicy",
            Self::Paused => "annotation weir.dev/paused",
            Self::ZeroByHand => "0 replicas by hand",
            Self::MoreMayCome => "replicas.min",
            Self::Foreign { .. } => "changed by someone else",
            Self::Rollout(_) => "rollout",
            Self::Pending { .. } => "pending replicas",
        }
    }

    /// Whether it keeps the number whatever is asked for.
    pub const fn is_hold(&self) -> bool {
        matches!(self, Self::Paused | Self::ZeroByHand | Self::MoreMayCome | Self::Foreign { .. })
    }

    /// What it says, without the field.
    pub fn why(&self) -> String {
        match self {
            Self::Min(min) => format!("at least {min}"),
            Self::Max(max) => format!("at most {max}"),
            Self::Schedule { index, min } => format!("entry {index} keeps at least {min}"),
            Self::Awake => "a client has asked for it".to_owned(),
            Self::NotIdle => "it is not known to carry nothing".to_owned(),
            Self::StableUp { window, lowest } => {
                format!("the lowest recommendation of the last {} s is {lowest}", window.as_secs())
            }
            Self::StableDown { window, highest } => {
                format!("the highest recommendation of the last {} s is {highest}", window.as_secs())
            }
            Self::Policies { allowed, .. } => format!("{allowed} is as far as it may go now"),
            Self::Disabled { .. } => "changes in this direction are disabled".to_owned(),
            Self::Paused => "nothing is decided until it is removed".to_owned(),
            Self::ZeroByHand => "nothing is decided until it is set to 1 or more".to_owned(),
            Self::MoreMayCome => "waits for endpoints that may still appear".to_owned(),
            Self::Foreign { from, to, left } => format!("{from} -> {to}, left alone for {}", Whole(*left)),
            Self::Rollout(what) => format!("nothing is removed while {what} is rolled out"),
            Self::Pending { replicas, waited } => {
                format!("nothing is added while {replicas} wait to run, for {}", Whole(*waited))
            }
        }
    }
}

impl fmt::Display for Restraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field(), self.why())
    }
}
