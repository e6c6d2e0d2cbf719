//! The table itself.

use std::fmt::Write as _;

use anyhow::Result;
use weir_tests::cluster::Cluster;

use super::check::{
    Check,
    Family::{V4, V6},
    From::{self, Host, Itself, Outside, PastSockets, Pod},
    Outcome::{self, By, BySameOne, Refused, Silence},
    Source::{Any, Client, ClientWithWeir},
    To::{self, At, Cluster as ClusterIp, Name, Node},
};
use crate::space::Space;

/// A Service, by the fields of its `spec`, and what is checked.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Labels and annotations, in YAML's flow style.
    metadata: &'static str,
    spec: &'static str,
    /// What `status.loadBalancer.ingress` is set to, in JSON; nothing where empty.
    ingress: &'static str,
    pub(super) checks: &'static [Check],
}

const ALL: &[usize] = &[1, 2, 3];

const fn tcp(from: From, to: To, outcome: Outcome) -> Check {
    Check { from, to, port: 80, udp: false, outcome }
}

const fn udp(from: From, to: To, outcome: Outcome) -> Check {
    Check { from, to, port: 80, udp: true, outcome }
}

const fn case(name: &'static str, spec: &'static str, checks: &'static [Check]) -> Case {
    Case { name, metadata: "", spec, ingress: "", checks }
}

/// An address outside of all subnets; the client's way there is node 1.
const EXTERNAL4: &str = "198.51.100.1";
const EXTERNAL6: &str = "2001:db8:100::1";
const BALANCER4: &str = "198.51.100.2";
const BALANCER6: &str = "2001:db8:100::2";
const LOCAL_BALANCER4: &str = "198.51.100.3";
const RANGED4: &str = "198.51.100.4";
const CLOSED4: &str = "198.51.100.5";
const PROXIED4: &str = "198.51.100.6";
const DIRECT4: &str = "198.51.100.7";
const DIRECT_HOST4: &str = "198.51.100.8";
const DIRECT6: &str = "2001:db8:100::7";

