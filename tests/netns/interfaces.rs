//! The node's interfaces as they come and go, are renamed and get addresses: what is hooked follows, and what the agent knows of the
//! node is what its kernel knows.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_agent::node::{Follower, NodeState, NodeView};
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client,
    namespace::Namespace,
    process::wait_until,
    requirements,
    topology::{Layout, NODE4, UPLINK, socket},
};

use crate::lab::{Lab, vip4, vip6};

fn index(node: &Namespace, interface: &str) -> Result<u64> {
    let listing = node.run("ip", &["-json", "link", "show", interface])?;
    let links: serde_json::Value = serde_json::from_str(&listing)?;
    links[0]["ifindex"].as_u64().context("an interface's index")
}

fn is_hooked(agent: &Agent<'_>, index: u64) -> bool {
    agent.pins().path().join(format!("link_{index}_tcx-ingress")).exists()
}

fn wait_hooked(agent: &Agent<'_>, index: u64, hooked: bool) -> Result<()> {
    let context = || format!("interface {index} hooked: {hooked}; pins: {:?}", agent.pins().contents());
    wait_until(PATIENCE, || Ok(is_hooked(agent, index) == hooked)).with_context(context)
}

/// Whether the kernel's programs know it as the host side of pods.
fn is_inside(agent: &Agent<'_>, index: u64) -> Result<bool> {
    let dump = agent.json(&["map", "dump", "interfaces"])?;
    let elements = dump["items"].as_array().context("elements of the map")?;
    Ok(elements.iter().any(|element| element["index"].as_u64() == Some(index) && element["inside"] == true))
}

fn pod(node: &Namespace, number: usize) -> Result<Namespace> {
    let pod = Namespace::new("t")?;
    node.link(&format!("veth{number}"), &pod, "eth0")?;
    pod.address("eth0", &[&format!("10.77.0.{number}/32"), &format!("fd77::{number:x}/128")])?;
    pod.ip("route add 169.254.1.1 dev eth0\nroute add default via 169.254.1.1")?;
    node.address(&format!("veth{number}"), &["169.254.1.1/32"])?;
    Ok(pod)
}

#[test]
fn a_pod_is_hooked_when_a_route_leads_to_it_and_let_go_of_when_it_is_gone() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let node = &lab.topology.node;
    let mut times = Vec::new();
    for number in 2..10 {
        let pod = pod(node, number)?;
        let interface = format!("veth{number}");
        let index = index(node, &interface)?;
        ensure!(!is_hooked(&agent, index), "nothing leads to it yet");
        let began = Instant::now();
        node.ip(&format!("route add 10.77.0.{number}/32 dev {interface}"))?;
        while !is_hooked(&agent, index) {
            ensure!(began.elapsed() < PATIENCE, "{interface} is not hooked: {}", agent.log());
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(began.elapsed());
        assert!(is_inside(&agent, index)?, "{interface}");
        assert_eq!(pod.enter(|| client::ask(vip4(80)))??, "server-0", "{interface}");
        drop(pod);
        wait_hooked(&agent, index, false)?;
        assert!(!is_inside(&agent, index)?, "{interface} is gone");
    }
    // Some milliseconds, and less than a pod takes to speak; on a machine that is busy with other things nobody knows.
    println!("hooked after {times:?}");
    Ok(())
}

#[test]
fn a_bridge_with_pods_is_hooked_and_its_ports_are_not() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let node = &lab.topology.node;
    node.ip("link add cni0 type bridge\nlink set cni0 up\naddr add 10.78.0.1/24 dev cni0")?;
    let pod = Namespace::new("t")?;
    node.link("veth1", &pod, "eth0")?;
    node.ip("link set veth1 master cni0")?;
    pod.address("eth0", &["10.78.0.2/24"])?;
    pod.route("default", "10.78.0.1")?;
    let (bridge, port) = (index(node, "cni0")?, index(node, "veth1")?);
    wait_hooked(&agent, bridge, true)?;
    assert!(is_inside(&agent, bridge)?);
    assert!(!is_hooked(&agent, port));
    assert_eq!(pod.enter(|| client::ask(vip4(80)))??, "server-0");
    Ok(())
}

#[test]
fn an_interface_that_becomes_a_port_is_let_go_of() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let node = &lab.topology.node;
    let _pod = pod(node, 2)?;
    node.ip("route add 10.77.0.2/32 dev veth2")?;
    let index = index(node, "veth2")?;
    wait_hooked(&agent, index, true)?;
    node.ip("link add br0 type bridge\nlink set veth2 master br0")?;
    wait_hooked(&agent, index, false)
}

