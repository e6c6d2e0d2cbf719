//! What a table cannot show: Services whose endpoints change while they are used.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_tests::{
    agent::http_get,
    cluster::{Cluster, Proxy},
};

use crate::{
    clients::Client,
    manifests,
    space::{PATIENCE, Space},
    weir, world,
};

/// A Service of one kind with its pods and clients.
fn scene<'a>(cluster: &'a Cluster, name: &str, replicas: u32, spec: &str) -> Result<Space<'a>> {
    let space = Space::new(cluster, name)?;
    let service = format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: my-app}}\nspec: {spec}\n");
    space.apply(&(manifests::deployment("my-app", replicas) + &service + &manifests::clients(cluster.nodes())))?;
    space.wait_for_rollout("deployment/my-app")?;
    weir::wait_for_endpoints(&space, "my-app")?;
    space.wait_for_clients()?;
    Ok(space)
}

#[test]
fn datagrams_leave_a_gone_backend_at_once() -> Result<()> {
    datagrams_leave_a_gone_backend(&*world::enter_with_weir(Proxy::None)?)
}

/// A client that never closes its socket is not tied to a backend that is gone.
fn datagrams_leave_a_gone_backend(cluster: &Cluster) -> Result<()> {
    let spec = "{type: NodePort, selector: {app: my-app}, ports: [{port: 80, protocol: UDP, nodePort: 30053}]}";
    let space = scene(cluster, "datagrams", 2, spec)?;
    let inside = space.pods("role=client")?;
    let cluster_address = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let node_address = manifests::target(&cluster.nodes()[0].plan().addresses()[0].to_string(), 30053);
    let clients = [(Client::Pod(&inside[0]), cluster_address), (Client::Outside, node_address)];
    let loads: Vec<_> = clients
        .iter()
        .map(|(client, target)| {
            space
                .wait_for("an answer", || Ok(client.ask(cluster, &[target, "--udp", "--timeout=300"])?.failed == 0))?;
            client.load(cluster, &[target, "--udp", "--keep", "--pause=50", "--timeout=300"])
        })
        .collect::<Result<_>>()?;
    space.kubectl(&["scale", "deployment/my-app", "--replicas=1"])?;
    space.wait_for("one pod", || Ok(space.pods("app=my-app")?.len() == 1))?;
    thread::sleep(Duration::from_secs(2));
    for load in loads {
        let report = load.finish()?;
        // One datagram may have been under way.
        ensure!(report.failed <= 2 && report.answered() > 20, "{report:?}");
    }
    Ok(())
}

#[test]
fn the_last_pod_serves_until_it_ends() -> Result<()> {
    the_last_pod_serves(&*world::enter_with_weir(Proxy::None)?)
}

/// Where no endpoint is ready, those that end but still serve get new connections.
fn the_last_pod_serves(cluster: &Cluster) -> Result<()> {
    let spec = "{type: NodePort, externalTrafficPolicy: Local, selector: {app: my-app}, \
                ports: [{port: 80, nodePort: 30054}]}";
    let space = scene(cluster, "ending", 1, spec)?;
    let pod = space.pods("app=my-app")?.pop().context("the pod")?;
    let node = pod.host(cluster)?.plan().addresses()[0].to_string();
    let outside = manifests::target(&node, 30054);
    let inside = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let ask = |client: Client<'_>, target: &str| client.ask(cluster, &[target, "--requests=5", "--timeout=500"]);
    space.wait_for("an answer", || Ok(ask(Client::Outside, &outside)?.failed == 0))?;
    space.kubectl(&["scale", "deployment/my-app", "--replicas=0"])?;
    space.wait_for("the pod to end", || {
        let slices = space.get(&["endpointslices", "--selector=kubernetes.io/service-name=my-app"])?;
        Ok(slices["items"][0]["endpoints"][0]["conditions"]["terminating"] == true)
    })?;
    // Long enough for the change to be everywhere, and less than the pod's grace.
    thread::sleep(Duration::from_secs(1));
    ask(Client::Outside, &outside)?.expect_no_failure()?;
    ask(Client::Pod(&clients[1]), &inside)?.expect_no_failure()?;
    space.wait_for("the end of service", || {
        let report = ask(Client::Pod(&clients[1]), &inside)?;
        Ok(report.failed == 5 && report.failures.iter().all(|failure| failure.contains("refused")))
    })
}

#[test]
fn affinity_ends_with_its_timeout() -> Result<()> {
    affinity_ends(&*world::enter_with_weir(Proxy::None)?)
}

/// A client that was away for longer than the timeout may get another pod.
fn affinity_ends(cluster: &Cluster) -> Result<()> {
    let spec = "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}, \
                selector: {app: my-app}, ports: [{port: 80}]}";
    let space = scene(cluster, "affinity", 4, spec)?;
    let client = space.pods("role=client")?.pop().context("a client")?;
    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let mut seen = std::collections::BTreeSet::new();
    let end = Instant::now() + PATIENCE;
    while seen.len() < 2 {
        ensure!(Instant::now() < end, "the client stays with {seen:?}");
        let report = Client::Pod(&client).ask(cluster, &[&target, "--requests=10"])?;
        report.expect_no_failure()?;
        ensure!(report.answers.len() == 1, "not one pod: {report:?}");
        seen.extend(report.answers.into_keys());
        thread::sleep(Duration::from_secs(3));
    }
    Ok(())
}

#[test]
fn nodes_tell_balancers_of_their_local_endpoints() -> Result<()> {
    nodes_tell_balancers(&*world::enter_with_weir(Proxy::None)?)
}

/// `healthCheckNodePort`: 200 where the Service has an endpoint, 503 elsewhere, each with a count.
fn nodes_tell_balancers(cluster: &Cluster) -> Result<()> {
    let spec = "{type: LoadBalancer, loadBalancerClass: example.com/none, ipFamilyPolicy: RequireDualStack, \
                externalTrafficPolicy: Local, \
                healthCheckNodePort: 30055, selector: {app: my-app}, ports: [{port: 80}]}";
    let space = scene(cluster, "health", 1, spec)?;
    let pod = space.pods("app=my-app")?.pop().context("the pod")?;
    for node in cluster.nodes() {
        let local = u64::from(node.name() == pod.node);
        let status = if local == 1 { "HTTP/1.1 200" } else { "HTTP/1.1 503" };
        for address in node.plan().addresses() {
            let target = manifests::target(&address.to_string(), 30055);
            space.wait_for("the right health", || {
                let Ok(answer) = http_get(&cluster.client(), &target, "/healthz") else { return Ok(false) };
                let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
                let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
                Ok(head.starts_with(status)
                    && body["service"]["namespace"] == "health"
                    && body["service"]["name"] == "my-app"
                    && body["localEndpoints"] == local
                    && body["serviceProxyHealthy"] == true)
            })?;
        }
    }
    Ok(())
}
