//! What the leader writes: numbers of replicas, marks on pods and their sizes, the status of policies, Events.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    drain::Action,
    resize::Order,
    status::Told,
    target::{self, TargetError, Workload},
};
use crate::{
    discovery::kube::events::{self, Kind, Reporter, Word},
    scaling::{
        Requests, ScalePolicy,
        policy::{ScalePolicyStatus, TargetRef},
        vertical,
    },
};

/// So long an answer of the API server is waited for.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Pods with a lower cost go first, of those that are ready (KEP-2255).
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Has it done. Returns the workload as it is then, if its number was set.
pub async fn act(
    client: &Client,
    namespace: &str,
    (target, resource): (&TargetRef, &ApiResource),
    workload: &Workload,
    action: &Action,
) -> Result<Option<Workload>, TargetError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match action {
        Action::Unmark(names) => {
            mark(&pods, names, &Value::Null).await?;
            Ok(None)
        }
        Action::Scale { to, mark: names, .. } => {
            mark(&pods, names, &json!(i32::MIN.to_string())).await?;
            let set = target::set(client.clone(), namespace, target, resource, (&workload.version, *to));
            let set = within(set).await?;
            Ok(Some(Workload { set: set.set, version: set.version, ..workload.clone() }))
        }
        Action::Resize(order) => within(resize(&pods, order)).await.map(|()| None),
    }
}

/// Has a pod resized in place.
async fn resize(pods: &Api<Pod>, order: &Order) -> Result<(), TargetError> {
    let resources = json!({"requests": quantities(&order.size.requests), "limits": quantities(&order.size.limits)});
    let patch = json!({"spec": {"containers": [{"name": order.container, "resources": resources}]}});
    let patched = pods.patch_subresource("resize", &order.pod, &PatchParams::default(), &Patch::Strategic(patch)).await;
    match patched {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => match status.code {
            // The pod is gone; else the API server does not know the subresource.
            404 if status.message.contains(&order.pod) => Ok(()),
            404 => Err(TargetError::Refused {
                reason: "Unsupported",
                message: "it cannot resize pods in place, which takes Kubernetes 1.33".into(),
            }),
            403 => Err(TargetError::Refused { reason: forbidden(&status.message), message: status.message }),
            400 | 422 => Err(TargetError::Refused { reason: "Invalid", message: status.message }),
            _ => Err(TargetError::Api(Box::new(kube::Error::Api(status)))),
        },
        Err(error) => Err(TargetError::Api(Box::new(error))),
    }
}

/// Since Kubernetes 1.36 the API server itself refuses what is larger than the node, in the words of no other refusal.
fn forbidden(message: &str) -> &'static str {
    if message.contains("enough allocatable resources") { "Infeasible" } else { "Forbidden" }
}

fn quantities(amounts: &Requests) -> BTreeMap<&'static str, String> {
    let quantity = |resource: vertical::Resource| Some((resource.name(), resource.quantity(resource.of(amounts)?)));
    vertical::Resource::ALL.into_iter().filter_map(quantity).collect()
}

/// Looks at a pod; none if there is no such pod, or another one of the name.
pub async fn pod(client: &Client, namespace: &str, (name, uid): (&str, &str)) -> Result<Option<Pod>, TargetError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let read = async {
        match pods.get_opt(name).await {
            Ok(pod) => Ok(pod.filter(|pod| pod.uid().as_deref() == Some(uid))),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                Err(TargetError::Forbidden { verb: "get", resource: "pods".into() })
            }
            Err(error) => Err(TargetError::Api(Box::new(error))),
        }
    };
    within(read).await
}

async fn mark(pods: &Api<Pod>, names: &[String], cost: &Value) -> Result<(), TargetError> {
    for name in names {
        let patch = json!({"metadata": {"annotations": {COST: cost}}});
        let written = async {
            match pods.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    Err(TargetError::Forbidden { verb: "patch", resource: "pods".into() })
                }
                Err(error) => Err(TargetError::Api(Box::new(error))),
            }
        };
        within(written).await?;
    }
    Ok(())
}

/// An answer that does not come is no answer.
pub async fn within<T>(answer: impl Future<Output = Result<T, TargetError>>) -> Result<T, TargetError> {
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(TargetError::Silent))
}

/// Writes a policy's status.
pub async fn status(client: &Client, object: &ScalePolicy, status: &ScalePolicyStatus) -> Result<(), kube::Error> {
    let api: Api<ScalePolicy> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    // A whole replacement of the status: what is not in it any more is to go.
    let mut value = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
    let old = serde_json::to_value(&object.status).map_err(kube::Error::SerdeError)?;
    if let (Value::Object(new), Value::Object(old)) = (&mut value, old) {
        old.into_iter().for_each(|(field, _)| {
            new.entry(field).or_insert(Value::Null);
        });
    }
    let patch = json!({"status": value});
    api.patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

/// Makes an Event of a policy; `me` is the coordinator that tells.
pub async fn tell(client: &Client, me: &str, object: &ScalePolicy, told: &Told) -> Result<(), kube::Error> {
    let reference = ObjectReference {
        api_version: Some(ScalePolicy::api_version(&()).into_owned()),
        kind: Some(ScalePolicy::kind(&()).into_owned()),
        namespace: object.namespace(),
        name: Some(object.name_any()),
        uid: object.uid(),
        ..ObjectReference::default()
    };
    let by = Reporter { controller: "weir.dev/coordinator", instance: me, action: "Scale" };
    let kind = if told.warning { Kind::Warning } else { Kind::Normal };
    // What happens again is another Event.
    let now = Timestamp::now();
    let word = Word { kind, reason: told.reason, note: &told.note };
    let event = events::about_object(reference, &now.as_nanosecond().to_string(), word, &by, now);
    events::make(client, &event).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_the_node_is_no_lack_of_a_right() {
        let large = "pods \"a\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 100000, allocatable: 2000";
        let right = "pods \"a\" is forbidden: User \"x\" cannot patch resource \"pods/resize\"";
        assert_eq!([large, right].map(forbidden), ["Infeasible", "Forbidden"]);
    }
}
