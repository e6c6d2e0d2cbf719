//! `weir run`: the agent of this node.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, ValueEnum};
use lb_common::{Algorithm, abi::timeout, dsr};
use tracing_subscriber::EnvFilter;

use super::Error;
use crate::{
    agent::{
        self, AgentError, Prepared,
        delivery::Delivery,
        sockets::{self, SocketLb},
    },
    cluster,
    config::{ConfigError, RunConfig, SourceConfig, port_range},
    dataplane::{
        attach::{self, Datapath},
        bpf::{Bpf, Options, Sizes},
        pins::map_folder,
        sizes,
    },
    discovery::{annotations, kube, node_ports::NodePortAddresses, select::Services},
    scaling::command,
    signals::usage::Place,
    telemetry::control::Control,
};

/// `weir run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// With --kube: how to reach the cluster, as kubectl does [default: the Pod's service account]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", hide_env_values = true)]
    pub kubeconfig: Option<PathBuf>,
    /// With --kube: which Services are balanced
    #[arg(long, value_enum, default_value_t = Services::All, conflicts_with = "manifests")]
    pub services: Services,
    /// An interface that clients come in by; may be given several times [default: those with a default route or an address of the node]
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
    /// Where packets are met on those interfaces
    #[arg(long, value_enum, default_value_t = DatapathArg::Auto)]
    pub datapath: DatapathArg,
    /// Whose sockets are given a backend when they connect [default: all; off in a network namespace that is not the machine's own]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub socket_lb: Option<SocketLbArg>,
    /// The cgroup (version 2) whose processes are meant [default: the root of all]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// How packets reach backends on this node
    #[arg(long, value_enum, default_value_t = DeliveryArg::Auto)]
    pub delivery: DeliveryArg,
    /// With --kube: where the coordinator's Lease and certificate are
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "weir-system")]
    pub coordinator_namespace: String,
    /// With --kube: the token that is shown to the coordinator; without this file there is none
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/weir.dev/token")]
    pub coordinator_token: PathBuf,
    /// Serves metrics, /healthz and /readyz at this address
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Serves /healthz and /livez as kube-proxy does, for load balancers of clouds (usually 0.0.0.0:10256)
    #[arg(long, value_name = "ADDR")]
    pub healthz_listen: Option<SocketAddr>,
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
    /// The node's addresses that node ports are served on: primary, or networks separated by commas [default: all]
    #[arg(long, value_name = "NETWORKS", default_value = "", hide_default_value = true)]
    pub nodeport_addresses: NodePortAddresses,
    /// A TCP connection without a packet for so long is forgotten
    #[arg(long, value_name = "TIME", default_value = TCP_IDLE, value_parser = tcp_idle)]
    pub tcp_idle: Duration,
    /// Answers TCP packets of connections that are not known, or whose backend is gone, with a reset; false: drops the ones, and sends
    /// the others on
    #[arg(long, value_name = "true|false", default_value_t = true, action = ArgAction::Set)]
    pub reset_orphaned: bool,
    /// UDP port by which nodes forward to each other for Services with weir.dev/forwarding: dsr, the same on all nodes; 0: they use full NAT
    #[arg(long, value_name = "PORT", default_value_t = dsr::DEFAULT_PORT)]
    pub dsr_port: u16,
    /// Source ports towards backends on other nodes
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    pub snat_ports: (u16, u16),
    /// Flows that there is room for; those of a table of another size are moved at the start [default: by the memory, 1048576 from 3 GiB on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(512..=1 << 25))]
    pub flow_table_size: Option<u32>,
    /// Frontends, and service ports, that new maps have room for
    #[arg(long, value_name = "N", default_value_t = Sizes::default().frontends, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_frontends: u32,
    /// Backends, counted once for each service port, that new maps have room for
    #[arg(long, value_name = "N", default_value_t = Sizes::default().backends, value_parser = clap::value_parser!(u32).range(1..=1 << 22))]
    pub max_backends: u32,
    /// Slots of selection tables (8 bytes each) that new maps have room for; ip-hash and maglev take 1021 to 131071 a service port
    /// [default: by the memory, 12582912 from 3 GiB on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=1 << 28))]
    pub max_slots: Option<u32>,
    /// Logs samples of rare events of the packet path
    #[arg(long)]
    pub bpf_log: bool,
}

