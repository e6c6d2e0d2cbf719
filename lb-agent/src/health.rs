//! Active health checks: asks every backend that wants it, and says when enough answers in a row have changed its state.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use http_body_util::Empty;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::model::{HealthCheck, Model, Probe, ServiceId, ServicePort};

/// A backend of a service port.
pub type Target = (ServiceId, SocketAddr);

/// A backend whose state has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub target: Target,
    /// Whether it is healthy now.
    pub healthy: bool,
    /// What the last check met.
    pub reason: String,
}

/// Counts answers: `threshold` contrary ones in a row change the state. The first good answer is believed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judge {
    known: Option<bool>,
    contrary: u32,
}

impl Judge {
    /// A judge of a backend of which nothing is known.
    pub const fn new() -> Self {
        Self { known: None, contrary: 0 }
    }

    /// Takes in one answer. Returns the state if it is new.
    pub fn hear(&mut self, good: bool, threshold: u32) -> Option<bool> {
        self.contrary = if self.known == Some(good) { 0 } else { self.contrary + 1 };
        let first_good = good && self.known.is_none();
        if self.contrary < threshold && !first_good {
            return None;
        }
        *self = Self { known: Some(good), contrary: 0 };
        Some(good)
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

struct Check {
    spec: HealthCheck,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All checks that run.
pub struct Monitor {
    checks: BTreeMap<Target, Check>,
    sender: mpsc::UnboundedSender<Event>,
}

impl Monitor {
    /// A monitor that checks nothing yet, and where its events come out.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, events) = mpsc::unbounded_channel();
        (Self { checks: BTreeMap::new(), sender }, events)
    }

    /// Checks what the model says: starts and stops only what has changed. Needs a tokio runtime.
    pub fn update(&mut self, model: &Model) {
        let wanted = wanted(model);
        self.checks.retain(|target, check| wanted.get(target) == Some(&check.spec));
        for (target, spec) in wanted {
            self.begin(target, &spec);
        }
    }

    /// Checks what is true of one service port now, and no more what was; none: it is gone.
    pub fn change(&mut self, id: &ServiceId, port: Option<&ServicePort>) {
        let first = (id.clone(), SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        let known = self.checks.range(first..).map(|(target, _)| target).take_while(|(of, _)| of == id);
        let spec = port.and_then(|port| port.health_check.as_ref());
        let wanted = |at: &SocketAddr| port.is_some_and(|port| port.backends.contains_key(at));
        let stays = |target: &Target| wanted(&target.1) && Some(&self.checks[target].spec) == spec;
        let over: Vec<Target> = known.filter(|target| !stays(target)).cloned().collect();
        for target in over {
            self.checks.remove(&target);
        }
        let (Some(port), Some(spec)) = (port, spec) else { return };
        for at in port.backends.keys() {
            self.begin((id.clone(), *at), spec);
        }
    }

    fn begin(&mut self, target: Target, spec: &HealthCheck) {
        self.checks.entry(target).or_insert_with_key(|target| {
            let task = tokio::spawn(watch(target.clone(), spec.clone(), self.sender.clone()));
            Check { spec: spec.clone(), task }
        });
    }

    /// Whether a backend is checked.
    pub fn checks(&self, target: &Target) -> bool {
        self.checks.contains_key(target)
    }
}

fn wanted(model: &Model) -> BTreeMap<Target, HealthCheck> {
    let mut wanted = BTreeMap::new();
    for (id, service) in &model.services {
        for backend in service.backends.keys() {
            wanted.extend(service.health_check.clone().map(|check| ((id.clone(), *backend), check)));
        }
    }
    wanted
}

async fn watch(target: Target, check: HealthCheck, events: mpsc::UnboundedSender<Event>) {
    let mut judge = Judge::new();
    let mut clock = interval(check.interval);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let answer = probe(target.1, &check.probe, check.interval).await;
        let Some(healthy) = judge.hear(answer.is_ok(), check.threshold) else { continue };
        let reason = answer.err().unwrap_or_else(|| "it answers".into());
        if events.send(Event { target: target.clone(), healthy, reason }).is_err() {
            return;
        }
    }
}

/// Asks once.
pub async fn probe(backend: SocketAddr, probe: &Probe, limit: Duration) -> Result<(), String> {
    let asked = async {
        let stream = TcpStream::connect(backend).await.map_err(|error| explain(&error))?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http(path) => get(stream, backend, path).await,
        }
    };
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {}", humantime::format_duration(limit))))
}

fn explain(error: &io::Error) -> String {
    format!("cannot connect: {error}")
}

async fn get(stream: TcpStream, backend: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("no HTTP answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get(path)
        .header(header::HOST, backend.to_string())
        .header(header::USER_AGENT, "weir-health-check")
        .header(header::CONNECTION, "close")
        .body(Empty::<&[u8]>::new())
        .map_err(|error| format!("the path {path:?} cannot be asked for: {error}"))?;
    let mut answer = pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    let response = response.map_err(failed)?;
    match response.status().as_u16() {
        200..400 => Ok(()),
        status => Err(format!("HTTP status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::model::{BackendSpec, ServicePort};

    const LIMIT: Duration = Duration::from_millis(500);

    #[test]
    fn a_threshold_of_contrary_answers_in_a_row_changes_the_state() {
        let mut judge = Judge::new();
        let answers = [false, false, true, false, false, false, false, true, true, false, true, true, true];
        let changes: Vec<Option<bool>> = answers.iter().map(|good| judge.hear(*good, 3)).collect();
        let (well, ill) = (Some(true), Some(false));
        let wanted = [None, None, well, None, None, ill, None, None, None, None, None, None, well];
        assert_eq!(changes, wanted);
        assert_eq!(Judge::new().hear(false, 1), Some(false));
    }

    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn probes() {
        let good = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let moved = server("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n").await;
        let bad = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        let other = server("220 mail\r\n").await;
        let http = Probe::Http("/ok".into());
        assert_eq!(probe(good, &Probe::Tcp, LIMIT).await, Ok(()));
        assert_eq!(probe(good, &http, LIMIT).await, Ok(()));
        assert_eq!(probe(moved, &http, LIMIT).await, Ok(()));
        assert_eq!(probe(bad, &http, LIMIT).await, Err("HTTP status 503".into()));
        assert!(probe(other, &http, LIMIT).await.unwrap_err().starts_with("no HTTP answer"));
    }

    #[tokio::test]
    async fn silence_and_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap();
        let error = probe(silent, &Probe::Http("/".into()), Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error, "no answer within 100ms");
        drop(listener);
        assert!(probe(silent, &Probe::Tcp, LIMIT).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn a_monitor_follows_the_model_and_tells_changes() {
        let gone: SocketAddr = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let id = ServiceId { namespace: "a".into(), name: "b".into(), port: 80, protocol: lb_common::Protocol::Tcp };
        let check = HealthCheck { probe: Probe::Tcp, interval: Duration::from_millis(20), threshold: 2 };
        let service = ServicePort {
            health_check: Some(check),
            backends: [(gone, BackendSpec::default())].into(),
            ..ServicePort::default()
        };
        let (mut monitor, mut events) = Monitor::new();
        monitor.update(&Model { services: [(id.clone(), service)].into() });
        let event = timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        assert_eq!((event.target, event.healthy), ((id.clone(), gone), false));
        assert!(event.reason.contains("refused"), "{}", event.reason);
        let listener = TcpListener::bind(gone).await.unwrap();
        let event = timeout(Duration::from_secs(5), events.recv()).await.unwrap().unwrap();
        assert!(event.healthy);
        drop(listener);
        monitor.update(&Model::default());
        assert!(!monitor.checks(&(id, gone)));
    }
}
