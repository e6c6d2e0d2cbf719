//! The addresses that this node announces: from the coordinator's word, and what is heard of other nodes, to the `announced` map and
//! the neighbours.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use lb_common::{Addr, Announced};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use crate::{
    cluster::{
        agent::{Speech, Word},
        announce::{Announcer, Sockets, Uplink},
    },
    dataplane::Write,
    node::{NodeView, Role},
};

/// Time between two times that the neighbours are told.
const TELL: Duration = Duration::from_secs(1);

/// What there is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The coordinator has spoken, or it is time to tell the neighbours.
    Step,
    /// A node says that it has an address.
    Heard(IpAddr, [u8; 6]),
}

/// The announcing part of an agent.
pub struct Announcing {
    announcer: Announcer,
    /// What is in the map.
    written: BTreeMap<Addr, Announced>,
    sockets: Option<Sockets>,
    word: watch::Receiver<Word>,
    speech: watch::Sender<Speech>,
    clock: Interval,
}

impl Announcing {
    /// Begins with what an earlier agent has left in the map. Without CAP_NET_RAW the kernel answers, and nobody is told.
    pub fn new(
        taken_over: BTreeMap<Addr, Announced>,
        word: watch::Receiver<Word>,
        speech: watch::Sender<Speech>,
    ) -> Self {
        let sockets = Sockets::open().inspect_err(|error| {
            tracing::warn!(%error, "no sockets to announce addresses by: neighbours learn of a new owner when they ask; give CAP_NET_RAW");
        });
        let mut clock = interval(TELL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (written, sockets) = (taken_over.clone(), sockets.ok());
        Self { announcer: Announcer::taken_over(taken_over), written, sockets, word, speech, clock }
    }

    /// Waits until there is something to do.
    pub async fn next(&mut self) -> News {
        let hear = async {
            match &self.sockets {
                Some(sockets) => sockets.hear().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.clock.tick() => News::Step,
            Ok(()) = self.word.changed() => News::Step,
            Ok((address, mac)) = hear => News::Heard(address, mac),
        }
    }

    /// Takes in news, tells the neighbours, and says what has to be written.
    pub fn step(&mut self, news: News, node: &NodeView) -> Vec<Write> {
        let word = self.word.borrow_and_update().clone();
        let fresh = word.is_fresh(Instant::now());
        if let News::Heard(address, mac) = news
            && self.announcer.heard(address, mac, fresh)
        {
            tracing::warn!(%address, "another node announces it, and no coordinator says that it is ours: yielded");
        }
        if fresh {
            self.announcer.trust();
        }
        let uplinks = uplinks(node);
        self.speech.send_if_modified(|speech| {
            let now: Vec<IpNet> = uplinks.iter().flat_map(|uplink| uplink.networks.clone()).collect();
            let new = speech.networks != now;
            speech.networks = now;
            new
        });
        let addresses = word.addresses.unwrap_or_else(|| self.announcer.addresses());
        self.announcer.update(&addresses, &uplinks);
        if news == News::Step {
            self.tell();
        }
        writes(&self.written, &self.announcer.map)
    }

    /// What [`Self::step`] said has been written.
    pub fn written(&mut self) {
        self.written.clone_from(&self.announcer.map);
    }

    /// Why there is no word from a coordinator, if there is none.
    pub fn problem(&self) -> Option<String> {
        let problem = self.word.borrow().problem.clone();
        problem.map(|text| format!("no orders from a coordinator, the last ones stay: {text}"))
    }

    fn tell(&mut self) {
        let Some(sockets) = &self.sockets else { return };
        for news in self.announcer.due() {
            match sockets.tell(&news) {
                Ok(()) => tracing::info!(address = %news.address, interface = news.interface, "announced"),
                Err(error) => tracing::warn!(address = %news.address, %error, "cannot tell the neighbours"),
            }
        }
    }
}

/// News of the announcing part, if there is one.
pub async fn next(announcing: &mut Option<Announcing>) -> News {
    match announcing {
        Some(announcing) => announcing.next().await,
        None => std::future::pending().await,
    }
}

/// The uplinks that have an Ethernet address.
fn uplinks(node: &NodeView) -> Vec<Uplink> {
    let links = node.roles().iter().filter(|(_, role)| **role == Role::Uplink);
    let links = links.filter_map(|(index, _)| node.state().links.get(index)).filter(|link| link.mac != [0; 6]);
    let networks = |index| node.state().addresses.of(index).iter().map(|address| address.network).collect();
    links.map(|link| Uplink { index: link.index, mac: link.mac, networks: networks(link.index) }).collect()
}

fn writes(before: &BTreeMap<Addr, Announced>, after: &BTreeMap<Addr, Announced>) -> Vec<Write> {
    let gone =
        before.keys().filter(|address| !after.contains_key(address)).map(|address| Write::DeleteAnnounced(*address));
    let new = after.iter().filter(|(address, announced)| before.get(address) != Some(announced));
    gone.chain(new.map(|(address, announced)| Write::PutAnnounced(*address, *announced))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::node::{
        NodeState,
        link::Link,
        state::Event,
        testing::{address, link},
    };

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn node() -> NodeView {
        let events = [
            Event::Link(Link { mac: MAC, ..link(2, "eth0") }),
            Event::Link(link(3, "tun0")),
            address(2, "192.0.2.10/24"),
            address(3, "198.51.100.10/24"),
        ];
        NodeView::new("a", &["eth0".to_owned(), "tun0".to_owned()].into(), NodeState::from_events(events))
    }

    #[tokio::test]
    async fn the_word_is_written_and_only_changes_are() {
        let (word, receiver) = watch::channel(Word::default());
        let (speech, reported) = watch::channel(Speech::default());
        let left = IpAddr::from([192, 0, 2, 9]);
        let announced = Announced { interface: 2, mac: MAC, zero: 0 };
        let mut announcing = Announcing::new([(Addr::from(left), announced)].into(), receiver, speech);
        assert_eq!(announcing.step(News::Step, &node()), [], "nobody has said anything: what was left stays");
        assert_eq!(
            reported.borrow().networks,
            ["192.0.2.0/24".parse::<IpNet>().unwrap()],
            "tun0 has no Ethernet address"
        );
        let ours = IpAddr::from([192, 0, 2, 1]);
        let addresses = Some(BTreeSet::from([ours]));
        word.send_replace(Word { addresses, heard: Some(Instant::now()), ..Word::default() });
        let wanted = [Write::DeleteAnnounced(Addr::from(left)), Write::PutAnnounced(Addr::from(ours), announced)];
        assert_eq!(announcing.step(News::Step, &node()), wanted);
        assert_eq!(announcing.step(News::Step, &node()), wanted, "not written yet");
        announcing.written();
        assert_eq!(announcing.step(News::Heard(ours, [9; 6]), &node()), [], "the coordinator has just said it is ours");
        word.send_modify(|word| word.heard = None);
        let yielded = [Write::DeleteAnnounced(Addr::from(ours))];
        assert_eq!(announcing.step(News::Heard(ours, [9; 6]), &node()), yielded);
        announcing.written();
        assert_eq!(announcing.step(News::Step, &node()), []);
        word.send_modify(|word| word.heard = Some(Instant::now()));
        assert_eq!(announcing.step(News::Step, &node()), [Write::PutAnnounced(Addr::from(ours), announced)]);
    }
}
