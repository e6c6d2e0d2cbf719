//! Types shared by Weir's kernel and user space halves.
//!
//! Everything here is plain data: `repr(C)`, without implicit padding, of a size that is checked at compile time, and
//! valid for every bit pattern it may have in a map. Both sides use these definitions; there is no second copy.
#![no_std]

pub mod abi;
pub mod address;
pub mod backend;
pub mod counters;
pub mod dsr;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod known;
pub mod names;
pub mod request;
pub mod service;
pub mod socket;

pub use abi::{ABI_VERSION, Settings};
pub use address::{Addr, Port, Protocol, SocketKey};
pub use backend::{Backend, BackendState};
pub use counters::{BackendLoad, DropReason, Traffic};
pub use flow::{Bucket, Flow, FlowState};
pub use service::{AffinityKey, AffinityValue, Algorithm, Announced, Frontend, Range, Selection, Vip};

/// Marks a type as plain data for aya's typed maps.
macro_rules! plain_data {
    ($($t:ty),* $(,)?) => { $(
        // SAFETY: repr(C), Copy, no padding that carries meaning, and every bit pattern read from a map was written as one.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $t {}
    )* };
}
pub(crate) use plain_data;

/// Fails the build when a shared type changes size: then [`ABI_VERSION`] has to change too.
macro_rules! assert_size {
    ($($t:ty = $n:expr),* $(,)?) => { $( const _: () = assert!(core::mem::size_of::<$t>() == $n); )* };
}
pub(crate) use assert_size;
