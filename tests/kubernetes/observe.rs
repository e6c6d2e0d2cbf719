//! What users see of a cluster under load: the shipped dashboards and alerts, under a real Prometheus that scrapes every agent and
//! coordinator, against what the clients count themselves.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    alerts,
    cluster::{Cluster, Proxy},
    grafana,
    prometheus::{Job, Prometheus},
    report::Report,
};

use crate::{
    clients::{Client, Load},
    manifests,
    space::{PATIENCE, Pod, Space},
    weir, world,
};

const SPACE: &str = "observe";
const SERVICE: &str = "my-app";
/// A Service without a backend.
const NOBODY: &str = "nobody";
/// Clients that keep their connection.
const HELD: usize = 24;
/// Where agents and coordinators serve their metrics.
const PORT: u16 = 9560;
/// Rates look back to before the load, so that what has happened is in them whenever they are asked for.
const CHOSEN: &grafana::Chosen<'_> =
    &[("$namespace", SPACE), ("$service", SERVICE), ("$instance", ".*"), ("$__rate_interval", "3m")];
/// The series of the Service.
const OURS: &str = r#"{namespace="observe",service="my-app"}"#;

#[test]
fn dashboards_and_alerts_show_what_clients_count() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, SPACE)?;
    let nobody = manifests::service(NOBODY, "").replace("app: my-app", "app: nobody");
    let measured =
        manifests::service(SERVICE, "").replace("annotations: {", "annotations: {weir.dev/measure: requests, ");
    space.apply(&(manifests::deployment(SERVICE, 2) + &measured + &nobody + &manifests::clients(cluster.nodes())))?;
    space.wait_for_rollout("deployment/my-app")?;
    space.wait_for_clients()?;
    let address = space.wait_for_addresses(SERVICE, 2)?.remove(0);
    let folder = tempfile::tempdir()?;
    let prometheus = start_prometheus(&cluster, folder.path())?;

    let (held, short) = load(&space, &prometheus, &manifests::target(&address, 80))?;
    until_ok(|| counts_are_the_clients(&space, &prometheus, &short))?;
    until_ok(|| shares_are_the_clients(&space, &prometheus, &short))?;
    let dashboards = grafana::dashboards()?;
    until_ok(|| grafana::check(&dashboards, &prometheus, CHOSEN))?;
    until_ok(|| alerts::alerts(&prometheus)?.iter().try_for_each(|alert| alert.check(&prometheus)))?;
    held.finish()?.expect_no_failure()
}

/// It scrapes as the chart's PodMonitors say: an agent's `instance` is its node.
fn start_prometheus(cluster: &Cluster, folder: &Path) -> Result<Prometheus> {
    let target = |pod: &Pod, instance: &str| Ok((pod.targets(PORT)?.remove(0), instance.to_owned()));
    let agents = cluster.nodes().iter().map(|node| target(&weir::agent(cluster, node)?, &node.name()));
    let coordinators = weir::coordinators(cluster)?;
    let jobs = [
        Job { name: "weir-agent", targets: agents.collect::<Result<_>>()? },
        Job {
            name: "weir-coordinator",
            targets: coordinators.iter().map(|pod| target(pod, &pod.name)).collect::<Result<_>>()?,
        },
    ];
    let prometheus = Prometheus::start(folder, &jobs, &[&alerts::file()], Some(cluster.fabric()))?;
    prometheus.wait_for_targets()?;
    Ok(prometheus)
}

