//! `cargo xtask test [LAYER]`: runs the tests of one layer or of all, and ends with one summary.

mod background;
mod output;

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use comfy_table::{Table, presets};
use weir_tests::cluster::{keda, programs};
use xshell::{Shell, cmd};

use self::{background::Background, output::Counts};
use crate::{
    build, cluster, lint, privilege,
    setup::{self, Purpose},
    shell,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which tests
    #[arg(value_enum, default_value = "all")]
    layer: Layer,
    /// What the test programs get, as in `cargo test -- ...`: a part of the tests' names, for example
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Unit tests, packet tables and properties: no root, no BPF toolchain
    Host,
    /// The loaded programs under BPF_PROG_TEST_RUN; needs root
    Kernel,
    /// Eight million more random operations on the loaded programs beside a model of them, at low priority; needs root
    Model,
    /// Real traffic between network namespaces; needs root
    Netns,
    /// A real Kubernetes cluster; needs root, and some minutes once to build Kubernetes
    Kubernetes,
    /// A real KEDA in such a cluster; needs root, and many minutes once to build KEDA: only where it is named
    Keda,
    /// Metrics, dashboards and alerts under Prometheus' own promtool and server: no root
    Prometheus,
    /// The chart under Helm: no root, and a minute once to build Helm
    Chart,
    /// All but keda, one after the other (prometheus, kernel and model beside kubernetes, which mostly waits), each of them even when one
    /// fails; before them the lints where CI=true
    All,
}

impl Layer {
    /// The layer's name.
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Model => "model",
            Self::Netns => "netns",
            Self::Kubernetes => "kubernetes",
            Self::Keda => "keda",
            Self::Prometheus => "prometheus",
            Self::Chart => "chart",
            Self::All => "all",
        }
    }

    /// Its test programs, of those that need root or tools, as cargo is told of them.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Host | Self::All => &[],
            Self::Prometheus => &["--test", "observe"],
            Self::Chart => &["--test", "chart"],
            Self::Kernel => &["--test", "kernel", "--package", "weir-model", "--bin", "model"],
            Self::Model => &["--package", "weir-model", "--bin", "model"],
            Self::Netns => &["--test", "netns"],
            Self::Kubernetes | Self::Keda => &["--test", "kubernetes"],
        }
    }

    /// Tests of it that run at once. Those of the kernel and the cluster share counters; those between namespaces share only the cores,
    /// and mostly wait.
    fn threads(self) -> usize {
        match self {
            Self::Netns => 2,
            _ => 1,
        }
    }

    /// The single layers that this one stands for, without those beside them.
    fn parts(self) -> &'static [Self] {
        match self {
            Self::Host => &[Self::Host],
            Self::Kernel => &[Self::Kernel],
            Self::Model => &[Self::Model],
            Self::Netns => &[Self::Netns],
            Self::Kubernetes => &[Self::Kubernetes],
            Self::Keda => &[Self::Keda],
            Self::Prometheus => &[Self::Prometheus],
            Self::Chart => &[Self::Chart],
            Self::All => &[Self::Host, Self::Chart, Self::Kubernetes, Self::Netns],
        }
    }

    /// Those that go on beside this part of all, which mostly waits.
    fn beside(self) -> &'static [Self] {
        match self {
            Self::Kubernetes => &[Self::Prometheus, Self::Kernel, Self::Model],
            _ => &[],
        }
    }
}

/// How a layer's tests come by the CPUs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Priority {
    /// As everything else.
    Normal,
    /// What others leave over.
    Low,
}

impl Priority {
    /// As nice(1) counts.
    fn niceness(self) -> &'static str {
        match self {
            Self::Normal => "0",
            Self::Low => "19",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let outcomes = outcomes(args);
    println!("\n{}", table(&outcomes));
    let failed: Vec<_> =
        outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.name).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join(", ")),
    }
}

/// Runs everything asked for, one after the other; only what cannot run without the program is left out when that cannot be built.
fn outcomes(args: &Args) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    if args.layer == Layer::All && env::var_os("CI").is_some_and(|value| value == "true") {
        outcomes.push(Outcome::of("lint", lint::everything));
    }
    let parts = args.layer.parts();
    if parts != [Layer::Host] {
        // Before the host's tests, so that the agent is compiled once, with the BPF object in it.
        outcomes.push(Outcome::of("build", build_for_tests));
    }
    let built = outcomes.iter().all(|outcome| outcome.name != "build" || outcome.result.is_ok());
    for layer in parts.iter().filter(|layer| built || **layer == Layer::Host) {
        let beside = if args.layer == Layer::All { layer.beside() } else { &[] };
        let all = args.arguments.is_empty();
        let background = (all && !beside.is_empty()).then(|| Background::start(beside));
        outcomes.push(Outcome::of_tests(layer.name(), || layer_tests(*layer, &args.arguments)));
        outcomes.extend(background.map(Background::finish).into_iter().flatten());
        // Who asks for some tests by name does not mean millions of operations.
        for layer in beside.iter().filter(|layer| !all && **layer != Layer::Model) {
            outcomes.push(Outcome::of_tests(layer.name(), || layer_tests(*layer, &args.arguments)));
        }
    }
    outcomes
}

