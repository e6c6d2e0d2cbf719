//! Random and damaged packets through the pipeline in memory: what is left alone stays as it was, no entry is ever without its
//! other one, and when all time is over all counts are back at 0.

use lb_ebpf::env::Hook;

use crate::{
    host::Memory,
    table::{
        noise::{Noise, worlds},
        run::{Fate, Subject as _},
    },
};

const PACKETS: u32 = 60_000;

#[test]
fn noise_breaks_nothing() {
    for (number, world) in worlds().into_iter().enumerate() {
        let mut memory = Memory::new();
        world.make(1).iter().for_each(|write| memory.write(write));
        let mut noise = Noise(number as u64);
        let mut fates = [0_u32; 3];
        for count in 0..PACKETS {
            memory.clock = 1000 + count / 100;
            let (hook, via, frame) = noise.frame(&world);
            let drops: u64 = memory.drops.values().sum();
            let (fate, after) = memory.run(hook, via, &frame).expect("a verdict");
            let dropped = memory.drops.values().sum::<u64>() > drops;
            match fate {
                Fate::Next if hook == Hook::Xdp => assert_eq!(after, frame, "XDP finishes what it rewrites"),
                Fate::Out(_) if dropped => assert!(after.len() <= frame.len() + 48, "an error quotes no more"),
                Fate::Out(_) => assert_ne!(after, frame, "what leaves was rewritten"),
                Fate::Next => assert_eq!(after.len(), frame.len()),
                Fate::Drop => {}
            }
            fates[match fate {
                Fate::Next => 0,
                Fate::Drop => 1,
                Fate::Out(_) => 2,
            }] += 1;
            let (forward, replies, _) = memory.flows();
            assert_eq!(forward, replies, "after packet {count}: {frame:02x?}");
        }
        assert!(fates.iter().all(|n| *n > PACKETS / 50), "{fates:?}: one-sided noise");
        memory.clock += 20_000;
        let swept = memory.sweep();
        assert_eq!((swept.entries, swept.orphans, swept.busy), (0, 0, 0));
        for backend in 0..world.indexes() {
            let load = memory.counters(backend as u32).load;
            assert_eq!((load.active, load.pending), (0, 0), "backend {backend}: {load:?}");
        }
    }
}
