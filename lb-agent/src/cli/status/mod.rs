//! `weir status`: kernel, programs, maps, agent, versions, and what is wrong with them.

pub mod features;
pub mod report;
mod running;

use std::{collections::BTreeMap, path::Path, time::SystemTime};

use lb_common::ABI_VERSION;
use serde_json::Value;

use self::{
    report::{AgentFacts, Facts, HookItem},
    running::Program,
};
use super::{Error, agent, host, map::list, output::Format};
use crate::dataplane::{
    Inspect,
    attach::{self, Hook},
    cgroup::{self, SocketHook},
    pins::{self, Pinned},
};

/// `weir status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// Finds out everything that can be found out; what cannot is a failure among the facts, not an error.
pub fn facts(pin_path: &Path) -> Facts {
    let mut facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        pin_path: pin_path.display().to_string(),
        kernel: features::release(),
        features: features::probe(),
        agent: agent(pin_path),
        ..Facts::default()
    };
    if let Err(error) = read_pins(pin_path, &mut facts) {
        facts.failures.push(format!("{error}: {}", error.remedy()));
    }
    facts
}

/// An agent of another pid namespace cannot be seen, but answers.
fn agent(pin_path: &Path) -> AgentFacts {
    let pid = host::agent(pin_path);
    let report = agent::ask(pin_path, "/v1/status").ok();
    let sync_age_seconds = report.as_ref().and_then(|report| sync_age(report, SystemTime::now()));
    AgentFacts { running: pid.is_some() || report.is_some(), pid, sync_age_seconds, report }
}

/// Whether an agent runs for this pin path.
pub fn runs(pin_path: &Path) -> bool {
    agent(pin_path).running
}

/// Seconds since the agent last put a change into the kernel.
fn sync_age(report: &Value, now: SystemTime) -> Option<f64> {
    let last = humantime::parse_rfc3339_weak(agent::text(report, "lastSync")).ok()?;
    // The agent's clock is ours, read a moment ago.
    Some(now.duration_since(last).unwrap_or_default().as_secs_f64())
}

fn read_pins(pin_path: &Path, facts: &mut Facts) -> Result<(), Error> {
    host::check_bpffs(pin_path)?;
    facts.hooks = attach::hooks(pin_path)?.iter().map(hook_item).collect();
    facts.hooks.extend(cgroup::hooks(pin_path)?.iter().map(socket_item));
    let source = Pinned::open(pin_path)?;
    facts.maps = list::items(&pins::maps(pin_path)?, &source)?;
    facts.drops = occurred(&source)?;
    Ok(())
}

/// Drop reasons that occurred.
fn occurred(source: &impl Inspect) -> Result<BTreeMap<&'static str, u64>, Error> {
    let drops = source.drops()?.into_iter().filter(|(_, count)| *count > 0);
    Ok(drops.map(|(reason, count)| (reason.name(), count)).collect())
}

fn hook_item(hook: &Hook) -> HookItem {
    item(interface(hook), hook.kind.name(), hook.program)
}

fn socket_item(hook: &SocketHook) -> HookItem {
    item(cgroup(hook), hook.name, hook.program)
}

fn item(interface: String, hook: &str, program_id: u32) -> HookItem {
    let Program { name, runs, nanoseconds_per_run } = running::program(program_id);
    HookItem { interface, hook: hook.to_owned(), program: name, program_id, runs, nanoseconds_per_run }
}

/// A cgroup's folder, or its id where the folder is not to be seen.
pub fn cgroup(hook: &SocketHook) -> String {
    match hook.cgroup {
        0 => "a cgroup that is gone".into(),
        id => cgroup::folder(id).map_or_else(|| format!("cgroup #{id}"), |path| path.display().to_string()),
    }
}

/// An interface's name, or its index where it is in another network namespace, or gone.
pub fn interface(hook: &Hook) -> String {
    hook.interface.clone().unwrap_or_else(|| format!("#{}", hook.index))
}

/// A socket hook in words.
pub fn socket_place(hook: &SocketHook) -> String {
    format!("{} of {}", hook.name, cgroup(hook))
}

/// A hook in words.
pub fn place(hook: &Hook) -> String {
    format!("{} of {}", hook.kind, interface(hook))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::sample;

    #[test]
    fn only_drops_that_occurred_are_shown() {
        let drops = occurred(&sample::Memory(sample::view())).unwrap();
        assert_eq!(drops, BTreeMap::from([("no-backend", 3)]));
    }

    #[test]
    fn the_last_sync_has_an_age() {
        let now = humantime::parse_rfc3339("2026-01-02T03:04:15Z").unwrap();
        let age = |last: Value| sync_age(&serde_json::json!({ "lastSync": last }), now);
        assert_eq!(age("2026-01-02T03:04:05Z".into()), Some(10.0));
        assert_eq!(age("2026-01-02T03:05:05Z".into()), Some(0.0), "never negative");
        assert_eq!(age(Value::Null), None);
    }

    #[test]
    fn a_place_without_pins_is_a_failure_among_the_facts() {
        let folder = tempfile::tempdir().unwrap();
        let facts = facts(folder.path());
        assert_eq!(facts.failures.len(), 1, "{:?}", facts.failures);
        assert!(facts.failures[0].contains("is not on a bpf file system"), "{:?}", facts.failures);
        assert!(!facts.kernel.is_empty() && !facts.features.is_empty() && !facts.agent.running);
    }
}
