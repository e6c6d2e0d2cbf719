//! Keeps the gateways of XDP's interfaces resolved: XDP cannot ask who has an address, it finds a neighbour or leaves the packet to tc.
//!
//! The kernel does the asking: a neighbour entry with `NTF_EXT_MANAGED` (Linux 5.16) is resolved and stays so until it is deleted. Ours
//! carry a protocol number of our own, so that the next agent and `weir detach` find them. Backends that are on the link themselves have
//! no entry: the first packet, at tc, has them resolved, and traffic keeps them so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    pin::pin,
    time::Duration,
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle,
    packet_route::{
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState},
        route::RouteProtocol,
    },
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::Error;

/// Our number in `NDA_PROTOCOL`: none of linux/rtnetlink.h and iproute2's rt_protos.
const PROTOCOL: u8 = 119;
/// They are looked at again after so long: with its carrier an interface loses its neighbours.
const SAFETY: Duration = Duration::from_secs(60);
/// No more than so many are kept, however many gateways there are.
const MOST: usize = 1024;

/// A gateway: the index of the interface that leads to it, and its address.
pub type Gateway = (u32, IpAddr);

/// Whose a neighbour entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Ours.
    Weir,
    /// The kernel's, which has learned it.
    Kernel,
    /// Somebody's who has fixed it: it needs no resolving.
    Somebody,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Steps {
    keep: Vec<Gateway>,
    release: Vec<Gateway>,
}

fn steps(present: &BTreeMap<Gateway, Owner>, wanted: &BTreeSet<Gateway>) -> Steps {
    let is_due = |gateway: &&Gateway| matches!(present.get(gateway), None | Some(Owner::Kernel));
    let ours = present.iter().filter(|(_, owner)| **owner == Owner::Weir).map(|(gateway, _)| *gateway);
    Steps {
        keep: wanted.iter().take(MOST).filter(is_due).copied().collect(),
        release: ours.filter(|gateway| !wanted.contains(gateway)).collect(),
    }
}

/// Keeps gateways resolved while it lives. Its entries outlive it, as programs do.
#[derive(Debug)]
pub struct NextHops {
    /// None until it is known.
    wanted: watch::Sender<Option<BTreeSet<Gateway>>>,
    task: JoinHandle<()>,
}

impl NextHops {
    /// Starts with none. Needs a tokio runtime.
    pub fn start() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (wanted, mut heard) = watch::channel(None);
        let task = tokio::spawn(async move {
            // What an earlier agent has kept stays until this one knows what it wants.
            let mut ended = heard.changed().await.is_err();
            while !ended {
                let now = heard.borrow_and_update().clone().unwrap_or_default();
                if let Err(error) = apply(&handle, &now).await {
                    tracing::warn!(%error, "gateways are not kept resolved: XDP leaves packets to tc until they are");
                }
                ended = timeout(SAFETY, heard.changed()).await.is_ok_and(|heard| heard.is_err());
            }
        });
        Ok(Self { wanted, task })
    }

    /// Has these kept, and no others.
    pub fn keep(&self, gateways: BTreeSet<Gateway>) {
        let gateways = Some(gateways);
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, gateways.clone()) != gateways);
    }
}

impl Drop for NextHops {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lets go of all in the thread's network namespace. Needs a tokio runtime.
pub async fn release_all() -> Result<(), Error> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    apply(&handle, &BTreeSet::new()).await
}

async fn apply(handle: &Handle, wanted: &BTreeSet<Gateway>) -> Result<(), Error> {
    let steps = steps(&list(handle).await?, wanted);
    for (interface, address) in steps.keep {
        let mut request = handle.neighbours().add(interface, address).state(NeighbourState::None).replace();
        request.message_mut().attributes.extend([
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        ]);
        let result = request.execute().await;
        gone_is_fine(result).map_err(|source| Error::Netlink { what: "keep a neighbour", source })?;
    }
    for (interface, address) in steps.release {
        let message = handle.neighbours().add(interface, address).message_mut().clone();
        let result = handle.neighbours().del(message).execute().await;
        gone_is_fine(result).map_err(|source| Error::Netlink { what: "delete a neighbour", source })?;
    }
    Ok(())
}

/// The interface, or the neighbour, may be gone meanwhile.
fn gone_is_fine(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(-error.raw_code(), libc::ENODEV | libc::ENOENT | libc::ENETDOWN) =>
        {
            Ok(())
        }
        other => other,
    }
}

async fn list(handle: &Handle) -> Result<BTreeMap<Gateway, Owner>, Error> {
    let mut found = BTreeMap::new();
    let mut neighbours = pin!(handle.neighbours().get().execute());
    let failed = |source| Error::Netlink { what: "list neighbours", source };
    while let Some(message) = neighbours.try_next().await.map_err(failed)? {
        found.extend(read(&message));
    }
    Ok(found)
}

fn read(message: &NeighbourMessage) -> Option<(Gateway, Owner)> {
    let mut address = None;
    let mut owner = match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => Owner::Somebody,
        _ => Owner::Kernel,
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)) => owner = Owner::Weir,
            _ => {}
        }
    }
    Some(((message.header.ifindex, address?), owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(interface: u32, ip: &str) -> Gateway {
        (interface, ip.parse().unwrap())
    }

    #[test]
    fn gateways_are_kept_and_released_and_those_of_others_left_alone() {
        let [new, learned, kept, fixed, over, foreign] =
            [1, 2, 3, 4, 5, 6].map(|last| gateway(2, &format!("192.0.2.{last}")));
        let present = [
            (learned, Owner::Kernel),
            (kept, Owner::Weir),
            (fixed, Owner::Somebody),
            (over, Owner::Weir),
            (foreign, Owner::Kernel),
        ];
        let wanted = [new, learned, kept, fixed].into();
        let steps = steps(&present.into(), &wanted);
        assert_eq!(steps, Steps { keep: vec![new, learned], release: vec![over] });
    }

    #[test]
    fn entries_are_told_apart() {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = NeighbourState::Reachable;
        let address = NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into()));
        message.attributes = vec![address];
        let at = gateway(2, "192.0.2.1");
        assert_eq!(read(&message), Some((at, Owner::Kernel)));
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        assert_eq!(read(&message), Some((at, Owner::Weir)));
        message.attributes.pop();
        message.header.state = NeighbourState::Permanent;
        assert_eq!(read(&message), Some((at, Owner::Somebody)));
        message.attributes.clear();
        assert_eq!(read(&message), None, "an entry of a bridge");
    }
}