#[test]
fn uplinks_are_found_by_themselves_and_followed() -> Result<()> {
    let lab = Lab::new(Layout { local: 1, client_router: true, ..Layout::default() })?;
    let agent = lab.start(&lab.web(), Options { interfaces: Vec::new(), ..Options::default() })?;
    assert_eq!(lab.client(|| client::ask(vip4(80)))?, "server-0");
    let node = &lab.topology.node;

    // Another way to the world, and clients there.
    let other = Namespace::new("t")?;
    node.link("up9", &other, "eth0")?;
    node.address("up9", &["10.12.0.1/24", "fd12::1/64"])?;
    other.address("eth0", &["10.12.0.2/24", "fd12::2/64"])?;
    other.route("default", "10.12.0.1")?;
    other.route("default", "fd12::1")?;
    node.route("default", "10.12.0.2")?;
    node.route("default", "fd12::2")?;
    let uplink = index(node, "up9")?;
    let egress = agent.pins().path().join(format!("link_{uplink}_tcx-egress"));
    wait_until(PATIENCE, || Ok(egress.exists() && !is_inside(&agent, uplink)?)).context("up9 is an uplink")?;
    for frontend in [vip4(80), vip6(80)] {
        assert_eq!(other.enter(|| client::ask(frontend))??, "server-0");
    }
    drop(other);
    wait_hooked(&agent, uplink, false)?;
    assert_eq!(lab.client(|| client::ask(vip4(80)))?, "server-0");
    Ok(())
}

#[test]
fn a_renamed_interface_stays_hooked_and_is_shown_by_its_name() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let node = &lab.topology.node;
    let (uplink, pod) = (index(node, UPLINK)?, index(node, "pod0")?);
    node.ip("link set pod0 down\nlink set pod0 name renamed\nlink set renamed up")?;
    let shown = || Ok(agent.weir_ok(&["get", "nodes", "-o", "wide"])?.contains("renamed=tc"));
    wait_until(PATIENCE, shown).context("the new name is shown")?;
    assert!(is_hooked(&agent, pod));
    wait_until(PATIENCE, || Ok(lab.client(|| client::ask(vip4(80))).is_ok())).context("the pod is reached")?;

    node.ip(&format!("link set {UPLINK} down\nlink set {UPLINK} name other"))?;
    let gone = format!("--interface {UPLINK} is gone");
    wait_until(PATIENCE, || Ok(agent.log().contains(&gone))).context("it is said that it is gone")?;
    node.ip(&format!("link set other name {UPLINK}\nlink set {UPLINK} up"))?;
    wait_until(PATIENCE, || Ok(lab.client(|| client::ask(vip4(80))).is_ok())).context("the uplink is back")?;
    assert!(is_hooked(&agent, uplink));
    Ok(())
}

#[test]
fn gateways_are_kept_resolved_for_xdp_and_released() -> Result<()> {
    let lab = Lab::mixed(0, 1)?;
    let interfaces = vec![UPLINK.to_owned(), "up1".to_owned()];
    let options = Options { interfaces, ..Options::datapath("xdp-generic") };
    let mut agent = lab.start(&lab.web(), options)?;
    let node = &lab.topology.node;
    let managed = || -> Result<usize> {
        let list = ["-4", "-6"].map(|family| node.run("ip", &[family, "neigh", "show", "dev", "up1"]));
        let lists = list.into_iter().collect::<Result<Vec<_>>>()?.join("\n");
        Ok(lists.lines().filter(|line| line.contains("managed")).count())
    };
    wait_until(PATIENCE, || Ok(managed()? == 2)).context("10.40.0.1 and fd40::1 are kept")?;
    let resolved = || Ok(node.run("ip", &["neigh", "show", "10.40.0.1", "dev", "up1"])?.contains("lladdr"));
    wait_until(PATIENCE, resolved).context("without any traffic")?;
    node.ip("route del 10.30.0.0/16")?;
    wait_until(PATIENCE, || Ok(managed()? == 1)).context("no route goes by 10.40.0.1 any more")?;
    agent.kill9()?;
    assert_eq!(managed()?, 1, "it outlives the agent");
    agent.weir_ok(&["detach"])?;
    assert_eq!(managed()?, 0);
    Ok(())
}

/// Interface, gateway and source.
type KernelWay = (String, Option<IpAddr>, Option<IpAddr>);

/// What `ip route get` says.
fn kernel_way(node: &Namespace, to: IpAddr) -> Result<Option<KernelWay>> {
    let Ok(answer) = node.run("ip", &["-json", "route", "get", &to.to_string()]) else { return Ok(None) };
    let routes: serde_json::Value = serde_json::from_str(&answer)?;
    let route = &routes[0];
    let ip = |field: &str| route[field].as_str().and_then(|text| text.parse().ok());
    if ["unreachable", "blackhole", "prohibit"].iter().any(|kind| route["type"] == *kind) {
        return Ok(None);
    }
    // The kernel answers for its own addresses by the loopback.
    Ok(Some((route["dev"].as_str().unwrap_or_default().to_owned(), ip("gateway"), ip("prefsrc"))))
}

