//! What the chart makes.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use lb_agent::cli::Cli;
use serde_json::{Value, json};

use crate::helm::{objects, one, texts};

/// The container of a workload, and its pod's spec.
fn container(object: &Value) -> (&Value, &Value) {
    let pod = &object["spec"]["template"]["spec"];
    (&pod["containers"][0], pod)
}

/// Every workload that the chart makes.
const WORKLOADS: [(&str, &str); 3] =
    [("DaemonSet", "weir-agent"), ("Deployment", "weir-coordinator"), ("Job", "weir-uninstall")];

/// Every value that becomes an argument, away from its default.
const OTHER: &[&str] = &[
    r#"services="labelled""#,
    r#"loadBalancer={"class": "example.com/other", "default": false}"#,
    r#"defaultAlgorithm="least-connections""#,
    r#"socketLb="host""#,
    r#"delivery="stack""#,
    r#"datapath="tc""#,
    r#"interfaces=["eth1", "eth2"]"#,
    r#"nodeportAddresses=["10.0.0.0/8", "fd00::/8"]"#,
    r#"cgroup="/sys/fs/cgroup/unified/$(NODE_NAME)""#,
    r#"pinPath="/sys/fs/bpf/$(NODE_NAME)""#,
    r#"metrics={"listen": "[::]", "port": 9000}"#,
    r#"coordinator={"port": 9001, "kedaPort": 9002}"#,
    r#"namespaces=["shop", "bank"]"#,
    r#"agent={"extraArgs": ["--tcp-idle=5m"]}"#,
    r#"apiServer={"host": "192.0.2.1", "port": 443}"#,
];

