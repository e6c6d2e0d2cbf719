//! The packet tables, and what they are stated in. Shared by the run in memory and the run in the kernel.

pub(crate) mod case;
pub(crate) mod cases;
pub(crate) mod net;
pub(crate) mod noise;
pub(crate) mod packet;
pub(crate) mod run;
pub(crate) mod verify;
pub(crate) mod world;
