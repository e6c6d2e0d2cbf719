//! What a pod says of the size of one of its containers, and how far a resize of it is.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodSpec},
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use crate::scaling::{
    Requests,
    checked::quantity::{bytes, millicores},
    vertical::Resource,
};

/// What a container requests, and its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What it requests.
    pub requests: Requests,
    /// What it may use at most.
    pub limits: Requests,
}

/// A pod, as far as the size of one of its containers is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The pod's name.
    pub name: String,
    /// The id of the container that runs, without its runtime's name; none while it does not run.
    pub container: Option<String>,
    /// What the pod's spec says of the container; none if it has no such container.
    pub size: Option<Size>,
    /// What the container was given; none where the kubelet does not say.
    pub given: Option<Requests>,
    /// What all containers of the pod request.
    pub requests: Requests,
    /// What cannot be changed without a restart of the container, by its resizePolicy.
    pub restarts: Vec<Resource>,
    /// How far a resize is.
    pub progress: Progress,
}

/// How far a resize is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is to be done, or all was.
    #[default]
    Done,
    /// The kubelet has not looked at it yet.
    Unseen,
    /// It is being done.
    Acting(String),
    /// The node has no room for it now.
    Deferred(String),
    /// The node never will.
    Infeasible(String),
}

impl Size {
    /// The size with these requests, as far as there are others; limits keep their ratio. What is not requested stays so.
    pub fn with(self, wanted: &Requests) -> Self {
        let mut size = self;
        for resource in Resource::ALL {
            let (Some(wanted), Some(request)) = (resource.of(wanted), resource.of(&self.requests)) else { continue };
            *resource.place(&mut size.requests) = Some(wanted);
            *resource.place(&mut size.limits) =
                resource.of(&self.limits).map(|limit| scaled(resource, limit, (request, wanted)));
        }
        size
    }
}

/// A limit after its request has changed. One that is the request's equal stays so, one above stays above: else the pod would have another
/// quality of service, which a resize may not change.
fn scaled(resource: Resource, limit: u64, (request, wanted): (u64, u64)) -> u64 {
    if limit == request || request == 0 {
        return if limit == request { wanted } else { limit };
    }
    let scaled = resource.round_up(limit as f64 * (wanted as f64 / request as f64));
    if limit > request { scaled.max(wanted + 1) } else { scaled }
}

/// What a pod says of a container.
pub fn read(pod: &Pod, container: &str) -> Seen {
    let spec = pod.spec.as_ref();
    let all = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ours = all.iter().find(|one| one.name == container);
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let told = statuses.iter().find(|one| one.name == container);
    let size = ours.map(size);
    let given = told.and_then(|told| told.allocated_resources.as_ref()).map(amounts);
    Seen {
        name: pod.metadata.name.clone().unwrap_or_default(),
        container: told.filter(|told| runs(told)).and_then(id),
        size,
        given,
        requests: spec.map(requests).unwrap_or_default(),
        restarts: ours.map(restarts).unwrap_or_default(),
        progress: progress(pod, size, given),
    }
}

