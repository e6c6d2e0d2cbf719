//! The servers of `healthCheckNodePort`: they tell load balancers in front of the cluster whether this node has backends of a Service with
//! `externalTrafficPolicy: Local`. They answer as kube-proxy does, so that what was made for it goes on working.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use lb_common::Protocol;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{http::is_healthy, snapshot::Subscriber};
use crate::{
    discovery::{ObjectRef, Problem, owners::ServiceName},
    model::{Model, ServiceId, ServicePort},
};

/// What weighted load balancers go by.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The servers, which follow the Services.
pub struct HealthCheckNodePorts {
    agent: Subscriber,
    addresses: BTreeSet<IpAddr>,
    services: BTreeMap<ServiceName, Service>,
}

/// A Service that has such a port.
struct Service {
    ports: BTreeMap<(u16, Protocol), Health>,
    answer: Arc<Answer>,
    servers: BTreeMap<SocketAddr, Server>,
    failed: BTreeMap<SocketAddr, String>,
}

/// What one port of a Service says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Health {
    number: u16,
    local: BTreeSet<IpAddr>,
}

struct Answer {
    name: ServiceName,
    /// The local backends of IPv4 and of IPv6. Who asks by a family is told of that one, as kube-proxy's two proxies do.
    local: [AtomicUsize; 2],
    agent: Subscriber,
}

const fn family(ip: IpAddr) -> usize {
    ip.is_ipv6() as usize
}

/// A listening port; it is closed with this.
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthCheckNodePorts {
    /// No servers yet; `agent` says whether the agent is well. Needs a tokio runtime, as everything here does.
    pub const fn new(agent: Subscriber) -> Self {
        Self { agent, addresses: BTreeSet::new(), services: BTreeMap::new() }
    }

    /// Takes in where the servers are to listen. Returns whether that is other than before.
    pub fn listen_at(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        let changed = addresses != self.addresses;
        if changed {
            self.addresses = addresses;
            self.retry(true);
        }
        changed
    }

    /// Takes in a service port as it is now, or that it is gone.
    pub fn update(&mut self, id: &ServiceId, port: Option<&ServicePort>) {
        let name = (id.namespace.clone(), id.name.clone());
        let health = port.and_then(health);
        if health.is_none() && !self.services.contains_key(&name) {
            return;
        }
        let agent = &self.agent;
        let service = self.services.entry(name.clone()).or_insert_with(|| Service::new(name.clone(), agent.clone()));
        let key = (id.port, id.protocol);
        match health {
            Some(health) => drop(service.ports.insert(key, health)),
            None => drop(service.ports.remove(&key)),
        }
        service.count();
        service.listen(&self.addresses);
        if service.ports.is_empty() {
            self.services.remove(&name);
        }
    }

    /// Takes in a whole model.
    pub fn set_model(&mut self, model: &Model) {
        let known = self.services.iter().flat_map(|((namespace, name), service)| {
            let id = |(port, protocol): &(u16, Protocol)| ServiceId {
                namespace: namespace.clone(),
                name: name.clone(),
                port: *port,
                protocol: *protocol,
            };
            service.ports.keys().map(id)
        });
        let gone: Vec<ServiceId> = known.filter(|id| !model.services.contains_key(id)).collect();
        gone.iter().for_each(|id| self.update(id, None));
        model.services.iter().for_each(|(id, port)| self.update(id, Some(port)));
    }

    /// Tries again what could not be listened at; with `all`, looks after everything. Returns whether anything was tried.
    pub fn retry(&mut self, all: bool) -> bool {
        let due = self.services.values_mut().filter(|service| all || !service.failed.is_empty());
        due.map(|service| service.listen(&self.addresses)).count() > 0
    }

    /// The ports that are not served, and why.
    pub fn problems(&self) -> Vec<Problem> {
        let of = |(name, service): (&ServiceName, &Service)| {
            let (name, number) = (name.clone(), service.number());
            let problem = move |(at, cause): (&SocketAddr, &String)| Problem {
                object: ObjectRef::new("Service", &name.0, &name.1),
                field: "spec.healthCheckNodePort".into(),
                value: number.unwrap_or_default().to_string(),
                cause: format!("{at} cannot be listened at: {cause}"),
                remedy: "stop what listens there; it is tried again every second".into(),
                ..Problem::default()
            };
            service.failed.iter().map(problem).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of).collect()
    }
}

