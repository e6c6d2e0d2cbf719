//! Values that make no sense are refused before anything is installed, and the message names the value.

use anyhow::Result;

use crate::helm::{CHART, helm, template};

#[test]
fn helm_finds_no_fault() -> Result<()> {
    let output = helm(&["lint", "--strict", CHART])?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn bad_values_are_refused_by_name() -> Result<()> {
    let cases = [
        (r#"services="some""#, "services"),
        (r#"service="all""#, "service"),
        (r#"image.repository="""#, "repository"),
        (r#"image.digest="sha256:12""#, "digest"),
        (r#"image.pullPolicy="Sometimes""#, "pullPolicy"),
        (r#"image.pullSecrets=["name"]"#, "pullSecrets"),
        (r#"apiServer.host="https://api""#, "host"),
        (r#"apiServer.port="6443""#, "port"),
        (r#"defaultAlgorithm="fastest""#, "defaultAlgorithm"),
        (r#"socketLb="none""#, "socketLb"),
        (r#"podNamespaces="yes""#, "podNamespaces"),
        (r#"delivery="drone""#, "delivery"),
        (r#"datapath="dpdk""#, "datapath"),
        (r#"interfaces=["an-interface-of-long-name"]"#, "interfaces"),
        (r#"interfaces="eth0""#, "interfaces"),
        (r#"nodeportAddresses=["10.0.0.1"]"#, "nodeportAddresses"),
        (r#"loadBalancer.class="weir""#, "class"),
        (r#"loadBalancer.default="no""#, "default"),
        (r#"pinPath="weir""#, "pinPath"),
        (r#"cgroup="unified""#, "cgroup"),
        (r#"hostPaths.bpf="""#, "bpf"),
        ("agent.maxUnavailable=0", "maxUnavailable"),
        (r#"agent.maxUnavailable="200%""#, "maxUnavailable"),
        (r#"agent.extraArgs="--bpf-log""#, "extraArgs"),
        ("agent.nodeSelector.a=1", "nodeSelector"),
        (r#"agent.privileged=true"#, "privileged"),
        ("coordinator.replicas=0", "replicas"),
        ("coordinator.port=70000", "port"),
        (r#"metrics.listen="localhost""#, "listen"),
        (r#"metrics.listen="::""#, "listen"),
        (r#"metrics.podMonitor.interval="often""#, "interval"),
        (r#"metrics.dashboards.labels={"a": 1}"#, "labels"),
        (r#"uninstall.timeout="4""#, "timeout"),
        (r#"crds="yes""#, "crds"),
    ];
    for (value, name) in cases {
        let output = template(&[value])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} was accepted");
        assert!(said.contains("don't meet the specifications of the schema"), "{value}: {said}");
        assert!(said.contains(name), "{value}: {said}");
    }
    Ok(())
}

#[test]
fn good_values_are_accepted() -> Result<()> {
    for value in [
        r#"services="labelled""#,
        r#"image={"repository": "registry.example.com:5000/weir", "tag": "1.0", "digest": ""}"#,
        r#"apiServer={"host": "fd00::1", "port": 443}"#,
        r#"interfaces=["eth0", "bond0.7"]"#,
        r#"nodeportAddresses=["10.0.0.0/8", "fd00::/8"]"#,
        r#"nodeportAddresses=["primary"]"#,
        r#"pinPath="/sys/fs/bpf/$(NODE_NAME)""#,
        r#"cgroup="/sys/fs/cgroup/unified/$(NODE_NAME)""#,
        r#"agent.maxUnavailable="10%""#,
        r#"metrics.listen="[::]""#,
        r#"global={"anything": 1}"#,
    ] {
        let output = template(&[value])?;
        assert!(output.status.success(), "{value}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
