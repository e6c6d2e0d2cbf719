//! A real KEDA asks our external scaler what a policy wants, and its HorizontalPodAutoscaler sets it: KEDA's operator, its metrics adapter
//! behind the API server's aggregation, the controller manager's autoscaler.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use weir_tests::{
    cluster::{Cluster, Proxy, keda},
    image::Image,
};

use crate::{
    clients::Client,
    manifests,
    scaling::{AT_ONCE, CONNECTIONS, DEPLOYMENT, policy, replicas, scene, wait_for_replicas},
    space::Space,
    world,
};

const IMAGE: &str = "weir.dev/keda:1";
const OBJECTS: &str = include_str!("keda/objects.yaml");
const DEPLOYMENTS: [&str; 2] = ["keda-operator", "keda-metrics-apiserver"];
/// Where the ScaledObject is that users are told to write.
const DOCUMENTATION: &str = include_str!("../../docs/install.md");

/// KEDA in a cluster; dropping it removes all of it.
struct Keda<'a> {
    cluster: &'a Cluster,
    definitions: String,
}

impl<'a> Keda<'a> {
    fn install(cluster: &'a Cluster) -> Result<Self> {
        let folder = keda::folder()?;
        load_image(cluster, &folder)?;
        let keda = Self { cluster, definitions: folder.join(keda::DEFINITIONS).display().to_string() };
        // One of them is larger than what apply otherwise writes beside an object.
        cluster.kubectl_ok(&["apply", "--server-side", "--filename", &keda.definitions])?;
        cluster.apply(&format!("{}---\n{}\n", objects(cluster), certificates()?))?;
        keda.explain(keda.wait())?;
        Ok(keda)
    }

    fn wait(&self) -> Result<()> {
        for deployment in DEPLOYMENTS.map(|name| format!("deployment/{name}")) {
            self.cluster.kubectl_ok(&["--namespace=keda", "rollout", "status", &deployment, "--timeout=120s"])?;
        }
        let service = "apiservice/v1beta1.external.metrics.k8s.io";
        self.cluster.kubectl_ok(&["wait", "--for=condition=Available", service, "--timeout=60s"]).map(drop)
    }

    /// An error with what its programs logged last.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let log = |name| self.log(name, 30).unwrap_or_else(|error| format!("{error:#}"));
            DEPLOYMENTS.into_iter().fold(error, |error, name| error.context(format!("{name} logged {}", log(name))))
        })
    }

    /// The last lines that a program of its has logged; -1: all.
    fn log(&self, deployment: &str, lines: i32) -> Result<String> {
        let (deployment, tail) = (format!("deployment/{deployment}"), format!("--tail={lines}"));
        self.cluster.kubectl_ok(&["--namespace=keda", "logs", &deployment, &tail])
    }

    fn remove(&self) -> Result<()> {
        // While there is somebody who finalizes them.
        self.cluster.kubectl_ok(&["delete", "scaledobjects", "--all", "--all-namespaces", "--timeout=60s"])?;
        self.cluster.delete(&objects(self.cluster))?;
        self.cluster.kubectl_ok(&["delete", "--filename", &self.definitions, "--timeout=60s"]).map(drop)
    }
}

impl Drop for Keda<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

fn objects(cluster: &Cluster) -> String {
    OBJECTS.replace("\"FIRST_NODE\"", &cluster.nodes()[0].name()).replace("\"IMAGE\"", IMAGE)
}

fn load_image(cluster: &Cluster, folder: &Path) -> Result<()> {
    let archive = tempfile::NamedTempFile::new()?;
    let image = keda::PROGRAMS.iter().try_fold(Image::new(IMAGE, &[]).users(), |image, (_, program)| {
        image.program(&format!("/{program}"), &folder.join(program))
    })?;
    image.write(archive.path())?;
    cluster.nodes()[0].load_image(archive.path())
}

/// The Secret by which its operator and its adapter know each other.
fn certificates() -> Result<Value> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "KEDA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let names = DEPLOYMENTS.map(|name| [format!("{name}.keda.svc"), format!("{name}.keda.svc.cluster.local")]);
    let mut own = CertificateParams::new(names.concat())?;
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let own_pem = own.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kedaorg-certs", "namespace": "keda"},
        "stringData": {"ca.crt": authority_pem, "tls.crt": own_pem, "tls.key": key.serialize_pem()},
    }))
}

