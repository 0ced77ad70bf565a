//! The connection to the API server.

use std::{
    env, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use http::{HeaderValue, header::USER_AGENT};
use hyper_util::{client::legacy, rt::TokioExecutor};
use tower::ServiceExt as _;

use super::{
    connector::{ConnectBypass, TcpConnector},
    happy_eyeballs::HappyEyeballs,
    server_addresses::{OnlyAsConfigured, ServerAddresses},
};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot use the kubeconfig {}: {source}", path.display())]
    Kubeconfig { path: PathBuf, source: KubeconfigError },

    #[error(
        "not in a cluster: the environment variable {0} is not set; \
         in a pod Kubernetes sets it, elsewhere name a kubeconfig"
    )]
    NotInCluster(&'static str),

    #[error(
        "cannot use the pod's service account \
         (/var/run/secrets/kubernetes.io/serviceaccount, KUBERNETES_SERVICE_HOST, \
         KUBERNETES_SERVICE_PORT): {0}"
    )]
    InCluster(#[source] InClusterError),

    #[error("cannot make a client for the API server {server}: {source}")]
    Client { server: String, source: Box<::kube::Error> },

    #[error(
        "the API server {server} cannot be reached through the proxy {proxy}: no proxy is supported; \
         remove proxy-url from the kubeconfig or name the server in NO_PROXY"
    )]
    Proxy { server: String, proxy: String },
}

/// How to reach the API server that `kubeconfig` names, or the one of the cluster this process is a
/// pod of.
///
/// # Errors
/// The kubeconfig or the service account is missing or unusable; the message names the file or the
/// environment variable.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path)
            .await
            .map_err(|source| ClientError::Kubeconfig { path: path.to_owned(), source })?,
        None => from_pod()?,
    };
    // Without one of its own, kube loads the system's certificates, and fails where there are none
    // (as in the image), even if it never needs them.
    if config.cluster_url.scheme_str() == Some("http") && config.root_cert.is_none() {
        config.root_cert = Some(Vec::new());
    }
    // The watches have timeouts of their own.
    config.read_timeout = None;
    // Those retries (of 429, 503 and 504, for minutes) would hide that the source fails. The watches have a backoff
    // of their own and report it.
    config.default_retry = false;
    let agent = concat!("sockline/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    Ok(config)
}

/// How to connect to the API server.
#[derive(Clone)]
pub struct Connections {
    /// The addresses to dial.
    pub addresses: Arc<ServerAddresses>,
    /// How to connect without translation by the node's own programs.
    pub bypass: Arc<dyn ConnectBypass>,
}

/// A client for an API server. No connection is made yet. Needs a tokio runtime, and works in that.
///
/// kube's own client is not used: it dials one address, and logs each error, which the watches do.
///
/// # Errors
/// When the credentials cannot be used, or a proxy is configured. The message names the server.
pub fn client(config: Config, connections: Connections) -> Result<Client, ClientError> {
    let server = config.cluster_url.to_string();
    if let Some(proxy) = &config.proxy_url {
        return Err(ClientError::Proxy { server, proxy: proxy.to_string() });
    }
    build(config, connections)
        .map_err(|source| ClientError::Client { server, source: Box::new(source) })
}

/// Whether a client can be made with these credentials. Needs a tokio runtime.
///
/// # Errors
/// Those of [`client`].
pub fn check(config: Config) -> Result<(), ClientError> {
    let connections = Connections { addresses: Arc::default(), bypass: Arc::new(Nowhere) };
    client(config, connections).map(drop)
}

/// Does not connect.
struct Nowhere;

impl ConnectBypass for Nowhere {
    fn connect(&self, _: u64, _: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn build(mut config: Config, connections: Connections) -> ::kube::Result<Client> {
    let Connections { addresses, bypass } = connections;
    let https = config.cluster_url.scheme_str() == Some("https");
    if let Some(why) = only_as_configured(&config) {
        addresses.dial_only_as_configured(why);
    }
    // TLS verifies the configured name, whichever address is dialled.
    if https && config.tls_server_name.is_none() {
        let host = config.cluster_url.host().unwrap_or_default();
        config.tls_server_name = Some(host.trim_matches(['[', ']']).to_owned());
    }
    let connector = config.rustls_https_connector_with_connector(TcpConnector(bypass))?;
    let connector = HappyEyeballs::new(connector, addresses);
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let http = http.map_err(Box::<dyn std::error::Error + Send + Sync>::from);
    // The last layer is the first that sees a request.
    let builder = ClientBuilder::new(http, config.default_namespace.clone())
        .with_layer(&config.extra_headers_layer()?);
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&config.base_uri_layer()).build(),
        None => builder.with_layer(&config.base_uri_layer()).build(),
    })
}