/// Makes some of everything that dashboards show: a change of endpoints, connections that last and short ones from outside and from pods, and
/// refused ones. Returns what lasts, and what came of the short ones.
fn load(space: &Space<'_>, prometheus: &Prometheus, target: &str) -> Result<(Load, Vec<Report>)> {
    let cluster = space.cluster();
    space.kubectl(&["scale", "deployment/my-app", "--replicas=3"])?;
    space.wait_for_rollout("deployment/my-app")?;
    let ready = format!(r#"weir_service_backends{{namespace="{SPACE}",service="{SERVICE}",state="ready"}}"#);
    until_ok(|| {
        let series = prometheus.query(&ready)?;
        // Of both families, on each node.
        ensure!(series.len() == cluster.nodes().len() && series.iter().all(|one| one.value == 6.0), "{series:?}");
        Ok(())
    })?;

    let held = Client::Outside.load(cluster, &[target, "--keep", "--pause=50", &format!("--clients={HELD}")])?;
    let name = format!("{SERVICE}.{SPACE}.svc.cluster.local:80");
    let mut short = vec![Client::Outside.ask(cluster, &[target, "--requests=150", "--clients=3"])?];
    for pod in space.pods("role=client")? {
        short.push(Client::Pod(&pod).ask(cluster, &[&name, "--requests=50"])?);
    }
    short.iter().try_for_each(Report::expect_no_failure)?;
    let nobody = manifests::target(&space.wait_for_addresses(NOBODY, 2)?[0], 80);
    let refused = Client::Outside.ask(cluster, &[&nobody, "--requests=5"])?;
    ensure!(refused.failed == 5, "{refused:?}");
    Ok((held, short))
}

/// Every connection is counted once, with the backend that answered; those that last are open.
fn counts_are_the_clients(space: &Space<'_>, prometheus: &Prometheus, short: &[Report]) -> Result<()> {
    let open = by_pod(space, prometheus, &format!("sum by (backend) (weir_backend_active_connections{OURS})"))?;
    let made = by_pod(space, prometheus, &format!("sum by (backend) (weir_backend_connections_total{OURS})"))?;
    ensure!(open.values().sum::<f64>() == HELD as f64, "{HELD} are open: {open:?}");
    let ended: BTreeMap<_, _> = made.iter().map(|(pod, made)| (pod.clone(), made - open[pod])).collect();
    let answers = answers(short);
    ensure!(ended == answers, "counted {ended:?}, the clients {answers:?}");
    let drops = prometheus.query(r#"sum(weir_dropped_packets_total{reason="no-backend"})"#)?;
    ensure!(drops.first().is_some_and(|drops| drops.value >= 5.0), "five were refused: {drops:?}");
    let bytes = prometheus.query(&format!(r#"sum by (direction) (weir_backend_bytes_total{OURS})"#))?;
    // A request and an answer have more than 100 bytes, with the headers of their packets.
    let least = 100.0 * answers.values().sum::<f64>();
    ensure!(bytes.len() == 2 && bytes.iter().all(|one| one.value > least), "more than {least}: {bytes:?}");
    Ok(())
}

/// The panel of shares shows those that the clients saw.
fn shares_are_the_clients(space: &Space<'_>, prometheus: &Prometheus, short: &[Report]) -> Result<()> {
    let board = grafana::dashboards()?;
    let panel = board.iter().flat_map(grafana::Dashboard::queries).find(|query| query.place.contains("Share of new"));
    let shown = by_pod(space, prometheus, &panel.context("no panel of shares")?.with(CHOSEN))?;
    let open = by_pod(space, prometheus, &format!("sum by (backend) (weir_backend_active_connections{OURS})"))?;
    let answers = answers(short);
    let made = answers.values().sum::<f64>() + HELD as f64;
    for (pod, answered) in &answers {
        let share = (answered + open[pod]) / made;
        // Rates are reckoned from a few points.
        ensure!((shown[pod] - share).abs() < 0.05, "{pod}: {share} of {made}, shown are {shown:?}");
    }
    Ok(())
}

/// The values of series of the label `backend`, summed by pod.
fn by_pod(space: &Space<'_>, prometheus: &Prometheus, query: &str) -> Result<BTreeMap<String, f64>> {
    let series = prometheus.query(query)?;
    let pods = space.pods("app=my-app")?;
    let of_pod = |pod: &Pod| {
        let own = pod.targets(80)?;
        let ours = series.iter().filter(|one| one.label("backend").is_some_and(|at| own.iter().any(|own| own == at)));
        Ok((pod.name.clone(), ours.map(|one| one.value).sum()))
    };
    pods.iter().map(of_pod).collect()
}

fn answers(reports: &[Report]) -> BTreeMap<String, f64> {
    let mut answers = BTreeMap::new();
    for (pod, count) in reports.iter().flat_map(|report| &report.answers) {
        *answers.entry(pod.clone()).or_default() += *count as f64;
    }
    answers
}

/// Prometheus sees a second late what happens: asks again until it is right, or for too long.
fn until_ok(mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match check() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(500)),
            result => return result,
        }
    }
}
