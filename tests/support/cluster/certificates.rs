//! The cluster's certificates, of one authority for components and users and one for the API server as a front proxy of extensions.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::layout::{API_PORT, API_SERVICE, FABRIC4, FABRIC6, Name, NodePlan};

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// The folder of the certificates and keys.
#[derive(Clone, Debug)]
pub(super) struct Certificates(PathBuf);

impl Certificates {
    /// Where those of a cluster are.
    pub(super) fn of(cluster: &Name) -> Self {
        Self(cluster.folder().join("pki"))
    }

    /// A certificate's file.
    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.crt"))
    }

    /// Its key's file.
    pub(super) fn key(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.key"))
    }

    /// The public half of the key that signs service accounts' tokens.
    pub(super) fn service_account_public(&self) -> PathBuf {
        self.0.join("service-account.pub")
    }

    /// Makes everything, with a kubeconfig for each component, node and the administrator.
    pub(super) fn write(&self, cluster: &Name, nodes: &[NodePlan]) -> Result<()> {
        fs::create_dir_all(&self.0)?;
        let authority = self.authority("ca")?;
        for (name, user, group) in COMPONENTS {
            self.issue(&authority, name, user, *group, &[])?;
            self.kubeconfig(name, &kubeconfig_path(cluster, name))?;
        }
        for node in nodes {
            let name = node.name();
            let addresses = node.addresses().map(|address| address.to_string());
            let names = [&name, &addresses[0], &addresses[1]].map(String::as_str);
            self.issue(&authority, &name, &format!("system:node:{name}"), Some("system:nodes"), &names)?;
            self.kubeconfig(&name, &node.folder().join("kubelet.kubeconfig"))?;
        }
        self.issue(&authority, "kube-apiserver", "kube-apiserver", None, API_NAMES)?;
        let front = self.authority("front-proxy-ca")?;
        self.issue(&front, "front-proxy-client", "front-proxy-client", None, &[])?;
        let key = KeyPair::generate()?;
        write_secret(&self.key("service-account"), &key.serialize_pem())?;
        Ok(fs::write(self.service_account_public(), key.public_key_pem())?)
    }

    fn authority(&self, name: &str) -> Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        fs::write(self.certificate(name), params.self_signed(&key)?.pem())?;
        write_secret(&self.key(name), &key.serialize_pem())?;
        Ok(Issuer::new(params, key))
    }

    fn issue(
        &self,
        issuer: &Issuer<'static, KeyPair>,
        name: &str,
        user: &str,
        group: Option<&str>,
        hosts: &[&str],
    ) -> Result<()> {
        let mut params = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = distinguished(user, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        fs::write(self.certificate(name), params.signed_by(&key, issuer)?.pem())?;
        write_secret(&self.key(name), &key.serialize_pem())
    }

    fn kubeconfig(&self, name: &str, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "weir", "cluster": {
                "server": format!("https://{FABRIC4}:{API_PORT}"),
                "certificate-authority": self.certificate("ca"),
            }}],
            "users": [{"name": name, "user": {
                "client-certificate": self.certificate(name),
                "client-key": self.key(name),
            }}],
            "contexts": [{"name": "weir", "context": {"cluster": "weir", "user": name}}],
            "current-context": "weir",
        });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        write_secret(path, &serde_json::to_string_pretty(&config)?)
    }
}

/// File, user and group of what calls the API server.
const COMPONENTS: &[(&str, &str, Option<&str>)] = &[
    ("admin", "admin", Some(MASTERS)),
    ("kubelet-client", "kube-apiserver-kubelet-client", Some(MASTERS)),
    ("kube-controller-manager", "system:kube-controller-manager", None),
    ("kube-scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
];

/// By which names the API server is called.
const API_NAMES: &[&str] = &[
    FABRIC4,
    FABRIC6,
    API_SERVICE[0],
    API_SERVICE[1],
    "127.0.0.1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A component's kubeconfig.
pub(super) fn kubeconfig_path(cluster: &Name, component: &str) -> PathBuf {
    cluster.folder().join(format!("{component}.kubeconfig"))
}

fn distinguished(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    name
}

fn write_secret(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
