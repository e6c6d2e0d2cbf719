//! Sizes by ScalePolicies: pods that run are resized in place, or left as they are with a reason.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_tests::{
    cluster::{Cluster, Proxy},
    image::PEER,
};

use crate::{
    clients::Client,
    manifests,
    scaling::{DEPLOYMENT, policy, stage, wait_for_condition},
    space::{Pod, Space},
    world,
};

const RESOURCES: &str = "requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m}";

/// The container of the only pod, or of the newest.
fn container(space: &Space<'_>) -> Result<(Pod, Value, Value)> {
    let pod = space.pods("app=my-app")?.pop().context("a pod")?;
    let mut object = space.get(&["pod", &pod.name])?;
    let (spec, status) = (object["spec"]["containers"][0].take(), object["status"]["containerStatuses"][0].take());
    Ok((pod, spec, status))
}

/// Microseconds of CPU that the container's control group may use in each period of 100 ms.
fn quota(cluster: &Cluster, pod: &Pod, status: &Value) -> Result<u64> {
    let id = status["containerID"].as_str().and_then(|id| id.rsplit('/').next()).context("the container's id")?;
    let node = pod.host(cluster)?.name();
    for (hierarchy, file) in [("cpu", "cpu.cfs_quota_us"), ("unified", "cpu.max"), (".", "cpu.max")] {
        let folder = Path::new("/sys/fs/cgroup").join(hierarchy).join(&node).join("kubepods/burstable");
        let file = folder.join(format!("pod{}", pod.uid)).join(id).join(file);
        if let Ok(text) = fs::read_to_string(&file) {
            let first = text.split_whitespace().next().unwrap_or_default();
            return first.parse().with_context(|| format!("{}: {text}", file.display()));
        }
    }
    anyhow::bail!("no control group of container {id} in pod {} on {node}", pod.uid)
}

#[test]
fn a_busy_pod_is_made_larger_in_place_and_new_ones_are_too() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "sizing")?;
    stage(&space, RESOURCES)?;
    let (pod, _, before) = container(&space)?;
    ensure!(quota(&cluster, &pod, &before)? == 10_000, "it may use a tenth of a CPU");
    let rules = "rules: [{name: busy, signal: cpu, above: 80, for: 3s, addCpu: 200m}], replicas: {min: 1, max: 3}";
    let vertical = "vertical: {mode: Apply, container: app, cpu: {min: 50m, max: 250m}}";
    space.apply(&policy("web", DEPLOYMENT, &format!("{rules}, {vertical}")))?;
    wait_for_condition(&space, "web", ("Sized", "AsDecided"), "what the template says")?;

    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let load = Client::Pod(&clients[0]).load(&cluster, &[&target, "--keep", "--clients=2"])?;
    let status = wait_for_condition(&space, "web", ("Sized", "AsDecided"), "cpu 250m")?;
    load.finish()?.expect_no_failure()?;
    let recommended = &status["recommendation"];
    ensure!(recommended["cpu"] == "250m" && recommended["resizedPods"] == 1, "{recommended:#}");
    ensure!(recommended["lastChange"].to_string().contains("rule busy: cpu"), "{recommended:#}");
    let (same, spec, after) = container(&space)?;
    let resources = &spec["resources"];
    ensure!(resources["requests"]["cpu"] == "250m" && resources["limits"]["cpu"] == "500m", "{resources:#}");
    ensure!(resources["requests"]["memory"] == "32Mi", "{resources:#}");
    ensure!(same.uid == pod.uid && after["containerID"] == before["containerID"], "it is another one: {after:#}");
    ensure!(after["restartCount"] == 0, "{after:#}");
    ensure!(quota(&cluster, &pod, &after)? == 50_000, "half a CPU");
    let events = space.kubectl(&["get", "events", "--field-selector=involvedObject.kind=ScalePolicy"])?;
    ensure!(["SizeDecided", "Resized"].iter().all(|reason| events.contains(reason)), "{events}");
    let template =
        space.get(&["deployment", "my-app"])?["spec"]["template"]["spec"]["containers"][0]["resources"].take();
    ensure!(template["requests"]["cpu"] == "50m", "the template is left alone: {template:#}");

    space.kubectl(&["scale", "deployment", "my-app", "--replicas=2"])?;
    space.wait_for("both pods to be resized", || {
        let status = space.get(&["scalepolicy", "web"])?["status"].take();
        Ok(status["recommendation"]["resizedPods"] == 2)
    })
}

