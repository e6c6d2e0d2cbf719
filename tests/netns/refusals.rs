//! What cannot work is refused with a line of cause and a line of remedy, and nothing half-done stays; what was good stays in force.

use std::{fs, net::TcpListener, process::Output};

use anyhow::Result;
use weir_tests::{
    agent::{Agent, Options, binary},
    client,
    process::{text, wait_until},
    topology::UPLINK,
};

use crate::lab::{Lab, vip4};

/// Exit code 1, two lines, all these words, nothing pinned.
fn refused(agent: &Agent<'_>, output: &Output, words: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    assert_eq!(error.trim_end().lines().count(), 2, "a cause and a remedy: {error}");
    assert_eq!(agent.pins().contents(), [""; 0]);
}

fn prepared(lab: &Lab, options: Options) -> Result<Agent<'_>> {
    lab.write(&lab.web())?;
    Agent::prepare(&lab.topology, &lab.manifests, options)
}

#[test]
fn an_interface_that_does_not_exist() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options { interfaces: vec!["nowhere0".into()], ..Options::default() })?;
    refused(&agent, &agent.run_command()?.output()?, &["nowhere0", UPLINK]);
    Ok(())
}

#[test]
fn one_of_two_interfaces_that_does_not_exist() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options { interfaces: vec![UPLINK.into(), "nowhere0".into()], ..Options::default() })?;
    refused(&agent, &agent.run_command()?.output()?, &["nowhere0"]);
    Ok(())
}

#[test]
fn no_privilege() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options::default())?;
    let run = agent.run_command()?;
    let mut command = lab.topology.node.command("setpriv")?;
    command.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(run.get_program()).args(run.get_args());
    refused(&agent, &command.output()?, &["CAP_BPF"]);
    Ok(())
}

#[test]
fn no_bpf_file_system() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options::default())?;
    let run = agent.run_command()?;
    let mut command = lab.topology.node.command("unshare")?;
    command
        .args(["--mount", "sh", "-c", "umount /sys/fs/bpf && exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(run.get_args());
    refused(&agent, &command.output()?, &["bpf", "mount"]);
    Ok(())
}

#[test]
fn a_port_that_is_in_use() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options::default())?;
    let _holder = lab.topology.node.enter(|| TcpListener::bind("127.0.0.1:9100"))??;
    refused(&agent, &agent.run_command()?.output()?, &["127.0.0.1:9100", "--metrics-listen"]);
    Ok(())
}

#[test]
fn a_folder_that_does_not_exist() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options::default())?;
    fs::remove_dir_all(lab.manifests.path())?;
    refused(&agent, &agent.run_command()?.output()?, &[&lab.manifests.path().display().to_string()]);
    Ok(())
}

#[test]
fn ports_of_full_nat_that_others_use() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = prepared(&lab, Options::default().with(&["--snat-ports", "50000-65535"]))?;
    refused(&agent, &agent.run_command()?.output()?, &["50000-65535", "ip_local_port_range"]);
    Ok(())
}

#[test]
fn words_that_no_command_knows() -> Result<()> {
    let lab = Lab::local(1)?;
    for arguments in [&["run", "--datapath", "warp"][..], &["run", "--interface"], &["get", "everything"], &["dance"]] {
        let output = lab.topology.node.command(binary()?)?.args(arguments).output()?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("Usage") || text(&output.stderr).contains("--help"), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_folder_that_disappears_leaves_the_last_state() -> Result<()> {
    let lab = Lab::local(1)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    fs::remove_dir_all(lab.manifests.path())?;
    let path = lab.manifests.path().display().to_string();
    wait_until(weir_tests::agent::PATIENCE, || Ok(agent.log().contains(&path)))?;
    assert_eq!(lab.client(|| client::ask(vip4(80)))?, "server-0");
    assert_eq!(agent.backends()?.len(), 4);

    fs::create_dir(lab.manifests.path())?;
    lab.write(&lab.web().named("other", 81))?;
    agent.wait_for("the new folder's content", |backends| {
        backends.iter().any(|backend| backend.service == "other" && backend.state == "ready")
    })?;
    assert_eq!(lab.client(|| client::ask(vip4(81)))?, "server-0");
    Ok(())
}

fn weighted(slices: &str, weight: &str) -> String {
    slices.replace(
        "labels: {kubernetes",
        &format!("annotations: {{weir.dev/weight: \"{weight}\"}}\n  labels: {{kubernetes"),
    )
}

#[test]
fn bad_manifests_leave_the_last_good_state() -> Result<()> {
    let lab = Lab::local(2)?;
    let agent = lab.start(&lab.web(), Options::default())?;
    let good = lab.web().yaml();
    let cases = [
        (good.replace("externalIPs:", "externalIPs: ["), vec!["web.yaml"]),
        (lab.web().algorithm("fastest").yaml(), vec!["weir.dev/algorithm", "fastest", "least-connections"]),
        (weighted(&good, "-1"), vec!["\"-1\"", "65535"]),
        (weighted(&good, "70000"), vec!["70000", "65535"]),
        (good.replace("addressType: IPv4", "addressType: IPv6"), vec!["10.20.0.2", "IPv6"]),
    ];
    for (content, words) in cases {
        lab.manifests.write("web.yaml", &content)?;
        let told = wait_until(weir_tests::agent::PATIENCE, || Ok(words.iter().all(|word| agent.log().contains(word))));
        assert!(told.is_ok(), "{words:?} are not all in what it printed:\n{}", agent.log());
        assert!(agent.log().contains("web.yaml"), "{}", agent.log());
        assert_eq!(agent.backends()?.iter().filter(|backend| backend.state == "ready").count(), 8);
        assert!(lab.client(|| client::ask(vip4(80))).is_ok());
    }
    Ok(())
}

#[test]
fn a_second_claim_to_a_frontend_changes_nothing_before_and_after_a_restart() -> Result<()> {
    let lab = Lab::local(1)?;
    let mut agent = lab.start(&lab.web(), Options::default())?;
    // A name before "web": it must not win by the alphabet what "web" has.
    lab.write(&lab.web().named("thief", 80))?;
    let told =
        || Ok(["10.99.0.1:80/TCP", "default/thief", "default/web"].iter().all(|word| agent.log().contains(word)));
    wait_until(weir_tests::agent::PATIENCE, told)?;
    let all_of_web = |agent: &Agent<'_>| -> Result<bool> {
        Ok(agent.backends()?.iter().all(|backend| backend.service == "web" && backend.state == "ready"))
    };
    assert!(all_of_web(&agent)?, "{:#?}", agent.backends()?);
    agent.kill9()?;
    agent.restart()?;
    assert!(all_of_web(&agent)?, "{:#?}", agent.backends()?);
    assert_eq!(lab.client(|| client::ask(vip4(80)))?, "server-0");
    Ok(())
}
