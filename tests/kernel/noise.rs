//! Random and damaged packets through the loaded programs and through the pipeline in memory: both do the same.

use anyhow::{Result, ensure};
use lb_ebpf::env::Hook;

use crate::{
    host::Memory,
    node::Node,
    table::{
        noise::{Noise, worlds},
        run::{Fate, Subject},
    },
};

const PACKETS: u32 = 5_000;
/// Counters are compared after so many packets.
const ROUND: u32 = 50;

/// Gives both the same packets; how many there were.
pub(crate) fn compare(node: &mut Node) -> Result<u32> {
    let mut sent = 0;
    for (number, world) in worlds().into_iter().enumerate() {
        // Far from the services and the times of the tables' cases.
        let (base, start) = (3000 + number as u32 * 2, 1 << 30 | (number as u32) << 20);
        let mut memory = Memory::new();
        for write in world.make(base) {
            node.write(&write)?;
            memory.write(&write);
        }
        let dropped = node.drops()?;
        let mut noise = Noise(number as u64);
        for count in 0..PACKETS {
            let (hook, via, frame) = noise.frame(&world);
            if !node.takes(hook, &frame) {
                continue;
            }
            sent += 1;
            let clock = start + count / 50;
            node.set_clock(clock)?;
            memory.set_clock(clock)?;
            let (fate, after) = node.run(hook, via, &frame)?;
            let (expected, out) = memory.run(hook, via, &frame)?;
            let what = || format!("{world:?}, packet {count} at {hook:?}, {via:?}: {frame:02x?}");
            let both_leave = matches!((fate, expected), (Fate::Out(None), Fate::Out(_)));
            ensure!(fate == expected || both_leave, "{fate:?} in the kernel, {expected:?} in memory: {}", what());
            // Only the program writes link layer addresses, not the pipeline.
            let link = if hook == Hook::Xdp && expected != Fate::Next { 12 } else { 0 };
            ensure!(after[link..] == out[link..], "{after:02x?} in the kernel, {out:02x?} in memory: {}", what());
            if count % ROUND == 0 {
                ensure!(Subject::flows(node)? == Subject::flows(&memory)?, "flows after {}", what());
                for index in 0..world.indexes() as u32 {
                    let (kernel, memory) = (node.counters(index)?, memory.counters(index));
                    ensure!(kernel == memory, "{kernel:?} in the kernel, {memory:?} in memory after {}", what());
                }
            }
        }
        for (reason, drops) in node.drops()? {
            let (kernel, memory) =
                (drops - dropped.get(&reason).unwrap_or(&0), memory.drops.get(&reason).unwrap_or(&0));
            ensure!(kernel == *memory, "{}: {kernel} in the kernel, {memory} in memory", reason.name());
        }
        for write in world.remove_frontends() {
            node.write(&write)?;
        }
        ensure!(node.sweep()?.entries == 0, "a sweep forgets the flows of a removed frontend");
        for write in world.clear() {
            node.write(&write)?;
        }
    }
    Ok(sent)
}
