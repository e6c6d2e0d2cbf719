//! The sample: a Deployment and a Service of type LoadBalancer, from inside and from outside.

use anyhow::{Result, ensure};
use weir_tests::{
    cluster::{Cluster, Proxy},
    report::Report,
};

use crate::{clients::Client, manifests, space::Space, weir, world};

#[test]
fn the_sample_works_from_inside_and_outside() -> Result<()> {
    works(&*world::enter_with_weir(Proxy::None)?, &manifests::service("my-app", ""))
}

/// The sample with these Services, of which `my-app` is Weir's.
pub(crate) fn works(cluster: &Cluster, services: &str) -> Result<()> {
    let space = Space::new(cluster, "sample")?;
    space.apply(&(manifests::deployment("my-app", 3) + services + &manifests::clients(cluster.nodes())))?;
    space.wait_for_rollout("deployment/my-app")?;
    space.wait_for_clients()?;
    let addresses = space.wait_for_addresses("my-app", 2)?;
    weir::wait_for_endpoints(&space, "my-app")?;

    for address in &addresses {
        evenly(&Client::Outside.ask(cluster, &[&manifests::target(address, 80), "--requests=120"])?)?;
    }
    for pod in space.pods("role=client")? {
        evenly(&Client::Pod(&pod).ask(cluster, &["my-app.sample.svc.cluster.local:80", "--requests=120"])?)?;
    }
    others_are_served(&space)
}

/// By whoever serves them; those that are not Weir's are in none of its maps, and get no address from it.
fn others_are_served(space: &Space<'_>) -> Result<()> {
    let services = space.get(&["services"])?;
    let names = services["items"].as_array().into_iter().flatten().filter_map(|it| it["metadata"]["name"].as_str());
    for name in names.filter(|name| *name != "my-app") {
        let target = manifests::target(&space.cluster_addresses(name)?[0], 80);
        for client in space.pods("role=client")? {
            let asked = || Client::Pod(&client).ask(space.cluster(), &[&target, "--requests=20"]);
            space.wait_for("an answer of every pod", || Ok(asked()?.answers.len() == 3))?;
        }
        for node in space.cluster().nodes() {
            ensure!(weir::backends(node, space.name(), name)?.is_empty(), "{name} is in the maps of {}", node.name());
        }
        ensure!(space.get(&["service", name])?["status"]["loadBalancer"]["ingress"].is_null(), "{name} has an address");
    }
    Ok(())
}

/// Three pods of one speed: none has less than half of its share.
fn evenly(report: &Report) -> Result<()> {
    report.expect_no_failure()?;
    let fair = report.answered() / 3;
    ensure!(report.answers.len() == 3 && report.answers.values().all(|answers| *answers * 2 >= fair), "{report:?}");
    Ok(())
}
