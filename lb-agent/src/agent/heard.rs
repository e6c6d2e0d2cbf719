//! What the agent does about what it hears: of Services, of the node, of backends' health, of the coordinator, of clients.

use std::collections::BTreeSet;

use tokio::{sync::mpsc, task::block_in_place};

use super::{
    Agent, announcing,
    attach::Attach,
    marks::Mark,
    prepare::{self, forwarding},
    report,
    sockets::Sockets,
    source::{self, Source},
    uptime,
};
use crate::{
    dataplane::{self, Dataplane},
    discovery::{Objects, Problem, build, node_ports::NodeInfo},
    health,
    node::{Change, Follower, Update, netfilter::Netfilter},
    scaling::Policy,
};

impl<D: Dataplane + Attach + Sockets> Agent<D> {
    pub(super) fn source_changed(&mut self) {
        match &mut self.source {
            Source::Kube(_) => self.follow_cluster(),
            Source::Files(files) => {
                if files.look() {
                    self.rebuild_from_files();
                }
            }
        }
    }

    /// From what the source and the node say to what the kernel does.
    pub(super) fn rebuild(&mut self) {
        match &mut self.source {
            Source::Files(_) => self.rebuild_from_files(),
            Source::Kube(kube) => {
                kube.store().all_due();
                self.follow_cluster();
            }
        }
    }

    fn rebuild_from_files(&mut self) {
        let Source::Files(files) = &self.source else { return };
        let (objects, faults, complete) = (files.folder.objects(), files.folder.problems(), files.folder.is_complete());
        let holders = report::holders(&self.core.tables);
        let info = NodeInfo::without_cluster(&self.config.node_name, &self.view);
        let setting = prepare::setting(&self.config, &self.view, &info);
        let (model, mut problems) = build::build(&objects, &setting, &holders);
        let (policies, more) = build::policies(&objects);
        problems.extend(more);
        let service = |policy: &Policy| (policy.id.namespace.clone(), policy.service.clone());
        let measured = policies.iter().filter(|policy| policy.reads_requests()).map(service).collect();
        self.core.mark(Mark::Measured, measured);
        let waking = policies.iter().filter(|policy| self.scaler.wakes(policy)).map(service).collect();
        self.core.mark(Mark::Waking, waking);
        self.policies = policies;
        self.note("files", faults.iter().map(Problem::to_string).collect());
        self.note("model", problems.iter().map(Problem::to_string).collect());
        self.note("forwarding", forwarding(&model, &self.config).err().iter().map(ToString::to_string).collect());
        self.monitor.update(&model);
        self.health_ports.listen_at(self.config.nodeport_addresses.listen(self.view.addresses(), &info));
        self.health_ports.set_model(&model);
        self.note_health_ports();
        self.core.set_model(model, complete, uptime());
        self.sync();
        log_notes(&objects);
    }

    /// From the Services that have changed to what the kernel does about them.
    pub(super) fn follow_cluster(&mut self) {
        let Source::Kube(kube) = &mut self.source else { return };
        let heard = kube.heard();
        let changes = kube.changes(&source::local(&self.config, &self.view));
        let complete = kube.is_complete();
        let is_settled = !complete || self.core.is_synced();
        if changes.is_empty() && is_settled {
            return;
        }
        for change in &changes {
            self.monitor.change(&change.id, change.port.as_ref());
            self.health_ports.update(&change.id, change.port.as_ref());
        }
        self.note_health_ports();
        self.core.apply(changes, uptime());
        self.core.set_complete(complete);
        self.core.read_at = heard;
        self.sync();
    }

    /// What is wrong with the cluster, and with the node for what the cluster wants.
    pub(super) fn look_at_cluster(&mut self) {
        let Source::Kube(kube) = &self.source else { return };
        let problems = kube.problems();
        self.sockets.set_excluded(kube.excluded());
        let unknown = NodeInfo::without_cluster(&self.config.node_name, &self.view);
        let info = kube.info().unwrap_or(&unknown);
        self.leaving = info.leaving;
        let addresses = self.config.nodeport_addresses.listen(self.view.addresses(), info);
        if self.health_ports.listen_at(addresses) {
            self.note_health_ports();
        }
        self.note("cluster", problems);
        let forwarding = forwarding(&self.core.model, &self.config);
        self.note("forwarding", forwarding.err().iter().map(ToString::to_string).collect());
    }

