//! What the agent does each second, and after each change: the kernel is brought in line and read, and everybody is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use tokio::task::block_in_place;

use super::{Agent, attach::Attach, marks::Mark, report, sockets::Sockets, uptime};
use crate::{
    dataplane::{self, Dataplane},
    scaling::Clock,
    signals::servers::{Server, Used},
    telemetry::{DeliveryStatus, NodeStatus, Snapshot},
};

impl<D: Dataplane + Attach + Sockets> Agent<D> {
    pub(super) fn tick(&mut self) {
        if self.interfaces.has_failed() {
            self.attach_interfaces();
        }
        if self.health_ports.retry(false) {
            self.note_health_ports();
        }
        if let Some(exchange) = &self.exchange {
            self.core.ordered_drains = exchange.draining();
            exchange.measured().into_iter().for_each(|services| self.core.mark(Mark::Measured, services));
            exchange.waking().into_iter().for_each(|services| self.core.mark(Mark::Waking, services));
        }
        let result = block_in_place(|| self.core.tick(uptime()));
        self.exchange();
        self.note("sync", result.err().iter().map(ToString::to_string).collect());
        self.note("requests", self.core.unseen_requests().into_iter().collect());
        self.tend_sockets();
        self.begin_grace();
        self.look_at_cluster();
        self.scale();
        self.publish();
    }

    /// Tells the coordinator what backends carry here, and the kernel what they carry through other nodes.
    fn exchange(&mut self) {
        let result = match &mut self.exchange {
            Some(exchange) => {
                exchange.tell(&self.core.tables, &self.core.carried());
                self.core.set_remote(&exchange.elsewhere(&self.core.tables))
            }
            None => self.core.set_remote(&BTreeMap::new()),
        };
        self.note("exchange", result.err().iter().map(ToString::to_string).collect());
    }

    fn tend_sockets(&mut self) {
        let (sockets, core) = (&mut self.sockets, &mut self.core);
        let result = block_in_place(|| {
            let followed = sockets.follow_requests(&mut core.dataplane, !core.requests.is_empty());
            followed.and(sockets.tick(&mut core.dataplane, &self.view, &core.tables))
        });
        if let Ok(ended @ 1..) = result {
            tracing::info!(ended, "ended sockets whose backend is gone");
        }
        self.note("sockets", result.err().iter().map(ToString::to_string).collect());
    }

    pub(super) fn scale(&mut self) {
        let clock = Clock { now: uptime(), wall: SystemTime::now() };
        let wanted = self.policies.iter().map(|policy| (policy.id.namespace.clone(), policy.service.clone())).collect();
        let used = self.used(clock.now);
        let samples = report::samples(&self.core.tables, &self.core.carried(), &wanted, &used, clock.now);
        self.scaler.tick(clock, &samples, &self.policies);
    }

    /// What servers of this node use, of those that a policy asks it of.
    fn used(&mut self, now: Duration) -> Used {
        let policies = self.policies.iter().filter(|policy| policy.reads_usage());
        let wanted: BTreeSet<Server> = policies
            .flat_map(|policy| report::servers(&self.core.tables, &policy.id.namespace, &policy.service))
            .collect();
        if wanted.is_empty() {
            return Used::new();
        }
        let own = self.view.addresses().collect();
        block_in_place(|| self.local_servers.look(&wanted, &own, now))
    }

    pub(super) fn sync(&mut self) {
        let was_synced = self.core.is_synced();
        let result = block_in_place(|| self.core.sync(uptime()));
        if matches!(result, Ok(true)) {
            self.last_sync = Some(SystemTime::now());
        }
        self.note("sync", result.err().iter().map(ToString::to_string).collect());
        self.begin_grace();
        // Somebody may be waiting for it.
        if was_synced != self.core.is_synced() {
            self.publish();
        }
    }

    /// What packets may still be using is freed when every program that runs now has ended.
    pub(super) fn begin_grace(&mut self) {
        if !self.grace.is_running() && self.core.begin_grace() {
            let wait: fn() -> Result<(), dataplane::Error> = D::grace_period;
            self.grace.begin(wait);
        }
    }

    pub(super) fn grace_over(&mut self, result: Result<(), dataplane::Error>) {
        let retired = match result {
            Ok(()) => block_in_place(|| self.core.retire()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if retired.is_ok() {
            // What has come out of use meanwhile.
            self.begin_grace();
        }
        self.note("grace", retired.err().into_iter().collect());
    }

    pub(super) fn publish(&self) {
        let core = &self.core;
        let snapshot = Snapshot {
            taken: Some(std::time::Instant::now()),
            synced: core.is_synced(),
            services: Vec::new(),
            drops: core.drops.clone(),
            flow_entries: core.flow_entries,
            flow_capacity: core.dataplane.capacity().flows.into(),
            maps: report::fill(&core.tables, &core.dataplane.capacity()),
            repairs: core.repairs,
            syncs: core.syncs.clone(),
            programming: core.programming.clone(),
            policies: self.scaler.status(),
            node_leaving: self.leaving,
            node: self.node_status(),
        };
        self.publisher.send_replace(std::sync::Arc::new(snapshot));
    }

    fn node_status(&self) -> NodeStatus {
        let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
        NodeStatus {
            name: self.config.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: Some(time(self.started)),
            last_sync: self.last_sync.map(time),
            sources: vec![self.source.status()],
            problems: self.problems.values().flatten().cloned().collect(),
            datapath: self.interfaces.status(),
            sockets: self.config.sockets.status(),
            delivery: DeliveryStatus { mode: self.delivery.name().into(), why: self.delivery.why.clone() },
        }
    }
}
