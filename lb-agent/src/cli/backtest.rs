//! `weir backtest`: replays a load trace under a ScalePolicy and under models of other autoscalers.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{
    Error, Screen,
    output::{self, Format, Table},
};
use crate::{
    backtest::{
        fleet::{Queue, Shape},
        fronts, plot,
        run::{Conditions, NO_FORECAST, Peer, Run, Trial},
        score::Score,
        trace::{self, Place, Replay, ServiceTime},
        workload::nanos,
    },
    scaling::{Policy, ScalePolicy, validate},
};

/// `weir backtest`.
#[derive(Clone, Debug, clap::Args)]
pub struct BacktestArgs {
    /// The load: CSV, plain or .gz. Header TIMESTAMP,ContextTokens,GeneratedTokens: one request per row; else the first column is the
    /// time (seconds or ISO 8601) and the second a rate (..._per_second) or the requests of the interval (count, requests).
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// The ScalePolicy, as YAML.
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Draw load, capacity and violations into this file; with --sweep, the fronts.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// Replay every scaler over the range of its one free number: its target, 0.25 to 2.0 of a replica's slots. Of the policy, the
    /// first target is varied.
    #[arg(long)]
    pub sweep: bool,
    /// The longest waiting time for service that is no violation.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    pub slo: Duration,
    /// Requests that a replica serves at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrency: u32,
    /// The time from the decision to start a replica to its first request.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub startup_delay: Duration,
    /// How long each request is served; 1 s where the trace has no tokens.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub service_time: Option<Duration>,
    /// Service time per token of a request's context, in ms.
    #[arg(long, value_name = "MS", default_value_t = 0.25, value_parser = factor, conflicts_with = "service_time")]
    pub prefill_ms_per_token: f64,
    /// Service time per generated token, in ms.
    #[arg(long, value_name = "MS", default_value_t = 25.0, value_parser = factor, conflicts_with = "service_time")]
    pub decode_ms_per_token: f64,
    /// Multiplies the trace's load.
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = positive)]
    pub rate_scale: f64,
    /// Where in the trace to begin: seconds or a duration from its start, or ISO 8601.
    #[arg(long, value_name = "TIME", value_parser = trace::place)]
    pub from: Option<Place>,
    /// Where in the trace to end.
    #[arg(long, value_name = "TIME", value_parser = trace::place)]
    pub to: Option<Place>,
    /// The time at the start that is not scored.
    #[arg(long, value_name = "DURATION", default_value = "600s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Replicas at the start; if not given, enough for the warm-up's mean load at --peer-target.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub initial: Option<u32>,
    /// The share of their slots that the HPA and the KPA aim at.
    #[arg(long, value_name = "F", default_value_t = 0.7, value_parser = positive)]
    pub peer_target: f64,
    /// How old the metric is that the HPA sees.
    #[arg(long, value_name = "DURATION", default_value = "22s", value_parser = humantime::parse_duration)]
    pub metrics_delay: Duration,
    /// Where requests wait.
    #[arg(long, value_enum, default_value_t)]
    pub queue: Queue,
    /// Makes the same arrivals of the same rates.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// A number that is not negative.
fn factor(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| format!("{text:?} is not a number that is 0 or greater"))
}

/// A number that is greater than 0.
fn positive(text: &str) -> Result<f64, String> {
    let number = factor(text).ok().filter(|number| *number > 0.0);
    number.ok_or_else(|| format!("{text:?} is not a number greater than 0"))
}

#[derive(Serialize)]
struct Report<'a> {
    trace: &'a Path,
    results: &'a [Score],
}

