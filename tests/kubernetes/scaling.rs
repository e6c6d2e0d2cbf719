//! Scaling by ScalePolicies: real load, real workloads.

use std::time::Instant;

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use weir_tests::cluster::Proxy;

use crate::{clients::Client, manifests, space::Space, weir, world};

/// A Deployment of one pod, which requests a twentieth of a CPU, with its Service.
pub(crate) fn scene(space: &Space<'_>) -> Result<()> {
    stage(space, "requests: {cpu: 50m}")
}

/// A Deployment of one pod with these resources, with its Service.
pub(crate) fn stage(space: &Space<'_>, resources: &str) -> Result<()> {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: my-app, annotations: {weir.dev/algorithm: least-connections}}\n\
                   spec: {selector: {app: my-app}, ports: [{port: 80}]}\n";
    let resources = format!("        resources: {{{resources}}}\n        ports:\n");
    let deployment = manifests::deployment("my-app", 1).replace("        ports:\n", &resources);
    space.apply(&(deployment + service + &manifests::clients(space.cluster().nodes())))?;
    space.wait_for_rollout("deployment/my-app")?;
    weir::wait_for_endpoints(space, "my-app")?;
    space.wait_for_clients()
}

/// A policy for it; `spec` are further fields.
pub(crate) fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: weir.dev/v1alpha1\nkind: ScalePolicy\nmetadata: {{name: {name}}}\n\
         spec: {{serviceRef: {{name: my-app}}, targetRef: {{{target}}}, {spec}}}\n"
    )
}

pub(crate) const DEPLOYMENT: &str = "apiVersion: apps/v1, kind: Deployment, name: my-app";
pub(crate) const CONNECTIONS: &str = "targets: [{signal: activeConnections, perReplica: 4}]";
pub(crate) const AT_ONCE: &str = "drainTimeout: 20s, behavior: {scaleDown: {stabilizationWindowSeconds: 0}}";

/// The replicas that the Deployment has been told to have.
pub(crate) fn replicas(space: &Space<'_>) -> Result<u64> {
    Ok(space.get(&["deployment", "my-app"])?["spec"]["replicas"].as_u64().unwrap_or_default())
}

/// Waits until it has been told to have so many.
pub(crate) fn wait_for_replicas(space: &Space<'_>, count: u64) -> Result<()> {
    let waited = space.wait_for(&format!("{count} replicas"), || Ok(replicas(space)? == count));
    waited.map_err(|error| error.context(space.kubectl(&["describe", "scalepolicies"]).unwrap_or_default()))
}

/// Waits until the condition `Ready` of a policy has this reason and says this, and returns its status.
fn wait_for_reason(space: &Space<'_>, name: &str, reason: &str, message: &str) -> Result<Value> {
    wait_for_condition(space, name, ("Ready", reason), message)
}

/// Waits until a condition of a policy has this reason and says this, and returns its status.
pub(crate) fn wait_for_condition(
    space: &Space<'_>,
    name: &str,
    (kind, reason): (&str, &str),
    message: &str,
) -> Result<Value> {
    let mut status = Value::Null;
    let waited = space.wait_for(reason, || {
        status = space.get(&["scalepolicy", name])?["status"].take();
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        Ok(conditions.any(|condition| {
            let says = condition["message"].as_str().is_some_and(|text| text.contains(message));
            condition["type"] == kind && condition["reason"] == reason && says
        }))
    });
    waited.map_err(|error| error.context(format!("{message:?} in {status:#}")))?;
    Ok(status)
}