/// The ScaledObject of the documentation, with other texts in it.
fn scaled_object(changes: &[(&str, &str)]) -> Result<String> {
    let lines = DOCUMENTATION.lines().skip_while(|line| !line.starts_with("    apiVersion: keda.sh/"));
    let object: String = lines.map_while(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
    ensure!(object.contains("kind: ScaledObject"), "docs/install.md has no ScaledObject");
    changes.iter().try_fold(object, |object, (old, new)| {
        ensure!(object.contains(old), "the ScaledObject of docs/install.md has no {old:?}:\n{object}");
        Ok(object.replace(old, new))
    })
}

/// What may become none, asked for every 5 s and given 5 s.
const DOWN_TO_NONE: (&str, &str) =
    ("minReplicaCount: 2", "minReplicaCount: 0\n  pollingInterval: 5\n  cooldownPeriod: 5");

#[test]
#[ignore = "needs KEDA: `cargo xtask test keda`"]
fn keda_sets_what_a_policy_wants() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let keda = Keda::install(&cluster)?;
    let space = Space::new(&cluster, "with-keda")?;
    scene(&space)?;
    let wants = format!("{CONNECTIONS}, actuator: Keda, replicas: {{min: 2, max: 20}}, {AT_ONCE}");
    space.apply(&policy("my-app", DEPLOYMENT, &wants))?;
    wait_for_wish(&space, 2)?;
    stays(&space, 1, Duration::from_secs(5)).context("nobody has asked the policy")?;

    space.apply(&scaled_object(&[])?)?;
    keda.explain(takes("the ScaledObject", || wait_for_replicas(&space, 2)))?;
    space.wait_for_rollout("deployment/my-app")?;
    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let load = Client::Pod(&clients[0]).load(&cluster, &[&target, "--keep", "--clients=11", "--pause=100"])?;
    keda.explain(takes("eleven connections", || wait_for_replicas(&space, 3)))?;
    wait_for_wish(&space, 3)?;
    load.finish()?.expect_no_failure()?;
    keda.explain(takes("no connection", || wait_for_replicas(&space, 2)))?;
    let scalers = scalers(&space)?;
    ensure!(scalers.iter().all(|name| ["keda-operator", "kube-controller-manager"].contains(&&**name)), "{scalers:?}");

    // A policy that is not there is an error, not 0.
    space.apply(&scaled_object(&[("policy: my-app", "policy: nobody"), DOWN_TO_NONE])?)?;
    keda.explain(space.kubectl(&["wait", "--for=condition=Ready=false", "scaledobject/my-app", "--timeout=60s"]))?;
    // One of KEDA's looks at least, and two of the autoscaler's.
    stays(&space, 2, Duration::from_secs(40))?;
    let logged = keda.log("keda-operator", -1)?;
    ensure!(logged.contains("there is no ScalePolicy with-keda/nobody"), "{logged}");
    Ok(())
}

#[test]
#[ignore = "needs KEDA: `cargo xtask test keda`"]
fn keda_is_told_at_once_that_somebody_asks() -> Result<()> {
    let cluster = world::enter_with_weir(Proxy::None)?;
    let keda = Keda::install(&cluster)?;
    let space = Space::new(&cluster, "zero-with-keda")?;
    scene(&space)?;
    let wants = format!("{CONNECTIONS}, actuator: Keda, replicas: {{min: 0, max: 20}}, {AT_ONCE}");
    let pushed = scaled_object(&[("type: external", "type: external-push"), DOWN_TO_NONE])?;
    space.apply(&format!("{}---\n{pushed}", policy("my-app", DEPLOYMENT, &wants)))?;
    let nobody_asks = || {
        wait_for_replicas(&space, 0)?;
        space.wait_for("no pod", || Ok(space.pods("app=my-app")?.is_empty()))
    };
    keda.explain(takes("nobody asks", nobody_asks))?;

    let target = manifests::target(&space.cluster_addresses("my-app")?[0], 80);
    let clients = space.pods("role=client")?;
    let asks = || Client::Pod(&clients[0]).ask(&cluster, &[&target, "--timeout=60000"])?.expect_no_failure();
    keda.explain(takes("an answer", asks))?;
    ensure!(replicas(&space)? == 1, "it keeps one replica for a while");
    keda.explain(takes("nobody asks again", nobody_asks))
}

/// Says how long something took.
fn takes(what: &str, task: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    task().with_context(|| what.to_owned())?;
    println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Waits until the policy wants so many replicas.
fn wait_for_wish(space: &Space<'_>, count: u64) -> Result<()> {
    space.wait_for(&format!("a wish for {count}"), || {
        Ok(space.get(&["scalepolicy", "my-app"])?["status"]["desiredReplicas"] == count)
    })
}

/// The Deployment is told nothing else.
fn stays(space: &Space<'_>, count: u64, time: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        let told = replicas(space)?;
        ensure!(told == count, "it was told to have {told} replicas, not {count}");
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Whose writes to the scale subresource are in force.
fn scalers(space: &Space<'_>) -> Result<Vec<String>> {
    let mut deployment = space.get(&["deployment", "my-app", "--show-managed-fields"])?;
    let fields = deployment["metadata"]["managedFields"].take();
    let scales = fields.as_array().into_iter().flatten().filter(|field| field["subresource"] == "scale");
    let names: Vec<_> = scales.filter_map(|field| field["manager"].as_str().map(str::to_owned)).collect();
    ensure!(!names.is_empty(), "nobody has scaled it: {fields:#}");
    Ok(names)
}
