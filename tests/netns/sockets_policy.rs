//! Whom the socket hooks serve: traffic policies, source ranges, and pods that are left alone.

use std::{net::TcpStream, os::linux::fs::MetadataExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_agent::dataplane::pins::map_folder;
use lb_common::{
    names::map,
    socket::{POD_ASK_CGROUPS, POD_CGROUP, POD_DEFAULT, POD_EXCLUDED, Pod, PodKey},
};
use weir_tests::{
    agent::{Agent, PATIENCE},
    client,
    process::wait_until,
    topology::{SERVER_PORT, VIP4},
};

use crate::{lab::vip4, sockets_lab::SocketLab};

const SHORT: Duration = Duration::from_secs(2);

/// A Service on the IPv4 address with these lines in its specification, served by the hosts on the node or by the others.
fn service(lab: &SocketLab, lines: &str, local: bool) -> String {
    let hosts = lab.lab.topology.hosts.iter().filter(|host| host.local == local);
    let node = if local { weir_tests::topology::NODE_NAME } else { "node-b" };
    let endpoints: String =
        hosts.map(|host| format!("- {{addresses: [\"{}\"], nodeName: {node}}}\n", host.v4)).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\nspec:\n{lines}  ports: [{{port: 80, \
         targetPort: {SERVER_PORT}}}]\nstatus: {{loadBalancer: {{ingress: [{{ip: {VIP4}}}]}}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: default, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: {SERVER_PORT}}}]\nendpoints:\n{endpoints}"
    )
}

fn start<'a>(lab: &'a SocketLab, lines: &str, local: bool) -> Result<Agent<'a>> {
    lab.lab.manifests.write("web.yaml", &service(lab, lines, local))?;
    let agent = Agent::start(&lab.lab.topology, &lab.lab.manifests, lab.options("all"))?;
    agent.wait_for("the Service is served", |backends| !backends.is_empty())?;
    Ok(agent)
}

fn connections(agent: &Agent<'_>) -> Result<u64> {
    Ok(agent.backends()?.iter().map(|backend| backend.connections_total).sum())
}

#[test]
fn a_local_policy_without_a_local_backend_says_so_at_once() -> Result<()> {
    let lab = SocketLab::mixed(0, 1)?;
    let agent = start(&lab, &format!("  clusterIP: {VIP4}\n  internalTrafficPolicy: Local\n"), false)?;
    let error = lab.on_node(|| Ok(TcpStream::connect(vip4(80))))?.err().context("there is no local backend")?;
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
    wait_until(PATIENCE, || Ok(agent.drops()?.contains(&("no-local-backend".to_owned(), 1))))
        .with_context(|| format!("{:?}", agent.drops()))?;
    Ok(())
}

#[test]
fn a_local_policy_uses_the_local_backend() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let _agent = start(&lab, &format!("  clusterIP: {VIP4}\n  internalTrafficPolicy: Local\n"), true)?;
    assert_eq!(lab.on_node(|| client::ask(vip4(80)))?, "server-0");
    Ok(())
}

#[test]
fn source_ranges_hold_for_sockets() -> Result<()> {
    let lab = SocketLab::mixed(3, 0)?;
    let hosts = &lab.lab.topology.hosts;
    let lines = format!(
        "  type: LoadBalancer\n  allocateLoadBalancerNodePorts: false\n  loadBalancerSourceRanges: [\"{}/32\"]\n",
        hosts[1].v4
    );
    let agent = start(&lab, &lines, true)?;
    lab.within(&hosts[1].namespace, || client::ask(vip4(80)))?;
    assert_eq!(connections(&agent)?, 1);
    for outside in [&hosts[2].namespace, &lab.lab.topology.node] {
        let refused = lab.within(outside, || Ok(TcpStream::connect_timeout(&vip4(80), SHORT)))?;
        ensure!(refused.is_err(), "{outside:?} is outside of the range");
    }
    assert_eq!(connections(&agent)?, 1);
    Ok(())
}

#[test]
fn excluded_cgroups_are_left_alone_and_their_neighbours_are_not() -> Result<()> {
    let lab = SocketLab::mixed(1, 0)?;
    let agent = lab.start(&lab.lab.web())?;
    let (excluded, other) = (lab.cgroup.child("pod-a")?, lab.cgroup.child("pod-b")?);
    let container = excluded.child("container")?;
    tell(&agent, excluded.path().metadata()?.st_ino())?;
    let ask = |cgroup: &weir_tests::cgroup::Cgroup| {
        let connect = || cgroup.join().map(|()| TcpStream::connect_timeout(&vip4(80), SHORT));
        lab.lab.topology.node.enter(connect).and_then(|result| result)
    };
    assert!(ask(&container)?.is_err(), "its packets leave with the frontend's address, which is nowhere");
    assert!(ask(&other)?.is_ok());
    assert_eq!(connections(&agent)?, 1);
    Ok(())
}

/// Tells the hooks that a cgroup is left alone, as the agent does for a pod's.
fn tell(agent: &Agent<'_>, cgroup: u64) -> Result<()> {
    let data = MapData::from_pin(map_folder(agent.pins().path()).join(map::PODS))?;
    let mut pods: HashMap<_, PodKey, Pod> = Map::HashMap(data).try_into()?;
    let default = PodKey { kind: POD_DEFAULT, id: 0 };
    let known = pods.get(&default, 0)?;
    pods.insert(default, Pod { flags: known.flags | POD_ASK_CGROUPS, ..known }, 0)?;
    pods.insert(PodKey { kind: POD_CGROUP, id: cgroup }, Pod { flags: POD_EXCLUDED, ..known }, 0)?;
    Ok(())
}
