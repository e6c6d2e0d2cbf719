//! What the pipeline in memory takes from the packet tables: the node's interfaces and routes, and how it is spoken to.
#![allow(dead_code, reason = "shared with the packet tables, which ask more of it")]

#[path = "../datapath/table/case.rs"]
pub(crate) mod case;
#[path = "../datapath/table/net.rs"]
pub(crate) mod net;
#[path = "../datapath/table/packet.rs"]
pub(crate) mod packet;
#[path = "../datapath/table/run.rs"]
pub(crate) mod run;
#[path = "../datapath/table/verify.rs"]
pub(crate) mod verify;
#[path = "../datapath/table/world.rs"]
pub(crate) mod world;
