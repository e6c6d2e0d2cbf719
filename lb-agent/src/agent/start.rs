//! What the agent does once, before it listens: the programs are loaded and attached, and it finds who else there is.

use tokio::task::block_in_place;

use super::{
    Agent, announcing::Announcing, attach::Attach, delivery, exchange::Exchange, sockets::Sockets, source::Source,
};
use crate::{
    dataplane::{self, Dataplane},
    node::netfilter::Netfilter,
};

impl<D: Dataplane + Attach + Sockets> Agent<D> {
    /// Loads the programs, which the kernel checks for seconds. Meanwhile the maps are brought up to date: what an earlier agent has attached
    /// serves on by them, and a large cluster takes as long to tell what there is.
    pub(super) async fn load(&mut self) -> Result<(), dataplane::Error> {
        let Some(loading) = self.core.dataplane.loading() else { return Ok(()) };
        let mut loading = tokio::task::spawn_blocking(loading);
        if let Source::Kube(kube) = &mut self.source
            && self.core.tables.frontends().is_empty()
        {
            kube.store().begin_early();
        }
        self.rebuild();
        let loaded = loop {
            tokio::select! {
                loaded = &mut loading => break loaded,
                () = self.source.changed() => self.source_changed(),
            }
        };
        let programs = loaded.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        block_in_place(|| self.core.dataplane.set_programs(programs))
    }

    pub(super) fn attach_uplinks(&mut self) -> Result<(), dataplane::Error> {
        let (interfaces, dataplane) = (&mut self.interfaces, &mut self.core.dataplane);
        block_in_place(|| {
            let moved = dataplane.move_flows();
            let attached = moved.and_then(|()| interfaces.start(dataplane, &self.view, self.config.datapath));
            // Also where it failed: what an earlier agent has attached goes on.
            dataplane.thaw().and(attached)
        })?;
        self.next_hops.keep(self.interfaces.gateways(&self.view));
        Ok(())
    }

    /// After the frontends are known: a socket that connects meanwhile would miss them for good.
    pub(super) fn start_sockets(&mut self) -> Result<(), dataplane::Error> {
        let (sockets, dataplane) = (&mut self.sockets, &mut self.core.dataplane);
        block_in_place(|| sockets.start(dataplane, &self.view))?;
        let config = &self.config.sockets;
        tracing::info!(mode = config.mode.name(), cgroup = ?config.cgroup, why = config.why, "socket hooks");
        Ok(())
    }

    /// Chooses how packets reach local backends. Returns whether that is another way than before.
    pub(super) fn set_delivery(&mut self, netfilter: &Netfilter) -> Result<bool, dataplane::Error> {
        let decision = delivery::decide(self.config.delivery, netfilter.found().as_deref());
        block_in_place(|| self.core.dataplane.set_delivery(decision.stack))?;
        if decision != self.delivery {
            tracing::info!(delivery = decision.name(), why = decision.why, "delivery to local backends");
        }
        let before = std::mem::replace(&mut self.delivery, decision);
        Ok(before.stack != self.delivery.stack)
    }

    /// Begins to follow the coordinator, where there is one.
    pub(super) fn follow_coordinator(&mut self) -> Result<(), dataplane::Error> {
        let (Source::Kube(kube), Some(config)) = (&mut self.source, self.config.coordinator.clone()) else {
            return Ok(());
        };
        let (speech, word) = kube.follow_coordinator(config);
        self.exchange = Some(Exchange::new(word.clone(), speech.clone()));
        self.announcing = Some(Announcing::new(self.core.dataplane.announced()?, word, speech));
        Ok(())
    }
}
