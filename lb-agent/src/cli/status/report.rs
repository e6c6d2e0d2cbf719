//! What `weir status` shows, and what of it is a problem.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::features::Feature;
use crate::cli::{
    Error,
    agent::text,
    map::list::{self, MapItem, NEARLY_FULL},
    output::{self, Cell, Format, Table, Tone},
};

/// Everything `weir status` found out.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Weir's version.
    pub version: &'static str,
    /// The layout of the maps this version knows.
    pub abi: u32,
    /// The pin path.
    pub pin_path: String,
    /// The kernel's release.
    pub kernel: String,
    /// What the node has.
    pub features: Vec<Feature>,
    /// The agent.
    pub agent: AgentFacts,
    /// Attached programs.
    pub hooks: Vec<HookItem>,
    /// The pinned maps.
    pub maps: Vec<MapItem>,
    /// Dropped packets by reason, those that occurred.
    pub drops: BTreeMap<&'static str, u64>,
    /// Why something could not be read: a cause and its remedy each.
    pub failures: Vec<String>,
}

/// What is known of the agent.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentFacts {
    /// Whether one runs for this pin path.
    pub running: bool,
    /// Its process, where it can be seen.
    pub pid: Option<u32>,
    /// Seconds since it last put a change into the kernel; null before the first, or without an answer.
    pub sync_age_seconds: Option<f64>,
    /// What it says of itself; null if it does not answer.
    pub report: Option<serde_json::Value>,
}

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookItem {
    /// Where.
    pub interface: String,
    /// Such as `tcx-ingress`.
    pub hook: String,
    /// The program's name.
    pub program: String,
    /// The program's id.
    pub program_id: u32,
    /// How often it ran while `kernel.bpf_stats_enabled` was on; null if it was not.
    pub runs: Option<u64>,
    /// How long one of these runs took on average: mostly one packet, or one call of a process.
    pub nanoseconds_per_run: Option<u64>,
}

/// Facts and what is wrong with them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    api_version: &'static str,
    kind: &'static str,
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// What is wrong, a line each.
    pub problems: Vec<String>,
    #[serde(flatten)]
    facts: Facts,
    map_bytes: u64,
}

impl Report {
    /// Judges the facts.
    pub fn new(facts: Facts) -> Self {
        let problems = problems(&facts);
        Self {
            api_version: output::API_VERSION,
            kind: "Status",
            healthy: problems.is_empty(),
            map_bytes: facts.maps.iter().map(|map| map.bytes).sum(),
            problems,
            facts,
        }
    }

    /// The report in this form.
    pub fn show(&self, format: Format, colour: bool) -> Result<String, Error> {
        match format {
            Format::Json => output::json(self),
            Format::Table => Ok(self.text(colour)),
        }
    }

    fn text(&self, colour: bool) -> String {
        let facts = &self.facts;
        let mut text = String::new();
        let delivery = delivery_line(&facts.agent);
        for (name, value) in [
            ("Version", format!("{} (map layout {})", facts.version, facts.abi)),
            ("Kernel", facts.kernel.clone()),
            ("Pin path", facts.pin_path.clone()),
            ("Agent", agent_line(&facts.agent)),
            (
                "Maps",
                format!("{} maps, {:.1} MiB of kernel memory", facts.maps.len(), self.map_bytes as f64 / 1048576.0),
            ),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<10}{value}", format!("{name}:"));
        }
        if let Some(delivery) = delivery {
            let _ = writeln!(text, "Delivery: {delivery}");
        }
        let tables = [
            features(&facts.features),
            hooks(&facts.hooks),
            list::table(&facts.maps),
            drops(&facts.drops),
            self.verdict(),
        ];
        for table in tables.iter().filter(|table| !table.rows.is_empty()) {
            text.push('\n');
            text.push_str(&table.render(colour));
        }
        text
    }

    fn verdict(&self) -> Table {
        let mut table = Table::new(&["PROBLEMS"]);
        table.rows = self.problems.iter().map(|problem| vec![Cell::toned(problem, Tone::Bad)]).collect();
        if self.healthy {
            table.rows.push(vec![Cell::toned("none", Tone::Good)]);
        }
        table
    }
}

