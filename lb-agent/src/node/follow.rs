//! Hears of every change of the node's links, addresses and routes, and sends it on in the order in which it came.
//!
//! It subscribes first and lists then, so nothing falls between. What it may have missed it lists again: when the kernel had to drop
//! events (ENOBUFS), when an event goes with changes that the kernel does not tell of (with an interface or an address IPv4 routes
//! vanish without a word), and once a minute in any case.

use std::{pin::pin, time::Duration};

use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage},
    sys::{AsyncSocket, SocketAddr},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{Error, address::Address, link::Link, route::Placed, state::Event};

/// The kernel keeps so many bytes of events until they are read.
const BUFFER: libc::c_int = 4 << 20;
/// Everything is listed again after so long.
const SAFETY: Duration = Duration::from_secs(60);
/// Lists are at least so far apart, however much happens.
const PAUSE: Duration = Duration::from_millis(200);
/// After a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is heard of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// These things happened.
    Events(Vec<Event>),
    /// This is all there is.
    Whole(Vec<Event>),
}

type Message = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);
type Messages = UnboundedReceiver<Message>;

/// What is heard of the node of the network namespace that this was made in; it ends with this.
#[derive(Debug)]
pub struct Follower {
    updates: mpsc::UnboundedReceiver<Update>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Subscribes, and lists what there is. Needs a tokio runtime.
    pub async fn start() -> Result<(Self, Vec<Event>), Error> {
        let socket = Socket::open()?;
        let events = socket.list().await?;
        let (sender, updates) = mpsc::unbounded_channel();
        let task = tokio::spawn(Listener::new(socket, sender).run());
        Ok((Self { updates, task }, events))
    }

    /// Waits for the next update. Loses nothing when it is dropped before it has ended.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // The task ends only with this.
            None => std::future::pending().await,
        }
    }

    /// An update that has come already.
    pub fn ready(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task that listens.
struct Listener {
    /// None: it has to be opened again.
    socket: Option<Socket>,
    updates: mpsc::UnboundedSender<Update>,
    last_list: Instant,
    next_list: Instant,
}

impl Listener {
    fn new(socket: Socket, updates: mpsc::UnboundedSender<Update>) -> Self {
        let now = Instant::now();
        Self { socket: Some(socket), updates, last_list: now, next_list: now + SAFETY }
    }

    async fn run(mut self) {
        loop {
            let next_list = self.next_list;
            let message = async {
                match &mut self.socket {
                    Some(socket) => socket.messages.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = message => self.hear(message),
                () = sleep_until(next_list) => self.list_again().await,
            }
        }
    }

    /// Takes in a message and those that have come meanwhile.
    fn hear(&mut self, first: Option<Message>) {
        let (mut events, mut doubtful) = (Vec::new(), false);
        let mut next = first;
        if next.is_none() {
            tracing::warn!("netlink has ended; it is opened again");
            self.socket = None;
            self.list_soon(RETRY);
        }
        while let Some((message, _)) = next {
            doubtful |= read(message, &mut events);
            next = self.socket.as_mut().and_then(|socket| socket.messages.try_recv().ok());
        }
        if doubtful {
            self.list_soon(Duration::ZERO);
        }
        if !events.is_empty() {
            self.send(Update::Events(events));
        }
    }

    fn send(&self, update: Update) {
        // Fails only when nobody listens any more, and then this task is about to end.
        _ = self.updates.send(update);
    }

    fn list_soon(&mut self, wait: Duration) {
        self.next_list = sooner(self.next_list, self.last_list, Instant::now() + wait);
    }

    async fn list_again(&mut self) {
        let listed = timeout(SAFETY, self.try_list()).await;
        self.last_list = Instant::now();
        self.next_list = self.last_list + SAFETY;
        match listed {
            Ok(Ok(events)) => self.send(Update::Whole(events)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the node's interfaces, addresses and routes cannot be listed; it is tried again");
                self.list_soon(RETRY);
            }
            Err(_) => tracing::warn!("the kernel does not list the node's interfaces, addresses and routes"),
        }
    }

    async fn try_list(&mut self) -> Result<Vec<Event>, Error> {
        if self.socket.is_none() {
            self.socket = Some(Socket::open()?);
        }
        match &self.socket {
            Some(socket) => socket.list().await,
            None => Ok(Vec::new()),
        }
    }
}

/// When to list, if it was to be done at `due` and is now wanted at `wanted`.
fn sooner(due: Instant, last: Instant, wanted: Instant) -> Instant {
    due.min(wanted.max(last + PAUSE))
}

/// A connection for requests, and one that hears everything.
#[derive(Debug)]
struct Socket {
    handle: Handle,
    messages: Messages,
}

impl Socket {
    fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(BUFFER)?;
        tokio::spawn(connection);
        Ok(Self { handle, messages })
    }

    /// All links, addresses and routes.
    async fn list(&self) -> Result<Vec<Event>, Error> {
        let failed = |what| move |source| Error::Netlink { what, source };
        let mut events = Vec::new();
        let mut links = pin!(self.handle.link().get().execute());
        while let Some(message) = links.try_next().await.map_err(failed("list interfaces"))? {
            events.extend(Link::read(&message).map(Event::Link));
        }
        let mut addresses = pin!(self.handle.address().get().execute());
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            events.extend(Address::read(&message).map(Event::Address));
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let mut routes = pin!(self.handle.route().get(all).execute());
            while let Some(message) = routes.try_next().await.map_err(failed("list routes"))? {
                let route = |placed| Event::Route { placed, replace: false };
                events.extend(Placed::read(&message).map(route));
            }
        }
        Ok(events)
    }
}