/// Backends `app` are on every node, `one` on node 1, `host` on every node in the node's own network.
pub(super) const CASES: &[Case] = &[
    case(
        "cluster-ip",
        "{selector: {app: app}, ports: [{name: tcp, port: 80, targetPort: http}, \
          {name: udp, port: 80, targetPort: datagrams, protocol: UDP}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), By(ALL, Client)),
            tcp(Pod(2), ClusterIp(V6), By(ALL, Client)),
            tcp(Pod(3), Name, By(ALL, Client)),
            tcp(Host(1), ClusterIp(V4), By(ALL, Client)),
            tcp(Host(2), ClusterIp(V6), By(ALL, Client)),
            udp(Pod(1), ClusterIp(V4), By(ALL, Client)),
            udp(Pod(2), ClusterIp(V6), By(ALL, Client)),
            udp(Host(3), ClusterIp(V4), By(ALL, Client)),
            tcp(PastSockets(1), ClusterIp(V4), By(ALL, Client)),
            tcp(PastSockets(2), ClusterIp(V6), By(ALL, Client)),
            udp(PastSockets(3), ClusterIp(V4), By(ALL, Client)),
            udp(PastSockets(1), ClusterIp(V6), By(ALL, Client)),
            tcp(PastSockets(2), Name, By(ALL, Client)),
        ],
    ),
    case(
        "two-ports",
        "{selector: {app: app}, ports: [{name: a, port: 80, targetPort: http}, \
          {name: b, port: 8000, targetPort: http}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), By(ALL, Client)),
            Check { from: Pod(1), to: ClusterIp(V4), port: 8000, udp: false, outcome: By(ALL, Client) },
            Check { from: Pod(1), to: ClusterIp(V4), port: 8001, udp: false, outcome: Refused },
        ],
    ),
    case(
        "named-ports-differ",
        "{selector: {web: mixed}, ports: [{port: 80, targetPort: web}]}",
        &[tcp(Pod(1), ClusterIp(V4), By(&[1, 2], Client)), tcp(Host(3), ClusterIp(V6), By(&[1, 2], Client))],
    ),
    case(
        "node-port",
        "{type: NodePort, selector: {app: app}, ports: [{name: tcp, port: 80, targetPort: http}, \
          {name: udp, port: 80, targetPort: datagrams, protocol: UDP}]}",
        &[
            tcp(Outside, Node(1, V4), By(ALL, Any)),
            tcp(Outside, Node(2, V6), By(ALL, Any)),
            udp(Outside, Node(3, V4), By(ALL, Any)),
            udp(Outside, Node(1, V6), By(ALL, Any)),
            tcp(Host(1), Node(1, V4), By(ALL, Any)),
            tcp(Host(1), Node(2, V4), By(ALL, Any)),
            tcp(Pod(2), Node(2, V4), By(ALL, Any)),
            tcp(Pod(2), Node(3, V6), By(ALL, Any)),
            tcp(Pod(3), ClusterIp(V4), By(ALL, Client)),
            tcp(PastSockets(1), Node(1, V4), By(ALL, Any)),
            tcp(PastSockets(1), Node(2, V6), By(ALL, Any)),
        ],
    ),
    case(
        "node-port-one-backend",
        "{type: NodePort, selector: {app: one}, ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Outside, Node(1, V4), By(&[1], ClientWithWeir)),
            tcp(Outside, Node(1, V6), By(&[1], ClientWithWeir)),
            tcp(Outside, Node(2, V4), By(&[1], Any)),
            tcp(Itself, ClusterIp(V4), By(&[1], Any)),
            tcp(Itself, ClusterIp(V6), By(&[1], Any)),
            tcp(Itself, Node(1, V4), By(&[1], Any)),
        ],
    ),
    case(
        "external-local",
        "{type: NodePort, externalTrafficPolicy: Local, selector: {app: one}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Outside, Node(1, V4), By(&[1], Client)),
            tcp(Outside, Node(1, V6), By(&[1], Client)),
            tcp(Outside, Node(2, V4), Silence),
            tcp(Outside, Node(3, V6), Silence),
            tcp(Pod(2), ClusterIp(V4), By(&[1], Client)),
            tcp(Host(2), Node(2, V4), By(&[1], Any)),
        ],
    ),
    case(
        "external-local-everywhere",
        "{type: NodePort, externalTrafficPolicy: Local, selector: {app: app}, \
          ports: [{name: tcp, port: 80, targetPort: http}, \
          {name: udp, port: 80, targetPort: datagrams, protocol: UDP}]}",
        &[
            tcp(Outside, Node(1, V4), By(&[1], Client)),
            tcp(Outside, Node(2, V6), By(&[2], Client)),
            udp(Outside, Node(3, V4), By(&[3], Client)),
        ],
    ),
    case(
        "internal-local",
        "{internalTrafficPolicy: Local, selector: {app: one}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), By(&[1], Client)),
            tcp(Host(1), ClusterIp(V6), By(&[1], Any)),
            tcp(Pod(2), ClusterIp(V4), Silence),
            tcp(PastSockets(1), ClusterIp(V4), By(&[1], Client)),
            tcp(PastSockets(2), ClusterIp(V6), Silence),
            tcp(Host(3), ClusterIp(V4), Silence),
        ],
    ),
    case(
        "affinity",
        "{type: NodePort, sessionAffinity: ClientIP, selector: {app: app}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), BySameOne),
            tcp(Pod(2), ClusterIp(V6), BySameOne),
            tcp(Host(3), ClusterIp(V4), BySameOne),
            tcp(PastSockets(1), ClusterIp(V6), BySameOne),
            tcp(Outside, Node(1, V4), BySameOne),
            tcp(Outside, Node(2, V6), BySameOne),
        ],
    ),
    case(
        "no-endpoints",
        "{type: NodePort, selector: {app: nobody}, ports: [{name: tcp, port: 80}, \
          {name: udp, port: 80, protocol: UDP}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), Refused),
            tcp(Pod(2), ClusterIp(V6), Refused),
            tcp(Host(1), ClusterIp(V4), Refused),
            tcp(PastSockets(1), ClusterIp(V4), Refused),
            tcp(PastSockets(2), ClusterIp(V6), Refused),
            tcp(Outside, Node(1, V4), Refused),
            tcp(Outside, Node(2, V6), Refused),
            udp(Pod(1), ClusterIp(V4), Refused),
            udp(PastSockets(3), ClusterIp(V4), Refused),
            udp(Outside, Node(3, V4), Refused),
        ],
    ),
    case(
        "external-ip",
        "{externalIPs: [198.51.100.1, \"2001:db8:100::1\"], selector: {app: app}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Outside, At(EXTERNAL4), By(ALL, Any)),
            tcp(Outside, At(EXTERNAL6), By(ALL, Any)),
            tcp(Pod(2), At(EXTERNAL4), By(ALL, Any)),
            tcp(Host(3), At(EXTERNAL6), By(ALL, Any)),
        ],
    ),
    Case {
        ingress: r#"[{"ip":"198.51.100.2","ipMode":"VIP"},{"ip":"2001:db8:100::2","ipMode":"VIP"}]"#,
        ..case(
            "load-balancer",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, selector: {app: app}, \
              ports: [{port: 80, targetPort: http}]}",
            &[
                tcp(Outside, At(BALANCER4), By(ALL, Any)),
                tcp(Outside, At(BALANCER6), By(ALL, Any)),
                tcp(Pod(2), At(BALANCER4), By(ALL, Any)),
                tcp(Host(3), At(BALANCER6), By(ALL, Any)),
                tcp(Outside, Node(2, V4), By(ALL, Any)),
            ],
        )
    },
    Case {
        metadata: "annotations: {weir.dev/forwarding: dsr}",
        ingress: r#"[{"ip":"198.51.100.7"},{"ip":"2001:db8:100::7"}]"#,
        ..case(
            "direct-server-return",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, selector: {app: app}, \
              ports: [{name: tcp, port: 80, targetPort: http}, \
              {name: udp, port: 80, targetPort: datagrams, protocol: UDP}]}",
            &[
                tcp(Outside, At(DIRECT4), By(ALL, ClientWithWeir)),
                tcp(Outside, At(DIRECT6), By(ALL, ClientWithWeir)),
                udp(Outside, At(DIRECT4), By(ALL, ClientWithWeir)),
                udp(Outside, At(DIRECT6), By(ALL, ClientWithWeir)),
                tcp(Pod(2), At(DIRECT4), By(ALL, Any)),
                tcp(Host(3), At(DIRECT6), By(ALL, Any)),
                tcp(Outside, Node(2, V4), By(ALL, Any)),
            ],
        )
    },
    Case {
        metadata: "annotations: {weir.dev/forwarding: dsr}",
        ingress: r#"[{"ip":"198.51.100.8"}]"#,
        ..case(
            "direct-server-return-of-hosts",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, selector: {app: host}, \
              ports: [{name: tcp, port: 80, targetPort: 8090}, {name: udp, port: 80, targetPort: 8090, protocol: UDP}]}",
            &[
                tcp(Outside, At(DIRECT_HOST4), By(ALL, ClientWithWeir)),
                udp(Outside, At(DIRECT_HOST4), By(ALL, ClientWithWeir)),
            ],
        )
    },
    Case {
        ingress: r#"[{"ip":"198.51.100.3"}]"#,
        ..case(
            "load-balancer-local",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, \
              externalTrafficPolicy: Local, selector: {app: one}, ports: [{port: 80, targetPort: http}]}",
            &[
                tcp(Outside, At(LOCAL_BALANCER4), By(&[1], Client)),
                // Whoever is inside is not bound by the policy.
                tcp(Pod(2), At(LOCAL_BALANCER4), By(&[1], Any)),
                tcp(Host(2), At(LOCAL_BALANCER4), By(&[1], Any)),
            ],
        )
    },
    Case {
        ingress: r#"[{"ip":"198.51.100.4"}]"#,
        ..case(
            "source-range",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, \
              loadBalancerSourceRanges: [172.30.0.200/32], selector: {app: app}, \
              ports: [{port: 80, targetPort: http}]}",
            &[tcp(Outside, At(RANGED4), By(ALL, Any))],
        )
    },
    Case {
        ingress: r#"[{"ip":"198.51.100.5"}]"#,
        ..case(
            "other-source-range",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, \
              loadBalancerSourceRanges: [203.0.113.0/24], selector: {app: app}, \
              ports: [{port: 80, targetPort: http}]}",
            &[
                tcp(Outside, At(CLOSED4), Silence),
                // Ranges are for the load balancer's address only.
                tcp(Pod(1), ClusterIp(V4), By(ALL, Client)),
                tcp(Outside, Node(1, V4), By(ALL, Any)),
            ],
        )
    },
    Case {
        ingress: r#"[{"ip":"198.51.100.6","ipMode":"Proxy"}]"#,
        ..case(
            "foreign-balancer",
            "{type: LoadBalancer, loadBalancerClass: example.com/none, selector: {app: app}, \
              ports: [{port: 80, targetPort: http}]}",
            &[
                // Such an address belongs to somebody else, who does not exist here.
                tcp(Pod(1), At(PROXIED4), Silence),
                tcp(Pod(1), ClusterIp(V4), By(ALL, Client)),
            ],
        )
    },
    case(
        "host-network",
        "{type: NodePort, selector: {app: host}, ports: [{name: tcp, port: 80, targetPort: 8090}, \
          {name: udp, port: 80, targetPort: 8090, protocol: UDP}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), By(ALL, Any)),
            tcp(Pod(2), ClusterIp(V6), By(ALL, Any)),
            tcp(Host(1), ClusterIp(V4), By(ALL, Any)),
            tcp(Outside, Node(1, V4), By(ALL, Any)),
            tcp(Outside, Node(2, V6), By(ALL, Any)),
            udp(Outside, Node(3, V4), By(ALL, Any)),
            udp(Pod(3), ClusterIp(V4), By(ALL, Any)),
            tcp(PastSockets(1), ClusterIp(V4), By(ALL, Any)),
            udp(PastSockets(2), ClusterIp(V6), By(ALL, Any)),
        ],
    ),
    case(
        "same-zone",
        "{trafficDistribution: PreferSameZone, selector: {app: app}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), By(&[1, 3], Client)),
            tcp(Pod(2), ClusterIp(V6), By(&[2], Client)),
            tcp(Host(3), ClusterIp(V4), By(&[1, 3], Any)),
            tcp(PastSockets(2), ClusterIp(V4), By(&[2], Client)),
        ],
    ),
    case(
        "same-node",
        "{trafficDistribution: PreferSameNode, selector: {app: app}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Pod(1), ClusterIp(V4), By(&[1], Client)),
            tcp(Pod(2), ClusterIp(V6), By(&[2], Client)),
            tcp(Host(3), ClusterIp(V4), By(&[3], Any)),
        ],
    ),
    case(
        "not-ready",
        "{selector: {app: unready}, ports: [{port: 80, targetPort: http}]}",
        &[tcp(Pod(1), ClusterIp(V4), Refused)],
    ),
    case(
        "not-ready-published",
        "{publishNotReadyAddresses: true, selector: {app: unready}, \
          ports: [{port: 80, targetPort: http}]}",
        &[tcp(Pod(1), ClusterIp(V4), By(&[2], Client))],
    ),
    Case {
        metadata: "labels: {service.kubernetes.io/service-proxy-name: somebody-else}",
        ..case(
            "another-proxy",
            "{selector: {app: app}, ports: [{port: 80, targetPort: http}]}",
            &[tcp(Pod(1), ClusterIp(V4), Silence)],
        )
    },
    case(
        "headless",
        "{clusterIP: None, selector: {app: app}, ports: [{name: http, port: 8080, targetPort: http}]}",
        &[
            // The name server gives the pods' own addresses; nobody stands between.
            Check { from: Pod(1), to: Name, port: 8080, udp: false, outcome: BySameOne },
        ],
    ),
    case(
        "only-ipv6",
        "{ipFamilyPolicy: SingleStack, ipFamilies: [IPv6], type: NodePort, selector: {app: app}, \
          ports: [{port: 80, targetPort: http}]}",
        &[
            tcp(Pod(1), ClusterIp(V6), By(ALL, Client)),
            tcp(Outside, Node(1, V6), By(ALL, Any)),
            tcp(Outside, Node(1, V4), Refused),
        ],
    ),
];

