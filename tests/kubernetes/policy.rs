//! NetworkPolicy made of nftables rules stays in force for what comes through Weir.

use anyhow::{Context as _, Result};
use weir_tests::cluster::{Cluster, Node, Proxy, layout::CLIENT4};

use crate::{clients::Client, manifests, space::Space, world};

const TABLE: &str = "policy-of-a-test";

/// Rules as a policy controller writes them: who may come to a pod of this node. Dropping it removes them.
struct Rules<'a>(&'a Node);

impl<'a> Rules<'a> {
    fn against(node: &'a Node, source: &str, pod: &str) -> Result<Self> {
        let rule = format!(
            "add table inet {TABLE}\nadd chain inet {TABLE} forward {{ type filter hook forward priority 0; policy accept; }}\n\
             add rule inet {TABLE} forward ip saddr {source} ip daddr {pod} drop"
        );
        node.namespace().run("nft", &[&rule])?;
        Ok(Self(node))
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.namespace().run("nft", &["delete", "table", "inet", TABLE]) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn a_policy_of_nftables_stays_in_force() -> Result<()> {
    stays_in_force(&*world::enter_with_weir(Proxy::None)?)
}

fn stays_in_force(cluster: &Cluster) -> Result<()> {
    let space = Space::new(cluster, "policy")?;
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: my-app}\nspec: {type: NodePort, externalTrafficPolicy: Local, \
                   selector: {app: my-app}, ports: [{port: 80, nodePort: 30056}]}\n";
    space.apply(&(manifests::deployment("my-app", 1) + service))?;
    space.wait_for_rollout("deployment/my-app")?;
    let pod = space.pods("app=my-app")?.pop().context("the pod")?;
    let node = pod.host(cluster)?;
    let target = manifests::target(&node.plan().addresses()[0].to_string(), 30056);
    let answers = |wanted: bool| {
        space.wait_for(if wanted { "an answer" } else { "silence" }, || {
            let report = Client::Outside.ask(cluster, &[&target, "--timeout=500"])?;
            Ok((report.failed == 0) == wanted)
        })
    };
    answers(true)?;
    let rules = Rules::against(node, CLIENT4, &pod.addresses[0])?;
    answers(false)?;
    drop(rules);
    answers(true)
}
