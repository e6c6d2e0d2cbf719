//! What is scaled: any object with a scale subresource, asked for by its group, version and kind.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
    discovery,
};
use serde_json::{Value, json};

use super::pods::{self, Size};
use crate::scaling::{Requests, policy::TargetRef};

/// A workload as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The replicas that are set.
    pub set: u32,
    /// The version of the scale that says so.
    pub version: String,
    /// What is rolled out, while a rollout is under way.
    pub rollout: Option<String>,
    /// The workload that it belongs to, and that is to be scaled instead: `KIND NAME`.
    pub owner: Option<String>,
    /// The highest ordinal goes first: a StatefulSet.
    pub ordered: bool,
    /// What a pod of its template requests.
    pub requests: Requests,
    /// What each container of its template requests, by name, and its limits.
    pub containers: BTreeMap<String, Size>,
}

/// Why a workload cannot be scaled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is none.
    #[error("{kind} {name} does not exist in the policy's namespace; create it, or name another one")]
    Missing {
        /// What kind.
        kind: String,
        /// Which.
        name: String,
    },
    /// The API server does not know the kind.
    #[error("the API server does not serve kind {kind} of {group}; install its definition, or correct it")]
    Kind {
        /// The group and version.
        group: String,
        /// The kind.
        kind: String,
    },
    /// It has no scale subresource.
    #[error("{kind} {name} has no scale subresource; name a workload that has one")]
    NoScale {
        /// What kind.
        kind: String,
        /// Which.
        name: String,
    },
    /// We may not.
    #[error(
        "the coordinator may not {verb} {resource}; give the right with a ClusterRole labelled rbac.weir.dev/aggregate-to-scaler: \"true\""
    )]
    Forbidden {
        /// What it may not.
        verb: &'static str,
        /// Of what.
        resource: String,
    },
    /// The API server refuses it.
    #[error("the API server refuses it: {message}")]
    Refused {
        /// Why, in a word.
        reason: &'static str,
        /// What it says.
        message: String,
    },
    /// The number was changed meanwhile.
    #[error("somebody else has changed it meanwhile")]
    Conflict,
    /// The API server cannot be asked.
    #[error("the API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// The API server does not answer.
    #[error("the API server does not answer")]
    Silent,
}

impl TargetError {
    /// Whether the policy or the cluster has to be mended; else another attempt may do.
    pub const fn is_lasting(&self) -> bool {
        !matches!(self, Self::Conflict | Self::Api(_) | Self::Silent)
    }

    /// The reason in a condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "TargetNotFound",
            Self::Kind { .. } => "UnknownKind",
            Self::NoScale { .. } => "NoScaleSubresource",
            Self::Forbidden { .. } => "Forbidden",
            Self::Refused { reason, .. } => reason,
            Self::Conflict => "Conflict",
            Self::Api(_) | Self::Silent => "ApiServerUnreachable",
        }
    }
}

/// Kinds by group, version and name, as the API server serves them.
#[derive(Debug, Default)]
pub struct Kinds(HashMap<(String, String), ApiResource>);

impl Kinds {
    /// The resource of a target.
    pub async fn find(&mut self, client: &Client, target: &TargetRef) -> Result<ApiResource, TargetError> {
        let gvk = gvk(target);
        let plural = match (gvk.group.as_str(), gvk.kind.as_str()) {
            ("apps", "Deployment") => Some("deployments"),
            ("apps", "StatefulSet") => Some("statefulsets"),
            ("apps", "ReplicaSet") => Some("replicasets"),
            _ => None,
        };
        if let Some(plural) = plural {
            return Ok(ApiResource::from_gvk_with_plural(&gvk, plural));
        }
        let key = (target.api_version.clone(), target.kind.clone());
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        match discovery::pinned_kind(client, &gvk).await {
            Ok((resource, _)) => {
                self.0.insert(key, resource.clone());
                Ok(resource)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Err(unknown(target)),
            Err(kube::Error::Discovery(_)) => Err(unknown(target)),
            Err(error) => Err(TargetError::Api(Box::new(error))),
        }
    }
}

fn unknown(target: &TargetRef) -> TargetError {
    TargetError::Kind { group: target.api_version.clone(), kind: target.kind.clone() }
}

/// Group, version and kind of a target.
pub fn gvk(target: &TargetRef) -> GroupVersionKind {
    let (group, version) = target.api_version.split_once('/').unwrap_or(("", &target.api_version));
    GroupVersionKind::gvk(group, version, &target.kind)
}

/// Looks at a workload.
pub async fn look(
    client: Client,
    namespace: &str,
    target: &TargetRef,
    resource: &ApiResource,
) -> Result<Workload, TargetError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, resource);
    let missing = || TargetError::Missing { kind: target.kind.clone(), name: target.name.clone() };
    let object = match api.get_opt(&target.name).await {
        Ok(object) => object.ok_or_else(missing)?,
        Err(error) => return Err(refused(error, "get", &resource.plural)),
    };
    let scale = match api.get_scale(&target.name).await {
        Ok(scale) => scale,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(TargetError::NoScale { kind: target.kind.clone(), name: target.name.clone() });
        }
        Err(error) => return Err(refused(error, "get", &format!("{}/scale", resource.plural))),
    };
    Ok(read(&object, &scale))
}

