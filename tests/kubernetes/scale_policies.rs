//! The API server takes and refuses the same ScalePolicies as the file source, which the agent's own tests ask about the same files.

use std::{collections::BTreeSet, process::Output};

use anyhow::{Result, ensure};
use weir_tests::{
    cluster::{Cluster, Proxy},
    process::with_input,
};

use crate::world;

const GOOD: &str = include_str!("../data/policies/good.yaml");
const BAD: &str = include_str!("../data/policies/bad.yaml");

#[test]
fn the_api_server_takes_and_refuses_the_policies_that_files_do() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    for (name, document) in documents(GOOD) {
        let answer = create(&cluster, document)?;
        ensure!(answer.status.success(), "{name} is refused: {}", String::from_utf8_lossy(&answer.stderr));
    }
    // One after the other in one request to kubectl: it goes on after what is refused.
    let answer = create(&cluster, BAD)?;
    let taken: BTreeSet<_> = String::from_utf8_lossy(&answer.stdout).lines().map(str::to_owned).collect();
    ensure!(!answer.status.success() && taken.is_empty(), "taken: {taken:?}");
    // Each is refused by the server, and none by kubectl for want of the definition.
    let told = String::from_utf8_lossy(&answer.stderr).matches("Error from server").count();
    let wanted = documents(BAD).count();
    ensure!(told == wanted, "{told} of {wanted} are told: {}", String::from_utf8_lossy(&answer.stderr));
    Ok(())
}

/// The documents of a file, with their names.
fn documents(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("---\n").map(|document| {
        let name = document.split_once("{name: ").and_then(|(_, rest)| rest.split([',', '}']).next());
        (name.unwrap_or("no name"), document)
    })
}

/// What the API server says, which keeps nothing.
fn create(cluster: &Cluster, manifests: &str) -> Result<Output> {
    let mut kubectl = cluster.kubectl()?;
    kubectl.args(["create", "--dry-run=server", "--validate=strict", "--filename=-", "--output=name"]);
    with_input(kubectl, manifests.as_bytes())
}
