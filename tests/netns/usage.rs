//! What servers use of CPU and memory is known without a cluster: by the cgroup of the socket at which they wait.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    agent::{Options, PATIENCE},
    cgroup::Accounted,
    client,
    process::{Running, wait_until},
};

use crate::{
    lab::{Lab, vip4},
    scaling::{calls, policy, script, web},
};

const PORT: u16 = 8090;
const SPEC: &str = "  replicas: {min: 1, max: 2}
  rules:
  - {name: busy, signal: cpuCores, above: 0.2, for: 2s, add: 1}
  - {name: large, signal: memory, above: 90, for: 2s, add: 1}
";

/// A request that takes a tenth of a second of CPU time.
fn busy(at: SocketAddr) -> Result<()> {
    let mut stream = client::connect(at)?;
    stream.write_all(b"GET /work/100000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

#[test]
fn a_busy_server_is_given_company() -> Result<()> {
    let lab = Lab::local(1)?;
    let group = Accounted::new("server")?;
    let serve = format!("{}exec {} serve --name=busy --port={PORT}", group.door(), env!("CARGO_BIN_EXE_peer"));
    let mut command = lab.topology.hosts[0].namespace.command("sh")?;
    command.args(["-c", &serve]);
    let _server = Running::start(command, &lab.manifests.path().join(".server.log"))?;
    lab.manifests.write("policy.yaml", &policy(SPEC))?;
    let mut service = web(&lab, 1);
    service.target_port = PORT;
    let agent = lab.start(&service, Options::default().with(&["--scale-command", &script(&lab, "true")?]))?;
    let explained = || agent.weir_ok(&["explain", "policy", "web-policy"]);
    let is_known = || Ok(explained()?.contains("cpuCores = 0.0"));
    wait_until(PATIENCE, is_known).with_context(|| explained().unwrap_or_default())?;
    ensure!(calls(&lab).is_empty(), "nobody asks anything of it: {:?}", calls(&lab));

    let stop = AtomicBool::new(false);
    let load = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            lab.client(|| busy(vip4(80)))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let load = scope.spawn(load);
        let waited = wait_until(PATIENCE, || Ok(!calls(&lab).is_empty()));
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load")?;
        waited.with_context(|| explained().unwrap_or_default())
    })?;
    ensure!(calls(&lab)[0].starts_with("web-policy 1 2"), "{:?}", calls(&lab));
    ensure!(explained()?.contains("memory = "), "{}", explained()?);
    Ok(())
}