/// Where the model comes from: exactly one of these.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// A folder of Kubernetes manifests (Service, EndpointSlice, ScalePolicy), watched
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// The cluster that this node is part of
    #[arg(long)]
    kube: bool,
}

impl RunArgs {
    fn source(&self) -> SourceConfig {
        match &self.source.manifests {
            Some(folder) => SourceConfig::Files(folder.clone()),
            None => SourceConfig::Kube(kube::Options {
                kubeconfig: self.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty()),
                services: self.services,
            }),
        }
    }
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

/// `--socket-lb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketLbArg {
    /// Every process of the node, pods too
    All,
    /// Processes in the agent's own network namespace; pods are balanced at their interfaces
    Host,
    /// Nobody's
    Off,
}

impl From<SocketLbArg> for SocketLb {
    fn from(arg: SocketLbArg) -> Self {
        match arg {
            SocketLbArg::All => Self::All,
            SocketLbArg::Host => Self::Host,
            SocketLbArg::Off => Self::Off,
        }
    }
}

/// `--delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeliveryArg {
    /// Up the stack while netfilter has rules of others for forwarded packets, else by redirect
    Auto,
    /// By redirect, past netfilter: the fastest, but its rules (NetworkPolicy) do not see the packets
    Redirect,
    /// Up the stack, through netfilter
    Stack,
}

