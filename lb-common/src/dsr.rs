//! Direct server return: how one node hands a client's packet to the node of its backend, which answers the client itself.
//!
//! The packet travels whole, but for its time to live, in a UDP datagram (as in RFC 8086 and RFC 7510: checksum 0, a source port by the
//! flow) to the backend's own address, so that whatever route full NAT would take leads to its node. Before the packet stands a
//! [`Header`], which with both packets' destinations names the frontend and the backend.

use crate::{Port, assert_size, plain_data};

/// What stands between the UDP header and the client's packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Header {
    /// [`MAGIC`], in network byte order.
    pub magic: u16,
    /// [`VERSION`].
    pub version: u8,
    /// The service's transport protocol, an IANA number.
    pub protocol: u8,
    /// The frontend's port; its address is the destination of the client's packet.
    pub frontend: Port,
    /// The backend's port; its address is the destination of the datagram.
    pub backend: Port,
}

/// How a header begins: "We".
pub const MAGIC: u16 = 0x5765;
/// The form of the header. Who does not know it leaves the datagram alone.
pub const VERSION: u8 = 1;
/// Bytes of the header.
pub const HEADER: u32 = size_of::<Header>() as u32;
/// Bytes that encapsulation adds to an IPv4 packet: IP, UDP and [`Header`].
pub const OVERHEAD_V4: u32 = 20 + 8 + HEADER;
/// The same of an IPv6 packet.
pub const OVERHEAD_V6: u32 = 40 + 8 + HEADER;
/// The datagrams' destination port unless `--dsr-port` says otherwise.
pub const DEFAULT_PORT: u16 = 6109;

/// A backend of this node to which other nodes may forward. Key of the `targets` hash map, whose value is the backend's index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Target {
    /// [`crate::Backend::endpoint`].
    pub endpoint: u32,
    /// [`crate::Backend::service`].
    pub service: u32,
}

plain_data!(Target);
assert_size!(Header = 8, Target = 8);