/// All Services, of both families where nothing else is said.
pub(super) fn services() -> String {
    let mut text = String::new();
    for Case { name, metadata, spec, .. } in CASES {
        let metadata = if metadata.is_empty() { String::new() } else { format!(", {metadata}") };
        let both = if spec.contains("ipFamilyPolicy") { "" } else { "ipFamilyPolicy: PreferDualStack, " };
        let spec = spec.replacen('{', &format!("{{{both}"), 1);
        _ = writeln!(text, "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{metadata}}}\nspec: {spec}");
    }
    text
}

/// Gives Services of type LoadBalancer the addresses that somebody else's controller would.
pub(super) fn set_addresses(space: &Space<'_>) -> Result<()> {
    CASES.iter().filter(|case| !case.ingress.is_empty()).try_for_each(|case| {
        let patch = format!(r#"{{"status":{{"loadBalancer":{{"ingress":{}}}}}}}"#, case.ingress);
        space
            .kubectl(&["patch", "service", case.name, "--subresource=status", "--type=merge", "--patch", &patch])
            .map(drop)
    })
}

/// The client's way to addresses that are announced by nobody.
pub(super) fn add_routes(cluster: &Cluster) -> Result<()> {
    let [v4, v6] = cluster.nodes()[0].plan().addresses().map(|address| address.to_string());
    cluster.client().route("198.51.100.0/24", &v4)?;
    cluster.client().route("2001:db8:100::/64", &v6)
}
