//! Packet tables through the pipeline in memory: the same code that the kernel runs, with maps, clock, chance and routes of the tests.

mod alone;
mod chance;
mod collisions;
mod frame;
mod host;
mod mss;
mod noise;
mod table;

use host::Memory;
use table::{cases, run::run_all};

#[test]
fn every_case_ends_as_stated() {
    let cases = cases::all();
    let packets = run_all(&mut Memory::new(), &cases).unwrap_or_else(|complaints| panic!("{complaints}"));
    println!("{} cases, {packets} packets in memory", cases.len());
    assert!(cases.len() >= 150, "only {} cases", cases.len());
}

#[test]
fn every_case_of_delivery_by_the_stack_ends_as_stated() {
    let cases = cases::by_stack();
    let mut memory = Memory::new();
    memory.stack = true;
    run_all(&mut memory, &cases).unwrap_or_else(|complaints| panic!("{complaints}"));
    assert!(cases.len() >= 40, "only {} cases", cases.len());
}