fn check_ways(node: &Namespace, view: &NodeView, when: &str) -> Result<()> {
    let addresses = [
        "10.50.0.1",
        "10.50.0.9",
        "10.51.0.7",
        "10.51.1.7",
        "10.52.0.1",
        "10.53.9.9",
        "10.54.0.5",
        "10.55.0.1",
        "192.0.2.1",
        "127.0.0.5",
        "10.50.0.255",
        "fd50::9",
        "fd51::9",
        "fd52::1",
        "fd53::9",
        "2001:db8::1",
        "fd50::1",
        "fe80::99",
    ];
    for to in addresses.map(|text| text.parse::<IpAddr>().expect("an address")) {
        // Which of its link-local networks is meant, only who asks knows.
        if matches!(to, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            continue;
        }
        // To a broadcast address there is no way for a connection.
        let kernel = kernel_way(node, to)?.filter(|_| to.to_string() != "10.50.0.255");
        let ours = view.state().way(to).map(|way| {
            let name = view.state().links.get(&way.interface).map(|link| link.name.clone()).unwrap_or_default();
            (if way.own { "lo".to_owned() } else { name }, way.gateway, way.source)
        });
        ensure!(ours == kernel, "{when}: {to}: {ours:?}, the kernel says {kernel:?}");
    }
    Ok(())
}

#[test]
fn what_is_known_of_the_node_is_what_its_kernel_knows() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let (node, other) = (Namespace::new("t")?, Namespace::new("t")?);
    for interface in ["a0", "a1", "a2"] {
        node.link(interface, &other, interface)?;
    }
    node.address("a0", &["10.50.0.1/24", "10.51.0.1/24", "fd50::1/64"])?;
    node.address("a1", &["10.52.0.2/24", "fd52::2/64"])?;
    let steps = [
        ("at first", ""),
        (
            "routes",
            "route add 10.53.0.0/16 via 10.50.0.254\nroute add 10.51.1.0/24 dev a2\nroute add 10.54.0.5/32 dev a2 src 10.52.0.2\n-6 route add fd53::/64 via fd52::1",
        ),
        (
            "defaults",
            "route add default via 10.52.0.1 metric 50\nroute add default via 10.50.0.254 metric 100\n-6 route add default via fd50::fe",
        ),
        ("a refusal", "route add unreachable 10.55.0.0/16"),
        ("a better way", "route add 10.53.9.0/24 via 10.52.0.9"),
        ("replaced", "route replace 10.53.9.0/24 via 10.50.0.9"),
        ("an address", "addr add 10.55.0.1/24 dev a2\n-6 addr add fd51::1/64 dev a2 nodad"),
        ("an address gone", "addr del 10.52.0.2/24 dev a1"),
        ("switched off", "link set a0 down"),
        ("switched on", "link set a0 up"),
        ("gone", "link del a1"),
    ];
    node.enter(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut follower, events) = Follower::start().await?;
            let mut view = NodeView::new("node", &BTreeSet::new(), NodeState::from_events(events));
            for (when, lines) in steps {
                lines.lines().try_for_each(|line| one(&node, line))?;
                let end = tokio::time::Instant::now() + PATIENCE;
                while let Err(difference) = check_ways(&node, &view, when) {
                    let update = tokio::time::timeout_at(end, follower.next()).await;
                    view.update(update.map_err(|_| difference)?);
                }
            }
            Ok(())
        })
    })?
}

/// One line of `ip`: a batch takes no `-6`.
fn one(node: &Namespace, line: &str) -> Result<()> {
    node.run("ip", &line.split_whitespace().collect::<Vec<_>>()).map(drop)
}

#[test]
fn an_address_that_comes_later_serves_node_ports() -> Result<()> {
    let lab = Lab::local(1)?;
    let text =
        lab.web().yaml().replace("targetPort: 8080, protocol: TCP", "targetPort: 8080, nodePort: 30080, protocol: TCP");
    lab.manifests
        .write("web.yaml", &text.replace("spec:\n  externalIPs:", "spec:\n  type: NodePort\n  externalIPs:"))?;
    let _agent = Agent::start(&lab.topology, &lab.manifests, Options::default())?;
    let asks = |address: &str| lab.client(|| client::ask(socket(address, 30080)));
    wait_until(PATIENCE, || Ok(asks(NODE4).is_ok())).context("the node's address")?;
    assert!(asks("10.10.0.77").is_err());
    let node = &lab.topology.node;
    node.address(UPLINK, &["10.10.0.77/24"])?;
    wait_until(PATIENCE, || Ok(asks("10.10.0.77").is_ok())).context("an address that came later")?;
    node.ip(&format!("addr del 10.10.0.77/24 dev {UPLINK}"))?;
    wait_until(PATIENCE, || Ok(asks("10.10.0.77").is_err())).context("it is gone")?;
    assert!(asks(NODE4).is_ok());
    Ok(())
}
