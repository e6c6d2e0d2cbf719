//! `weir crds`: the definitions of Weir's custom resources, from the types that read them. The chart's are made by it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Error, output};
use crate::{cluster::pool::AddressPool, scaling::policy::ScalePolicy};

/// All of them, as YAML documents.
pub fn text() -> Result<String, Error> {
    let document = |crd: &CustomResourceDefinition| {
        let mut value =
            serde_json::to_value(crd).map_err(|error| Error::Format { format: "json", reason: error.to_string() })?;
        as_the_api_server_reads(&mut value);
        Ok(format!("---\n{}\n", output::yaml(&value)?.trim_end()))
    };
    definitions().iter().map(document).collect()
}

/// Takes away what the API server reads otherwise: formats such as `uint32`, which it does not know, and says so at each installation
/// (`minimum: 0` stays); and that a name of a few may be null, which it refuses then. What may not be null it takes for left out.
fn as_the_api_server_reads(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            if fields.contains_key("enum") {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(as_the_api_server_reads);
        }
        Value::Array(items) => items.iter_mut().for_each(as_the_api_server_reads),
        _ => {}
    }
}

fn definitions() -> [CustomResourceDefinition; 2] {
    [AddressPool::crd(), ScalePolicy::crd()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charts_definitions_are_those_of_the_types() {
        let chart = include_str!("../../../deploy/helm/weir/files/crds.yaml");
        assert!(text().unwrap() == chart, "stale: `cargo xtask deploy render` writes deploy/helm/weir/files/crds.yaml");
    }

    #[test]
    fn the_api_server_knows_every_format() {
        let text = text().unwrap();
        assert!(!text.contains("uint") && text.contains("minimum: 0"), "{text}");
    }

    #[test]
    fn what_depends_on_other_fields_is_refused_by_the_api_server() {
        let policy = serde_json::to_value(ScalePolicy::crd()).unwrap();
        let spec = &policy["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["properties"]["replicas"]["required"], serde_json::json!(["max"]));
        let rules = |value: &Value| value["x-kubernetes-validations"].as_array().map_or(0, Vec::len);
        for (what, value) in [
            ("spec", spec),
            ("replicas", &spec["properties"]["replicas"]),
            ("a rule", &spec["properties"]["rules"]["items"]),
            ("its time", &spec["properties"]["rules"]["items"]["properties"]["for"]),
            ("a target", &spec["properties"]["targets"]["items"]),
        ] {
            assert!(rules(value) > 0, "{what}: {value}");
        }
    }
}
