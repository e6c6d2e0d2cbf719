//! Facts and what they are judged to be.

use serde_json::json;

use super::*;

fn map(name: &str, entries: Option<u64>, max_entries: u32) -> MapItem {
    let room = max_entries.into();
    let kind = "hash".into();
    MapItem { name: name.into(), kind, key_size: 20, value_size: 24, max_entries, room, entries, bytes: 1048576 }
}

fn feature(supported: Option<bool>, required: bool) -> Feature {
    Feature {
        name: "tcx links",
        supported,
        required,
        purpose: "attachment",
        remedy: "a newer kernel",
        how: "asked".into(),
    }
}

fn good() -> Facts {
    Facts {
        version: "0.1.0",
        abi: 1,
        pin_path: "/sys/fs/bpf/weir".into(),
        kernel: "6.18.0".into(),
        features: vec![feature(Some(true), true)],
        agent: AgentFacts {
            running: true,
            pid: Some(42),
            sync_age_seconds: Some(4.0),
            report: Some(json!({"name": "n1", "delivery": {"mode": "redirect", "why": "auto"}})),
        },
        hooks: vec![HookItem {
            interface: "eth1".into(),
            hook: "tcx-ingress".into(),
            program: "weir_ingress".into(),
            program_id: 7,
            runs: Some(1000),
            nanoseconds_per_run: Some(250),
        }],
        maps: vec![map("frontends", Some(10), 100), map("slots", None, 1000)],
        drops: BTreeMap::from([("no-backend", 3)]),
        failures: Vec::new(),
    }
}

#[test]
fn nothing_wrong_is_healthy() {
    let report = Report::new(good());
    assert!(report.healthy, "{:?}", report.problems);
    let expected = "\
Version:  0.1.0 (map layout 1)
Kernel:   6.18.0
Pin path: /sys/fs/bpf/weir
Agent:    running (process 42), last sync 4s ago
Maps:     2 maps, 2.0 MiB of kernel memory
Delivery: redirect (auto)

FEATURE     SUPPORTED   FOR          FOUND BY, OR WHAT HELPS
tcx links   yes         attachment   asked

WHERE   HOOK          PROGRAM        ID   RUNS   NS/RUN
eth1    tcx-ingress   weir_ingress   7    1000   250

MAP         TYPE   KEY   VALUE   ENTRIES   ROOM   FILL    BYTES
frontends   hash   20    24      10        100    10.0%   1048576
slots       hash   20    24      -         1000   -       1048576

DROPPED      PACKETS
no-backend   3

PROBLEMS
none
";
    assert_eq!(report.show(Format::Table, false).unwrap(), expected);
}

#[test]
fn each_fault_is_a_problem() {
    type Fault = fn(&mut Facts);
    let cases: [(Fault, &str); 7] = [
        (|f| f.agent = AgentFacts::default(), "no agent running"),
        (|f| f.agent.report = None, "does not answer"),
        (|f| f.agent.report = Some(json!({"problems": ["web.yaml: line 3"]})), "web.yaml: line 3"),
        (|f| f.hooks.clear(), "no program is attached"),
        (|f| f.maps[0].entries = Some(95), "map frontends is 95% full"),
        (|f| f.features = vec![feature(Some(false), true)], "no tcx links (attachment): a newer kernel"),
        (|f| f.failures = vec!["no Weir maps are pinned".into()], "no Weir maps are pinned"),
    ];
    for (fault, problem) in cases {
        let mut facts = good();
        fault(&mut facts);
        let report = Report::new(facts);
        assert!(!report.healthy);
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert!(report.problems[0].contains(problem), "{:?}", report.problems);
    }
}

#[test]
fn what_is_unknown_or_optional_is_no_problem() {
    for feature in [feature(None, true), feature(Some(false), false)] {
        let report = Report::new(Facts { features: vec![feature], ..good() });
        assert!(report.healthy, "{:?}", report.problems);
    }
}

#[test]
fn json_is_flat_and_camel_case() {
    let text = Report::new(good()).show(Format::Json, false).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["kind"], "Status");
    assert_eq!(value["healthy"], true);
    assert_eq!(value["pinPath"], "/sys/fs/bpf/weir");
    assert_eq!(value["mapBytes"], 2097152);
    assert_eq!(value["maps"][0]["type"], "hash");
    assert_eq!(value["hooks"][0]["programId"], 7);
    assert_eq!(value["hooks"][0]["nanosecondsPerRun"], 250);
    assert_eq!(value["agent"]["syncAgeSeconds"], 4.0);
    assert_eq!(value["drops"]["no-backend"], 3);
}