/// Sets the number of replicas, unless somebody has changed it since it was looked at.
pub async fn set(
    client: Client,
    namespace: &str,
    target: &TargetRef,
    resource: &ApiResource,
    (version, replicas): (&str, u32),
) -> Result<Workload, TargetError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, resource);
    let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}});
    let scale = match api.patch_scale(&target.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(scale) => scale,
        Err(kube::Error::Api(status)) if status.code == 409 => return Err(TargetError::Conflict),
        Err(error) => return Err(refused(error, "patch", &format!("{}/scale", resource.plural))),
    };
    Ok(Workload {
        set: number(&scale),
        version: scale.metadata.resource_version.unwrap_or_default(),
        ..Workload::default()
    })
}

fn refused(error: kube::Error, verb: &'static str, resource: &str) -> TargetError {
    match &error {
        kube::Error::Api(status) if status.code == 403 => {
            TargetError::Forbidden { verb, resource: resource.to_owned() }
        }
        _ => TargetError::Api(Box::new(error)),
    }
}

fn number(scale: &Scale) -> u32 {
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas);
    replicas.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(0)
}

/// What an object and its scale say.
fn read(object: &DynamicObject, scale: &Scale) -> Workload {
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    let template = serde_json::from_value(object.data["spec"]["template"]["spec"].clone()).unwrap_or_default();
    Workload {
        set: number(scale),
        version: scale.metadata.resource_version.clone().unwrap_or_default(),
        rollout: rollout(object),
        owner: controller.map(|owner| format!("{} {}", owner.kind, owner.name)),
        ordered: kind == "StatefulSet",
        requests: pods::requests(&template),
        containers: pods::sizes(&template),
    }
}

/// Whether pods of an older template are being replaced, by the fields that Deployments and StatefulSets have, and others copy.
fn rollout(object: &DynamicObject) -> Option<String> {
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    let number = |value: &Value| value.as_i64();
    let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]).unwrap_or(0);
    let revisions = (status["currentRevision"].as_str(), status["updateRevision"].as_str());
    let settled = matches!(revisions, (Some(current), Some(update)) if current == update);
    // A StatefulSet that is settled need not count who is updated.
    let (updated, all) = (number(&status["updatedReplicas"])?, number(&status["replicas"])?);
    (updated < all - partition.min(all) && !settled)
        .then(|| format!("{updated} of {all} replicas are of the new template"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(object: Value) -> Workload {
        let scale = json!({"metadata": {"resourceVersion": "7"}, "spec": {"replicas": 3}});
        read(&serde_json::from_value(object).unwrap(), &serde_json::from_value(scale).unwrap())
    }

    #[test]
    fn what_a_workload_says() {
        let deployment = |updated: i64| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                "status": {"replicas": 3, "updatedReplicas": updated},
            })
        };
        let calm = workload(deployment(3));
        assert_eq!((calm.set, calm.version.as_str(), &calm.rollout, calm.ordered), (3, "7", &None, false));
        assert_eq!(workload(deployment(1)).rollout.as_deref(), Some("1 of 3 replicas are of the new template"));
        let set = |current: &str, updated: i64, partition: i64| {
            json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
                "spec": {"updateStrategy": {"rollingUpdate": {"partition": partition}}},
                "status": {"replicas": 3, "updatedReplicas": updated, "currentRevision": current, "updateRevision": "b"},
            })
        };
        assert!(workload(set("b", 0, 0)).ordered);
        for (current, updated, partition, rolls) in
            [("b", 0, 0, false), ("a", 1, 0, true), ("a", 1, 2, false), ("a", 3, 0, false)]
        {
            assert_eq!(
                workload(set(current, updated, partition)).rollout.is_some(),
                rolls,
                "{current} {updated} {partition}"
            );
        }
    }

    #[test]
    fn requests_are_those_of_all_containers_or_not_known() {
        let of = |containers: Value, first: Value| {
            let template = json!({"containers": containers, "initContainers": first});
            let spec = json!({"template": {"spec": template}});
            workload(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}))
                .requests
        };
        let container = |cpu: &str| json!({"name": "a", "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}});
        let known = |cpu, memory: u64| Requests { cpu, memory: Some(memory << 20) };
        assert_eq!(of(json!([container("250m"), container("0.5")]), json!(null)), known(Some(750), 128));
        let stays =
            json!({"name": "b", "restartPolicy": "Always", "resources": {"limits": {"cpu": 1, "memory": "1Mi"}}});
        assert_eq!(of(json!([container("1")]), json!([container("7"), stays])), known(Some(2000), 65));
        let none = json!({"name": "c", "resources": {"requests": {"memory": "1Mi"}}});
        assert_eq!(of(json!([container("1"), none]), json!(null)), known(None, 65), "one does not say");
    }

    #[test]
    fn a_replica_set_of_a_deployment_names_it() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "web-1", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "2", "controller": true},
            ]},
        });
        assert_eq!(workload(object).owner.as_deref(), Some("Deployment web"));
    }

    #[test]
    fn groups_and_versions() {
        let target =
            |api_version: &str| TargetRef { api_version: api_version.into(), kind: "K".into(), name: "n".into() };
        let parts = |text| {
            let gvk = gvk(&target(text));
            (gvk.group, gvk.version)
        };
        assert_eq!(parts("apps/v1"), ("apps".into(), "v1".into()));
        assert_eq!(parts("v1"), (String::new(), "v1".into()));
    }
}
