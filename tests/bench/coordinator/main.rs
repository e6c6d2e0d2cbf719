//! What a coordinator costs with many agents; `cargo xtask bench coordinator` builds and runs this. Prints one JSON object.
//!
//! The agents are simulated, in a process of their own: each has its own TCP connection, TLS session and stream, is admitted by its token
//! (an API server of a few lines says yes), and reports once a second that every one of its backends has changed. The coordinator is the
//! real service; beside it, what the leader reads for its policies is read once a second.

mod agents;
mod api;

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lb_agent::{
    agent::uptime,
    cluster::{
        SERVER_NAME,
        serve::{Agents, Server},
        wire::coordinator_server::CoordinatorServer,
    },
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, ServerTlsConfig};

/// Services that the leader reads every second.
const POLICIES: usize = 200;

/// Measures a coordinator.
#[derive(Clone, Parser)]
struct Args {
    /// Agents
    #[arg(long, default_value_t = 5_000)]
    agents: u32,
    /// Backends that each of them carries
    #[arg(long, default_value_t = 50)]
    backends: u32,
    /// Seconds for which it is watched
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Be the agents of the coordinator at this address, whose certificate is in the file named by --trust
    #[arg(long, hide = true)]
    connect: Option<std::net::SocketAddr>,
    /// The certificate's file
    #[arg(long, hide = true)]
    trust: Option<std::path::PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    agents: u32,
    backends: u32,
    /// Reports in a second.
    reports_per_second: f64,
    /// Of one CPU, while all report.
    cpu_percent: f64,
    /// CPU time until all have joined.
    join_cpu_ms: f64,
    /// Anonymous memory.
    rss_anon_mib: f64,
    /// The longest time that reading all policies' Services took.
    read_max_ms: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        match args.connect {
            Some(address) => agents::run(&args, address).await,
            None => coordinator(&args).await,
        }
    })
}

async fn coordinator(args: &Args) -> Result<()> {
    let key = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let folder = tempfile::tempdir()?;
    let trust = folder.path().join("ca.crt");
    std::fs::write(&trust, key.cert.pem())?;
    let (_leads, leads) = watch::channel(true);
    let agents = Agents::default();
    let account = api::ACCOUNT.to_owned();
    let server = Server { agents: agents.clone(), leads, client: api::start().await?, account };
    let identity = Identity::from_pem(key.cert.pem(), key.signing_key.serialize_pem());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = tonic::transport::Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .add_service(CoordinatorServer::new(server));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut simulated = Command::new(std::env::current_exe()?);
    simulated.args(["--agents", &args.agents.to_string(), "--backends", &args.backends.to_string()]);
    let mut simulated =
        simulated.args(["--connect", &address.to_string(), "--trust"]).arg(&trust).stdin(Stdio::piped()).spawn()?;
    let measured = measure(args, &agents).await;
    // Its standard input ends with this, and it with that.
    drop(simulated.stdin.take());
    simulated.wait()?;
    println!("{}", serde_json::to_string_pretty(&measured?)?);
    Ok(())
}

async fn measure(args: &Args, agents: &Agents) -> Result<Report> {
    agents.order(BTreeMap::new());
    let begun = Instant::now();
    while agents.fleet(|_| false, |fleet| fleet.nodes().count()) < args.agents as usize {
        ensure!(begun.elapsed() < Duration::from_secs(240), "not all agents have joined");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let join_cpu = cpu_time()?;
    let names: Vec<_> = (0..POLICIES as u32).map(agents::service).collect();
    let (mut reads, mut slowest) = (agents.reports(), Duration::ZERO);
    let (cpu, wall, first) = (cpu_time()?, Instant::now(), reads);
    for _ in 0..args.seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let started = Instant::now();
        let known = agents.fleet(
            |_| false,
            |fleet| {
                let ages = fleet.ages(uptime());
                names.iter().filter(|name| !fleet.service(name, &ages).backends.is_empty()).count()
            },
        );
        slowest = slowest.max(started.elapsed());
        ensure!(known > 0, "no Service is known");
        reads = agents.reports();
    }
    let seconds = wall.elapsed().as_secs_f64();
    Ok(Report {
        agents: args.agents,
        backends: args.backends,
        reports_per_second: (reads - first) as f64 / seconds,
        cpu_percent: (cpu_time()? - cpu).as_secs_f64() / seconds * 100.0,
        join_cpu_ms: join_cpu.as_secs_f64() * 1e3,
        rss_anon_mib: rss_anon()? as f64 / 1024.0,
        read_max_ms: slowest.as_secs_f64() * 1e3,
    })
}

/// Anonymous memory of this process in KiB.
fn rss_anon() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")).context("/proc/self/status has no RssAnon")?;
    Ok(number.parse()?)
}

/// CPU time of this process, in the kernel's name too.
fn cpu_time() -> Result<Duration> {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(clock.into())
}