/// Why the endpoints of `default/kubernetes` must not be dialled in place of the configured address; `None` if they may.
/// (Without TLS there is nothing to protect.)
fn only_as_configured(config: &Config) -> Option<OnlyAsConfigured> {
    if config.accept_invalid_certs {
        Some(OnlyAsConfigured::SkipsVerification)
    } else if !matches!(config.cluster_url.path(), "" | "/") {
        Some(OnlyAsConfigured::HasPath)
    } else {
        None
    }
}

/// Whether the API server of the pod's cluster is configured by its Service's address. The kubelet sets two variables to
/// that address; a cluster without kube-proxy replaces the first one (`deploy/overlays/without-kube-proxy`).
#[must_use]
pub fn is_at_service_address() -> bool {
    is_service_address(|name| env::var(name).ok())
}

fn is_service_address(variable: impl Fn(&str) -> Option<String>) -> bool {
    let host = variable("KUBERNETES_SERVICE_HOST");
    host.is_some() && host == variable("KUBERNETES_PORT_443_TCP_ADDR")
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

fn from_pod() -> Result<Config, ClientError> {
    for variable in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
        if env::var_os(variable).is_none() {
            return Err(ClientError::NotInCluster(variable));
        }
    }
    Config::incluster_env().map_err(ClientError::InCluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = config(Some(Path::new("/nowhere/kube.config"))).await.err().unwrap();
        assert!(matches!(error, ClientError::Kubeconfig { .. }), "{error:?}");
        assert!(error.to_string().contains("/nowhere/kube.config"), "{error}");
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "clusters: {").unwrap();
        let error = config(Some(&path)).await.err().unwrap();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[tokio::test]
    async fn outside_a_cluster_the_missing_variable_is_named() {
        if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            return;
        }
        let error = config(None).await.err().unwrap();
        assert!(error.to_string().contains("KUBERNETES_SERVICE_HOST is not set"), "{error}");
    }

    /// As read from a kubeconfig with this cluster.
    async fn of_cluster(cluster: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\n"
        );
        std::fs::write(&path, kubeconfig).unwrap();
        config(Some(&path)).await.unwrap()
    }

    #[tokio::test]
    async fn a_client_for_https_needs_no_connection() {
        check(of_cluster("server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true").await)
            .unwrap();
    }

    #[tokio::test]
    async fn the_option_that_keeps_endpoints_from_being_dialled_is_named_at_a_service_address() {
        for (cluster, option) in [
            (
                "server: 'https://10.96.0.1', insecure-skip-tls-verify: true",
                "insecure-skip-tls-verify",
            ),
            ("server: 'http://10.96.0.1/k8s/clusters/c-1'", "has a path"),
            ("server: 'http://10.96.0.1'", "without-kube-proxy"),
        ] {
            let addresses = Arc::new(ServerAddresses::default());
            let connections =
                Connections { addresses: Arc::clone(&addresses), bypass: Arc::new(Nowhere) };
            client(of_cluster(cluster).await, connections).unwrap();
            assert_eq!(addresses.hint(), None, "{cluster}: at an address that is no service's");
            addresses.set_through_service();
            let hint = addresses.hint().unwrap();
            assert!(hint.contains(option), "{cluster}: {hint}");
        }
    }

    #[test]
    fn the_api_servers_service_address_is_known_by_both_of_its_variables() {
        for (host, service, expected) in [
            (Some("10.96.0.1"), Some("10.96.0.1"), true),
            (Some("192.0.2.1"), Some("10.96.0.1"), false),
            (Some("10.96.0.1"), None, false),
            (None, Some("10.96.0.1"), false),
            (None, None, false),
        ] {
            let variable = |name: &str| match name {
                "KUBERNETES_SERVICE_HOST" => host.map(ToOwned::to_owned),
                "KUBERNETES_PORT_443_TCP_ADDR" => service.map(ToOwned::to_owned),
                other => panic!("{other}"),
            };
            assert_eq!(is_service_address(variable), expected, "{host:?} {service:?}");
        }
    }
}