/// Of a port that has such a number. As with kube-proxy, backends that terminate do not count, though they may still serve: the load balancer
/// is to go elsewhere meanwhile.
fn health(port: &ServicePort) -> Option<Health> {
    let number = port.health_check_node_port?;
    let local = port.backends.iter().filter(|(_, backend)| backend.local && !backend.terminating);
    Some(Health { number, local: local.map(|(at, _)| at.ip()).collect() })
}

impl Service {
    fn new(name: ServiceName, agent: Subscriber) -> Self {
        Self {
            ports: BTreeMap::new(),
            answer: Arc::new(Answer { name, local: Default::default(), agent }),
            servers: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    fn number(&self) -> Option<u16> {
        self.ports.values().map(|health| health.number).next()
    }

    /// A backend of two ports is one.
    fn count(&self) {
        let local: BTreeSet<&IpAddr> = self.ports.values().flat_map(|health| &health.local).collect();
        for (index, count) in self.answer.local.iter().enumerate() {
            count.store(local.iter().filter(|ip| family(***ip) == index).count(), Ordering::Relaxed);
        }
    }

    /// Opens what should be open, and closes what should not.
    fn listen(&mut self, addresses: &BTreeSet<IpAddr>) {
        let wanted = self.number().into_iter().flat_map(|number| addresses.iter().map(move |ip| (*ip, number).into()));
        let wanted: BTreeSet<SocketAddr> = wanted.collect();
        self.servers.retain(|at, server| wanted.contains(at) && !server.0.is_finished());
        self.failed.clear();
        for at in wanted {
            if self.servers.contains_key(&at) {
                continue;
            }
            match serve(at, self.answer.clone()) {
                Ok(server) => drop(self.servers.insert(at, server)),
                // A node without IPv6 has nobody who could ask by it.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => drop(self.failed.insert(at, error.to_string())),
            }
        }
    }
}

fn serve(at: SocketAddr, answer: Arc<Answer>) -> io::Result<Server> {
    let listener = tokio::net::TcpListener::from_std(bind(at)?)?;
    let router = Router::new().fallback(reply).with_state((answer, family(at.ip())));
    Ok(Server(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%at, %error, "a server of healthCheckNodePort has ended");
        }
    })))
}

/// Listens at an address; at the unspecified one of IPv6 for IPv6 only, because IPv4 has a socket of its own.
fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &at)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