fn layer_tests(layer: Layer, arguments: &[String]) -> Result<Counts> {
    // Of which it has thousands more than anybody waits for.
    let priority = if layer == Layer::Model { Priority::Low } else { Priority::Normal };
    let tests = start(command(&shell::in_root()?, layer, arguments, priority)?)?;
    follow(tests, |line| println!("{line}"))
}

/// The command that runs a layer's tests.
fn command<'a>(shell: &'a Shell, layer: Layer, arguments: &[String], priority: Priority) -> Result<xshell::Cmd<'a>> {
    match layer {
        Layer::Host => Ok(host_tests(shell, arguments)),
        Layer::Prometheus => Ok(tool_tests(shell, layer, arguments, priority)),
        Layer::Chart => {
            cluster::installed("helm")?;
            Ok(tool_tests(shell, layer, arguments, priority))
        }
        Layer::Kernel | Layer::Model | Layer::Netns | Layer::Kubernetes | Layer::Keda | Layer::All => {
            privileged_tests(shell, layer, arguments, priority)
        }
    }
}

fn build_for_tests() -> Result<()> {
    setup::ensure(Purpose::Test)?;
    build::weir(false).map(drop)
}

fn host_tests<'a>(shell: &'a Shell, arguments: &[String]) -> xshell::Cmd<'a> {
    build::with_object(cmd!(shell, "cargo test --locked --workspace --no-fail-fast -- {arguments...}"))
}

fn tool_tests<'a>(shell: &'a Shell, layer: Layer, arguments: &[String], priority: Priority) -> xshell::Cmd<'a> {
    let selection = ["--locked", "--package", "weir-tests", "--features", "tools", "--no-fail-fast"];
    let niceness = priority.niceness();
    let tests = cmd!(shell, "nice -n {niceness} cargo test {selection...}");
    build::with_object(tests.args(layer.programs()).arg("--").args(arguments))
}

/// The command that runs a layer's tests as root.
fn privileged_tests<'a>(
    shell: &'a Shell,
    layer: Layer,
    arguments: &[String],
    priority: Priority,
) -> Result<xshell::Cmd<'a>> {
    let selection = ["--locked", "--package", "weir-tests", "--features", "privileged", "--no-fail-fast"];
    let niceness = priority.niceness();
    let tests = cmd!(shell, "nice -n {niceness} cargo test {selection...}");
    let threads = format!("--test-threads={}", layer.threads());
    let tests = tests.args(layer.programs()).args(["--", &threads]).args(arguments);
    let tests = build::with_object(tests).env("WEIR_BIN", build::weir_path(false));
    // Built as the user who asked, into that user's cache; the tests run as root.
    let tests = match layer {
        Layer::Kubernetes | Layer::Keda => tests.env(programs::VARIABLE, cluster::programs()?.folder()),
        _ => tests,
    };
    let tests = match layer {
        // Those that the cluster's other tests leave out.
        Layer::Keda => tests.arg("--ignored").env(keda::VARIABLE, cluster::keda()?),
        // Those that the kernel's other tests leave out; they say how far they are.
        Layer::Model => tests.args(["--ignored", "--nocapture"]),
        _ => tests,
    };
    let runner = privilege::runner(shell)?;
    privilege::announce(&format!("the {} tests load BPF programs and make network namespaces", layer.name()));
    Ok(runner.into_iter().fold(tests, |tests, (variable, sudo)| tests.env(variable, sudo)))
}

fn start(tests: xshell::Cmd<'_>) -> Result<Child> {
    eprintln!("$ {tests}");
    Command::from(tests).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting cargo")
}

/// Shows the output of `cargo test` as it comes, and counts the tests in it.
fn follow(mut tests: Child, mut show: impl FnMut(&str)) -> Result<Counts> {
    let output = tests.stdout.take().context("cargo has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        show(&line);
        counts.add(&line);
    }
    counts.ended_well = tests.wait()?.success();
    Ok(counts)
}

/// What became of one part.
struct Outcome {
    name: &'static str,
    /// None for what is not a test program.
    counts: Option<Counts>,
    result: Result<()>,
    took: Duration,
}

impl Outcome {
    fn of(name: &'static str, task: impl FnOnce() -> Result<()>) -> Self {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = task();
        if let Err(error) = &result {
            eprintln!("{name}: {error:#}");
        }
        Self { name, counts: None, result, took: start.elapsed() }
    }

    fn of_tests(name: &'static str, tests: impl FnOnce() -> Result<Counts>) -> Self {
        let mut counts = Counts::default();
        let outcome = Self::of(name, || {
            counts = tests()?;
            counts.verdict()
        });
        Self { counts: Some(counts), ..outcome }
    }
}

fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["PART", "RESULT", "PASSED", "FAILED", "IGNORED", "TIME"]);
    for Outcome { name, counts, result, took } in outcomes {
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        let numbers =
            counts.map(|counts| [counts.passed, counts.failed, counts.ignored].map(|count| count.to_string()));
        let [passed, failed, ignored] = numbers.unwrap_or_default();
        let took = format!("{:.0} s", took.as_secs_f64());
        table.add_row([*name, verdict, &passed, &failed, &ignored, &took]);
    }
    table
}