#[test]
fn load_becomes_replicas_and_nobody_notices_when_they_go() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "scaling")?;
    scene(&space)?;
    let foresees = format!("{CONNECTIONS}, forecast: {{}}, replicas: {{min: 1, max: 3}}, {AT_ONCE}");
    space.apply(&policy("web", DEPLOYMENT, &foresees))?;
    wait_for_reason(&space, "web", "Deciding", "")?;
    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let steady = Client::Pod(&clients[0]).load(&cluster, &[&target, "--pause=20"])?;
    let burst = Client::Pod(&clients[1]).load(&cluster, &[&target, "--keep", "--clients=11", "--pause=100"])?;
    wait_for_replicas(&space, 3)?;
    space.wait_for_rollout("deployment/my-app")?;

    let uid = space.get(&["scalepolicy", "web"])?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let map = format!("weir-forecast-{uid}");
    space.wait_for("the forecast's memory", || Ok(space.get(&["configmap", &map]).is_ok()))?;
    let memory = space.get(&["configmap", &map])?;
    ensure!(memory["metadata"]["ownerReferences"][0]["uid"] == uid.as_str(), "{memory:#}");

    // The load goes, and so does the leader: the next one has to see to it.
    let leader = weir::leader(&cluster)?;
    kill(Pid::from_raw(leader.host(&cluster)?.process_of_pod(&leader.uid)?), Signal::SIGKILL)?;
    burst.finish()?.expect_no_failure()?;
    wait_for_replicas(&space, 1)?;
    space.wait_for("one pod", || Ok(space.pods("app=my-app")?.len() == 1))?;
    let report = steady.finish()?;
    report.expect_no_failure()?;
    ensure!(report.answers.len() >= 2, "no new pod has taken a connection: {report:?}");
    let events = space.kubectl(&["get", "events", "--field-selector=involvedObject.kind=ScalePolicy"])?;
    ensure!(["ScaledOut", "Draining", "ScaledIn"].iter().all(|reason| events.contains(reason)), "{events}");
    let left = space.get(&["pods", "--selector=app=my-app"])?.to_string();
    ensure!(!left.contains("pod-deletion-cost"), "who stays is not marked: {left}");
    // Where the next leader has read it, it waits before it writes.
    let later = space.get(&["configmap", &map])?;
    ensure!(
        later["metadata"]["resourceVersion"] == memory["metadata"]["resourceVersion"],
        "it was not read: {later:#}"
    );
    let logged = weir::coordinators_say(&cluster)?;
    // That it is too little yet, a decision may well say.
    let mut troubles = logged.lines().filter(|line| line.contains("history") && !line.contains("too little history"));
    ensure!(troubles.next().is_none(), "{logged}");
    Ok(())
}

#[test]
fn a_busy_pod_is_given_company() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "busy")?;
    scene(&space)?;
    let rules = "rules: [{name: busy, signal: cpu, above: 80, for: 3s, add: 1}, {name: idle, signal: cpuCores, below: 0.02, for: 3s, \
                 remove: 1}]";
    space.apply(&policy("web", DEPLOYMENT, &format!("{rules}, replicas: {{min: 1, max: 2}}, {AT_ONCE}")))?;
    wait_for_reason(&space, "web", "Deciding", "")?;
    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let load = Client::Pod(&clients[0]).load(&cluster, &[&target, "--keep", "--clients=2"])?;
    wait_for_replicas(&space, 2)?;
    load.finish()?.expect_no_failure()?;
    wait_for_replicas(&space, 1)?;
    let status = space.get(&["scalepolicy", "web"])?["status"].take();
    ensure!(status["lastDecision"].to_string().contains("cpuCores"), "{status:#}");
    Ok(())
}

#[test]
fn who_asks_wakes_a_workload_that_has_no_replica() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "zero")?;
    space.sample(1)?;
    let outside = space.wait_for_addresses("my-app", 2)?.swap_remove(0);
    let inside = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let zero = format!("{CONNECTIONS}, replicas: {{min: 0, max: 3}}, {AT_ONCE}");
    space.apply(&policy("web", DEPLOYMENT, &zero))?;
    // From outside by packets, then from a pod by its socket.
    for by_socket in [false, true] {
        wait_for_replicas(&space, 0)?;
        space.wait_for("no pod", || Ok(space.pods("app=my-app")?.is_empty()))?;
        let began = Instant::now();
        if by_socket {
            Client::Pod(&clients[0]).ask(&cluster, &[&inside, "--timeout=60000"])?.expect_no_failure()?;
        } else {
            let mut curl = cluster.client().command("curl")?;
            curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", &format!("http://{outside}/")]);
            let output = curl.output()?;
            ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        }
        println!("{} answered after {:?}", if by_socket { "a socket" } else { "curl" }, began.elapsed());
        ensure!(replicas(&space)? == 1, "it keeps one replica for a while");
        space.wait_for("the reason", || {
            let status = space.get(&["scalepolicy", "web"])?["status"].take();
            Ok(status["lastDecision"].to_string().contains("a client has asked for it"))
        })?;
    }
    Ok(())
}

#[test]
fn what_pods_show_of_themselves_becomes_replicas() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "shown")?;
    scene(&space)?;
    let reads = |name: &str| {
        format!("targets: [{{podMetric: {{port: 80, name: \"{name}\"}}, perReplica: 4}}], replicas: {{min: 1, max: 2}}")
    };
    space.apply(&policy("web", DEPLOYMENT, &reads("test:connections_open")))?;
    wait_for_reason(&space, "web", "Deciding", "")?;
    let address = &space.cluster_addresses("my-app")?[0];
    let clients = space.pods("role=client")?;
    let load = Client::Pod(&clients[0]).load(&cluster, &[&manifests::target(address, 80), "--keep", "--clients=8"])?;
    wait_for_replicas(&space, 2)?;
    load.finish()?.expect_no_failure()?;
    let status = space.get(&["scalepolicy", "web"])?["status"].take();
    ensure!(status["lastDecision"].to_string().contains("podMetric(test:connections_open)"), "{status:#}");

    space.apply(&policy("web", DEPLOYMENT, &reads("test:none")))?;
    wait_for_reason(
        &space,
        "web",
        "MetricMissing",
        "spec.targets[0].podMetric.name: test:none is not shown by http://",
    )?;
    let server = format!("http://{}", manifests::target(address, 80));
    let query =
        format!("targets: [{{prometheus: {{server: \"{server}\", query: up}}, perReplica: 1}}], replicas: {{max: 2}}");
    space.apply(&policy("web", DEPLOYMENT, &query))?;
    let message = format!("spec.targets[0].prometheus.server: {server} answers 200 OK and not as Prometheus does");
    wait_for_reason(&space, "web", "SourceUnreachable", &message)?;
    ensure!(replicas(&space)? == 2, "the number stays");
    Ok(())
}