fn runs(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn id(status: &ContainerStatus) -> Option<String> {
    let id = status.container_id.as_deref()?;
    Some(id.split_once("://").map_or(id, |(_, id)| id).to_owned())
}

fn amounts(quantities: &BTreeMap<String, Quantity>) -> Requests {
    let text = |name: &str| quantities.get(name).map(|quantity| IntOrString::String(quantity.0.clone()));
    Requests {
        cpu: text("cpu").and_then(|text| millicores(&text)),
        memory: text("memory").and_then(|text| bytes(&text)),
    }
}

fn size(container: &Container) -> Size {
    let resources = container.resources.as_ref();
    let of = |quantities: Option<&BTreeMap<String, Quantity>>| quantities.map(amounts).unwrap_or_default();
    let requests = of(resources.and_then(|resources| resources.requests.as_ref()));
    let limits = of(resources.and_then(|resources| resources.limits.as_ref()));
    // As the API server fills it in.
    let requests = Requests { cpu: requests.cpu.or(limits.cpu), memory: requests.memory.or(limits.memory) };
    Size { requests, limits }
}

/// What the containers of a pod request together, those included that are started first and stay; none where one does not say. A limit
/// without a request is one.
pub fn requests(spec: &PodSpec) -> Requests {
    let first = spec.init_containers.iter().flatten();
    let stay = first.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let sizes: Vec<Requests> = spec.containers.iter().chain(stay).map(|container| size(container).requests).collect();
    let sum = |resource: Resource| sizes.iter().map(|requests| resource.of(requests)).sum();
    let known = |amount: Option<u64>| amount.filter(|amount| *amount > 0);
    Requests { cpu: known(sum(Resource::Cpu)), memory: known(sum(Resource::Memory)) }
}

/// What each container requests, by name, and its limits.
pub fn sizes(spec: &PodSpec) -> BTreeMap<String, Size> {
    spec.containers.iter().map(|container| (container.name.clone(), size(container))).collect()
}

fn restarts(container: &Container) -> Vec<Resource> {
    let policies = container.resize_policy.iter().flatten();
    let restarting = policies.filter(|policy| policy.restart_policy == "RestartContainer");
    let named = restarting.map(|policy| policy.resource_name.as_str()).collect::<Vec<_>>();
    Resource::ALL.into_iter().filter(|resource| named.contains(&resource.name())).collect()
}

fn progress(pod: &Pod, size: Option<Size>, given: Option<Requests>) -> Progress {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let of = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
    if let Some(pending) = of("PodResizePending") {
        let message = pending.message.clone().unwrap_or_default();
        return match pending.reason.as_deref() {
            Some("Infeasible") => Progress::Infeasible(message),
            _ => Progress::Deferred(message),
        };
    }
    if let Some(acting) = of("PodResizeInProgress") {
        return Progress::Acting(acting.message.clone().unwrap_or_default());
    }
    // The kubelet says so much once it has looked at the spec that there is.
    let late = match (status.and_then(|status| status.observed_generation), pod.metadata.generation) {
        (Some(observed), Some(generation)) => observed < generation,
        _ => false,
    };
    let differs = size.zip(given).is_some_and(|(size, given)| {
        Resource::ALL.into_iter().any(|resource| resource.of(&size.requests) != resource.of(&given))
    });
    if late || differs { Progress::Unseen } else { Progress::Done }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(spec: Value, status: Value) -> Seen {
        let mut spec = spec;
        spec["name"] = json!("app");
        let object = json!({
            "metadata": {"name": "web-1", "generation": 2},
            "spec": {
                "containers": [spec, {"name": "side", "resources": {"requests": {"cpu": "50m", "memory": "1Mi"}}}],
                "initContainers": [{"name": "once", "resources": {"requests": {"cpu": "9"}}}],
            },
            "status": status,
        });
        read(&serde_json::from_value(object).unwrap(), "app")
    }

    fn both(cpu: u64, memory: u64) -> Requests {
        Requests { cpu: Some(cpu), memory: Some(memory << 20) }
    }

    fn resources(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": "64Mi"}, "limits": {"cpu": "1"}}})
    }

    #[test]
    fn what_a_pod_says() {
        let status = json!({
            "observedGeneration": 2,
            "containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
                "containerID": "containerd://abc", "allocatedResources": {"cpu": "250m", "memory": "64Mi"},
            }],
        });
        let pod = seen(resources("250m"), status.clone());
        let limits = Requests { cpu: Some(1000), memory: None };
        assert_eq!(pod.size, Some(Size { requests: both(250, 64), limits }));
        assert_eq!((pod.container.as_deref(), pod.requests), (Some("abc"), both(300, 65)));
        assert_eq!((pod.given, pod.progress), (Some(both(250, 64)), Progress::Done));
        assert_eq!(seen(resources("300m"), status).progress, Progress::Unseen, "it was given less");
        assert_eq!(seen(resources("1"), json!({"observedGeneration": 1})).progress, Progress::Unseen, "not looked at");
        let waiting = json!({"containerStatuses": [{"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                              "containerID": "containerd://abc", "state": {"waiting": {}}}]});
        assert_eq!(seen(json!({}), waiting).container, None);
        let policy = json!({"resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                                             {"resourceName": "cpu", "restartPolicy": "NotRequired"}]});
        assert_eq!(seen(policy, json!({})).restarts, [Resource::Memory]);
    }

    #[test]
    fn how_far_a_resize_is() {
        let condition = |kind: &str, reason: &str| {
            let conditions = json!([{"type": kind, "status": "True", "reason": reason, "message": "m"}]);
            seen(resources("1"), json!({"conditions": conditions, "observedGeneration": 2})).progress
        };
        assert_eq!(condition("PodResizePending", "Infeasible"), Progress::Infeasible("m".into()));
        assert_eq!(condition("PodResizePending", "Deferred"), Progress::Deferred("m".into()));
        assert_eq!(condition("PodResizeInProgress", ""), Progress::Acting("m".into()));
        assert_eq!(condition("Ready", ""), Progress::Done);
    }

    #[test]
    fn limits_keep_their_ratio_and_the_pod_its_quality_of_service() {
        let size = |requests: Requests, limits: Requests| Size { requests, limits };
        let some = |cpu: u64| Requests { cpu: Some(cpu), memory: None };
        let (none, more) = (Requests::default(), both(500, 100));
        for (name, before, after) in [
            ("no limits", size(both(250, 64), none), size(more, none)),
            ("limits are requests", size(both(250, 64), both(250, 64)), size(more, more)),
            ("twice", size(both(250, 64), both(500, 128)), size(more, both(1000, 200))),
            ("cpu alone", size(both(250, 64), some(1000)), size(more, some(2000))),
            ("hardly above", size(both(1000, 64), some(1001)), size(more, some(501))),
            ("nothing", size(none, none), size(none, none)),
        ] {
            assert_eq!(before.with(&more), after, "{name}");
        }
        assert_eq!(size(both(250, 64), none).with(&some(500)), size(both(500, 64), none), "memory stays");
    }
}
