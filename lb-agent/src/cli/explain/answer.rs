//! A decision with names for indexes, as text and as JSON.

use std::fmt::Write;

use lb_common::{Algorithm, Backend, Frontend, Selection, service::FRONTEND_FORWARDS};
use serde::Serialize;

use super::{
    Via,
    decide::{Decision, Question},
    odds,
};
use crate::cli::{
    Error, labels,
    output::{self, Cell, Format, Table},
    view::{self, View},
};

/// What `weir explain` says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: &'static str,
    kind: &'static str,
    frontend: String,
    namespace: String,
    service: String,
    client: String,
    via: &'static str,
    /// Whether the client is a process or pod of this node.
    inside: bool,
    algorithm: &'static str,
    rule: &'static str,
    reason: String,
    /// Null where chance, or a port that was not given, decides.
    backend: Option<String>,
    /// What happens to the packet; null without a backend.
    path: Option<String>,
    /// Where packets meet our programs; empty: nowhere.
    hooks: Vec<String>,
    candidates: Vec<Candidate>,
}

/// A backend that the selection table leads to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    backend: String,
    state: &'static str,
    effective_weight: u16,
    /// For a client of whom nothing is known, at the present loads.
    probability: f64,
    active_connections: u64,
    pending_connections: u64,
    remote_connections: u64,
    /// What least-connections compares.
    load_per_weight: f64,
}

impl Answer {
    /// The answer to a question.
    pub fn new(question: &Question, view: &View, frontend: &Frontend, decision: &Decision, hooks: Vec<String>) -> Self {
        let label = labels::service(&view.tables, frontend.service);
        let backend = decision.backend.and_then(|index| view.tables.backends.get(&index));
        Self {
            api_version: output::API_VERSION,
            kind: "Explanation",
            frontend: question.frontend.to_string(),
            namespace: label.namespace,
            service: label.name,
            client: question.client.to_string(),
            via: if question.via == Via::Socket { "socket" } else { "packet" },
            inside: question.inside,
            algorithm: Algorithm::from_number(frontend.algorithm).map_or("?", Algorithm::name),
            rule: decision.rule.name(),
            reason: decision.reason.clone(),
            backend: backend.map(|backend| backend.key().to_string()),
            path: backend.map(|backend| path(question, frontend, backend, decision.source_port)),
            hooks,
            candidates: candidates(view, frontend, question.table(frontend)),
        }
    }

    /// The answer in this form.
    pub fn show(&self, format: Format, colour: bool) -> Result<String, Error> {
        match format {
            Format::Json => output::json(self),
            Format::Table => Ok(self.text(colour)),
        }
    }

    fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        let service = format!("{}/{} ({})", self.namespace, self.service, self.algorithm);
        let backend = self.backend.as_deref().unwrap_or("not certain: see the probabilities");
        let hooks = match self.hooks.join(", ") {
            none if none.is_empty() => "nowhere: no program is attached".to_owned(),
            places => places,
        };
        for (name, value) in [
            ("Frontend", self.frontend.as_str()),
            ("Service", &service),
            ("Client", &format!("{} ({})", self.client, if self.inside { "inside" } else { "outside" })),
            ("Backend", if self.candidates.is_empty() && self.backend.is_none() { "none" } else { backend }),
            ("Rule", self.rule),
            ("Why", &self.reason),
            ("Path", self.path.as_deref().unwrap_or("-")),
            ("Met at", &hooks),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<11}{value}", format!("{name}:"));
        }
        if !self.candidates.is_empty() {
            text.push('\n');
            text.push_str(&self.table().render(colour));
        }
        text
    }

    fn table(&self) -> Table {
        let mut table =
            Table::new(&["BACKEND", "PROBABILITY", "STATE", "EFFECTIVE", "ACTIVE", "PENDING", "REMOTE", "LOAD/WEIGHT"]);
        table.rows = self.candidates.iter().map(Candidate::row).collect();
        table
    }
}

impl Candidate {
    fn row(&self) -> Vec<Cell> {
        vec![
            self.backend.as_str().into(),
            format!("{:.2}%", self.probability * 100.0).into(),
            self.state.into(),
            u64::from(self.effective_weight).into(),
            self.active_connections.into(),
            self.pending_connections.into(),
            self.remote_connections.into(),
            format!("{:.4}", self.load_per_weight).into(),
        ]
    }
}

