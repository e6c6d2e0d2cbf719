//! What is wrong with Services and AddressPools, told in Events where their users look: each thing once by each leader.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{ObjectReference, Service},
    jiff::Timestamp,
};
use kube::{Client, Resource, ResourceExt};

use super::{allocate::ServiceKey, pool::AddressPool};
use crate::discovery::kube::{
    events::{self, Kind, Reporter, Word},
    explain,
};

/// Reason and note of each Event.
pub type Notes = BTreeSet<(String, String)>;

/// What is wrong with which object.
pub type Complaints = BTreeMap<Subject, Notes>;

/// An object as Events name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    uid: String,
}

impl Subject {
    /// A Service.
    pub fn service((namespace, name): &ServiceKey, uid: &str) -> Self {
        Self {
            api_version: Service::api_version(&()).into_owned(),
            kind: Service::kind(&()).into_owned(),
            namespace: Some(namespace.clone()),
            name: name.clone(),
            uid: uid.to_owned(),
        }
    }

    /// A pool.
    pub fn pool(pool: &AddressPool) -> Self {
        Self {
            api_version: AddressPool::api_version(&()).into_owned(),
            kind: AddressPool::kind(&()).into_owned(),
            namespace: None,
            name: pool.name_any(),
            uid: pool.uid().unwrap_or_default(),
        }
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.api_version.clone()),
            kind: Some(self.kind.clone()),
            namespace: self.namespace.clone(),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// Makes Events, and remembers of which.
pub struct Teller {
    client: Client,
    name: String,
    told: Complaints,
}

impl Teller {
    /// One whose Events come from the coordinator of this name.
    pub const fn new(client: Client, name: String) -> Self {
        Self { client, name, told: BTreeMap::new() }
    }

    /// Tells what was not told yet, and returns how much could not be. What is right again is told anew when it goes wrong once more.
    pub async fn tell(&mut self, complaints: &Complaints) -> usize {
        let mut failures = 0;
        self.told.retain(|subject, _| complaints.contains_key(subject));
        for (subject, notes) in &mut self.told {
            notes.retain(|note| complaints[subject].contains(note));
        }
        let by = Reporter { controller: "weir.dev/coordinator", instance: &self.name, action: "AllocateAddress" };
        for (subject, notes) in complaints {
            let told = self.told.entry(subject.clone()).or_default();
            for (reason, text) in notes {
                if told.contains(&(reason.clone(), text.clone())) {
                    continue;
                }
                let now = Timestamp::now();
                let version = now.as_nanosecond().to_string();
                let word = Word { kind: Kind::Warning, reason, note: text };
                let event = events::about_object(subject.reference(), &version, word, &by, now);
                match events::make(&self.client, &event).await {
                    Ok(()) => drop(told.insert((reason.clone(), text.clone()))),
                    Err(error) => {
                        tracing::warn!("{}", explain::api_error(&error, "create", "events"));
                        failures += 1;
                    }
                }
            }
        }
        failures
    }
}