#[test]
fn who_may_not_scale_says_why() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "refused")?;
    scene(&space)?;
    let more = format!("{CONNECTIONS}, replicas: {{min: 2, max: 3}}");
    let hpa = "---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: other}\n\
               spec: {maxReplicas: 1, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: my-app}}\n";
    space.apply(&(hpa.to_owned() + &policy("web", DEPLOYMENT, &more)))?;
    wait_for_reason(&space, "web", "TargetTaken", "HorizontalPodAutoscaler other")?;

    space.apply(&policy("web", DEPLOYMENT, &format!("{more}, mode: Recommend")))?;
    space.wait_for("a recommendation", || {
        let status = space.get(&["scalepolicy", "web"])?["status"].take();
        Ok(status["desiredReplicas"] == 2 && status["currentReplicas"] == 1)
    })?;
    let set = space.get(&["replicasets"])?["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let memory = "targets: [{signal: memory, perReplica: 50}], replicas: {min: 2, max: 3}, mode: Recommend";
    let all = [
        policy("second", DEPLOYMENT, &format!("{more}, mode: Recommend")),
        policy("owned", &format!("apiVersion: apps/v1, kind: ReplicaSet, name: {set}"), &more),
        policy("gone", "apiVersion: apps/v1, kind: Deployment, name: gone", &more),
        policy("unknown", "apiVersion: example.com/v1, kind: Fleet, name: my-app", &more),
        policy("daemons", "apiVersion: apps/v1, kind: DaemonSet, name: daemons", &more),
    ];
    space.apply(&all.concat())?;
    wait_for_reason(&space, "second", "TargetTaken", "ScalePolicy web has the same target")?;
    wait_for_reason(&space, "owned", "TargetOwned", "Deployment my-app")?;
    wait_for_reason(&space, "gone", "TargetNotFound", "spec.targetRef: Deployment gone does not exist")?;
    wait_for_reason(&space, "unknown", "UnknownKind", "kind Fleet of example.com/v1")?;
    wait_for_reason(&space, "daemons", "Forbidden", "rbac.weir.dev/aggregate-to-scaler")?;
    ensure!(replicas(&space)? == 1, "somebody has scaled it");

    let right = Right::new(&space)?;
    space.apply(DAEMONS)?;
    wait_for_reason(&space, "daemons", "NoScaleSubresource", "DaemonSet daemons has no scale subresource")?;
    drop(right);
    space.kubectl(&["delete", "horizontalpodautoscaler", "other"])?;
    space.kubectl(&["delete", "scalepolicy", "second", "owned", "gone", "unknown", "daemons"])?;
    space.apply(&policy("web", DEPLOYMENT, memory))?;
    wait_for_reason(&space, "web", "RequestMissing", "write resources.requests.memory")?;
    space.apply(&policy("web", DEPLOYMENT, &more))?;
    wait_for_replicas(&space, 2)
}

/// A DaemonSet that runs nowhere.
const DAEMONS: &str = "---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: daemons}\n\
                       spec: {selector: {matchLabels: {app: daemons}}, template: {metadata: {labels: {app: daemons}}, \
                       spec: {nodeSelector: {nowhere: \"\"}, containers: [{name: none, image: none}]}}}\n";

/// The coordinator's right to look at DaemonSets, as a user gives it, until this is dropped.
struct Right<'a>(&'a Space<'a>);

impl<'a> Right<'a> {
    const ROLE: &'static str = "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
         metadata: {name: test-scaler-daemons, labels: {rbac.weir.dev/aggregate-to-scaler: \"true\"}}\n\
         rules: [{apiGroups: [apps], resources: [daemonsets, daemonsets/scale], verbs: [get]}]\n";

    fn new(space: &'a Space<'a>) -> Result<Self> {
        space.cluster().apply(Self::ROLE)?;
        Ok(Self(space))
    }
}

impl Drop for Right<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.cluster().kubectl_ok(&["delete", "clusterrole", "test-scaler-daemons"]) {
            eprintln!("{error:#}");
        }
    }
}