    /// Takes in what is heard of the node, and what was heard meanwhile. Hooks come before all else: a pod may be about to speak.
    pub(super) fn node_changed(&mut self, first: Update, more: &mut Follower) {
        let mut next = Some(first);
        while let Some(update) = next {
            let change = self.view.update(update);
            if change.links {
                self.attach_interfaces();
            }
            self.node_concerns(&change);
            next = more.ready();
        }
    }

    /// Looks again at what a change of the node concerns.
    fn node_concerns(&mut self, change: &Change) {
        if change.addresses {
            return self.rebuild();
        }
        if change.is_none() {
            return;
        }
        match &mut self.source {
            Source::Kube(kube) => {
                kube.store().due_where(|ip| change.may_concern(ip));
                self.follow_cluster();
            }
            Source::Files(_) => {
                let mut backends = self.core.model.services.values().flat_map(|port| port.backends.keys());
                if backends.any(|at| change.may_concern(at.ip())) {
                    self.rebuild_from_files();
                }
            }
        }
    }

    /// Rules of others have come or gone: the programs that are attached are exchanged in place, if they have to be.
    pub(super) fn rules_changed(&mut self, netfilter: &Netfilter) {
        let changed = self.set_delivery(netfilter);
        if matches!(changed, Ok(true)) {
            self.interfaces.forget();
            self.attach_interfaces();
        }
        self.note("delivery", changed.err().iter().map(ToString::to_string).collect());
    }

    /// Attaches to what is new, and lets go of what is gone.
    pub(super) fn attach_interfaces(&mut self) {
        let (interfaces, dataplane) = (&mut self.interfaces, &mut self.core.dataplane);
        block_in_place(|| interfaces.update(dataplane, &self.view, self.config.datapath));
        self.next_hops.keep(self.interfaces.gateways(&self.view));
        self.note("interfaces", self.interfaces.problems(&self.view));
    }

    /// Takes in an event and those that have come meanwhile.
    pub(super) fn health_changed(&mut self, first: health::Event, more: &mut mpsc::UnboundedReceiver<health::Event>) {
        let mut next = Some(first);
        while let Some(event) = next {
            // One that was on its way when the check ended is of no use.
            let (id, backend) = event.target.clone();
            if self.monitor.checks(&event.target) && self.core.set_health(event.target, event.healthy, uptime()) {
                let state = if event.healthy { "healthy" } else { "unhealthy" };
                tracing::warn!(service = %id, %backend, reason = event.reason, "backend is {state}");
            }
            next = more.try_recv().ok();
        }
        self.sync();
    }

    /// Brings the announced addresses in line with what the coordinator says.
    pub(super) fn announce(&mut self, news: announcing::News) {
        let Some(announcing) = &mut self.announcing else { return };
        let writes = announcing.step(news, &self.view);
        let result = block_in_place(|| writes.iter().try_for_each(|write| self.core.dataplane.write(write)));
        if result.is_ok() {
            announcing.written();
        }
        let problems = result.err().map(|error| error.to_string()).into_iter().chain(announcing.problem()).collect();
        self.note("coordinator", problems);
    }

    /// Clients ask for Services without a backend: whoever decides hears of it, at once where it is news.
    pub(super) fn asked_in_vain(&mut self, asked: Result<BTreeSet<u32>, dataplane::Error>) {
        let services = match asked {
            Ok(indexes) => self.core.woken(&indexes),
            Err(error) => return self.note("wakes", vec![error.to_string()]),
        };
        match &self.exchange {
            Some(exchange) => exchange.knock(services, uptime()),
            None => {
                if self.scaler.knock(services, uptime()) {
                    self.scale();
                    self.publish();
                }
            }
        }
    }

    pub(super) fn note_health_ports(&mut self) {
        self.note("healthCheckNodePort", self.health_ports.problems().iter().map(Problem::to_string).collect());
    }
}

fn log_notes(objects: &Objects) {
    for note in &objects.notes {
        tracing::debug!("{note}");
    }
}
