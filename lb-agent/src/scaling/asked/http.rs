//! HTTP as far as it takes to ask for a number: GET, an answer of bounded size within a bounded time, plain or over TLS.

use std::{error::Error, fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// The longest that an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The longest that a connection is waited for.
const CONNECT: Duration = Duration::from_secs(2);

/// The most bytes that an answer may have.
pub(super) const LIMIT: usize = 4 << 20;

/// Connections that nothing was asked over for so long are closed.
const IDLE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpError {
    /// It is no address.
    #[error("{at} is not an address that can be asked ({why})")]
    Address {
        /// Where.
        at: String,
        /// Why.
        why: String,
    },
    /// There is no connection, or it broke.
    #[error("{at} does not answer ({why})")]
    Silent {
        /// Where.
        at: String,
        /// Why.
        why: String,
    },
    /// The answer takes too long.
    #[error("{at} does not answer within {} s", PATIENCE.as_secs())]
    Late {
        /// Where.
        at: String,
    },
    /// The answer is too large.
    #[error("{at} answers with more than {} MiB", LIMIT >> 20)]
    Large {
        /// Where.
        at: String,
    },
}

/// A client; its clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// The system's certificate authorities: `SSL_CERT_FILE` and `SSL_CERT_DIR` say where they are if it is not the usual place.
pub(super) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificate authorities of the system");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

impl Http {
    /// A client that trusts these authorities.
    pub(super) fn new(roots: RootCertStore) -> Self {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the protocol's default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { client }
    }

    /// What is answered there; errors call it `at`.
    pub(super) async fn get(&self, url: &str, at: &str, accept: &str) -> Result<(StatusCode, Bytes), HttpError> {
        let at = at.to_owned();
        match tokio::time::timeout(PATIENCE, self.ask(url, &at, accept)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Late { at }),
        }
    }

    async fn ask(&self, url: &str, at: &str, accept: &str) -> Result<(StatusCode, Bytes), HttpError> {
        let address = |why: String| HttpError::Address { at: at.to_owned(), why };
        let silent = |error: &dyn Error| HttpError::Silent { at: at.to_owned(), why: with_causes(error) };
        let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| address(error.to_string()))?;
        let request = Request::get(uri)
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| address(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(|error| silent(&error))?;
        let status = answer.status();
        match Limited::new(answer.into_body(), LIMIT).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(HttpError::Large { at: at.to_owned() }),
            Err(error) => Err(silent(error.as_ref())),
        }
    }
}

/// An error with what caused it: the outermost alone says little.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {inner_text}");
        }
        cause = inner.source();
    }
    text
}
