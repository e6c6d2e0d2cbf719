//! `weir run`: the agent of this node.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use lb_common::{Algorithm, abi::timeout};
use tracing_subscriber::EnvFilter;

use super::Error;
use crate::{
    agent::{self, AgentError, Prepared},
    config::{RunConfig, port_range},
    dataplane::{
        attach::{self, Datapath},
        bpf::{Bpf, Options, Sizes},
        pins::map_folder,
    },
    discovery::annotations,
    scaling::command,
    telemetry::control::Control,
};

/// `weir run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// A folder of Kubernetes manifests (Service, EndpointSlice, ScalePolicy), watched
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// An interface that clients come in by; may be given several times [default: those of the default routes]
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
    /// Where packets are met on those interfaces
    #[arg(long, value_enum, default_value_t = DatapathArg::Auto)]
    pub datapath: DatapathArg,
    /// Serves metrics, /healthz and /readyz at this address
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Scales ScalePolicies that name no command; called with NAME CURRENT DESIRED added
    #[arg(long, value_name = "CMD", value_parser = scale_command)]
    pub scale_command: Option<Argv>,
    /// How long a scale command may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub scale_timeout: Duration,
    /// This node's name, as nodeName of endpoints says it [default: the hostname]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// The algorithm of Services without weir.dev/algorithm
    #[arg(long, value_name = "NAME", default_value = "maglev", value_parser = algorithm)]
    pub default_algorithm: Algorithm,
    /// A TCP connection without a packet for so long is forgotten
    #[arg(long, value_name = "TIME", default_value = TCP_IDLE, value_parser = tcp_idle)]
    pub tcp_idle: Duration,
    /// Source ports towards backends on other nodes
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    pub snat_ports: (u16, u16),
    /// Flows that new maps have room for; maps that exist keep their size
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(512..=1 << 25))]
    pub flow_table_size: u32,
    /// Frontends, and service ports, that new maps have room for
    #[arg(long, value_name = "N", default_value_t = Sizes::default().frontends, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_frontends: u32,
    /// Backends, counted once for each service port, that new maps have room for
    #[arg(long, value_name = "N", default_value_t = Sizes::default().backends, value_parser = clap::value_parser!(u32).range(1..=1 << 22))]
    pub max_backends: u32,
    /// Slots of selection tables (8 bytes each) that new maps have room for; ip-hash and maglev take 4093 to 131071 a service port
    #[arg(long, value_name = "N", default_value_t = Sizes::default().slots, value_parser = clap::value_parser!(u32).range(1024..=1 << 28))]
    pub max_slots: u32,
    /// Logs samples of rare events of the packet path
    #[arg(long)]
    pub bpf_log: bool,
}

/// [`timeout::TCP_IDLE`] as it is written on a command line.
const TCP_IDLE: &str = "8000s";
const _: () = assert!(timeout::TCP_IDLE == 8000);

/// `--datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatapathArg {
    /// XDP with tc beside it where the device's driver can and nobody holds it, else tc
    Auto,
    /// tc alone
    Tc,
    /// XDP in the driver with tc beside it, or an error
    Xdp,
    /// XDP in the kernel's generic form with tc beside it
    XdpGeneric,
}

impl From<DatapathArg> for Datapath {
    fn from(arg: DatapathArg) -> Self {
        match arg {
            DatapathArg::Auto => Self::Auto,
            DatapathArg::Tc => Self::Tc,
            DatapathArg::Xdp => Self::Xdp,
            DatapathArg::XdpGeneric => Self::XdpGeneric,
        }
    }
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv(pub Vec<String>);

fn scale_command(text: &str) -> Result<Argv, String> {
    command::split(text).map(Argv).ok_or_else(|| "empty, or a quote is not closed".into())
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    annotations::algorithm(text).map_err(|invalid| format!("{}: {}", invalid.cause, invalid.remedy))
}

fn tcp_idle(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let days = Duration::from_secs(30 * 86_400);
    if (Duration::from_secs(60)..=days).contains(&time) { Ok(time) } else { Err("use a time from 60s to 30d".into()) }
}

/// Runs the agent until it is told to stop. What can fail is tried before the kernel is touched; where nothing was pinned before, a start
/// that fails all the same leaves nothing pinned.
pub async fn run(args: RunArgs, pin_path: PathBuf) -> Result<(), Error> {
    log_to_stderr();
    super::host::check_bpffs(&pin_path)?;
    let options = options(&args, &pin_path);
    let prepared = Prepared::new(config(args, pin_path)).await.map_err(failed)?;
    let control = Control::bind(&options.pin_path).await.map_err(|error| failed(error.into()))?;
    let fresh = !map_folder(&options.pin_path).exists();
    let result = match tokio::task::block_in_place(|| Bpf::start(&options)) {
        Ok(bpf) => agent::run(prepared, control, bpf).await.map_err(failed),
        Err(error) => Err(error.into()),
    };
    if result.is_err()
        && fresh
        && let Err(error) = attach::detach(&options.pin_path)
    {
        tracing::warn!(%error, "what was pinned stays");
    }
    result
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let stderr = std::io::stderr();
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr.is_terminal()).with_target(false);
    // Fails if another subscriber is set already, which then stays.
    let _ = format.with_writer(std::io::stderr).try_init();
}

