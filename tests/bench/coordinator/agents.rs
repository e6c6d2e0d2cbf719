//! The simulated agents.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_agent::cluster::{
    SERVER_NAME,
    counts::{BackendName, Carried, Counts, News, Told},
    wire::{Report, coordinator_client::CoordinatorClient},
};
use lb_common::{Protocol, SocketKey};
use tokio::{
    io::AsyncReadExt as _,
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Request,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::Args;

/// Backends of all agents together, and of a Service.
const ALL: u32 = 10_000;
const EACH: u32 = 10;
/// So many connections are made at a time.
const AT_ONCE: usize = 32;

/// A Service.
pub(crate) fn service(number: u32) -> (String, String) {
    (format!("team-{}", number % 100), format!("service-{number}"))
}

/// Is all agents until standard input ends.
pub(crate) async fn run(args: &Args, address: SocketAddr) -> Result<()> {
    let trust = std::fs::read_to_string(args.trust.as_ref().context("--trust")?)?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trust)).domain_name(SERVER_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let names: Arc<Vec<Arc<BackendName>>> = Arc::new((0..ALL).map(|number| Arc::new(name(number))).collect());
    for number in 0..args.agents {
        let (endpoint, turns, names) = (endpoint.clone(), Arc::clone(&turns), Arc::clone(&names));
        let backends = args.backends;
        tokio::spawn(async move {
            if let Err(error) = agent(number, backends, endpoint, &turns, &names).await {
                eprintln!("agent {number}: {error:#}");
            }
        });
    }
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    Ok(())
}

fn name(number: u32) -> BackendName {
    let ip = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + number));
    let socket = SocketKey::new(SocketAddr::new(ip, 8080), Protocol::Tcp);
    BackendName { service: service(number / EACH), socket }
}

/// One agent: every second all that it carries is different.
async fn agent(
    number: u32,
    backends: u32,
    endpoint: Endpoint,
    turns: &Semaphore,
    names: &[Arc<BackendName>],
) -> Result<()> {
    let (reports, receiver) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", format!("Bearer node-{number}").parse()?);
    let turn = turns.acquire().await?;
    let mut coordinator = CoordinatorClient::new(endpoint.connect().await?);
    let mut orders = coordinator.join(request).await?.into_inner();
    drop(turn);
    let phase = Duration::from_micros(u64::from(number) * 7919 % 1_000_000);
    let mut clock = interval_at(Instant::now() + phase, Duration::from_secs(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut sequence) = (Told::default(), 0);
    loop {
        tokio::select! {
            _ = clock.tick() => {
                sequence += 1;
                reports.send(report(number, backends, sequence, &mut told, names)).await?;
            }
            order = orders.next() => drop(order.context("the stream has ended")??),
        }
    }
}

fn report(number: u32, backends: u32, sequence: u64, told: &mut Told, names: &[Arc<BackendName>]) -> Report {
    let carried = (0..backends).map(|id| {
        let at = (u64::from(number) * u64::from(backends) + u64::from(id)) % names.len() as u64;
        let active = (sequence * 31 + u64::from(id) + u64::from(number)) % 40;
        let counts = Counts {
            active,
            pending: active / 9,
            connections: sequence * 10,
            bytes: sequence * 12_345,
            requests: None,
        };
        (id, (Arc::clone(&names[at as usize]), counts))
    });
    let News { backends, forgotten, counts } = told.tell(&carried.collect::<Carried>());
    let networks = vec!["192.0.2.0/24".to_owned()];
    Report {
        sequence,
        networks,
        announced: Vec::new(),
        counts_age: Some(0),
        backends,
        forgotten,
        counts,
        ..Report::default()
    }
}
