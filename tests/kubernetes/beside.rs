//! A cluster with kube-proxy: without Weir, and with it for chosen Services.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use weir_tests::cluster::Proxy;

use crate::{cases, clients::Client, manifests, sample, space::Space, world};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: my-app}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: my-app}
  ports:
  - {name: http, port: 80, nodePort: 30080}
";

#[test]
fn kube_proxy_passes_the_table_of_cases() -> Result<()> {
    cases::check_all(&*world::enter(Proxy::Nftables)?, cases::Proxy::KubeProxy)
}

#[test]
fn a_cluster_works_without_weir() -> Result<()> {
    let cluster = world::enter(Proxy::Nftables)?;
    let space = Space::new(&cluster, "without")?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.name()).collect();
    space.apply(&(manifests::deployment("my-app", 3) + &manifests::client("client", &nodes[1]) + "---" + SERVICE))?;
    space.wait_for_rollout("deployment/my-app")?;
    space.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;
    let pods = space.pods("app=my-app")?;
    assert_eq!(pods.len(), 3);
    assert!(nodes.iter().all(|node| pods.iter().any(|pod| pod.node == *node)), "every node has a pod: {pods:?}");

    let client = space.pods("app=client")?.pop().context("the client")?;
    for pod in &pods {
        for (target, own) in pod.targets(80)?.iter().zip(&client.addresses) {
            let report = Client::Pod(&client).ask(&cluster, &[target])?;
            assert_eq!((report.answers.get(&pod.name), report.sources.get(own)), (Some(&1), Some(&1)), "{report:?}");
        }
    }
    let name = "my-app.without.svc.cluster.local:80";
    // kube-proxy learns of the last endpoint a moment after kubectl.
    space.wait_for("answers of every pod", || {
        let by_name = Client::Pod(&client).ask(&cluster, &[name, "--requests=100"])?;
        by_name.expect_no_failure()?;
        Ok(by_name.answers.len() == 3)
    })?;
    for node in cluster.nodes() {
        for address in node.plan().addresses() {
            let target = SocketAddr::new(address, 30080).to_string();
            Client::Outside.ask(&cluster, &[&target, "--requests=20"])?.expect_no_failure()?;
            Client::Host(node).ask(&cluster, &[&target])?.expect_no_failure()?;
        }
    }
    Ok(())
}

/// Chosen by label and class, beside kube-proxy, which goes on serving all others.
#[test]
fn weir_serves_a_chosen_service() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::Nftables)?;
    let chosen = manifests::service("my-app", ", loadBalancerClass: weir.dev/weir")
        .replace("name: my-app\n", "name: my-app\n  labels: {service.kubernetes.io/service-proxy-name: weir}\n");
    let others = manifests::service("others", "");
    sample::works(&cluster, &(chosen + &others))
}