fn options(args: &RunArgs, pin_path: &Path) -> Options {
    Options {
        pin_path: pin_path.to_owned(),
        flow_table_size: args.flow_table_size,
        sizes: Sizes { frontends: args.max_frontends, backends: args.max_backends, slots: args.max_slots },
        snat_ports: args.snat_ports,
        tcp_idle: args.tcp_idle.as_secs() as u32,
        bpf_log: args.bpf_log,
        flow_seed: seed(),
        test_clock: false,
    }
}

/// A number nobody else knows: the standard library seeds its hash maps from the kernel's random numbers.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

fn config(args: RunArgs, pin_path: PathBuf) -> RunConfig {
    RunConfig {
        pin_path,
        manifests: args.manifests,
        interfaces: args.interfaces.into_iter().collect(),
        datapath: args.datapath.into(),
        node_name: args.node_name.filter(|name| !name.is_empty()).unwrap_or_else(hostname),
        default_algorithm: args.default_algorithm,
        metrics_listen: args.metrics_listen,
        scale_command: args.scale_command.map(|argv| argv.0),
        scale_timeout: args.scale_timeout,
        snat_ports: args.snat_ports,
        proc: "/proc".into(),
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// An error of the agent as cause and remedy.
fn failed(error: AgentError) -> Error {
    match error {
        AgentError::Dataplane(error) => error.into(),
        other => {
            let text = other.to_string();
            let (cause, remedy) = text.split_once("; ").unwrap_or((&text, "look at the log"));
            Error::Run { cause: cause.into(), remedy: remedy.into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(arguments: &str) -> Result<RunArgs, String> {
        let words = command::split(arguments).unwrap_or_default();
        let line = ["weir".to_owned()].into_iter().chain(words);
        Line::try_parse_from(line).map(|line| line.run).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let args = parse("--manifests m").unwrap();
        assert_eq!((args.datapath, args.default_algorithm), (DatapathArg::Auto, Algorithm::Maglev));
        assert_eq!((args.snat_ports, args.tcp_idle.as_secs()), ((61000, 65535), u64::from(timeout::TCP_IDLE)));
        let config = config(args, "/pins".into());
        assert!(config.interfaces.is_empty() && config.metrics_listen.is_none() && !config.node_name.is_empty());
    }

    #[test]
    fn everything_given_arrives() {
        let args = parse(
            "--manifests m --interface a --interface b --datapath xdp-generic --metrics-listen [::1]:9 --node-name n \
             --scale-command \"scale 'my app'\" --default-algorithm random --tcp-idle 5m --snat-ports 50000-50010 \
             --flow-table-size 4096 --max-slots 2048 --bpf-log",
        )
        .unwrap();
        let options = options(&args, Path::new("/pins"));
        assert_eq!((options.tcp_idle, options.snat_ports, options.flow_table_size), (300, (50000, 50010), 4096));
        assert!(options.bpf_log && options.sizes == Sizes { slots: 2048, ..Sizes::default() });
        let config = config(args, "/pins".into());
        assert_eq!(config.interfaces, ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(config.scale_command, Some(vec!["scale".to_owned(), "my app".to_owned()]));
        assert_eq!((config.node_name.as_str(), config.datapath), ("n", Datapath::XdpGeneric));
        assert_eq!(config.default_algorithm, Algorithm::Random);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        let cases = [
            ("", "--manifests"),
            ("--manifests m --datapath dpdk", "xdp-generic"),
            ("--manifests m --default-algorithm fastest", "least-connections"),
            ("--manifests m --snat-ports 9-1", "FIRST-LAST"),
            ("--manifests m --scale-command ''", "empty"),
            ("--manifests m --tcp-idle 1s", "60s to 30d"),
            ("--manifests m --metrics-listen nowhere", "--metrics-listen"),
            ("--manifests m --flow-table-size 1", "512"),
        ];
        for (arguments, word) in cases {
            let error = parse(arguments).unwrap_err();
            assert!(error.contains(word), "{arguments}: {error}");
        }
    }

    #[test]
    fn errors_are_cut_into_cause_and_remedy() {
        let error = crate::node::Error::NoInterface { name: "x".into(), known: "lo".into() };
        let error = failed(error.into());
        assert_eq!(error.to_string(), "--interface x: there is no such interface in this network namespace");
        assert_eq!(error.remedy(), "use one of: lo");
    }
}
