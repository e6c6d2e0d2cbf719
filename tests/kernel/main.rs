//! The loaded programs, run by the kernel on single packets (BPF_PROG_TEST_RUN) of the same tables as the run in memory. Needs root.

#[path = "../datapath/frame.rs"]
mod frame;
#[path = "../datapath/host.rs"]
#[expect(dead_code, reason = "shared with the run in memory, which asks more of it")]
mod host;
mod known;
mod node;
mod noise;
mod resize;
#[path = "../datapath/table/mod.rs"]
mod table;

use anyhow::{Context, Result};
use lb_agent::dataplane::{Dataplane as _, SweepReport};
use lb_common::names::program;
use node::Node;
use table::{case::Case, cases, run::run_all};
use weir_tests::requirements;

/// What the verifier may look at in one program: the kernel's own limit.
const VERIFIER_LIMIT: u32 = 1_000_000;

#[test]
fn every_program_passes_the_verifier_and_an_empty_table_sweeps_clean() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let mut node = Node::new(false)?;
    // Those of sockets are loaded where their hooks are attached, and have their own tests.
    for name in [program::XDP, program::INGRESS, program::EGRESS, program::SWEEP, program::REPAIR] {
        let program = node.bpf.programs_mut()?.program(name).with_context(|| format!("program {name}"))?;
        let instructions = program.info()?.verified_instruction_count().unwrap_or(0);
        println!("{name}: {instructions} instructions verified");
        assert!((1..VERIFIER_LIMIT).contains(&instructions), "{name}: {instructions}");
    }
    assert_eq!(node.bpf.sweep()?, SweepReport::default());
    Ok(())
}

#[test]
fn every_case_ends_in_the_kernel_as_stated() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let cases = cases::all();
    let packets = run(false, &cases)?;
    println!("{} cases, {packets} packets in the kernel", cases.len());
    assert!(cases.len() >= 150, "only {} cases", cases.len());
    Ok(())
}

#[test]
fn every_case_of_delivery_by_the_stack_ends_in_the_kernel_as_stated() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let cases = cases::by_stack();
    let packets = run(true, &cases)?;
    println!("{} cases, {packets} packets in the kernel", cases.len());
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    Ok(())
}

fn run(stack: bool, cases: &[Case]) -> Result<usize> {
    let packets = inside(Node::new(stack)?, |node| run_all(node, cases))?;
    Ok(packets.unwrap_or_else(|complaints| panic!("{complaints}")))
}

#[test]
fn kernel_and_memory_do_the_same_with_noise() -> Result<()> {
    requirements::check(requirements::TOOLS)?;
    let packets = inside(Node::new(false)?, noise::compare)??;
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
