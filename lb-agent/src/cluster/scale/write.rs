//! What the leader writes: numbers of replicas, marks on pods, the status of policies, Events.

use std::time::Duration;

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
    status::Told,
    target::{self, TargetError, Workload},
};
use crate::{
    discovery::kube::events::{self, Kind, Reporter, Word},
    scaling::{
        ScalePolicy,
        policy::{ScalePolicyStatus, TargetRef},
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
    }
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
