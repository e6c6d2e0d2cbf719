//! What can be said to `weir`, and how failures sound.

use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_form_is_understood() {
    for line in [
        "weir get services",
        "weir get backends -n default -o json",
        "weir get flows -o wide --watch",
        "weir get backends -o yaml --pin-path /sys/fs/bpf/other",
        "weir map list -o json",
        "weir map dump flows",
        "weir explain 10.0.0.1:80 --from 192.0.2.7",
        "weir explain [fd00::1]:80/TCP --from [fd00::9]:4000 --via socket -o json",
        "weir explain policy my-app",
        "weir explain policy my-app -n shop -o json",
        "weir get policies -n shop",
        "weir get nodes",
        "weir drain 10.1.0.1:8080",
        "weir undrain 10.1.0.1:53/UDP",
        "weir status -o json",
        "weir detach",
        "weir detach --hold [::]:9560",
        "weir detach --daemonset kube-system/weir-agent --hold 0.0.0.0:9560 --timeout 90s",
        "weir fit --data load.csv.gz --target cpuCores --features rps,tokens --at 0.8",
        "weir fit --data load.csv --target load --features mean:5m,hourOfDay --horizon 2m -o json --plot fit.svg",
        "weir crds",
        "weir completions bash",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for (line, kind) in [
        ("weir", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("weir get", ErrorKind::MissingRequiredArgument),
        ("weir get pods", ErrorKind::InvalidValue),
        ("weir get backends -o xml", ErrorKind::InvalidValue),
        ("weir explain 10.0.0.1:80", ErrorKind::MissingRequiredArgument),
        ("weir explain 10.0.0.1 --from 192.0.2.7", ErrorKind::ValueValidation),
        ("weir drain 10.1.0.1:8080/SCTP", ErrorKind::ValueValidation),
        ("weir fit --data load.csv --target load", ErrorKind::MissingRequiredArgument),
        ("weir map dump", ErrorKind::MissingRequiredArgument),
        ("weir detach --daemonset kube-system/weir-agent", ErrorKind::MissingRequiredArgument),
        ("weir detach --daemonset weir-agent --hold 0.0.0.0:9560", ErrorKind::ValueValidation),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
    }
}

#[test]
fn commands_say_so_when_the_pin_path_cannot_hold_pins() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        "get backends",
        "map list",
        "map dump flows",
        "explain 10.0.0.1:80 --from 192.0.2.7",
        "drain 10.1.0.1:80",
        "detach",
        "detach --hold 127.0.0.1:0",
    ] {
        let cli = parse(&format!("weir --pin-path {} {command}", folder.path().display())).unwrap();
        let mut buffer = Vec::new();
        let error = dispatch(cli, &mut Screen::plain(&mut buffer)).unwrap_err();
        assert!(matches!(error, Error::NotBpffs { .. }), "{command}: {error}");
        assert!(buffer.is_empty(), "{command}");
    }
}

#[test]
fn what_only_an_agent_knows_needs_one() {
    for command in ["get policies", "get nodes", "explain policy web"] {
        let cli = parse(&format!("weir --pin-path /nowhere/weir-cli-test {command}")).unwrap();
        let error = dispatch(cli, &mut Screen::plain(&mut Vec::new())).unwrap_err();
        assert!(matches!(error, Error::NoAgent { .. }), "{command}: {error}");
    }
}

#[test]
fn status_is_degraded_where_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let cli = parse(&format!("weir --pin-path {} status -o json", folder.path().display())).unwrap();
    let mut buffer = Vec::new();
    let code = dispatch(cli, &mut Screen::plain(&mut buffer)).unwrap();
    assert_eq!(code, ExitCode::FAILURE);
    let value: serde_json::Value = serde_json::from_slice(&buffer).unwrap();
    assert_eq!(value["healthy"], false);
    assert_eq!(value["agent"]["running"], false);
}

#[test]
fn completions_need_no_pins() {
    let mut buffer = Vec::new();
    let code = dispatch(parse("weir completions zsh").unwrap(), &mut Screen::plain(&mut buffer)).unwrap();
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(String::from_utf8(buffer).unwrap().contains("#compdef weir"));
}

#[test]
fn long_causes_keep_their_ends() {
    assert_eq!(one_line("a\n  b"), "a b");
    let long = one_line(&format!("start {} end", "x\n".repeat(9000)));
    assert!(long.starts_with("start x") && long.ends_with("x end") && long.len() < 600, "{long}");
}
