//! Who else scales a workload: HorizontalPodAutoscalers, KEDA's among them, VerticalPodAutoscalers, and other policies.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{CustomResource, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::{cluster::allocate::ServiceKey, scaling::policy::TargetRef};

/// What is needed of a HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autoscaler {
    target: TargetRef,
    /// How it is called where it is in the way.
    pub title: String,
}

/// What is needed of a HorizontalPodAutoscaler. That of a KEDA ScaledObject is called by its owner's name.
pub fn autoscaler(hpa: &HorizontalPodAutoscaler) -> Option<Autoscaler> {
    let reference = &hpa.spec.scale_target_ref;
    let target = TargetRef {
        api_version: reference.api_version.clone().unwrap_or_default(),
        kind: reference.kind.clone(),
        name: reference.name.clone(),
    };
    let own = format!("HorizontalPodAutoscaler {}", hpa.name_any());
    let keda = hpa.owner_references().iter().find(|owner| owner.kind == "ScaledObject");
    Some(Autoscaler { target, title: keda.map_or(own.clone(), |owner| format!("ScaledObject {} ({own})", owner.name)) })
}

/// What is needed of a VerticalPodAutoscaler, whose definition a cluster need not have.
#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize)]
#[kube(
    group = "autoscaling.k8s.io",
    version = "v1",
    kind = "VerticalPodAutoscaler",
    plural = "verticalpodautoscalers",
    namespaced,
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct VerticalPodAutoscalerSpec {
    /// What it sizes.
    #[serde(default)]
    target_ref: Option<Sized>,
}

/// What a VerticalPodAutoscaler sizes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sized {
    api_version: String,
    kind: String,
    name: String,
}

/// What is needed of a VerticalPodAutoscaler.
pub fn vertical(vpa: &VerticalPodAutoscaler) -> Option<Autoscaler> {
    let Sized { api_version, kind, name } = vpa.spec.target_ref.clone()?;
    Some(Autoscaler {
        target: TargetRef { api_version, kind, name },
        title: format!("VerticalPodAutoscaler {}", vpa.name_any()),
    })
}

/// Whether two references mean one object. The version does not count; a group that is not said is any.
fn is_same(a: &TargetRef, b: &TargetRef) -> bool {
    let group = |target: &TargetRef| target.api_version.split_once('/').map(|(group, _)| group.to_owned());
    let groups = (group(a), group(b));
    a.kind == b.kind && a.name == b.name && (groups.0.is_none() || groups.1.is_none() || groups.0 == groups.1)
}

/// The autoscaler of a target.
pub fn owner<'a>(
    autoscalers: impl Iterator<Item = (&'a ServiceKey, &'a Autoscaler)>,
    namespace: &str,
    target: &TargetRef,
) -> Option<&'a Autoscaler> {
    let mut ours = autoscalers.filter(|((of, _), _)| of == namespace);
    ours.find(|(_, autoscaler)| is_same(&autoscaler.target, target)).map(|(_, autoscaler)| autoscaler)
}

/// Of policies for one target the oldest has it. Returns the name of the policy that has it instead of this one.
pub fn rival<'a>(
    policies: impl Iterator<Item = (&'a ServiceKey, i128, &'a TargetRef)>,
    (key, created): (&ServiceKey, i128),
    target: &TargetRef,
) -> Option<String> {
    let older = policies.filter(|(other, at, of)| {
        other.0 == key.0 && *other != key && is_same(of, target) && (*at, *other) < (created, key)
    });
    older.map(|(other, at, _)| (at, other)).min().map(|(_, other)| other.1.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target(api_version: &str, kind: &str) -> TargetRef {
        TargetRef { api_version: api_version.into(), kind: kind.into(), name: "web".into() }
    }

    #[test]
    fn an_autoscaler_is_found_by_what_it_scales_and_called_by_its_owner() {
        let hpa = |name: &str, owners: serde_json::Value| -> HorizontalPodAutoscaler {
            serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": name, "ownerReferences": owners},
                "spec": {"maxReplicas": 9, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
            }))
            .unwrap()
        };
        let plain = autoscaler(&hpa("web", json!([]))).unwrap();
        assert_eq!(plain.title, "HorizontalPodAutoscaler web");
        let owner_reference =
            json!([{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "so", "uid": "1"}]);
        let keda = autoscaler(&hpa("keda-hpa-so", owner_reference)).unwrap();
        assert_eq!(keda.title, "ScaledObject so (HorizontalPodAutoscaler keda-hpa-so)");
        let key = ("shop".to_owned(), "web".to_owned());
        let found = |namespace, target| owner([(&key, &plain)].into_iter(), namespace, &target).is_some();
        assert!(found("shop", target("apps/v1", "Deployment")) && found("shop", target("apps/v2", "Deployment")));
        assert!(
            !found("shop", target("apps/v1", "StatefulSet")) && !found("shop", target("example.com/v1", "Deployment"))
        );
        assert!(!found("other", target("apps/v1", "Deployment")));
    }

    #[test]
    fn a_vertical_autoscaler_is_found_by_what_it_sizes() {
        let vpa = json!({
            "apiVersion": "autoscaling.k8s.io/v1", "kind": "VerticalPodAutoscaler", "metadata": {"namespace": "shop", "name": "size"},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "updatePolicy": {"updateMode": "Off"}},
        });
        let vpa = vertical(&serde_json::from_value(vpa).unwrap()).unwrap();
        let key = ("shop".to_owned(), "size".to_owned());
        let found = owner([(&key, &vpa)].into_iter(), "shop", &target("apps/v1", "Deployment")).unwrap();
        assert_eq!(found.title, "VerticalPodAutoscaler size");
    }

    #[test]
    fn the_oldest_policy_has_the_target() {
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let (deployment, other) = (target("apps/v1", "Deployment"), target("apps/v1", "StatefulSet"));
        let (a, b, c) = (key("a"), key("b"), key("c"));
        let all = [(&a, 5, &deployment), (&b, 3, &deployment), (&c, 1, &other)];
        let rival = |name: &ServiceKey, created, target: &TargetRef| rival(all.into_iter(), (name, created), target);
        assert_eq!(rival(&a, 5, &deployment), Some("b".into()));
        assert_eq!(rival(&b, 3, &deployment), None);
        assert_eq!(rival(&c, 1, &other), None);
    }
}
