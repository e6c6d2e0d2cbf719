//! `cargo xtask cluster`: a real Kubernetes cluster on this machine, for tests and for trying things out.

mod build;
pub(crate) mod go;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use weir_tests::cluster::{self, Cluster, Config, Daemon, Proxy, layout::Name, programs::Programs};

pub(crate) use self::build::{installed, keda, programs};

use crate::{
    privilege,
    setup::{self, Purpose},
    shell,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
    /// The cluster's name: up to 9 lower-case letters and digits
    #[arg(long, global = true, default_value = "weir")]
    name: Name,
}

#[derive(Subcommand)]
enum Task {
    /// Build the programs of a cluster into the cache; they are built once
    Build,
    /// Start a cluster; one of the same name is removed first
    Up {
        /// How many nodes, 1 to 64
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// Which kube-proxy runs on the nodes
        #[arg(long, value_enum, default_value = "none")]
        proxy: ProxyMode,
    },
    /// Remove a cluster, also what is left of a start that was killed
    Down,
    /// Bring an image archive to every node
    LoadImage {
        /// The archive: OCI or docker
        file: PathBuf,
    },
    /// Print the path of the administrator's kubeconfig, which works in the namespace NAME-fabric
    Kubeconfig,
    /// Run kubectl as the administrator
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Say what runs
    Status,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProxyMode {
    None,
    Nftables,
    Iptables,
}

impl From<ProxyMode> for Proxy {
    fn from(mode: ProxyMode) -> Self {
        match mode {
            ProxyMode::None => Self::None,
            ProxyMode::Nftables => Self::Nftables,
            ProxyMode::Iptables => Self::Iptables,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    if let Task::Kubeconfig = args.task {
        println!("{}", args.name.kubeconfig().display());
        return Ok(());
    }
    if let Task::Up { .. } = args.task {
        setup::ensure(Purpose::Kubernetes)?;
    }
    // Built as the user who asked, into that user's cache.
    let programs = build::programs()?;
    if let Task::Build = args.task {
        return Ok(());
    }
    if !privilege::is_root() {
        return again_as_root();
    }
    match args.task {
        Task::Up { nodes, proxy } => up(args.name, nodes, proxy.into(), &programs),
        Task::Down => cluster::down(&args.name),
        Task::LoadImage { file } => Cluster::open(&args.name, &programs)?.load_image(&file),
        Task::Kubectl { arguments } => kubectl(&Cluster::open(&args.name, &programs)?, &arguments),
        Task::Status => status(&Cluster::open(&args.name, &programs)?),
        Task::Build | Task::Kubeconfig => Ok(()),
    }
}

fn up(name: Name, nodes: usize, proxy: Proxy, programs: &Programs) -> Result<()> {
    let config = Config { name, nodes, proxy };
    let cluster = Cluster::up(&config, programs, &cluster::print_progress())?;
    let name = cluster.name();
    println!("cluster {name}: cargo xtask cluster --name {name} kubectl get nodes");
    Ok(())
}

fn kubectl(cluster: &Cluster, arguments: &[String]) -> Result<()> {
    let status = cluster.kubectl()?.args(arguments).status()?;
    anyhow::ensure!(status.success(), "kubectl: {status}");
    Ok(())
}

fn status(cluster: &Cluster) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["PROGRAM", "PLACE", "STATE"]);
    for Daemon { program, namespace, group, .. } in &cluster.daemons() {
        let program = program.file_name().unwrap_or_default().to_string_lossy();
        table.add_row([&*program, namespace, if group.is_populated() { "runs" } else { "has ended" }]);
    }
    println!("{table}\n");
    kubectl(cluster, &["get", "nodes,pods", "-A", "-o", "wide"].map(str::to_owned))
}

fn again_as_root() -> Result<()> {
    let shell = shell::in_root()?;
    let own = env::current_exe()?;
    let own = own.to_str().context("the path of this program is not UTF-8")?;
    let command = privilege::command(&shell, "a cluster is made of network namespaces and control groups", own)?;
    let folder = Programs::expected_folder()?;
    // sudo may change HOME, and with it where the cache would be.
    Ok(command.args(env::args_os().skip(1)).env(cluster::programs::VARIABLE, folder).quiet().run()?)
}