/// Reads a message into events. Returns whether more may have changed than it says.
fn read(message: NetlinkMessage<RouteNetlinkMessage>, events: &mut Vec<Event>) -> bool {
    use RouteNetlinkMessage as M;
    let replace = message.header.flags & NLM_F_REPLACE != 0;
    let inner = match message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return true,
        _ => return false,
    };
    match inner {
        M::NewLink(message) => {
            let link = Link::read(&message);
            let doubtful = link.as_ref().is_some_and(|link| !link.up);
            events.extend(link.map(Event::Link));
            doubtful
        }
        M::DelLink(message) => {
            let link = Link::read(&message);
            events.extend(link.as_ref().map(|link| Event::NoLink(link.index)));
            link.is_some()
        }
        M::NewAddress(message) => {
            events.extend(Address::read(&message).map(Event::Address));
            false
        }
        M::DelAddress(message) => {
            events.extend(Address::read(&message).map(Event::NoAddress));
            true
        }
        M::NewRoute(message) => route(Placed::read(&message), events, |placed| Event::Route { placed, replace }),
        M::DelRoute(message) => route(Placed::read(&message), events, Event::NoRoute),
        _ => false,
    }
}

/// IPv6 tells of a way that joins others or leaves them either alone or with all of them.
fn route(placed: Option<Placed>, events: &mut Vec<Event>, event: impl FnOnce(Placed) -> Event) -> bool {
    let Some(placed) = placed else { return false };
    let doubtful = placed.prefix.addr().is_ipv6() && placed.route.hops.iter().any(|hop| hop.gateway.is_some());
    events.push(event(placed));
    doubtful
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

    use super::*;
    use crate::node::{NodeState, NodeView, testing};

    fn link_message(up: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes = vec![LinkAttribute::IfName("eth0".into())];
        message
    }

    fn heard(inner: RouteNetlinkMessage) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        let doubtful = read(NetlinkMessage::from(inner), &mut events);
        (events, doubtful)
    }

    #[test]
    fn what_goes_with_silent_changes_is_doubtful() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        assert_eq!(heard(NewLink(link_message(true))), (vec![Event::Link(testing::link(2, "eth0"))], false));
        assert!(heard(NewLink(link_message(false))).1, "switched off");
        assert_eq!(heard(DelLink(link_message(true))), (vec![Event::NoLink(2)], true));
        let mut port = link_message(true);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(heard(DelLink(port)), (vec![], false), "it left its bridge and is still there");
        let overrun = NetlinkMessage::new(Default::default(), NetlinkPayload::Overrun(Vec::new()));
        assert!(read(overrun, &mut Vec::new()));
    }

    #[test]
    fn lists_are_not_closer_than_the_pause() {
        let last = Instant::now();
        let at = |seconds| last + Duration::from_secs(seconds);
        assert_eq!(sooner(at(60), last, last), last + PAUSE);
        assert_eq!(sooner(at(60), last, at(10)), at(10));
        assert_eq!(sooner(last + PAUSE, last, at(1)), last + PAUSE, "what is due sooner stays due");
    }

    #[tokio::test]
    async fn the_loopback_is_found() {
        let (_follower, events) = Follower::start().await.unwrap();
        let view = NodeView::new("a", &["lo".to_owned()].into(), NodeState::from_events(events));
        assert!(view.check_uplinks().is_ok());
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(view.addresses().any(|ip| ip == loopback));
        let way = view.state().way("127.0.0.2".parse().unwrap()).unwrap();
        assert_eq!((way.source, way.own), (Some(loopback), true));
    }
}
