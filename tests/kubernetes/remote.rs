//! What other nodes carry: nodes tell each other through the coordinator.

use anyhow::{Result, ensure};
use weir_tests::cluster::{Node, Proxy};

use crate::{clients::Client, manifests, space::Space, weir, world};

/// The open connections of `my-app` through this node, and through the others as this node knows it.
fn carried(space: &Space<'_>, node: &Node) -> Result<(u64, u64)> {
    let backends = weir::backends(node, space.name(), "my-app")?;
    Ok(backends
        .iter()
        .fold((0, 0), |(own, other), backend| (own + backend.active_connections, other + backend.remote_connections)))
}

#[test]
fn a_node_knows_what_the_others_carry() -> Result<()> {
    const OPEN: u64 = 6;
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "remote")?;
    space.sample(2)?;
    let clients = space.pods("role=client")?;
    let (near, far) = (clients[0].host(&cluster)?, clients[1].host(&cluster)?);
    ensure!(near.name() != far.name(), "one client on each node");
    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);

    // A node asks about the Services that it has had connections to.
    Client::Pod(&clients[1]).ask(&cluster, &[&target])?.expect_no_failure()?;
    let kept = ["--keep", &format!("--clients={OPEN}"), "--pause=100"];
    let load = Client::Pod(&clients[0]).load(&cluster, &[&[target.as_str()], &kept[..]].concat())?;
    space.wait_for("the connections of the other node", || Ok(carried(&space, far)? == (0, OPEN)))?;
    ensure!(carried(&space, near)? == (OPEN, 0), "the node that carries them: {:?}", carried(&space, near)?);

    load.finish()?.expect_no_failure()?;
    space.wait_for("none any more", || Ok(carried(&space, far)? == (0, 0)))
}
