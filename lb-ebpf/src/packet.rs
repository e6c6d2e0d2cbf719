//! A packet as its hook gives it: bounds-checked reads, and writes that keep checksums right in the way that hook needs.

/// Plain values that may be read from, and written to, a packet at any offset. Not single bytes: the bounds check of one compiles to
/// a comparison from which the verifier learns nothing.
///
/// # Safety
/// Implemented only for types without padding for which every bit pattern is valid.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: integers and arrays of integers have no padding and no invalid patterns.
        unsafe impl Plain for $t {}
    )* };
}
plain!(
    u16, u32, u64, [u8; 2], [u8; 4], [u8; 6], [u8; 8], [u8; 12], [u16; 2], [u16; 4], [u32; 2], [u32; 4], [u32; 5],
    [u32; 7], [u32; 8], [u32; 9], [u32; 12], [u32; 14]
);

/// No offset in a packet is larger; the verifier wants to know.
pub const MAX_OFFSET: u32 = 0x1fff;

/// A packet at one of the hooks. Offsets count from the frame's first byte. `None`: out of bounds, or the kernel refused.
pub trait Packet {
    /// Reads a value.
    fn load<T: Plain>(&self, offset: u32) -> Option<T>;
    /// Writes a value; no checksum is touched.
    fn store<T: Plain>(&mut self, offset: u32, value: T) -> Option<()>;
    /// The frame's length in bytes, whether or not all of it can be read.
    fn length(&self) -> u32;
    /// Packets on the wire that this one stands for (generic segmentation offload), 0 if the kernel has to count them again, and the
    /// payload bytes of each; (1, 0) if it is one.
    fn segments(&self) -> (u32, u32);
    /// Applies a difference to the IPv4 header checksum at `offset`.
    fn fix_ip_checksum(&mut self, offset: u32, difference: u32) -> Option<()>;
    /// Applies to the transport checksum at `offset` the difference of what is in the pseudo header and of what is in the data:
    /// a checksum that the device will finish covers the pseudo header only.
    fn fix_transport_checksum(&mut self, offset: u32, change: TransportChange) -> Option<()>;
    /// The EtherType, if the packet begins with its IP header: at tc on interfaces without Ethernet, and behind generic XDP, which
    /// loses the Ethernet header's length when it has to copy a packet (Linux 6.18: `skb_pp_cow_data` leaves `mac_len` 0).
    fn bare(&self) -> Option<u16> {
        None
    }
    /// Opens `room` bytes of any content before the IP header at `l3`, for the headers of a packet of the same family that carries this
    /// one in UDP. Where they begin: behind the Ethernet header, which is there then, without the tags that were. Not every hook can.
    fn encapsulate(&mut self, _l3: u32, _room: u32, _v4: bool) -> Option<u32> {
        None
    }
    /// Takes away the `room` bytes from the IP header at `l3` on, before the packet that is carried in this one.
    fn decapsulate(&mut self, _l3: u32, _room: u32) -> Option<()> {
        None
    }
    /// Cuts or lengthens the frame to `length` bytes, and then opens `room` bytes of any content behind its Ethernet header, or takes
    /// them away where it is negative. Not every hook can.
    fn reshape(&mut self, _length: u32, _room: i32) -> Option<()> {
        None
    }
}

/// What a transport checksum has to follow.
#[derive(Clone, Copy)]
pub struct TransportChange {
    /// Difference of the addresses.
    pub pseudo: u32,
    /// Difference of ports and other data.
    pub data: u32,
    /// Whether 0 means "no checksum" (UDP).
    pub zero_is_none: bool,
    /// IPv6: the addresses' change and the checksum's cancel out in a checksum over the whole packet.
    pub v6: bool,
}
