//! What is compared: who balances, and who scales by what. Target, bounds and pods are the same for all.

use clap::ValueEnum;
use serde::Serialize;
use weir_tests::{cluster::Proxy, evaluation::Fleet};

/// A fifth of a CPU is what a pod may use, and requests; all that there may be use one CPU.
pub(crate) const FLEET: Fleet = Fleet { pod_cpus: 0.2, most: 5 };
const MOST: u32 = FLEET.most;
/// Of what a pod requests, in percent.
const CPU_TARGET: u32 = 60;
/// Requests that a pod has at a time.
const IN_FLIGHT_TARGET: u32 = 2;

/// A way to balance and to scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// kube-proxy (nftables) and a HorizontalPodAutoscaler on CPU
    KubeProxyHpa,
    /// Weir and the same HorizontalPodAutoscaler
    WeirHpa,
    /// Weir and a ScalePolicy on CPU with the same target
    WeirCpu,
    /// Weir and a ScalePolicy on requests in flight
    WeirInFlight,
}

impl Way {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KubeProxyHpa => "kube-proxy, HPA on CPU",
            Self::WeirHpa => "Weir, HPA on CPU",
            Self::WeirCpu => "Weir, ScalePolicy on cpu",
            Self::WeirInFlight => "Weir, ScalePolicy on inFlight",
        }
    }

    /// Which kube-proxy runs.
    pub(crate) const fn proxy(self) -> Proxy {
        match self {
            Self::KubeProxyHpa => Proxy::Nftables,
            Self::WeirHpa | Self::WeirCpu | Self::WeirInFlight => Proxy::None,
        }
    }

    /// Whether an HPA scales, which needs a metrics server.
    pub(crate) const fn is_hpa(self) -> bool {
        matches!(self, Self::KubeProxyHpa | Self::WeirHpa)
    }

    /// The manifest of who scales `model`.
    pub(crate) fn scaler(self) -> String {
        let target = match self {
            Self::KubeProxyHpa | Self::WeirHpa => return hpa(),
            Self::WeirCpu => format!("signal: cpu, perReplica: {CPU_TARGET}"),
            Self::WeirInFlight => format!("signal: inFlight, perReplica: {IN_FLIGHT_TARGET}"),
        };
        format!(
            "---\napiVersion: weir.dev/v1alpha1\nkind: ScalePolicy\nmetadata: {{name: model}}\nspec:\n  serviceRef: {{name: model}}\n  \
             targetRef: {{apiVersion: apps/v1, kind: Deployment, name: model}}\n  replicas: {{min: 1, max: {MOST}}}\n  targets: [{{{target}}}]\n"
        )
    }
}

fn hpa() -> String {
    format!(
        "---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: model}}\nspec:\n  \
         scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: model}}\n  minReplicas: 1\n  maxReplicas: {MOST}\n  \
         metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: {CPU_TARGET}}}}}}}]\n"
    )
}