/// The definition of VerticalPodAutoscalers, as far as it is needed, until this is dropped.
struct Definition<'a>(&'a Cluster);

const DEFINITION: &str = "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
    metadata: {name: verticalpodautoscalers.autoscaling.k8s.io, annotations: {api-approved.kubernetes.io: unapproved}}\n\
    spec: {group: autoscaling.k8s.io, scope: Namespaced, names: {kind: VerticalPodAutoscaler, plural: verticalpodautoscalers}, \
    versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}\n";

impl Drop for Definition<'_> {
    fn drop(&mut self) {
        let name = "verticalpodautoscalers.autoscaling.k8s.io";
        if let Err(error) = self.0.kubectl_ok(&["delete", "customresourcedefinition", name]) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn who_cannot_be_resized_stays_as_it_is_and_says_why() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let space = Space::new(&cluster, "infeasible")?;
    stage(&space, RESOURCES)?;
    let common = "rules: [{name: many, signal: activeConnections, above: 1000, add: 1}], replicas: {min: 1, max: 3}";
    let vertical = |mode: &str, min: &str| {
        policy(
            "web",
            DEPLOYMENT,
            &format!("{common}, vertical: {{mode: {mode}, container: app, cpu: {{min: {min}, max: \"200\"}}}}"),
        )
    };
    space.apply(&vertical("Apply", "\"100\""))?;
    let status = wait_for_condition(&space, "web", ("Sized", "Infeasible"), "only recommended")?;
    ensure!(status["recommendation"]["cpu"] == "100000m" && status["recommendation"]["resizedPods"] == 0, "{status:#}");
    space.wait_for("the pod's own size", || Ok(container(&space)?.1["resources"]["requests"]["cpu"] == "50m"))?;
    let (pod, _, status) = container(&space)?;
    ensure!(status["restartCount"] == 0 && quota(&cluster, &pod, &status)? == 10_000, "{status:#}");

    // The other half of the node is somebody else's.
    space.apply(&format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: filler}}\nspec:\n  nodeName: {}\n  containers:\n  - name: filler\n    \
         image: {PEER}\n    imagePullPolicy: Never\n    args: [serve, --port=7, --grace=0]\n    resources: {{requests: {{cpu: 800m}}}}\n",
        pod.node
    ))?;
    space.kubectl(&["wait", "--for=condition=Ready", "pod/filler", "--timeout=60s"])?;
    space.apply(&vertical("Apply", "1500m"))?;
    wait_for_condition(&space, "web", ("Sized", "Deferred"), &pod.name)?;
    space.wait_for("the pod's own size", || Ok(container(&space)?.1["resources"]["requests"]["cpu"] == "50m"))?;
    ensure!(container(&space)?.2["restartCount"] == 0, "it was restarted");

    space.apply(&vertical("Recommend", "60m"))?;
    wait_for_condition(&space, "web", ("Sized", "Recommending"), "")?;
    cluster.apply(DEFINITION)?;
    let _definition = Definition(&cluster);
    cluster.kubectl_ok(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/verticalpodautoscalers.autoscaling.k8s.io",
    ])?;
    space.apply(
        "---\napiVersion: autoscaling.k8s.io/v1\nkind: VerticalPodAutoscaler\nmetadata: {name: other}\n\
         spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: my-app}}\n",
    )?;
    // The definition is asked for now and then; until it was, nothing is known of the other one.
    std::thread::sleep(std::time::Duration::from_secs(35));
    space.apply(&vertical("Apply", "60m"))?;
    wait_for_condition(&space, "web", ("Sized", "TargetTaken"), "VerticalPodAutoscaler other")?;
    ensure!(container(&space)?.1["resources"]["requests"]["cpu"] == "50m", "somebody has resized it");
    Ok(())
}
