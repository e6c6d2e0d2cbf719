//! A ScalePolicy reads the counters of real traffic and runs a real command.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result};
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client::{self, Held},
    manifests::Service,
    process::wait_until,
};

use crate::lab::{Lab, vip4};

/// The policy of the Service `web` with the rest of its `spec`, which is indented by two.
pub(crate) fn policy(spec: &str) -> String {
    let head =
        "apiVersion: weir.dev/v1alpha1\nkind: ScalePolicy\nmetadata: {name: web-policy, namespace: default}\nspec:\n";
    format!("{head}  serviceRef: {{name: web}}\n{spec}")
}

pub(crate) const SPEC: &str = "  replicas: {min: 1, max: 2}
  targets:
  - {signal: activeConnections, perReplica: 4}
  forecast: {horizon: 1m}
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
";

/// A script in the folder's hidden part that writes how it was called, then does what it is told.
pub(crate) fn script(lab: &Lab, action: &str) -> Result<String> {
    let path = lab.manifests.path().join(".scale.sh");
    let calls = lab.manifests.path().join(".calls");
    let line = "$1 $2 $3 $WEIR_POLICY $WEIR_NAMESPACE $WEIR_CURRENT_REPLICAS $WEIR_DESIRED_REPLICAS";
    fs::write(&path, format!("#!/bin/sh\necho \"{line}\" >> {}\n{action}\n", calls.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

pub(crate) fn calls(lab: &Lab) -> Vec<String> {
    let text = fs::read_to_string(lab.manifests.path().join(".calls")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The Service with the first so many servers.
pub(crate) fn web(lab: &Lab, servers: usize) -> Service {
    let v4 = [vip4(80).ip()];
    Service::web(&v4, &lab.topology.hosts[..servers]).algorithm("least-connections")
}

fn start<'a>(lab: &'a Lab, command: &str) -> Result<Agent<'a>> {
    lab.manifests.write("policy.yaml", &policy(SPEC))?;
    lab.start(&web(lab, 1), Options::default().with(&["--scale-command", command]))
}

#[test]
fn more_connections_run_the_command_and_fewer_too() -> Result<()> {
    let lab = Lab::local(2)?;
    for servers in [1, 2] {
        fs::write(lab.manifests.path().join(format!(".{servers}")), web(&lab, servers).yaml())?;
    }
    let folder = lab.manifests.path().display();
    let command = script(&lab, &format!("cp {folder}/.$3 {folder}/.new && mv {folder}/.new {folder}/web.yaml"))?;
    let agent = start(&lab, &command)?;
    assert_eq!(calls(&lab), [""; 0], "nothing to do without load");

    let mut held: Vec<Held> = lab.client(|| (0..7).map(|_| Held::open(vip4(80))).collect())?;
    agent.wait_for("a second server", |backends| backends.len() == 4)?;
    assert_eq!(calls(&lab)[0], "web-policy 1 2 web-policy default 1 2");
    held.push(lab.client(|| Held::open(vip4(80)))?);
    held.iter_mut().try_for_each(Held::check)?;
    assert!(lab.client(|| Ok(client::ask_times(vip4(80), 20, client::ask)))?.answers.contains_key("server-1"));
    let policies = agent.json(&["get", "policies"])?;
    assert_eq!(policies["items"].as_array().map(Vec::len), Some(1), "{policies}");
    let why = agent.weir_ok(&["explain", "policy", "web-policy"])?;
    assert!(why.contains("activeConnections"), "{why}");
    let forecast = &policies["items"][0]["forecast"];
    assert_eq!((forecast["on"].as_bool(), forecast["horizonSeconds"].as_u64()), (Some(false), Some(60)), "{forecast}");
    assert!(why.contains("Forecast:\n  off: "), "{why}");

    drop(held);
    wait_until(PATIENCE, || Ok(calls(&lab).len() >= 2)).context("the command to scale in")?;
    assert_eq!(calls(&lab)[1], "web-policy 2 1 web-policy default 2 1");
    agent.wait_for("one server", |backends| backends.iter().filter(|backend| backend.state == "ready").count() == 2)
}

#[test]
fn a_command_that_fails_is_told_and_tried_again() -> Result<()> {
    let lab = Lab::local(2)?;
    let command = script(&lab, "echo no more room >&2; exit 3")?;
    let agent = start(&lab, &command)?;
    let mut held: Vec<Held> = lab.client(|| (0..7).map(|_| Held::open(vip4(80))).collect())?;
    wait_until(PATIENCE, || Ok(calls(&lab).len() >= 2)).context("a second try")?;
    assert!(calls(&lab).iter().all(|call| call.starts_with("web-policy 1 2 ")), "{:?}", calls(&lab));
    assert!(agent.log().contains("no more room"), "{}", agent.log());
    held.iter_mut().try_for_each(Held::check)
}
