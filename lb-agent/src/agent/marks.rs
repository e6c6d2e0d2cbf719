//! What policies want of their Services in the kernel: that requests are measured, that who asks in vain wakes them.

use std::collections::BTreeSet;

use lb_common::service::FRONTEND_WAKES;

use super::core::Core;
use crate::{dataplane::Dataplane, model::ServiceId};

/// Services by namespace and name.
pub type Services = BTreeSet<(String, String)>;

/// What a policy may want of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its requests are measured.
    Measured,
    /// Who asks for it while it has no backend is not refused, and told of.
    Waking,
}

/// What is wanted of a service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// [`Mark::Measured`].
    pub measured: bool,
    /// [`Mark::Waking`].
    pub wakes: bool,
}

/// The Services that have each mark; none while nobody has said: then it stays as it is.
#[derive(Debug, Default)]
pub(super) struct Marks([Option<Services>; 2]);

impl<D: Dataplane> Core<D> {
    /// Says which Services have a mark; it is in force after the next sync.
    pub fn mark(&mut self, mark: Mark, services: Services) {
        if self.marks.0[mark as usize].as_ref() == Some(&services) {
            return;
        }
        let before: Vec<bool> = self.model.services.keys().map(|id| self.has_mark(mark, id)).collect();
        self.marks.0[mark as usize] = Some(services);
        let all = self.model.services.keys().zip(before);
        let changed: Vec<_> =
            all.filter(|(id, before)| self.has_mark(mark, id) != *before).map(|(id, _)| id.clone()).collect();
        self.pending.extend(changed);
    }

    /// The Services of these indexes that are woken.
    pub fn woken(&self, indexes: &BTreeSet<u32>) -> Services {
        let ids = indexes.iter().filter_map(|index| self.tables.service(*index));
        ids.filter(|id| self.has_mark(Mark::Waking, id)).map(|id| (id.namespace, id.name)).collect()
    }

    /// What is wanted of a service port.
    pub(super) fn wanted(&self, id: &ServiceId) -> Wanted {
        Wanted { measured: self.has_mark(Mark::Measured, id), wakes: self.has_mark(Mark::Waking, id) }
    }

    fn has_mark(&self, mark: Mark, id: &ServiceId) -> bool {
        match &self.marks.0[mark as usize] {
            Some(services) if services.is_empty() => false,
            Some(services) => services.contains(&(id.namespace.clone(), id.name.clone())),
            None => self.tables.services().get(id).is_some_and(|index| self.had_mark(mark, *index)),
        }
    }

    fn had_mark(&self, mark: Mark, service: u32) -> bool {
        let wakes = |key| self.tables.frontends().get(&key).is_some_and(|front| front.flags & FRONTEND_WAKES != 0);
        match mark {
            Mark::Measured => self.tables.backends_of(service).any(|(_, backend)| backend.response_idle != 0),
            Mark::Waking => self.tables.frontends_of(service).any(wakes),
        }
    }
}