/// Replays, and shows what came of it.
pub fn run(args: &BacktestArgs, screen: &mut Screen<'_>) -> Result<(), Error> {
    let policy = policy(&args.policy)?;
    let trial = trial(args)?;
    let scalers = 1 + usize::from(policy.forecast.is_some()) + Peer::ALL.len();
    let replays = if args.sweep { scalers * fronts::shares().count() } else { scalers + 2 };
    let bar = progress(trial.requests() as u64 * replays as u64);
    let tick = |requests| bar.inc(requests);
    let title = args.trace.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let drawn = |file: &Path, drawn: Result<(), plot::PlotError>| {
        drawn.map_err(|error| {
            failed(format!("{}: {error}", file.display()), "name a file in a folder that can be written")
        })
    };
    let unknown = |error: crate::backtest::scalers::weir::UnknownSignal| {
        let remedy = "use a policy on inFlight, activeConnections, requestsPerSecond or connectionsPerSecond";
        failed(format!("{}: {error}", args.policy.display()), remedy)
    };
    let scores = if args.sweep {
        let scores = fronts::sweep(&trial, &policy, &tick).map_err(unknown)?;
        if let Some(file) = &args.plot {
            let shown: Vec<_> = scores.iter().filter(|score| drawn_too(&policy, score)).collect();
            drawn(file, plot::fronts(file, &title, &trial, &shown))?;
        }
        scores
    } else {
        let runs: Vec<Run> = trial.compare(&policy, args.peer_target, &tick).map_err(unknown)?;
        if let Some(file) = &args.plot {
            let shown: Vec<_> = runs.iter().filter(|run| drawn_too(&policy, &run.score)).collect();
            drawn(file, plot::replays(file, &title, &trial, &shown))?;
        }
        runs.into_iter().map(|run| run.score).collect()
    };
    bar.finish_and_clear();
    match args.output {
        Format::Json => screen.print(&output::json(&Report { trace: &args.trace, results: &scores })?),
        Format::Table => screen.print(&table(&scores).render(screen.colour)),
    }
}

/// Whether it is worth a line in a plot: a policy without a forecast is the same without it.
fn drawn_too(policy: &Policy, score: &Score) -> bool {
    policy.forecast.is_some() || score.scaler != NO_FORECAST
}

fn failed(cause: String, remedy: &str) -> Error {
    Error::Run { cause, remedy: remedy.to_owned() }
}

/// The policy in a file, checked as everywhere else.
pub fn policy(file: &Path) -> Result<Policy, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::File { path: file.to_owned(), source })?;
    let name = file.display();
    let resource: ScalePolicy = serde_saphyr::from_str(&text)
        .map_err(|error| failed(format!("{name}: {error}"), "write one ScalePolicy of weir.dev/v1alpha1"))?;
    validate(&resource).map_err(|error| failed(format!("{name}: {}: {}", error.path, error.problem), &error.remedy))
}

fn trial(args: &BacktestArgs) -> Result<Trial, Error> {
    let refused = |error: trace::TraceError| failed(error.to_string(), error.remedy());
    let trace = trace::read(&args.trace).map_err(refused)?;
    let service = ServiceTime {
        constant: args.service_time.map(|time| time.as_secs_f64()),
        prefill: args.prefill_ms_per_token / 1e3,
        decode: args.decode_ms_per_token / 1e3,
    };
    let replay = Replay { from: args.from, to: args.to, scale: args.rate_scale, service, seed: args.seed };
    let workload = trace::workload(&trace, &replay).map_err(refused)?;
    if nanos(args.warmup) >= workload.length {
        let length = humantime::format_duration(Duration::from_secs(workload.length / 1_000_000_000));
        let cause = format!("{}: it lasts {length}, not longer than the warm-up", args.trace.display());
        return Err(failed(cause, "give a shorter --warmup, or another --from and --to"));
    }
    let shape = Shape { concurrency: args.concurrency, startup: nanos(args.startup_delay), queue: args.queue };
    let conditions = Conditions {
        shape,
        initial: args.initial,
        target: args.peer_target,
        warmup: nanos(args.warmup),
        slo: nanos(args.slo),
        metrics_delay: args.metrics_delay.as_secs(),
    };
    Ok(Trial::new(workload, &conditions))
}

/// A bar on standard error, if that is a terminal.
fn progress(requests: u64) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(requests), target);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} % of {len} requests, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

