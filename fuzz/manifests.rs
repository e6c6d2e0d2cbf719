//! Any text as a manifest: it is read and becomes a model, or its problems are told, each with what to do; the same each time.
#![no_main]

use std::path::{Path, PathBuf};

use lb_agent::{
    discovery::{
        build::{self, Holders, Setting},
        files::Folder,
        node_ports::{NodeInfo, NodePortAddresses},
    },
    node::NodeView,
};
use lb_common::Algorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // What is not text is told from the file, before it is read.
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut folder = Folder::default();
    let file = PathBuf::from("manifests/any.yaml");
    let snapshot = || Ok([(file.clone(), Ok(text.to_owned()))].into());
    assert!(folder.update(Path::new("manifests"), snapshot()), "a new file is new");
    assert!(!folder.update(Path::new("manifests"), snapshot()), "and only once");
    let problems = folder.problems();
    assert!(problems.is_empty() == folder.is_complete(), "{problems:?}");
    for problem in &problems {
        assert!(!problem.cause.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
    }
    let setting = Setting {
        node: &NodeView::default(),
        info: &NodeInfo::default(),
        node_ports: &NodePortAddresses::All,
        default_algorithm: Algorithm::Maglev,
        pod_weight: &|_, _| None,
    };
    let objects = folder.objects();
    let built = build::build(&objects, &setting, &Holders::new());
    assert!(built == build::build(&objects, &setting, &Holders::new()), "a model is not the same twice");
    let policies = build::policies(&objects);
    assert!(policies == build::policies(&objects), "policies are not the same twice");
});