#[test]
fn weir_understands_what_it_is_called_with() -> Result<()> {
    for values in [&[][..], OTHER] {
        let objects = objects(values)?;
        for (kind, name) in WORKLOADS {
            let (container, _) = container(one(&objects, kind, name)?);
            let arguments = texts(&container["args"]);
            // What the kubelet puts in for fields of the pod.
            let from_fields: &[&str] = if kind == "Deployment" { &["--advertise=10.0.0.1", "--name=pod"] } else { &[] };
            let line =
                ["weir"].into_iter().chain(arguments.iter().map(String::as_str)).chain(from_fields.iter().copied());
            if let Err(error) = Cli::try_parse_from(line) {
                panic!("{kind} {name} {arguments:?}: {error}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_value_becomes_an_argument() -> Result<()> {
    let objects = objects(OTHER)?;
    let (agent, _) = container(one(&objects, "DaemonSet", "weir-agent")?);
    let expected = [
        "run",
        "--kube",
        "--services=labelled",
        "--default-algorithm=least-connections",
        "--socket-lb=host",
        "--delivery=stack",
        "--datapath=tc",
        "--interface=eth1",
        "--interface=eth2",
        "--nodeport-addresses=10.0.0.0/8,fd00::/8",
        "--cgroup=/sys/fs/cgroup/unified/$(NODE_NAME)",
        "--metrics-listen=[::]:9000",
        "--tcp-idle=5m",
    ];
    assert_eq!(texts(&agent["args"]), expected);
    let environment = agent["env"].as_array().context("env")?;
    let value = |name: &str| environment.iter().find(|entry| entry["name"] == name).map(|entry| entry["value"].clone());
    assert_eq!(value("WEIR_PIN_PATH"), Some("/sys/fs/bpf/$(NODE_NAME)".into()));
    assert_eq!(value("KUBERNETES_SERVICE_HOST"), Some("192.0.2.1".into()));
    assert_eq!(value("KUBERNETES_SERVICE_PORT"), Some("443".into()));
    // $(NODE_NAME) means something only after it.
    assert_eq!(environment[0]["name"], "NODE_NAME");
    let (coordinator, _) = container(one(&objects, "Deployment", "weir-coordinator")?);
    let expected = [
        "coordinator",
        "--services=labelled",
        "--load-balancer-class=example.com/other",
        "--default-load-balancer=false",
        "--listen=[::]:9001",
        "--agent-account=weir-agent",
        "--keda-listen=[::]:9002",
        "--namespaces=shop,bank",
        "--metrics-listen=[::]:9000",
    ];
    assert_eq!(texts(&coordinator["args"]), expected);
    let scalers = |objects: &[Value]| -> Vec<(String, Value)> {
        let bindings = objects.iter().filter(|object| object["roleRef"]["name"] == "weir-scaler");
        bindings.map(|object| (object["kind"].to_string(), object["metadata"]["namespace"].clone())).collect()
    };
    let bound = |namespace: &str| ("\"RoleBinding\"".to_owned(), namespace.into());
    assert_eq!(scalers(&objects), [bound("shop"), bound("bank")]);
    assert_eq!(scalers(&self::objects(&[])?), [("\"ClusterRoleBinding\"".to_owned(), Value::Null)]);
    Ok(())
}

#[test]
fn certificate_authorities_are_mounted_where_they_are_looked_for() -> Result<()> {
    let objects = objects(&[r#"coordinator={"certificateAuthorities": "office"}"#])?;
    let (container, pod) = container(one(&objects, "Deployment", "weir-coordinator")?);
    assert_eq!(pod["volumes"], json!([{"name": "certificate-authorities", "configMap": {"name": "office"}}]));
    let mounted = &container["volumeMounts"][0];
    assert_eq!((&mounted["name"], &mounted["readOnly"]), (&json!("certificate-authorities"), &json!(true)));
    let file = container["env"].as_array().context("env")?.iter().find(|entry| entry["name"] == "SSL_CERT_FILE");
    let folder = mounted["mountPath"].as_str().context("mountPath")?;
    assert_eq!(file.context("SSL_CERT_FILE")?["value"], format!("{folder}/ca.crt"));
    Ok(())
}

#[test]
fn nothing_is_privileged_and_capabilities_follow_the_values() -> Result<()> {
    let cases: [(&[&str], &[&str]); 3] = [
        (&[], &["BPF", "NET_ADMIN", "NET_RAW", "PERFMON", "SYS_ADMIN"]),
        (&["podNamespaces=false"], &["BPF", "NET_ADMIN", "NET_RAW", "PERFMON"]),
        (&["podNamespaces=false", "coordinator.enabled=false"], &["BPF", "NET_ADMIN", "PERFMON"]),
    ];
    for (values, expected) in cases {
        let objects = objects(values)?;
        let (agent, pod) = container(one(&objects, "DaemonSet", "weir-agent")?);
        let context = &agent["securityContext"];
        let mut added = texts(&context["capabilities"]["add"]);
        added.sort();
        assert_eq!(added, expected, "{values:?}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        // Kubernetes refuses false together with SYS_ADMIN.
        assert_eq!(context["allowPrivilegeEscalation"], expected.contains(&"SYS_ADMIN"));
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    }
    let objects = objects(&[])?;
    for (kind, name) in WORKLOADS {
        let (container, pod) = container(one(&objects, kind, name)?);
        let context = &container["securityContext"];
        assert_eq!(
            (&context["readOnlyRootFilesystem"], &context["privileged"]),
            (&true.into(), &Value::Null),
            "{name}"
        );
        assert!(pod["initContainers"].is_null(), "{name}");
        if kind != "DaemonSet" {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        }
    }
    Ok(())
}

#[test]
fn every_node_gets_an_agent_that_can_be_replaced_under_traffic() -> Result<()> {
    let objects = objects(&[])?;
    let set = one(&objects, "DaemonSet", "weir-agent")?;
    let (agent, pod) = container(set);
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!((&pod["priorityClassName"], &pod["hostNetwork"]), (&"system-node-critical".into(), &true.into()));
    assert_eq!(set["spec"]["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
    assert!(agent["lifecycle"].is_null(), "a stopping pod does not detach");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(agent[probe]["httpGet"]["port"], "metrics", "{probe}");
    }
    Ok(())
}

#[test]
fn the_mounts_are_what_it_needs_and_read_only_where_they_can_be() -> Result<()> {
    let objects = objects(&[])?;
    let (agent, pod) = container(one(&objects, "DaemonSet", "weir-agent")?);
    let mounts: BTreeSet<_> = agent["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| (mount["mountPath"].as_str().unwrap_or_default(), mount["readOnly"] == true))
        .collect();
    let expected = [
        ("/run/netns", true),
        ("/run/weir", false),
        ("/sys/fs/bpf", false),
        ("/sys/fs/cgroup", true),
        ("/var/run/secrets/weir.dev", true),
    ];
    assert_eq!(mounts, expected.into());
    let volumes = pod["volumes"].as_array().into_iter().flatten();
    // A node without a BPF file system must not get an empty folder in its place.
    let bpf: Vec<_> = volumes.filter(|volume| volume["name"] == "bpf").map(|volume| &volume["hostPath"]).collect();
    assert_eq!(bpf, [&json!({"path": "/sys/fs/bpf", "type": "Directory"})]);
    Ok(())
}

#[test]
fn coordinators_are_apart_and_one_is_always_there() -> Result<()> {
    let objects = objects(&[])?;
    let deployment = one(&objects, "Deployment", "weir-coordinator")?;
    let labels = &deployment["spec"]["selector"]["matchLabels"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    let (coordinator, pod) = container(deployment);
    let apart = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(apart["podAffinityTerm"]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(&apart["podAffinityTerm"]["labelSelector"]["matchLabels"], labels);
    let budget = one(&objects, "PodDisruptionBudget", "weir-coordinator")?;
    assert_eq!((&budget["spec"]["minAvailable"], &budget["spec"]["selector"]["matchLabels"]), (&1.into(), labels));
    // Kubernetes' own 300 s would leave one coordinator for that long after its node's end.
    let tolerations = pod["tolerations"].as_array().context("tolerations")?;
    let leaves: Vec<_> = tolerations.iter().filter_map(|taint| taint["tolerationSeconds"].as_u64()).collect();
    assert_eq!(leaves, [30, 30]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(coordinator[probe]["httpGet"]["port"], "metrics", "{probe}");
    }
    Ok(())
}

#[test]
fn what_is_optional_is_left_out() -> Result<()> {
    let kinds = |values: &[&str]| -> Result<BTreeSet<String>> {
        Ok(objects(values)?.iter().map(|object| object["kind"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let usual = kinds(&[])?;
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert!(!usual.contains(kind), "{kind} needs the Prometheus operator");
    }
    let alone = kinds(&["coordinator.enabled=false", "crds=false", "uninstall.detach=false"])?;
    for kind in ["Deployment", "PodDisruptionBudget", "CustomResourceDefinition", "Job", "Service"] {
        assert!(usual.contains(kind) && !alone.contains(kind), "{kind}");
    }
    assert!(!kinds(&["coordinator.replicas=1"])?.contains("PodDisruptionBudget"), "it would hold up every drain");
    Ok(())
}

#[test]
fn what_prometheus_and_grafana_get() -> Result<()> {
    let on = ["podMonitor", "rules", "dashboards"].map(|what| format!("metrics.{what}.enabled=true"));
    let values: Vec<_> =
        on.iter().map(String::as_str).chain([r#"metrics.rules.labels={"release": "prometheus"}"#]).collect();
    let made = objects(&values)?;
    for name in ["weir-agent", "weir-coordinator"] {
        let monitor = one(&made, "PodMonitor", name)?;
        assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["honorLabels"], true);
    }
    let rules = one(&made, "PrometheusRule", "weir")?;
    assert_eq!(rules["metadata"]["labels"]["release"], "prometheus");
    let file: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(crate::helm::CHART.to_owned() + "/files/alerts.yaml")?)?;
    assert_eq!(rules["spec"], file);
    for name in ["cluster", "nodes", "service"] {
        let map = one(&made, "ConfigMap", &format!("weir-dashboard-{name}"))?;
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        let text = map["data"][format!("weir-{name}.json")].as_str().context("a dashboard")?;
        let file = std::fs::read_to_string(format!("{}/files/dashboards/{name}.json", crate::helm::CHART))?;
        assert_eq!(text, file);
    }
    let without = [&values[..], &["coordinator.enabled=false"]].concat();
    let rules = objects(&without)?;
    let groups = &one(&rules, "PrometheusRule", "weir")?["spec"]["groups"];
    assert_eq!(groups.as_array().map(Vec::len), Some(1), "nobody leads where there is no coordinator");
    Ok(())
}

#[test]
fn no_role_has_a_wildcard_or_reads_secrets_it_does_not_name() -> Result<()> {
    let made = objects(&[])?;
    let roles: Vec<_> =
        made.iter().filter(|object| object["rules"].is_array() && object["kind"] != "PrometheusRule").collect();
    assert_eq!(roles.len(), 7, "two of the agent, two of the coordinator, two of scaling, one of the uninstallation");
    for role in roles {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let resources = texts(&rule["resources"]);
            let words = [&resources[..], &texts(&rule["verbs"]), &texts(&rule["apiGroups"])].concat();
            assert!(!words.contains(&"*".to_owned()), "{}: {rule}", role["metadata"]["name"]);
            if resources.contains(&"secrets".to_owned()) {
                assert_eq!(rule["resourceNames"], json!(["weir-coordinator-tls"]), "{rule}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_plain_manifest_has_what_the_chart_makes_but_no_hooks() -> Result<()> {
    let text = std::fs::read_to_string(crate::helm::CHART.to_owned() + "/../../weir.yaml")?;
    let plain: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let key = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    let plain: BTreeSet<_> = plain.iter().filter(|object| !object.is_null()).map(key).collect();
    let made = objects(&[])?;
    let hook = |object: &&Value| object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    assert_eq!(plain, made.iter().filter(hook).map(key).collect());
    Ok(())
}
