//! Services and EndpointSlices as Kubernetes writes them, from a few parameters, in a folder that `weir run --manifests` watches.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    namespace::unique_name,
    topology::{Host, NODE_NAME, OTHER_NODE_NAME, SERVER_PORT},
};

/// A folder of manifests; dropping it removes it.
#[derive(Debug)]
pub struct Manifests(PathBuf);

impl Manifests {
    /// Makes an empty folder.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(unique_name("manifests"));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in one step: a watcher sees the old content or the new one.
    pub fn write(&self, file: &str, content: &str) -> Result<()> {
        let path = self.0.join(file);
        let draft = self.0.join(format!(".{file}.tmp"));
        fs::write(&draft, content).with_context(|| draft.display().to_string())?;
        fs::rename(&draft, &path).with_context(|| path.display().to_string())
    }

    /// Removes a file.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.0.join(file)).with_context(|| file.to_owned())
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// An endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Whether its `nodeName` is the test's node; else it names another one.
    pub local: bool,
    /// The slice's `weir.dev/weight`.
    pub weight: Option<u16>,
    /// `conditions.terminating` (then not ready, but serving).
    pub terminating: bool,
    /// Neither ready nor terminating.
    pub resting: bool,
}

impl Endpoint {
    /// A host's endpoint of this family.
    pub fn of(host: &Host, like: IpAddr) -> Self {
        Self { address: host.address(like), local: host.local, weight: None, terminating: false, resting: false }
    }
}

/// A Service with one port number over TCP and UDP, and its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its annotations.
    pub annotations: Vec<(String, String)>,
    /// Its addresses: `externalIPs`.
    pub frontends: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its endpoints' port.
    pub target_port: u16,
    /// `sessionAffinity: ClientIP` with this timeout in seconds.
    pub affinity: Option<u32>,
    /// More fields of `spec`, each a line of YAML.
    pub spec: Vec<String>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl Service {
    /// A Service `web` on these addresses' port 80, served by these hosts over the addresses' families.
    pub fn web<'a>(frontends: &[IpAddr], hosts: impl IntoIterator<Item = &'a Host>) -> Self {
        let mut families = frontends.to_vec();
        families.dedup_by_key(|address| address.is_ipv4());
        let endpoints = hosts.into_iter().flat_map(|host| families.iter().map(|like| Endpoint::of(host, *like)));
        Self {
            name: "web".to_owned(),
            annotations: Vec::new(),
            frontends: frontends.to_vec(),
            port: 80,
            target_port: SERVER_PORT,
            affinity: None,
            spec: Vec::new(),
            endpoints: endpoints.collect(),
        }
    }

    /// With another name and port.
    #[must_use]
    pub fn named(mut self, name: &str, port: u16) -> Self {
        (self.name, self.port) = (name.to_owned(), port);
        self
    }

    /// With weights, one for each endpoint in turn.
    #[must_use]
    pub fn weights(mut self, weights: &[u16]) -> Self {
        self.endpoints
            .iter_mut()
            .zip(weights.iter().cycle())
            .for_each(|(endpoint, weight)| endpoint.weight = Some(*weight));
        self
    }

    /// With a field of `spec`, as a line of YAML; instead of the field's last value.
    #[must_use]
    pub fn with(mut self, field: &str, value: &str) -> Self {
        let start = format!("{field}: ");
        self.spec.retain(|line| !line.starts_with(&start));
        self.spec.push(start + value);
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With an algorithm.
    #[must_use]
    pub fn algorithm(self, name: &str) -> Self {
        self.annotate("weir.dev/algorithm", name)
    }

    /// Both objects as YAML: the Service, then a slice per family and weight.
    pub fn yaml(&self) -> String {
        let mut text = self.service();
        let mut slices: Vec<(bool, Option<u16>)> =
            self.endpoints.iter().map(|endpoint| (endpoint.address.is_ipv4(), endpoint.weight)).collect();
        slices.sort_unstable();
        slices.dedup();
        for (number, (v4, weight)) in slices.into_iter().enumerate() {
            text += &self.slice(number, v4, weight);
        }
        text
    }

    fn service(&self) -> String {
        let mut text =
            format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: default\n", self.name);
        if !self.annotations.is_empty() {
            text += "  annotations:\n";
            for (key, value) in &self.annotations {
                _ = writeln!(text, "    {key}: {value:?}");
            }
        }
        text += "spec:\n  externalIPs:\n";
        for address in &self.frontends {
            _ = writeln!(text, "  - \"{address}\"");
        }
        for line in &self.spec {
            _ = writeln!(text, "  {line}");
        }
        let (port, target) = (self.port, self.target_port);
        _ = write!(
            text,
            "  ports:\n  - {{name: tcp, port: {port}, targetPort: {target}, protocol: TCP}}\n  \
             - {{name: udp, port: {port}, targetPort: {target}, protocol: UDP}}\n"
        );
        if let Some(seconds) = self.affinity {
            _ = write!(
                text,
                "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP: {{timeoutSeconds: {seconds}}}\n"
            );
        }
        text
    }

    fn slice(&self, number: usize, v4: bool, weight: Option<u16>) -> String {
        let (name, port) = (&self.name, self.target_port);
        let kind = if v4 { "IPv4" } else { "IPv6" };
        let mut text = format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{number}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {name}}}\n"
        );
        if let Some(weight) = weight {
            _ = writeln!(text, "  annotations: {{weir.dev/weight: \"{weight}\"}}");
        }
        _ = write!(
            text,
            "addressType: {kind}\nports:\n- {{name: tcp, port: {port}, protocol: TCP}}\n- {{name: udp, port: {port}, protocol: UDP}}\nendpoints:\n"
        );
        for endpoint in self.endpoints.iter().filter(|e| e.address.is_ipv4() == v4 && e.weight == weight) {
            let node = if endpoint.local { NODE_NAME } else { OTHER_NODE_NAME };
            let ready = !endpoint.terminating && !endpoint.resting;
            let conditions = format!("ready: {ready}, serving: true, terminating: {}", endpoint.terminating);
            _ = writeln!(
                text,
                "- {{addresses: [\"{}\"], nodeName: {node}, conditions: {{{conditions}}}}}",
                endpoint.address
            );
        }
        text
    }
}
