//! The coordinator's certificate: made once, kept in a Secret that all its replicas use, and published in a ConfigMap for the agents.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};

use super::{SERVER_NAME, TRUST};

/// The Secret with the certificate and its key.
pub const SECRET: &str = "weir-coordinator-tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The ConfigMap's key.
pub const AUTHORITY: &str = "ca.crt";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The API refused.
    #[error("{what} in namespace {namespace}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Where.
        namespace: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The Secret is not one of ours.
    #[error("Secret {namespace}/{SECRET} has no {CERTIFICATE} and {KEY}: remove its data, and new ones are made")]
    Incomplete {
        /// Where.
        namespace: String,
    },
    /// The certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, which is its own authority.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The certificate of this installation: the one there is, or a new one.
pub async fn identity(client: &Client, namespace: &str) -> Result<Identity, TlsError> {
    let failed = |what| move |source| TlsError::Api { what, namespace: namespace.to_owned(), source: Box::new(source) };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(SECRET).await.map_err(failed("get Secret weir-coordinator-tls"))?;
    if let Some(secret) = found.as_ref().filter(|secret| !is_empty(secret)) {
        return read(secret).ok_or_else(|| TlsError::Incomplete { namespace: namespace.to_owned() });
    }
    let made = make()?;
    let written = match found {
        // The chart's, which goes when the chart goes.
        Some(empty) => api.replace(SECRET, &PostParams::default(), &filled(empty, &made)).await,
        None => api.create(&PostParams::default(), &secret(&made)).await,
    };
    match written {
        Ok(_) => Ok(made),
        // The other replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let secret = api.get(SECRET).await.map_err(failed("get Secret weir-coordinator-tls"))?;
            read(&secret).ok_or_else(|| TlsError::Incomplete { namespace: namespace.to_owned() })
        }
        Err(error) => Err(failed("write Secret weir-coordinator-tls")(error)),
    }
}

/// Tells the agents whom to trust.
pub async fn publish(client: &Client, namespace: &str, identity: &Identity) -> Result<(), TlsError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(TRUST.into()), ..ObjectMeta::default() },
        data: Some([(AUTHORITY.to_owned(), identity.certificate.clone())].into()),
        ..ConfigMap::default()
    };
    let applied = api.patch(TRUST, &PatchParams::apply("weir-coordinator").force(), &Patch::Apply(&map)).await;
    applied.map(drop).map_err(|source| TlsError::Api {
        what: "apply ConfigMap weir-coordinator-ca",
        namespace: namespace.to_owned(),
        source: Box::new(source),
    })
}

fn make() -> Result<Identity, rcgen::Error> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    Ok(Identity { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
}

fn is_empty(secret: &Secret) -> bool {
    secret.data.as_ref().is_none_or(BTreeMap::is_empty)
}

/// A Secret that is there, with a certificate; its version sees to it that of two replicas one wins.
fn filled(empty: Secret, identity: &Identity) -> Secret {
    Secret { data: secret(identity).data, ..empty }
}

fn secret(identity: &Identity) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data: BTreeMap<String, ByteString> =
        [(CERTIFICATE.to_owned(), bytes(&identity.certificate)), (KEY.to_owned(), bytes(&identity.key))].into();
    Secret {
        metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(data),
        ..Secret::default()
    }
}

fn read(secret: &Secret) -> Option<Identity> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(Identity { certificate: text(CERTIFICATE)?, key: text(KEY)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_what_was_made() {
        let made = make().unwrap();
        assert!(made.certificate.starts_with("-----BEGIN CERTIFICATE-----"), "{}", made.certificate);
        let found = read(&secret(&made)).unwrap();
        assert_eq!((found.certificate, found.key), (made.certificate, made.key));
        assert!(read(&Secret::default()).is_none());
    }

    #[test]
    fn an_empty_secret_of_the_chart_is_filled_and_keeps_what_it_is() {
        let metadata = ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() };
        let empty = Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() };
        assert!(is_empty(&empty));
        let filled = filled(empty, &make().unwrap());
        assert!(read(&filled).is_some() && !is_empty(&filled));
        assert_eq!((filled.metadata.resource_version.as_deref(), filled.type_.as_deref()), (Some("7"), Some("Opaque")));
    }
}
