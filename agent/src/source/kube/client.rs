//! The connection to the API server.

use std::{
    env,
    path::{Path, PathBuf},
};

use ::kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use http::{HeaderValue, header::USER_AGENT};

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
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
}

/// How to reach the API server that `kubeconfig` names, or the one of the cluster this process is a
/// pod of.
///
/// # Errors
/// The kubeconfig or the service account is missing or unusable; the message names the file or the
/// environment variable.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, SourceError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path)
            .await
            .map_err(|source| SourceError::Kubeconfig { path: path.to_owned(), source })?,
        None => from_pod()?,
    };
    // Without one of its own, kube loads the system's certificates, and fails where there are none
    // (as in the image), even if it never needs them.
    if config.cluster_url.scheme_str() == Some("http") && config.root_cert.is_none() {
        config.root_cert = Some(Vec::new());
    }
    // The watches know better how long which silence is.
    config.read_timeout = None;
    // Those retries (of 429, 503 and 504, for minutes) would hide that the source is failing; the
    // watches back off themselves and say so.
    config.default_retry = false;
    let agent = concat!("sockline/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    Ok(config)
}

/// A client for an API server. No connection is made yet. Needs a tokio runtime, and works in that.
///
/// # Errors
/// When the credentials cannot be used; the message names the server.
pub fn client(config: Config) -> Result<Client, SourceError> {
    let server = config.cluster_url.to_string();
    Client::try_from(config)
        .map_err(|source| SourceError::Client { server, source: Box::new(source) })
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

fn from_pod() -> Result<Config, SourceError> {
    for variable in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
        if env::var_os(variable).is_none() {
            return Err(SourceError::NotInCluster(variable));
        }
    }
    Config::incluster_env().map_err(SourceError::InCluster)
}

#[cfg(test)]
mod tests {

    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = config(Some(Path::new("/nowhere/kube.config"))).await.err().unwrap();
        assert!(matches!(error, SourceError::Kubeconfig { .. }), "{error:?}");
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

    #[tokio::test]
    async fn a_client_for_https_needs_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let kubeconfig = "\
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: t}}]
";
        std::fs::write(&path, kubeconfig).unwrap();
        if let Err(error) = client(config(Some(&path)).await.unwrap()) {
            panic!("{error}");
        }
    }
}
