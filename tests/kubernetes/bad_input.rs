//! What users get wrong: it is told where they look, in words that help, and it stops nobody else. What the API server itself refuses (a
//! node port twice, an address of the other family in a slice) is in the agent's own tests.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use weir_tests::cluster::{Cluster, Proxy, layout::POOL4, release::NAMESPACE};

use crate::{clients::Client, manifests, space::Space, weir, world};

/// An address outside of the cluster that two Services want.
const CONTESTED: &str = "198.51.100.77";
/// More Services than the pool has IPv4 addresses.
const TOO_MANY: usize = 20;
const ENDPOINTS: usize = 5000;
/// The API server's limit for a slice.
const PER_SLICE: usize = 1000;

#[test]
fn mistakes_are_told_and_stop_nobody_else() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "bad-input")?;
    space.sample(2)?;
    let address = space.wait_for_addresses("my-app", 2)?.remove(0);
    let load = Client::Outside.load(&cluster, &[&manifests::target(&address, 80), "--pause=20"])?;
    a_wrong_annotation(&space)?;
    services_that_contradict_each_other(&space)?;
    a_pool_that_overlaps(&space)?;
    a_pool_that_is_empty(&space)?;
    very_many_endpoints(&space)?;
    a_missing_verb(&space)?;
    load.finish()?.expect_no_failure()
}

fn a_wrong_annotation(space: &Space<'_>) -> Result<()> {
    space.apply(&manifests::service("fast", "").replace("least-connections", "fastest"))?;
    for words in
        ["metadata.annotations.weir.dev/algorithm: \"fastest\"", "least-connections", "the default is in force"]
    {
        wait_for_event(space, space.name(), ("Service", "fast", "InvalidAnnotation"), words)?;
    }
    answers(space, "fast.bad-input.svc.cluster.local:80")
}

/// Two want one frontend, and one has endpoints of a family that it has no address of.
fn services_that_contradict_each_other(space: &Space<'_>) -> Result<()> {
    for name in ["first", "second"] {
        let ports = format!("ports: [{{port: 80}}], externalIPs: [{CONTESTED}]");
        space.apply(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: my-app}}, {ports}}}\n"
        ))?;
    }
    space.apply(
        &(slice("first", "IPv6", &["fd44:dead::1".into()]) + &slice("first", "FQDN", &["example.org".into()])),
    )?;
    let why = "is claimed by Service bad-input/first already";
    wait_for_event(space, space.name(), ("Service", "second", "FrontendConflict"), why)?;
    for target in
        [&format!("{CONTESTED}:80"), "first.bad-input.svc.cluster.local:80", "second.bad-input.svc.cluster.local:80"]
    {
        answers(space, target)?;
    }
    Ok(())
}

fn a_pool_that_overlaps(space: &Space<'_>) -> Result<()> {
    let pool = manifests::pool(&[POOL4]).replace("name: pool", "name: overlapping");
    space.cluster().apply(&pool)?;
    let told = wait_for_condition(space, "overlapping", ("Ready", "False")).and_then(|()| {
        wait_for_event(space, "default", ("AddressPool", "overlapping", "Overlap"), "of AddressPool pool")
    });
    space.cluster().delete(&pool)?;
    told
}

fn a_pool_that_is_empty(space: &Space<'_>) -> Result<()> {
    let service = |number| {
        let name = format!("full-{number:02}");
        manifests::service(&name, "").replace("RequireDualStack", "SingleStack")
    };
    let services: String = (0..TOO_MANY).map(service).collect();
    space.apply(&services)?;
    // Of the same age, they are served by name.
    let last = format!("full-{:02}", TOO_MANY - 1);
    let words = "no AddressPool has a free IPv4 address";
    wait_for_event(space, space.name(), ("Service", &last, "AddressPoolExhausted"), words)?;
    let names = |range: std::ops::Range<usize>| range.map(|number| format!("full-{number:02}")).collect::<Vec<_>>();
    let mut delete = vec!["delete".to_owned(), "service".to_owned()];
    delete.extend(names(0..TOO_MANY));
    space.kubectl(&delete.iter().map(String::as_str).collect::<Vec<_>>())?;
    wait_for_condition(space, "pool", ("Exhausted", "False"))
}

fn very_many_endpoints(space: &Space<'_>) -> Result<()> {
    space.apply("---\napiVersion: v1\nkind: Service\nmetadata: {name: many}\nspec: {ports: [{port: 80}]}\n")?;
    let addresses: Vec<_> =
        (0..ENDPOINTS).map(|number| format!("10.99.{}.{}", number / 250, number % 250 + 1)).collect();
    space.apply(&addresses.chunks(PER_SLICE).map(|chunk| slice("many", "IPv4", chunk)).collect::<String>())?;
    for node in space.cluster().nodes() {
        space.wait_for("all endpoints", || Ok(weir::backends(node, space.name(), "many")?.len() == ENDPOINTS))?;
    }
    Ok(())
}

