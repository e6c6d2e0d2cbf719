//! Events: what is wrong with an object, where its users look.
//!
//! Every agent finds the same faults. An Event is named by what it says, so that the first agent makes it and the others find it there.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::mpsc;

use super::{explain, link::Link};
use crate::discovery::Problem;

/// Pause between two Events: thousands of faults at once must not be a load.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause before one that was not taken is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// The API server's limit of a note, in bytes.
const MAX_NOTE: usize = 1024;

/// Something that is wrong with a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which Service of this name it is.
    pub uid: String,
    /// Which version of it.
    pub version: String,
    /// What is wrong.
    pub problem: Problem,
}

/// Who tells, as Events have it.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// Which program.
    pub controller: &'a str,
    /// Which of its instances.
    pub instance: &'a str,
    /// What it was at.
    pub action: &'a str,
}

/// Makes the Events of what comes until nobody sends any more. `node` is who says it.
pub async fn report(client: Client, node: String, mut complaints: mpsc::UnboundedReceiver<Complaint>, link: Link) {
    while let Some(complaint) = complaints.recv().await {
        let event = event(&complaint, &node, Timestamp::now());
        while let Err(error) = make(&client, &event).await {
            link.failed(explain::api_error(&error, "create", "events"));
            tokio::time::sleep(RETRY).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Makes an Event. It is no error if it is there already (409), or its namespace is gone or about to go (404, 403): nothing is left to say.
pub async fn make(client: &Client, event: &Event) -> Result<(), kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
    match api.create(&PostParams::default(), event).await {
        Err(kube::Error::Api(status))
            if status.code == 409
                || status.code == 404
                || (status.code == 403 && status.message.contains("being terminated")) =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// The Event of a complaint.
pub fn event(complaint: &Complaint, node: &str, now: Timestamp) -> Event {
    let Complaint { namespace, name, uid, version, problem } = complaint;
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        uid: Some(uid.clone()),
        ..ObjectReference::default()
    };
    let by = Reporter { controller: "weir.dev/agent", instance: node, action: "Balancing" };
    about_object(about, version, Word { kind: Kind::Warning, reason: reason(problem), note: &note(problem) }, &by, now)
}

/// What is told of an object.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a> {
    /// How grave it is.
    pub kind: Kind,
    /// Why, in a word.
    pub reason: &'a str,
    /// What.
    pub note: &'a str,
}

/// How grave an Event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// An Event about an object. Two of one `version` that say the same have the same name.
pub fn about_object(
    about: ObjectReference,
    version: &str,
    Word { kind, reason, note }: Word<'_>,
    by: &Reporter<'_>,
    now: Timestamp,
) -> Event {
    let note = shortened(note);
    let mut hasher = DefaultHasher::new();
    (&about.uid, version, reason, &note).hash(&mut hasher);
    let name = about.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            // Those of objects that are in no namespace are here.
            namespace: about.namespace.clone().or_else(|| Some("default".into())),
            name: Some(format!("{name}.{:016x}", hasher.finish())),
            ..ObjectMeta::default()
        },
        type_: Some(format!("{kind:?}")),
        reason: Some(reason.into()),
        action: Some(by.action.into()),
        note: Some(note),
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(by.controller.into()),
        reporting_instance: Some(by.instance.into()),
        regarding: Some(about),
        ..Event::default()
    }
}

fn reason(problem: &Problem) -> &'static str {
    match problem.field.as_str() {
        field if field.starts_with("metadata.annotations.") => "InvalidAnnotation",
        // Only a frontend that another Service has is no single field's fault.
        "spec" => "FrontendConflict",
        _ => "InvalidField",
    }
}

/// What is wrong and what to do; of another object than the Service itself with its name.
fn note(problem: &Problem) -> String {
    let mut text = if problem.object.kind == "Service" { problem.message() } else { problem.to_string() };
    if problem.field.starts_with("metadata.annotations.") {
        text += "; until then the default is in force";
    }
    text
}

/// As much of a note as the API server takes.
fn shortened(note: &str) -> String {
    if note.len() <= MAX_NOTE {
        return note.to_owned();
    }
    let end = (0..=MAX_NOTE - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or_default();
    format!("{}...", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{ObjectRef, Origin};

    fn complaint(kind: &str, field: &str) -> Complaint {
        Complaint {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u".into(),
            version: "7".into(),
            problem: Problem {
                origin: Origin::Api,
                object: ObjectRef::new(kind, "shop", "web-1"),
                field: field.into(),
                value: "fastest".into(),
                cause: "no such algorithm".into(),
                remedy: "use one of random, maglev".into(),
            },
        }
    }

    fn made(complaint: &Complaint) -> (String, String, String) {
        let event = event(complaint, "n1", Timestamp::UNIX_EPOCH);
        (event.metadata.name.unwrap(), event.reason.unwrap(), event.note.unwrap())
    }

    #[test]
    fn an_event_says_field_value_and_what_may_be() {
        let (name, reason, note) = made(&complaint("Service", "metadata.annotations.weir.dev/algorithm"));
        assert!(name.starts_with("web."), "{name}");
        assert_eq!(reason, "InvalidAnnotation");
        assert_eq!(
            note,
            "metadata.annotations.weir.dev/algorithm: \"fastest\": no such algorithm; use one of random, maglev; until then the \
             default is in force"
        );
        assert_eq!(made(&complaint("Service", "spec")).1, "FrontendConflict");
        let (_, reason, note) = made(&complaint("EndpointSlice", "endpoints.0.addresses.0"));
        assert_eq!(reason, "InvalidField");
        assert!(note.starts_with("EndpointSlice shop/web-1: endpoints.0.addresses.0: \"fastest\""), "{note}");
    }

    #[test]
    fn the_same_fault_is_the_same_event_whoever_finds_it() {
        let first = complaint("Service", "spec");
        assert_eq!(event(&first, "n1", Timestamp::UNIX_EPOCH).metadata, event(&first, "n2", Timestamp::now()).metadata);
        for other in [
            Complaint { version: "8".into(), ..first.clone() },
            Complaint { uid: "v".into(), ..first.clone() },
            complaint("Service", "spec.ports"),
        ] {
            assert_ne!(made(&first).0, made(&other).0, "{other:?}");
        }
    }

    #[test]
    fn a_long_note_is_cut() {
        let mut long = complaint("Service", "spec");
        long.problem.value = "ü".repeat(2000);
        let (.., note) = made(&long);
        assert!(note.len() <= MAX_NOTE && note.ends_with("..."), "{}", note.len());
    }
}
