//! The loaded programs, run by the kernel on single packets (BPF_PROG_TEST_RUN) of the same tables as the run in memory. Needs root.

#[path = "../datapath/frame.rs"]
mod frame;
#[path = "../datapath/host.rs"]
#[expect(dead_code, reason = "shared with the run in memory, which asks more of it")]
mod host;
mod node;
mod noise;
#[path = "../datapath/table/mod.rs"]
mod table;

use anyhow::Result;
use lb_agent::dataplane::{Dataplane as _, SweepReport};
use lb_common::names::program;
use node::Node;
use table::{cases, run::run_all};
use weir_tests::requirements;

/// What the verifier may look at in one program: the kernel's own limit.
const VERIFIER_LIMIT: u32 = 1_000_000;

#[test]
fn every_program_passes_the_verifier_and_an_empty_table_sweeps_clean() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let mut node = Node::new()?;
    let mut names = Vec::new();
    for (name, program) in node.bpf.programs_mut().programs() {
        let instructions = program.info()?.verified_instruction_count().unwrap_or(0);
        println!("{name}: {instructions} instructions verified");
        assert!((1..VERIFIER_LIMIT).contains(&instructions), "{name}: {instructions}");
        names.push(name.to_owned());
    }
    names.sort();
    let mut expected = [program::XDP, program::INGRESS, program::EGRESS, program::SWEEP, program::REPAIR];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(node.bpf.sweep()?, SweepReport::default());
    Ok(())
}

#[test]
fn every_case_ends_in_the_kernel_as_stated() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let node = Node::new()?;
    let cases = cases::all();
    let packets = inside(node, |node| run_all(node, &cases))?.unwrap_or_else(|complaints| panic!("{complaints}"));
    println!("{} cases, {packets} packets in the kernel", cases.len());
    assert!(cases.len() >= 150, "only {} cases", cases.len());
    Ok(())
}

#[test]
fn kernel_and_memory_do_the_same_with_noise() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let packets = inside(Node::new()?, noise::compare)??;
    println!("{packets} packets of noise in the kernel and in memory");
    assert!(packets > 15_000, "only {packets} packets");
    Ok(())
}

/// Works with a node on a thread of its own, which stays in the node's namespace; the node goes when it is done.
fn inside<T: Send>(mut node: Node, work: impl FnOnce(&mut Node) -> T + Send) -> Result<T> {
    let namespace = std::fs::File::open(node.namespace.path())?;
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(work(&mut node))
        });
        runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