async fn reply(State((answer, family)): State<(Arc<Answer>, usize)>) -> Response {
    let local = answer.local[family].load(Ordering::Relaxed);
    let healthy = is_healthy(&answer.agent);
    let status = if local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (namespace, name) = &answer.name;
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local,
        "serviceProxyHealthy": healthy,
    });
    let mut headers = HeaderMap::from_iter([(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))]);
    headers.insert(WEIGHT, local.into());
    (status, headers, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Instant};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        model::BackendSpec,
        telemetry::{Publisher, Snapshot, channel},
    };

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));

    /// A port that nobody has at the moment.
    fn free() -> u16 {
        TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
    }

    fn id(port: u16) -> ServiceId {
        ServiceId { namespace: "shop".into(), name: "web".into(), port, protocol: Protocol::Tcp }
    }

    /// A port with a backend for each letter: `l` local, `t` local and terminating, `r` remote, `6` local with IPv6.
    fn port(number: u16, words: &str) -> ServicePort {
        let backend = |(index, word): (usize, char)| {
            let spec = BackendSpec { local: word != 'r', terminating: word == 't', ..BackendSpec::default() };
            let ip = if word == '6' { IpAddr::from([index as u16; 8]) } else { IpAddr::from([10, 0, 0, index as u8]) };
            (SocketAddr::new(ip, 80), spec)
        };
        ServicePort {
            health_check_node_port: Some(number),
            backends: words.chars().enumerate().map(backend).collect(),
            ..ServicePort::default()
        }
    }

    fn servers() -> (Publisher, HealthCheckNodePorts) {
        let (publisher, subscriber, _) = channel();
        publish(&publisher, true);
        let mut servers = HealthCheckNodePorts::new(subscriber);
        servers.listen_at([HERE].into());
        (publisher, servers)
    }

    fn publish(publisher: &Publisher, synced: bool) {
        publisher.send_replace(Arc::new(Snapshot { taken: Some(Instant::now()), synced, ..Snapshot::default() }));
    }

    /// The whole answer; none if nobody listens.
    async fn ask(number: u16) -> Option<String> {
        let mut stream = TcpStream::connect((HERE, number)).await.ok()?;
        stream.write_all(b"GET /any HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        Some(answer)
    }

    async fn closed(number: u16) -> bool {
        for _ in 0..100 {
            if ask(number).await.is_none() {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        false
    }

    #[tokio::test]
    async fn answers_are_those_of_kube_proxy() {
        let (publisher, mut servers) = servers();
        let number = free();
        for (words, healthy, status, count) in
            [("", true, 503, 0), ("rt66", true, 503, 0), ("llr", true, 200, 2), ("llr", false, 503, 2)]
        {
            publish(&publisher, healthy);
            servers.update(&id(80), Some(&port(number, words)));
            assert_eq!(servers.problems(), []);
            let answer = ask(number).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{words}: {answer}");
            let lower = answer.to_lowercase();
            for header in [
                "content-type: application/json\r\n",
                "x-content-type-options: nosniff\r\n",
                &format!("x-load-balancing-endpoint-weight: {count}\r\n"),
            ] {
                assert!(lower.contains(header), "{header}: {answer}");
            }
            let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            let wanted = json!({
                "service": {"namespace": "shop", "name": "web"}, "localEndpoints": count, "serviceProxyHealthy": healthy
            });
            assert_eq!(body, wanted);
        }
    }

    #[tokio::test]
    async fn servers_follow_their_services() {
        let (_publisher, mut servers) = servers();
        let (first, second) = (free(), free());
        servers.update(&id(80), Some(&port(first, "l")));
        servers.update(&id(443), Some(&port(first, "ll")));
        assert!(ask(first).await.unwrap().contains("\"localEndpoints\":2"), "a backend of both ports is one");
        servers.update(&id(443), Some(&ServicePort { health_check_node_port: None, ..port(0, "ll") }));
        assert!(ask(first).await.unwrap().contains("\"localEndpoints\":1"));
        let model = Model { services: [(id(80), port(second, "l"))].into() };
        servers.set_model(&model);
        assert!(ask(second).await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(closed(first).await);
        servers.set_model(&Model::default());
        assert!(closed(second).await && servers.services.is_empty());
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_and_tried_again() {
        let (_publisher, mut servers) = servers();
        let holder = TcpListener::bind((HERE, 0)).unwrap();
        let number = holder.local_addr().unwrap().port();
        servers.update(&id(80), Some(&port(number, "l")));
        let told = servers.problems()[0].to_string();
        let start = format!(
            "Service shop/web: spec.healthCheckNodePort: \"{number}\": 127.0.0.1:{number} cannot be listened at"
        );
        assert!(told.starts_with(&start), "{told}");
        assert!(told.contains("; stop what listens there"), "{told}");
        drop(holder);
        assert!(servers.retry(false) && servers.problems().is_empty());
        assert!(ask(number).await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(!servers.retry(false), "nothing is left to try");
    }

    #[tokio::test]
    async fn both_families_and_other_addresses() {
        let (_publisher, mut servers) = servers();
        let number = free();
        servers.update(&id(80), Some(&port(number, "l")));
        assert!(servers.listen_at([IpAddr::from([0, 0, 0, 0]), IpAddr::from([0u16; 8])].into()));
        // The socket at the old address goes a moment later.
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            if !servers.retry(false) {
                break;
            }
        }
        assert_eq!(servers.problems(), []);
        assert!(ask(number).await.unwrap().starts_with("HTTP/1.1 200"));
        assert!(!servers.listen_at([IpAddr::from([0, 0, 0, 0]), IpAddr::from([0u16; 8])].into()), "nothing new");
    }
}
