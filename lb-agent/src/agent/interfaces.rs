//! Which interfaces are hooked, and which are to be: followed as they come and go.

use std::collections::{BTreeMap, BTreeSet};

use super::attach::Attach;
use crate::{
    dataplane::{self, attach::Datapath},
    node::{NodeView, Role, link::Link, nexthop::Gateway},
    telemetry::InterfaceStatus,
};

/// What is to be done about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hook it as its role asks for.
    Attach(Link, Role),
    /// Let go of it: it is gone, or no longer for us.
    LetGo(u32),
}

/// The interfaces that are hooked, by index.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    attached: BTreeMap<u32, (Role, InterfaceStatus)>,
    /// What could not be hooked, and why.
    failed: BTreeMap<u32, String>,
}

impl Interfaces {
    /// What is to be done, uplinks first.
    pub fn steps(&self, view: &NodeView) -> Vec<Step> {
        let links = &view.state().links;
        let is_done = |index: &u32, role: Role| self.attached.get(index).is_some_and(|(done, _)| *done == role);
        let due = view.roles().iter().filter(|(index, role)| !is_done(index, **role));
        let mut due: Vec<(Role, &Link)> = due.filter_map(|(index, role)| Some((*role, links.get(index)?))).collect();
        due.sort_by_key(|(role, link)| (std::cmp::Reverse(*role), link.index));
        let over = self.attached.keys().filter(|index| !view.roles().contains_key(index));
        let over = over.map(|index| Step::LetGo(*index));
        over.chain(due.into_iter().map(|(role, link)| Step::Attach(link.clone(), role))).collect()
    }

    /// Does what is to be done. What fails is tried again with the next call.
    pub fn update(&mut self, dataplane: &mut impl Attach, view: &NodeView, datapath: Datapath) {
        self.failed.clear();
        for step in self.steps(view) {
            let result = match &step {
                Step::Attach(link, role) => self.attach(dataplane, link, *role, datapath),
                Step::LetGo(index) => self.let_go(dataplane, *index),
            };
            let (Step::Attach(Link { index, .. }, _) | Step::LetGo(index)) = step;
            match result {
                // It is gone, or has another name: the kernel is about to say so.
                Ok(()) | Err(dataplane::Error::NoInterface { .. }) => {}
                Err(error) => drop(self.failed.insert(index, error.to_string())),
            }
        }
        for (index, (_, status)) in &mut self.attached {
            if let Some(link) = view.state().links.get(index) {
                status.interface.clone_from(&link.name);
            }
        }
    }

    /// Hooks the uplinks; fails with the first that cannot be.
    pub fn start(
        &mut self,
        dataplane: &mut impl Attach,
        view: &NodeView,
        datapath: Datapath,
    ) -> Result<(), dataplane::Error> {
        dataplane.let_go_of_others(&view.roles().keys().copied().collect::<BTreeSet<_>>())?;
        for step in self.steps(view) {
            if let Step::Attach(link, Role::Uplink) = step {
                self.attach(dataplane, &link, Role::Uplink, datapath)?;
            }
        }
        self.update(dataplane, view, datapath);
        Ok(())
    }

    fn attach(
        &mut self,
        dataplane: &mut impl Attach,
        link: &Link,
        role: Role,
        datapath: Datapath,
    ) -> Result<(), dataplane::Error> {
        let status = dataplane.attach(link, role, datapath)?;
        tracing::info!(interface = link.name, mode = status.mode, why = status.why, "attached");
        self.attached.insert(link.index, (role, status));
        Ok(())
    }

    fn let_go(&mut self, dataplane: &mut impl Attach, index: u32) -> Result<(), dataplane::Error> {
        dataplane.let_go(index)?;
        if let Some((_, status)) = self.attached.remove(&index) {
            tracing::info!(interface = status.interface, "let go: it is gone, or has become a port of another one");
        }
        Ok(())
    }

    /// Has everything hooked again with the next update.
    pub fn forget(&mut self) {
        self.attached.clear();
    }