/// A slice that a user has made, of endpoints with one address each.
fn slice(service: &str, family: &str, addresses: &[String]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    let name = format!("{service}-{}-{}", family.to_lowercase(), addresses[0].replace([':', '.'], "-"));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"port": 80}],
        "endpoints": endpoints,
    });
    format!("---\n{slice}\n")
}

/// An agent that starts without a right says which; its node is served all the same.
fn a_missing_verb(space: &Space<'_>) -> Result<()> {
    let cluster = space.cluster();
    let role = Role::without_pods(cluster)?;
    let node = &cluster.nodes()[0];
    let pod = weir::agent(cluster, node)?;
    cluster.kubectl_ok(&["delete", "pod", "--namespace", NAMESPACE, &pod.name])?;
    // kube-rs lists by a watch.
    let remedy = "give its ClusterRole the verb watch on pods";
    space.wait_for(remedy, || Ok(problems(cluster, 0)?.is_some_and(|problems| problems.contains(remedy))))?;
    answers(space, "my-app.bad-input.svc.cluster.local:80")?;
    drop(role);
    space.wait_for("an agent that lacks no right", || {
        Ok(problems(cluster, 0)?.is_some_and(|problems| !problems.contains("ClusterRole")))
    })
}

/// The agents' ClusterRole with less than it needs, until this is dropped.
struct Role<'a> {
    cluster: &'a Cluster,
    original: Value,
}

impl<'a> Role<'a> {
    fn without_pods(cluster: &'a Cluster) -> Result<Self> {
        let printed = cluster.kubectl_ok(&["get", "clusterrole", "weir-agent", "--output=json"])?;
        let original: Value = serde_json::from_str(&printed).context("a ClusterRole")?;
        let mut less = original.clone();
        for rule in less["rules"].as_array_mut().into_iter().flatten() {
            rule["resources"].as_array_mut().context("resources")?.retain(|resource| resource != "pods");
        }
        ensure!(less != original, "the agent has no right on pods");
        let role = Self { cluster, original };
        role.replace(&less)?;
        Ok(role)
    }

    fn replace(&self, role: &Value) -> Result<()> {
        let rules = json!([{"op": "replace", "path": "/rules", "value": role["rules"]}]).to_string();
        self.cluster.kubectl_ok(&["patch", "clusterrole", "weir-agent", "--type=json", "--patch", &rules]).map(drop)
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.replace(&self.original) {
            eprintln!("{error:#}");
        }
    }
}

/// What `weir status` of a node's agent says is wrong, as JSON; none while there is no agent to ask.
fn problems(cluster: &Cluster, node: usize) -> Result<Option<String>> {
    let Ok(pod) = weir::agent(cluster, &cluster.nodes()[node]) else { return Ok(None) };
    let mut kubectl = cluster.kubectl()?;
    kubectl.args(["exec", "--namespace", NAMESPACE, &pod.name, "--", "/weir", "status", "--output=json"]);
    let status: Option<Value> = serde_json::from_slice(&kubectl.output()?.stdout).ok();
    Ok(status.map(|status| status["problems"].to_string()))
}

/// Every pod that asks is answered.
fn answers(space: &Space<'_>, target: &str) -> Result<()> {
    let clients = space.pods("role=client")?;
    clients.iter().try_for_each(|pod| {
        let report = Client::Pod(pod).ask(space.cluster(), &[target, "--requests=20"])?;
        report.expect_no_failure().with_context(|| format!("{target} from {}", pod.name))
    })
}

fn wait_for_condition(space: &Space<'_>, pool: &str, (kind, status): (&str, &str)) -> Result<()> {
    let wait = format!("--for=condition={kind}={status}");
    space.kubectl(&["wait", &wait, "addresspool", pool, "--timeout=60s"]).map(drop)
}

/// Waits for an Event about an object of a kind and a name, for a reason, that has these words.
fn wait_for_event(
    space: &Space<'_>,
    namespace: &str,
    (kind, name, reason): (&str, &str, &str),
    words: &str,
) -> Result<()> {
    let fields = format!("--field-selector=involvedObject.kind={kind},involvedObject.name={name},reason={reason}");
    let get = ["get", "events", "--namespace", namespace, &fields, "--output=custom-columns=MESSAGE:.message"];
    space.wait_for(&format!("an Event {reason} about {kind} {name}: {words}"), || {
        Ok(space.cluster().kubectl_ok(&get)?.contains(words))
    })
}
