//! The loaded programs, run by the kernel on single packets (BPF_PROG_TEST_RUN) of the same tables as the run in memory. Needs root.

mod node;
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
    let mut node = Node::new()?;
    let cases = cases::all();
    let inside = std::fs::File::open(node.namespace.path())?;
    // A thread of its own, because it stays in the namespace.
    let packets = std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            nix::sched::setns(&inside, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| format!("enter: {e}"))?;
            run_all(&mut node, &cases)
        });
        runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let packets = packets.unwrap_or_else(|complaints| panic!("{complaints}"));
    println!("{} cases, {packets} packets in the kernel", cases.len());
    assert!(cases.len() >= 150, "only {} cases", cases.len());
    Ok(())
}
