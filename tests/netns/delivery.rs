//! How packets reach pods: straight, or through rules for forwarded packets: NetworkPolicy as others make it stays in force, unless one says
//! that it need not.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_tests::{
    agent::{Agent, Options, PATIENCE},
    client::{self, Held},
    process::wait_until,
};

use crate::lab::{Lab, vip4, vip6};

/// Nobody but the node itself may reach the pod.
const DENY: &str = "table inet guard {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip saddr 10.10.0.1 ip daddr 10.20.0.2 counter drop
    ip6 saddr fd10::1 ip6 daddr fd20::2 counter drop
  }
}";

/// It is looked at and let through.
const ALLOW: &str = "table inet guard {
  chain forward {
    type filter hook forward priority 0; policy accept;
    ip daddr 10.20.0.2 counter accept
    ip6 daddr fd20::2 counter accept
  }
}";

fn rules(lab: &Lab, text: &str) -> Result<()> {
    lab.topology.node.run("nft", &[&format!("flush ruleset\n{text}\n")]).map(drop)
}

fn wait_for_delivery(agent: &Agent<'_>, mode: &str, why: &str) -> Result<()> {
    let line = || -> Result<String> {
        let status = agent.weir(&["status"])?;
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        Ok(text.lines().find(|line| line.starts_with("Delivery:")).unwrap_or_default().to_owned())
    };
    wait_until(PATIENCE, || line().map(|line| line.contains(&format!(" {mode} (")) && line.contains(why)))
        .with_context(|| format!("delivery {mode} because of {why}; now {:?}", line()))
}

fn answers(lab: &Lab) -> Result<[bool; 2]> {
    lab.client(|| Ok([vip4(80), vip6(80)].map(|frontend| client::ask(frontend).is_ok())))
}

fn policy_stays_in_force(datapath: &str) -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::datapath(datapath))?;
    wait_for_delivery(&agent, "redirect", "no rules")?;
    let mut held = lab.client(|| [vip4(80), vip6(80)].into_iter().map(Held::open).collect::<Result<Vec<_>>>())?;
    assert_eq!(answers(&lab)?, [true; 2]);

    rules(&lab, ALLOW)?;
    wait_for_delivery(&agent, "stack", "inet guard forward")?;
    assert_eq!(answers(&lab)?, [true; 2], "through the rules");
    held.iter_mut().try_for_each(Held::check).context("connections from before")?;
    let counted = lab.topology.node.run("nft", &["list", "ruleset"])?;
    assert!(!counted.contains("packets 0"), "they see the packets: {counted}");

    rules(&lab, DENY)?;
    assert_eq!(answers(&lab)?, [false; 2], "against the rules");

    rules(&lab, "")?;
    wait_for_delivery(&agent, "redirect", "no rules")?;
    assert_eq!(answers(&lab)?, [true; 2]);
    held.iter_mut().try_for_each(Held::check).context("connections from before")
}

#[test]
fn a_policy_stays_in_force_on_tc() -> Result<()> {
    policy_stays_in_force("tc")
}

#[test]
fn a_policy_stays_in_force_on_generic_xdp() -> Result<()> {
    policy_stays_in_force("xdp-generic")
}

#[test]
fn a_policy_that_is_there_first_is_in_force_from_the_start() -> Result<()> {
    let lab = Lab::local(1)?;
    rules(&lab, DENY)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    wait_for_delivery(&agent, "stack", "inet guard forward")?;
    assert_eq!(answers(&lab)?, [false; 2]);
    Ok(())
}

#[test]
fn the_older_iptables_is_seen_too() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let node = &lab.topology.node;
    node.run("iptables-legacy", &["-A", "FORWARD", "-s", "10.10.0.1", "-d", "10.20.0.2", "-j", "DROP"])?;
    wait_for_delivery(&agent, "stack", "iptables table filter")?;
    assert_eq!(answers(&lab)?, [false, true], "a rule of IPv4");
    node.run("iptables-legacy", &["-F", "FORWARD"])?;
    wait_for_delivery(&agent, "redirect", "no rules")?;
    assert_eq!(answers(&lab)?, [true; 2]);
    Ok(())
}

#[test]
fn who_asks_for_redirect_passes_the_rules_by() -> Result<()> {
    let lab = Lab::local(1)?;
    rules(&lab, DENY)?;
    let agent = lab.start(&lab.web(), Options::default().with(&["--delivery", "redirect"]))?;
    wait_for_delivery(&agent, "redirect", "inet guard forward is passed by")?;
    assert_eq!(answers(&lab)?, [true; 2]);
    Ok(())
}

/// Packets that have left by the node's end of a pod's interface.
fn sent_by(lab: &Lab, interface: &str) -> Result<u64> {
    let printed = lab.topology.node.run("ip", &["-json", "-statistics", "link", "show", "dev", interface])?;
    let links: Value = serde_json::from_str(&printed).context("ip's JSON")?;
    links[0]["stats64"]["tx"]["packets"].as_u64().with_context(|| printed.clone())
}

#[test]
fn packets_reach_a_pod_past_the_nodes_end_of_its_interface() -> Result<()> {
    let lab = Lab::local(1)?;
    let _agent = lab.start(&lab.web(), Options::datapath("tc"))?;
    for frontend in [vip4(80), vip6(80)] {
        let ask = |times| lab.client(|| client::ask_times(frontend, times, client::ask).expect_no_failure());
        // The first may have to ask for the pod's link layer address.
        ask(1)?;
        let before = sent_by(&lab, "pod0")?;
        ask(50)?;
        let sent = sent_by(&lab, "pod0")? - before;
        ensure!(sent < 50, "{frontend}: {sent} packets of 50 connections left by the node's end");
        lab.topology.node.ip("neigh flush dev pod0")?;
        ask(1).context("a pod whose address is to be asked for again")?;
    }
    Ok(())
}