fn candidates(view: &View, frontend: &Frontend, table: Selection) -> Vec<Candidate> {
    let odds = odds::of(view, frontend, table);
    let mut named: Vec<_> = odds
        .into_iter()
        .filter_map(|(index, chance)| Some((index, view.tables.backends.get(&index)?, chance)))
        .collect();
    named.sort_by_key(|(index, backend, _)| (backend.key().socket(), *index));
    named.into_iter().map(|(index, backend, chance)| candidate(view, index, backend, chance)).collect()
}

fn candidate(view: &View, index: u32, backend: &Backend, probability: f64) -> Candidate {
    let load = view.counters(index).load;
    let (load_now, weight) = odds::score(view, index);
    Candidate {
        backend: backend.key().to_string(),
        state: view::state(backend).name(),
        effective_weight: backend.effective_weight,
        probability,
        active_connections: load.open(),
        pending_connections: load.pending,
        remote_connections: load.remote,
        load_per_weight: load_now as f64 / weight as f64,
    }
}

/// How packets reach a backend and come back.
fn path(question: &Question, frontend: &Frontend, backend: &Backend, source_port: Option<u16>) -> String {
    if question.via == Via::Socket {
        return "the socket is connected to the backend itself".into();
    }
    let itself = question.client.addr == backend.addr;
    match source_port {
        Some(port) => format!("full NAT: the backend sees {}", std::net::SocketAddr::new(backend.source.ip(), port)),
        None if itself => {
            format!("full NAT: the client is the backend and sees {} and a port of ours", backend.source.ip())
        }
        None if backend.is_local() => {
            "destination NAT: the backend is on this node and sees the client's address".into()
        }
        None if question.inside => {
            "destination NAT: the client is on this node, and the backend sees its address".into()
        }
        None if frontend.flags & FRONTEND_FORWARDS != 0 => {
            "direct server return: the backend's node gets the packet in a datagram and answers; the backend sees the client's address".into()
        }
        None => format!("full NAT: the backend is elsewhere and sees {} and a port of ours", backend.source.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        explain::decide::{self, Knowledge},
        parse,
        view::sample,
    };

    fn answer(client: &str, view: &View) -> Answer {
        let (frontend, client) = (sample::key("10.0.0.1:80"), parse::client(client).unwrap());
        let question = Question { frontend, client, via: Via::Packet, inside: false };
        let frontend = decide::frontend(&question, view).unwrap();
        let decision = decide::decide(&question, view, &frontend, &Knowledge::default());
        Answer::new(&question, view, &frontend, &decision, vec!["tcx-ingress of eth1".into()])
    }

    #[test]
    fn the_text_says_who_why_and_how() {
        let mut view = sample::view();
        view.tables.frontends.get_mut(&sample::key("10.0.0.1:80")).unwrap().algorithm = Algorithm::IpHash as u8;
        view.tables.slots.insert(0, vec![1; 5]);
        let text = answer("192.0.2.7", &view).show(Format::Table, false).unwrap();
        let slot = lb_common::hash::by_client(&sample::key("192.0.2.7:1").addr, 5);
        let expected = format!(
            "\
Frontend:  10.0.0.1:80/TCP
Service:   default/web (ip-hash)
Client:    192.0.2.7 (outside)
Backend:   10.1.0.2:8080/TCP
Rule:      algorithm
Why:       ip-hash: the client's address leads to slot {slot} of 5
Path:      full NAT: the backend is elsewhere and sees 10.9.0.1 and a port of ours
Met at:    tcx-ingress of eth1

BACKEND             PROBABILITY   STATE   EFFECTIVE   ACTIVE   PENDING   REMOTE   LOAD/WEIGHT
10.1.0.2:8080/TCP   100.00%       ready   50          2        0         2        0.1000
"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn who_is_answered_directly_is_told_so() {
        let mut view = sample::view();
        let frontend = view.tables.frontends.get_mut(&sample::key("10.0.0.1:80")).unwrap();
        (frontend.algorithm, frontend.flags) = (Algorithm::IpHash as u8, FRONTEND_FORWARDS);
        view.tables.slots.insert(0, vec![1; 5]);
        let text = answer("192.0.2.7", &view).show(Format::Table, false).unwrap();
        assert!(text.contains("Path:      direct server return"), "{text}");
    }

    #[test]
    fn without_certainty_json_has_probabilities() {
        let text = answer("192.0.2.7", &sample::view()).show(Format::Json, false).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["backend"], serde_json::Value::Null);
        assert_eq!(value["candidates"][0]["backend"], "10.1.0.1:8080/TCP");
        assert!((value["candidates"][0]["probability"].as_f64().unwrap() - 0.6).abs() < 1e-9);
        assert!((value["candidates"][1]["loadPerWeight"].as_f64().unwrap() - 0.1).abs() < 1e-9);
    }
}
