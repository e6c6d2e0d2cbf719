//! The manifests that tests apply.

use weir_tests::{cluster::Node, image::PEER};

/// The sample's Deployment: pods that answer with their name.
pub(crate) fn deployment(name: &str, replicas: u32) -> String {
    format!(
        r#"---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {{matchLabels: {{app: {name}}}}}
      containers:
      - name: app
        image: {PEER}
        imagePullPolicy: Never
        args: [serve, --port=80]
        ports:
        - {{name: http, containerPort: 80}}
        readinessProbe:
          httpGet: {{path: /, port: http}}
          periodSeconds: 1
"#
    )
}

/// The sample's Service: type LoadBalancer, both families; `extra` are further fields of its `spec`, each with a comma before it.
pub(crate) fn service(name: &str, extra: &str) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  annotations: {{weir.dev/algorithm: least-connections}}
spec: {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {{app: my-app}}, ports: [{{port: 80}}]{extra}}}
"#
    )
}

/// A pool of addresses for all Services.
pub(crate) fn pool(addresses: &[&str]) -> String {
    format!(
        r#"---
apiVersion: weir.dev/v1alpha1
kind: AddressPool
metadata: {{name: pool}}
spec: {{addresses: {addresses:?}}}
"#
    )
}

/// An address and a port as one word.
pub(crate) fn target(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// A client on every node.
pub(crate) fn clients(nodes: &[Node]) -> String {
    let clients = nodes.iter().enumerate();
    clients.map(|(index, node)| client(&format!("client-{}", index + 1), &node.name())).collect()
}

/// The same, named `plain-`, with the annotation that keeps Weir off their sockets.
pub(crate) fn clients_past_sockets(nodes: &[Node]) -> String {
    let annotated =
        clients(nodes).replace("role: client}", "role: client}, annotations: {weir.dev/socket-lb: \"off\"}");
    annotated.replace("name: client-", "name: plain-").replace("app: client-", "app: plain-")
}

/// The pods of the table of cases: `app` on every node, `one` on the first, `host` on every node in the node's network, `web` with ports
/// of one name and different numbers on the first two, `unready` on the second, a client on every node.
pub(crate) fn backends(nodes: &[Node]) -> String {
    let first = format!("nodeSelector: {{kubernetes.io/hostname: {}}}", nodes[0].name());
    let second = format!("nodeSelector: {{kubernetes.io/hostname: {}}}", nodes[nodes.len().min(2) - 1].name());
    let ports = "[{name: http, containerPort: 8080}, {name: datagrams, containerPort: 8080, protocol: UDP}]";
    let text = set("DaemonSet", "app", "", 8080, ports)
        + &set("DaemonSet", "host", "hostNetwork: true", 8090, "[]")
        + &set("Deployment", "one", &first, 8080, ports)
        + &set("Deployment", "web-1", &first, 8081, "[{name: web, containerPort: 8081}]")
        + &set("Deployment", "web-2", &second, 8082, "[{name: web, containerPort: 8082}]")
        + &set("Deployment", "unready", &second, 8080, ports);
    text + &clients(nodes)
}

/// A Deployment of one pod or a DaemonSet, with an app that listens on a port and is ready when it answers there.
fn set(kind: &str, name: &str, place: &str, port: u16, ports: &str) -> String {
    // In the node's network, where there are many addresses.
    let address = if place.starts_with("hostNetwork") { "$(NODE_ADDRESSES)" } else { "::" };
    let web = if name.starts_with("web") { ", web: mixed" } else { "" };
    // A program that is not there never succeeds.
    let probe = match name {
        "unready" => "exec: {command: [/no-such-program]}".to_owned(),
        _ => format!("httpGet: {{path: /, port: {port}}}"),
    };
    format!(
        r#"---
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}{web}}}}}
    spec:
      {place}
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: {PEER}
        imagePullPolicy: Never
        args: [serve, --port={port}, --grace=0, --name=$(POD_NAME), "--address={address}"]
        env:
        - {{name: NODE_ADDRESSES, valueFrom: {{fieldRef: {{fieldPath: status.hostIPs}}}}}}
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        ports: {ports}
        readinessProbe: {{{probe}, periodSeconds: 1}}
"#
    )
}

/// A pod that only asks: `kubectl exec` runs the client in it.
pub(crate) fn client(name: &str, node: &str) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}, role: client}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: {PEER}
    imagePullPolicy: Never
    args: [serve, --port=7, --grace=0]
"#
    )
}