fn table(scores: &[Score]) -> Table {
    let mut table = Table::new(&[
        "SCALER",
        "PARAMETER",
        "VIOLATIONS",
        "P50-WAIT",
        "P99-WAIT",
        "REPLICA-HOURS",
        "UTILISATION",
        "ACTIONS",
        "REVERSALS",
        "UNDER",
        "OVER",
        "SPEEDUP",
    ]);
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    for score in scores {
        let parameter = score.parameter.map_or_else(|| "-".to_owned(), |parameter| format!("{parameter:.2}"));
        table.rows.push(vec![
            score.scaler.into(),
            parameter.into(),
            percent(score.slo_violation_ratio).into(),
            format!("{:.2}s", score.p50_wait_seconds).into(),
            format!("{:.2}s", score.p99_wait_seconds).into(),
            format!("{:.2}", score.replica_seconds / 3600.0).into(),
            percent(score.mean_utilisation).into(),
            (score.actions as u64).into(),
            (score.quick_reversals as u64).into(),
            percent(score.under_provisioning).into(),
            percent(score.over_provisioning).into(),
            score.elastic_speedup.map_or_else(|| "-".to_owned(), |speedup| format!("{speedup:.2}")).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(folder: &Path, more: &[&str]) -> BacktestArgs {
        let (trace, policy) = (folder.join("load.csv"), folder.join("policy.yaml"));
        let given = ["weir", "backtest", "--trace", trace.to_str().unwrap(), "--policy", policy.to_str().unwrap()];
        match Cli::parse_from(given.iter().chain(more)).command {
            Command::Backtest(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn folder(trace: &str, signal: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("load.csv"), trace).unwrap();
        let policy = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: ScalePolicy\nmetadata: {{name: web}}\nspec:\n  serviceRef: {{name: web}}\n  \
             replicas: {{max: 50}}\n  targets: [{{signal: {signal}, perReplica: 4}}]\n"
        );
        std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
        folder
    }

    const RATES: &str = "time,requests_per_second\n0,5\n300,5\n600,20\n900,5\n1200,5\n";

    fn shown(args: &BacktestArgs) -> Result<String, Error> {
        let mut out = Vec::new();
        run(args, &mut Screen::plain(&mut out))?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn json_has_a_result_for_each_scaler() {
        let folder = folder(RATES, "inFlight");
        let plot = folder.path().join("plot.svg");
        let flags = ["--concurrency", "4", "--warmup", "200s", "-o", "json", "--plot", plot.to_str().unwrap()];
        let report: serde_json::Value = serde_json::from_str(&shown(&args(folder.path(), &flags)).unwrap()).unwrap();
        assert_eq!(report["trace"], folder.path().join("load.csv").to_str().unwrap());
        let results = report["results"].as_array().unwrap();
        let scalers: Vec<_> = results.iter().map(|result| result["scaler"].as_str().unwrap()).collect();
        assert_eq!(scalers, ["weir", "weir-no-forecast", "hpa", "hpa-60s", "kpa", "fixed", "oracle"]);
        let requests = results[0]["requests"].as_u64().unwrap();
        assert!((8000..12_000).contains(&requests), "{requests}");
        for result in results {
            assert_eq!(result["requests"], requests, "each serves all");
            for field in [
                "sloViolationRatio",
                "p50WaitSeconds",
                "p99WaitSeconds",
                "replicaSeconds",
                "meanUtilisation",
                "actions",
                "quickReversals",
                "underProvisioning",
                "overProvisioning",
            ] {
                assert!(result[field].is_number(), "{field} of {result}");
            }
        }
        assert_eq!(results[6]["sloViolationRatio"], 0.0, "the oracle");
        let svg = std::fs::read_to_string(plot).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("weir: ") && svg.contains("oracle: "));
    }

    #[test]
    fn a_sweep_has_a_result_for_each_point() {
        let folder = folder(RATES, "inFlight");
        let plot = folder.path().join("fronts.svg");
        let flags =
            ["--concurrency", "4", "--warmup", "200s", "--sweep", "-o", "json", "--plot", plot.to_str().unwrap()];
        let report: serde_json::Value = serde_json::from_str(&shown(&args(folder.path(), &flags)).unwrap()).unwrap();
        let results = report["results"].as_array().unwrap();
        assert_eq!(results.len(), 5 * 36);
        let first = (results[0]["scaler"].as_str(), results[0]["parameter"].as_f64());
        assert_eq!(first, (Some("weir"), Some(0.25)));
        assert!(std::fs::read_to_string(plot).unwrap().contains("replica-hours"));
    }

    #[test]
    fn the_table_has_a_row_for_each_scaler() {
        let folder = folder(RATES, "inFlight");
        let table = shown(&args(folder.path(), &["--concurrency", "4", "--warmup", "200s"])).unwrap();
        let first: Vec<_> = table.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(first, ["SCALER", "weir", "weir-no-forecast", "hpa", "hpa-60s", "kpa", "fixed", "oracle"]);
    }

    #[test]
    fn what_cannot_be_replayed_says_why() {
        let cases = [
            (RATES, "cpu", &["--warmup", "200s"][..], "signal cpu is unknown to a replay"),
            (RATES, "inFlight", &["--warmup", "20m"], "it lasts 20m, not longer than the warm-up"),
            (RATES, "inFlight", &["--from", "1h"], "there is no request"),
            (RATES, "speed", &[], "speed"),
            ("time,count\n0,1\n60,-1\n", "inFlight", &[], "line 3, column count: -1 is negative"),
        ];
        for (trace, signal, flags, expected) in cases {
            let folder = folder(trace, signal);
            let error = shown(&args(folder.path(), flags)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.remedy().is_empty());
        }
    }
}