fn problems(facts: &Facts) -> Vec<String> {
    let mut problems = facts.failures.clone();
    let missing = facts.features.iter().filter(|feature| feature.required && feature.supported == Some(false));
    problems.extend(missing.map(|f| format!("the node has no {} ({}): {}", f.name, f.purpose, f.remedy)));
    if !facts.agent.running {
        problems.push("no agent running: nothing is updated; start `weir run`".into());
    } else if facts.agent.report.is_none() {
        problems.push("the agent holds the pin path but does not answer: restart it".into());
    }
    problems.extend(agent_problems(&facts.agent));
    if facts.hooks.is_empty() && !facts.maps.is_empty() {
        problems.push("no program is attached: no packet is balanced".into());
    }
    let full =
        facts.maps.iter().filter_map(|map| map.fill().filter(|fill| *fill >= NEARLY_FULL).map(|fill| (map, fill)));
    problems.extend(full.map(|(map, fill)| format!("map {} is {:.0}% full", map.name, fill * 100.0)));
    problems
}

/// What the agent itself reports under `problems`.
fn agent_problems(agent: &AgentFacts) -> Vec<String> {
    let listed = agent.report.as_ref().and_then(|report| report.get("problems")).and_then(|list| list.as_array());
    let text = |problem: &serde_json::Value| problem.as_str().map_or_else(|| problem.to_string(), str::to_owned);
    listed.map(|list| list.iter().map(text).collect()).unwrap_or_default()
}

/// How packets reach local backends, if the agent says so.
fn delivery_line(agent: &AgentFacts) -> Option<String> {
    let delivery = agent.report.as_ref()?.get("delivery")?;
    Some(format!("{} ({})", text(delivery, "mode"), text(delivery, "why")))
}

fn agent_line(agent: &AgentFacts) -> String {
    if !agent.running {
        return "no agent running".into();
    }
    let mut line = agent.pid.map_or_else(|| "running".to_owned(), |pid| format!("running (process {pid})"));
    if let Some(age) = agent.sync_age_seconds {
        line.push_str(&format!(", last sync {age:.0}s ago"));
    }
    line
}

fn features(features: &[Feature]) -> Table {
    let mut table = Table::new(&["FEATURE", "SUPPORTED", "FOR", "FOUND BY, OR WHAT HELPS"]);
    table.rows = features
        .iter()
        .map(|feature| {
            let supported = match feature.supported {
                Some(true) => Cell::toned("yes", Tone::Good),
                Some(false) if feature.required => Cell::toned("no", Tone::Bad),
                Some(false) => Cell::toned("no", Tone::Warn),
                None => Cell::toned("unknown", Tone::Warn),
            };
            let how = if feature.supported == Some(false) { feature.remedy } else { feature.how.as_str() };
            vec![feature.name.into(), supported, feature.purpose.into(), how.into()]
        })
        .collect();
    table
}

fn hooks(hooks: &[HookItem]) -> Table {
    let mut table = Table::new(&["WHERE", "HOOK", "PROGRAM", "ID", "RUNS", "NS/RUN"]);
    let row = |hook: &HookItem| {
        let mut cells: Vec<Cell> =
            [&hook.interface, &hook.hook, &hook.program].into_iter().map(|text| Cell::or_dash(text)).collect();
        cells.push(u64::from(hook.program_id).into());
        cells.extend([hook.runs, hook.nanoseconds_per_run].map(Cell::from));
        cells
    };
    table.rows = hooks.iter().map(row).collect();
    table
}

fn drops(drops: &BTreeMap<&'static str, u64>) -> Table {
    let mut table = Table::new(&["DROPPED", "PACKETS"]);
    table.rows = drops.iter().map(|(reason, count)| vec![(*reason).into(), (*count).into()]).collect();
    table
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
