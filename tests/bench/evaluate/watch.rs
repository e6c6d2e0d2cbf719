//! What is seen of the pods each second: which there are, which are ready, and what CPU time each has used.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use tokio::time::{MissedTickBehavior, interval};
use weir_tests::{
    cluster::{Cluster, Node},
    evaluation::{Sample, Seen},
    usage::Process,
};

use crate::talk::talk;

/// Looks each second until it is told to stop.
pub(crate) fn watch(cluster: &Cluster, start: Instant, stop: &AtomicBool) -> Result<Vec<Sample>> {
    talk(cluster, |client| async move {
        let api: Api<Pod> = Api::namespaced(client, "default");
        let chosen = ListParams::default().labels("app=model");
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut samples, mut used) = (Vec::new(), HashMap::new());
        while !stop.load(Ordering::Relaxed) {
            clock.tick().await;
            let pods = api.list(&chosen).await?;
            let at = start.elapsed().as_secs_f64();
            let pods = pods.items.iter().map(|pod| seen(pod, cluster.nodes(), &mut used)).collect();
            samples.push(Sample { at, pods });
        }
        Ok(samples)
    })
}

fn seen(pod: &Pod, nodes: &[Node], used: &mut HashMap<String, f64>) -> Seen {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|found| found.type_ == "Ready" && found.status == "True");
    let ends = pod.metadata.deletion_timestamp.is_some();
    let name = pod.metadata.name.clone().unwrap_or_default();
    // Looked for each time: what runs in a pod that starts is not its server at first.
    if let Some(now) = process(pod, nodes).and_then(|process| process.cpu_time().ok()) {
        let most = used.entry(name.clone()).or_default();
        *most = now.as_secs_f64().max(*most);
    }
    let cpu = used.get(&name).copied();
    Seen { name, ready: is_ready && !ends, ends, cpu }
}

/// The server's process, once it runs.
fn process(pod: &Pod, nodes: &[Node]) -> Option<Process> {
    let on = pod.spec.as_ref()?.node_name.as_ref()?;
    let node = nodes.iter().find(|node| node.name() == *on)?;
    let pid = node.process_of_pod(pod.metadata.uid.as_ref()?).ok()?;
    Some(Process(pid.unsigned_abs()))
}