impl From<DeliveryArg> for Delivery {
    fn from(arg: DeliveryArg) -> Self {
        match arg {
            DeliveryArg::Auto => Self::Auto,
            DeliveryArg::Redirect => Self::Redirect,
            DeliveryArg::Stack => Self::Stack,
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
    let config = config(args, pin_path).map_err(|error| failed(error.into()))?;
    let prepared = Prepared::new(config).await.map_err(failed)?;
    let options = Options { delivery_stack: prepared.stack(), ..options };
    let control = Control::bind(&options.pin_path).await.map_err(|error| failed(error.into()))?;
    let fresh = !map_folder(&options.pin_path).exists();
    let result = match tokio::task::block_in_place(|| Bpf::open(&options)) {
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

/// Sends the log to standard error.
/// What is logged unless WEIR_LOG says otherwise. The API client's own words on every attempt are none for users: the agent tells once.
const LOG: &str = "info,kube_client=off,kube_runtime=off";

pub(super) fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    let stderr = std::io::stderr();
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr.is_terminal()).with_target(false);
    // Fails if another subscriber is set already, which then stays.
    let _ = format.with_writer(std::io::stderr).try_init();
}

fn options(args: &RunArgs, pin_path: &Path) -> Options {
    let memory = sizes::memory();
    let slots = args.max_slots.unwrap_or_else(|| Sizes::of_memory(memory).slots);
    Options {
        pin_path: pin_path.to_owned(),
        flow_table_size: args.flow_table_size.unwrap_or_else(|| sizes::flows_of_memory(memory)),
        sizes: Sizes { frontends: args.max_frontends, backends: args.max_backends, slots },
        snat_ports: args.snat_ports,
        tcp_idle: args.tcp_idle.as_secs() as u32,
        delivery_stack: false,
        reset_orphaned: args.reset_orphaned,
        dsr_port: args.dsr_port,
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

fn config(args: RunArgs, pin_path: PathBuf) -> Result<RunConfig, ConfigError> {
    let sockets = sockets::resolve(args.socket_lb.map(Into::into), args.cgroup.as_deref())?;
    let pods = Place::new(args.cgroup.as_deref());
    Ok(RunConfig {
        pin_path,
        source: args.source(),
        interfaces: args.interfaces.into_iter().collect(),
        datapath: args.datapath.into(),
        delivery: args.delivery.into(),
        node_name: args.node_name.filter(|name| !name.is_empty()).unwrap_or_else(hostname),
        default_algorithm: args.default_algorithm,
        nodeport_addresses: args.nodeport_addresses,
        coordinator: Some(args.coordinator_token).filter(|token| token.exists()).map(|token| cluster::agent::Config {
            namespace: args.coordinator_namespace,
            token,
            pods,
        }),
        metrics_listen: args.metrics_listen,
        healthz_listen: args.healthz_listen,
        scale_command: args.scale_command.map(|argv| argv.0),
        scale_timeout: args.scale_timeout,
        snat_ports: args.snat_ports,
        sockets,
        proc: "/proc".into(),
    })
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// An error of the agent as cause and remedy.
fn failed(error: AgentError) -> Error {
    match error {
        AgentError::Dataplane(error) => error.into(),
        other => Error::in_two(&other.to_string(), "; "),
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
        let args = parse("--manifests m --socket-lb off").unwrap();
        assert_eq!((args.datapath, args.default_algorithm), (DatapathArg::Auto, Algorithm::Maglev));
        assert_eq!((args.snat_ports, args.tcp_idle.as_secs()), ((61000, 65535), u64::from(timeout::TCP_IDLE)));
        let options = options(&args, Path::new("/pins"));
        assert_eq!((options.reset_orphaned, options.dsr_port), (true, dsr::DEFAULT_PORT));
        let config = config(args, "/pins".into()).unwrap();
        assert!(config.interfaces.is_empty() && config.metrics_listen.is_none() && !config.node_name.is_empty());
    }

    #[test]
    fn everything_given_arrives() {
        let args = parse(
            "--manifests m --interface a --interface b --datapath xdp-generic --delivery stack --metrics-listen [::1]:9 --node-name n \
             --scale-command \"scale 'my app'\" --default-algorithm random --nodeport-addresses primary --tcp-idle 5m --snat-ports 50000-50010 \
             --flow-table-size 4096 --max-slots 2048 --reset-orphaned false --dsr-port 7000 --bpf-log --socket-lb off",
        )
        .unwrap();
        let options = options(&args, Path::new("/pins"));
        assert_eq!((options.tcp_idle, options.snat_ports, options.flow_table_size), (300, (50000, 50010), 4096));
        assert_eq!(options.dsr_port, 7000);
        assert!(
            options.bpf_log && !options.reset_orphaned && options.sizes == Sizes { slots: 2048, ..Sizes::default() }
        );
        let config = config(args, "/pins".into()).unwrap();
        assert_eq!(config.interfaces, ["a".to_owned(), "b".to_owned()].into());
        assert_eq!(config.scale_command, Some(vec!["scale".to_owned(), "my app".to_owned()]));
        assert_eq!((config.node_name.as_str(), config.datapath), ("n", Datapath::XdpGeneric));
        assert_eq!(config.delivery, Delivery::Stack);
        assert_eq!(config.default_algorithm, Algorithm::Random);
        assert_eq!(config.nodeport_addresses, NodePortAddresses::Primary);
    }

    #[test]
    fn a_cluster_is_a_source_too() {
        let args = parse("--kube --kubeconfig k --services labelled").unwrap();
        let wanted = kube::Options { kubeconfig: Some("k".into()), services: Services::Labelled };
        assert_eq!(args.source(), SourceConfig::Kube(wanted));
        let plain = parse("--kube").unwrap();
        assert_eq!(plain.services, Services::All);
        assert_eq!(parse("--manifests m").unwrap().source(), SourceConfig::Files("m".into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        let cases = [
            ("", "<--manifests <DIR>|--kube>"),
            ("--manifests m --kube", "cannot be used with"),
            ("--manifests m --services all", "cannot be used with"),
            ("--kube --services some", "labelled"),
            ("--manifests m --datapath dpdk", "xdp-generic"),
            ("--manifests m --default-algorithm fastest", "least-connections"),
            ("--manifests m --snat-ports 9-1", "FIRST-LAST"),
            ("--manifests m --scale-command ''", "empty"),
            ("--manifests m --tcp-idle 1s", "60s to 30d"),
            ("--manifests m --metrics-listen nowhere", "--metrics-listen"),
            ("--manifests m --nodeport-addresses eth0", "use primary, or networks"),
            ("--manifests m --flow-table-size 1", "512"),
            ("--manifests m --reset-orphaned maybe", "true, false"),
            ("--manifests m --dsr-port 70000", "0..=65535"),
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
