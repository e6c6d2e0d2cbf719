//! An interface as netlink tells of it: only what decisions need, so that what does not matter is seen to be no change.

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

/// What kind of interface it is, as far as that matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// None of the others: hardware, VLANs, tunnels.
    #[default]
    Other,
    /// The loopback.
    Loopback,
    /// No packet comes in by it.
    Dummy,
    /// One end of a pair (veth, netkit).
    Pair,
    /// A bridge.
    Bridge,
    /// A VRF: those it rules keep their own traffic.
    Vrf,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Whether it is switched on.
    pub up: bool,
    /// The index of the bridge, bond or VRF it belongs to.
    pub master: Option<u32>,
    /// Whether its other end is in another network namespace.
    pub peer_elsewhere: bool,
    /// Whether a device with a driver is behind it, not software.
    pub device: bool,
    /// Its Ethernet address; zero if it has none.
    pub mac: [u8; 6],
}

impl Link {
    /// Reads a link of this network namespace; `None` for what only looks like one: a bridge's news of its ports.
    pub fn read(message: &LinkMessage) -> Option<Self> {
        if u8::from(message.header.interface_family) != libc::AF_UNSPEC as u8 {
            return None;
        }
        let header = &message.header;
        let mut link = Self { index: header.index, up: header.flags.contains(LinkFlags::Up), ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
                LinkAttribute::LinkNetNsId(id) => link.peer_elsewhere = *id >= 0,
                LinkAttribute::ParentDevName(_) => link.device = true,
                LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().unwrap_or_default(),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind).unwrap_or_default(),
                _ => {}
            }
        }
        if header.link_layer_type == LinkLayerType::Loopback {
            link.kind = Kind::Loopback;
        }
        (!link.name.is_empty()).then_some(link)
    }
}

fn kind(info: &LinkInfo) -> Option<Kind> {
    let LinkInfo::Kind(kind) = info else { return None };
    Some(match kind {
        InfoKind::Dummy => Kind::Dummy,
        InfoKind::Veth | InfoKind::Netkit => Kind::Pair,
        InfoKind::Bridge => Kind::Bridge,
        InfoKind::Vrf => Kind::Vrf,
        _ => Kind::Other,
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{AddressFamily, link::LinkHeader};

    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header = LinkHeader { index: 7, flags: LinkFlags::Up, ..LinkHeader::default() };
        message.attributes = attributes;
        message
    }

    #[test]
    fn what_matters_is_read() {
        let name = || LinkAttribute::IfName("veth1".into());
        let pair = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        let read = Link::read(&message(vec![
            name(),
            LinkAttribute::Mtu(1400),
            LinkAttribute::Controller(3),
            LinkAttribute::LinkNetNsId(0),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            pair,
        ]));
        let wanted = Link {
            index: 7,
            name: "veth1".into(),
            kind: Kind::Pair,
            up: true,
            master: Some(3),
            peer_elsewhere: true,
            device: false,
            mac: [2, 0, 0, 0, 0, 1],
        };
        assert_eq!(read, Some(wanted));
        let device = Link::read(&message(vec![name(), LinkAttribute::ParentDevName("0000:00:03.0".into())]));
        assert!(device.is_some_and(|link| link.device && !link.peer_elsewhere && link.kind == Kind::Other));
        let mut loopback = message(vec![name()]);
        loopback.header.link_layer_type = LinkLayerType::Loopback;
        assert_eq!(Link::read(&loopback).map(|link| link.kind), Some(Kind::Loopback));
    }

    #[test]
    fn a_bridges_news_of_its_ports_is_no_link() {
        let mut port = message(vec![LinkAttribute::IfName("veth1".into())]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(Link::read(&port), None);
        assert_eq!(Link::read(&message(Vec::new())), None, "without a name");
    }
}
