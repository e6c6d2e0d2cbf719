//! `weir coordinator`: the cluster-wide part.

use std::net::{IpAddr, SocketAddr};

use kube::Client;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{Error, run::log_to_stderr};
use crate::cluster::{
    coordinator::{Config, Coordinator, Status},
    metrics,
    observe::Choice,
};

/// `weir coordinator`.
#[derive(Clone, Debug, clap::Args)]
pub struct CoordinatorArgs {
    /// Where agents connect
    #[arg(long, value_name = "ADDR", default_value = "[::]:4240")]
    pub listen: SocketAddr,
    /// The address of this pod, as the agents reach it
    #[arg(long, value_name = "IP", env = "POD_IP")]
    pub advertise: IpAddr,
    /// The name of this pod
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub name: String,
    /// The namespace of the Lease, the certificate and the agents' service account
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "weir-system")]
    pub namespace: String,
    /// The service account of the agents: nobody else is listened to
    #[arg(long, value_name = "NAME", default_value = "weir-agent")]
    pub agent_account: String,
    /// Services of type LoadBalancer with this class get addresses
    #[arg(long, value_name = "CLASS", default_value = "weir.dev/weir")]
    pub load_balancer_class: String,
    /// Those without a class do too
    #[arg(long, value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1, action = clap::ArgAction::Set)]
    pub default_load_balancer: bool,
    /// Which Services Weir proxies, as the agents are told: an address is given to no other
    #[arg(long, value_name = "WHICH", default_value = "all", value_parser = ["all", "labelled"])]
    pub services: String,
    /// The namespaces whose ScalePolicies count; none: all
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Answers KEDA's external scaler at this address
    #[arg(long, value_name = "ADDR")]
    pub keda_listen: Option<SocketAddr>,
    /// Serves metrics, /healthz and /readyz at this address
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
}

/// Runs the coordinator until it is told to stop; then the other replica takes over at once.
pub async fn run(args: CoordinatorArgs) -> Result<(), Error> {
    log_to_stderr();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let client = Client::try_default().await.map_err(|error| failed(&error))?;
    let (status, seen) = watch::channel(Status::default());
    let metrics = match args.metrics_listen {
        Some(address) => {
            Some(crate::telemetry::http::bind("--metrics-listen", address).await.map_err(|error| failed(&error))?)
        }
        None => None,
    };
    let mut coordinator = Coordinator::start(config(args), client, status).await.map_err(|error| failed(&error))?;
    let server = metrics.map(|listener| tokio::spawn(metrics::serve(listener, seen)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = coordinator.run() => {}
    }
    coordinator.resign().await;
    server.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::in_two(&error.to_string(), "; ")
}

fn config(args: CoordinatorArgs) -> Config {
    Config {
        advertise: SocketAddr::new(args.advertise, args.listen.port()),
        name: args.name,
        namespace: args.namespace,
        listen: args.listen,
        namespaces: args.namespaces,
        keda: args.keda_listen,
        agent_account: args.agent_account,
        choice: Choice {
            class: args.load_balancer_class,
            default: args.default_load_balancer,
            labelled: args.services == "labelled",
        },
    }
}
