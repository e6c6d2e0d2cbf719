//! The size of a replica.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::{self, NAME};

/// How much CPU and memory a container of each replica requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.mode == 'Off' || has(self.cpu) || has(self.memory)")
    .message("there is nothing to size; give cpu or memory with its bounds"))]
pub struct VerticalSpec {
    /// Whether the sizes are applied.
    pub mode: VerticalMode,
    /// The container.
    #[schemars(regex(pattern = NAME), length(max = 63))]
    pub container: String,
    /// The bounds of its CPU request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuBounds>,
    /// The bounds of its memory request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBounds>,
}

/// Whether sizes are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VerticalMode {
    /// They are not even looked for.
    #[default]
    Off,
    /// They are only shown.
    Recommend,
    /// They are, in place.
    Apply,
}

/// The bounds of a CPU request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("quantity(string(self.min)).compareTo(quantity('0')) > 0 && quantity(string(self.min)).compareTo(quantity(string(self.max))) <= 0")
    .message("min has to be more than 0 and max not less than min"))]
pub struct CpuBounds {
    /// The least.
    #[schemars(schema_with = "text::cpu")]
    pub min: IntOrString,
    /// The most.
    #[schemars(schema_with = "text::cpu")]
    pub max: IntOrString,
}

/// The bounds of a memory request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("quantity(string(self.min)).compareTo(quantity('0')) > 0 && quantity(string(self.min)).compareTo(quantity(string(self.max))) <= 0")
    .message("min has to be more than 0 and max not less than min"))]
pub struct MemoryBounds {
    /// The least.
    #[schemars(schema_with = "text::memory")]
    pub min: IntOrString,
    /// The most.
    #[schemars(schema_with = "text::memory")]
    pub max: IntOrString,
}
