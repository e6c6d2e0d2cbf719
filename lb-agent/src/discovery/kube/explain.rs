//! What is wrong with a watch, in words, and what it means for the next attempt.

use std::fmt;

use kube::{core::Status, runtime::watcher};

/// What is wrong: a cause, and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble.
    pub kind: Kind,
    text: String,
}

/// What a failure means for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// We lack a verb.
    Denied,
    /// What we have seen is too old, or newer than what the server has: only a new list helps.
    Gone,
    /// The server cannot send a list as a watch.
    NoStreaming,
    /// Anything else: the same again.
    Other,
}

impl Trouble {
    /// One of no special kind.
    pub fn other(text: impl Into<String>) -> Self {
        Self { kind: Kind::Other, text: text.into() }
    }
}

/// `CAUSE; REMEDY`.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What is wrong with the watch of a resource.
pub fn watch_error(error: &watcher::Error, resource: &str) -> Trouble {
    match error {
        watcher::Error::InitialListFailed(error) => api_error(error, "list", resource),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            api_error(error, "watch", resource)
        }
        watcher::Error::WatchError(status) => status_error(status, "watch", resource),
        watcher::Error::NoResourceVersion => Trouble::other(format!(
            "watch {resource}: the API server sends objects without resourceVersion; look at its log"
        )),
    }
}

/// What is wrong with a request.
pub fn api_error(error: &kube::Error, verb: &str, resource: &str) -> Trouble {
    match error {
        kube::Error::Api(status) => status_error(status, verb, resource),
        kube::Error::SerdeError(error) => Trouble::other(format!(
            "{verb} {resource}: the API server's answer cannot be read: {error}; what was known stays in force"
        )),
        other => Trouble::other(format!(
            "{verb} {resource}: the API server cannot be reached: {}; what is known stays in force until it is back",
            innermost(other)
        )),
    }
}

fn status_error(status: &Status, verb: &str, resource: &str) -> Trouble {
    let Status { code, message, .. } = status;
    let said = if message.is_empty() { &status.reason } else { message };
    let (kind, text) = match code {
        401 => {
            (Kind::Other, format!("the API server does not know who we are: {said}; check the token or the kubeconfig"))
        }
        403 => (
            Kind::Denied,
            format!("may not {verb} {resource}: {said}; give its ClusterRole the verb {verb} on {resource}"),
        ),
        410 => (Kind::Gone, format!("{verb} {resource}: {said}; everything is listed again")),
        504 if is_from_the_future(status) => {
            (Kind::Gone, format!("{verb} {resource}: {said}; everything is listed again"))
        }
        400 | 422 if said.contains("sendInitialEvents") || said.contains("resourceVersionMatch") => (
            Kind::NoStreaming,
            format!("{verb} {resource}: the API server streams no lists; they are read page by page"),
        ),
        _ => (Kind::Other, format!("{verb} {resource}: the API server answers {code}: {said}; it is asked again")),
    };
    Trouble { kind, text }
}

/// The server has been set back, as when its store was restored.
fn is_from_the_future(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.message.contains("Too large resource version")
        || causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// The cause of the causes: the others only say in which layer it was met.
fn innermost(error: &kube::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> watcher::Error {
        watcher::Error::WatchStartFailed(kube::Error::Api(Status::failure(message, "").with_code(code).boxed()))
    }

    #[test]
    fn what_is_wrong_and_what_to_do() {
        let cases = [
            (status(403, "services is forbidden"), Kind::Denied, "the verb watch on services"),
            (status(401, "Unauthorized"), Kind::Other, "check the token or the kubeconfig"),
            (status(410, "too old resource version"), Kind::Gone, "listed again"),
            (status(504, "Timeout: Too large resource version: 9, current: 7"), Kind::Gone, "listed again"),
            (status(504, "Timeout"), Kind::Other, "answers 504: Timeout; it is asked again"),
            (status(422, "sendInitialEvents is forbidden for watch"), Kind::NoStreaming, "page by page"),
            (status(500, "etcd"), Kind::Other, "answers 500: etcd"),
            (watcher::Error::NoResourceVersion, Kind::Other, "without resourceVersion"),
        ];
        for (error, kind, words) in cases {
            let trouble = watch_error(&error, "services");
            assert!(trouble.kind == kind && trouble.to_string().contains(words), "{error}: {trouble:?}");
            assert_eq!(trouble.to_string().matches("; ").count(), 1, "one cause, one remedy: {trouble}");
        }
        let list =
            watcher::Error::InitialListFailed(kube::Error::Api(Status::failure("no", "").with_code(403).boxed()));
        assert!(watch_error(&list, "pods").to_string().starts_with("may not list pods: no; "));
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = watcher::Error::WatchFailed(kube::Error::ReadEvents(refused));
        let text = watch_error(&error, "services").to_string();
        assert!(text.contains("cannot be reached: connection refused; what is known stays in force"), "{text}");
    }
}