    /// Whether something failed.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// What is wrong.
    pub fn problems(&self, view: &NodeView) -> Vec<String> {
        let gone = |name: &String| format!("--interface {name} is gone; it is attached again when it is back");
        let mut problems: Vec<String> = self.failed.values().cloned().collect();
        problems.extend(view.missing().map(gone));
        if !view.roles().values().any(|role| *role == Role::Uplink) && view.missing().next().is_none() {
            problems.push("no interface has a default route or a global address: clients outside reach nobody".into());
        }
        problems
    }

    /// The gateways behind interfaces with XDP, which has to find them resolved.
    pub fn gateways(&self, view: &NodeView) -> BTreeSet<Gateway> {
        let is_xdp = |index: &u32| self.attached.get(index).is_some_and(|(_, status)| status.mode.starts_with("xdp"));
        view.state().routes.gateways().filter(|(index, _)| is_xdp(index)).collect()
    }

    /// How they are hooked.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.attached.values().map(|(_, status)| status.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::{Capacity, fake::Fake},
        node::{
            NodeState, Update,
            state::Event,
            testing::{address, link, pair, route},
        },
    };

    fn fake() -> Fake {
        Fake::new(Capacity { frontends: 1, backends: 1, slots: 1, services: 1, flows: 1 })
    }

    fn node() -> Vec<Event> {
        vec![
            Event::Link(link(2, "eth0")),
            address(2, "192.0.2.1/24"),
            Event::Link(pair(3, "veth1")),
            route("10.1.0.2/32", 3, None),
        ]
    }

    #[test]
    fn interfaces_are_followed_as_they_come_and_go() {
        let (mut fake, mut interfaces) = (fake(), Interfaces::default());
        let mut view = NodeView::new("a", &BTreeSet::new(), NodeState::from_events(node()));
        interfaces.start(&mut fake, &view, Datapath::Auto).unwrap();
        let attached = |fake: &Fake| std::mem::take(&mut fake.state().attached);
        assert_eq!(attached(&fake), [("eth0".into(), Role::Uplink), ("veth1".into(), Role::Inside)]);
        let mut then = |events: Vec<Event>| {
            view.update(Update::Events(events));
            interfaces.update(&mut fake, &view, Datapath::Auto);
            let names: Vec<String> = interfaces.status().into_iter().map(|status| status.interface).collect();
            (attached(&fake), std::mem::take(&mut fake.state().let_go), names.join(" "))
        };
        let new = vec![Event::Link(pair(4, "veth2")), route("10.1.0.3/32", 4, None)];
        assert_eq!(then(new), (vec![("veth2".into(), Role::Inside)], vec![], "eth0 veth1 veth2".into()));
        assert_eq!(then(vec![Event::Link(pair(4, "veth9"))]), (vec![], vec![], "eth0 veth1 veth9".into()), "renamed");
        assert_eq!(then(vec![Event::NoLink(3)]), (vec![], vec![3], "eth0 veth9".into()));
        let back = vec![Event::Link(pair(7, "veth1")), route("10.1.0.2/32", 7, None)];
        assert_eq!(then(back).0, [("veth1".into(), Role::Inside)], "another one of the same name");
        assert!(interfaces.problems(&view).is_empty());
        let gone = NodeView::new("a", &["eth7".to_owned()].into(), NodeState::default());
        assert_eq!(interfaces.problems(&gone), ["--interface eth7 is gone; it is attached again when it is back"]);
    }

    #[test]
    fn what_fails_is_said_and_tried_again() {
        let (mut fake, mut interfaces) = (fake(), Interfaces::default());
        let view = NodeView::new("a", &BTreeSet::new(), NodeState::from_events(node()));
        fake.state().refused = Some("eth0".into());
        assert!(interfaces.start(&mut fake, &view, Datapath::Auto).is_err());
        interfaces.update(&mut fake, &view, Datapath::Auto);
        assert!(interfaces.has_failed() && interfaces.problems(&view)[0].contains("eth0"));
        fake.state().refused = None;
        interfaces.update(&mut fake, &view, Datapath::Auto);
        assert!(!interfaces.has_failed() && interfaces.steps(&view).is_empty());
    }
}
