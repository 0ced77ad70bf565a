//! The same histories at a real API server, through a proxy that makes the faults.
//!
//! `SOCKLINE_TEST_KUBECONFIG` names the kubeconfig of a server that may be written to; without it
//! there is nothing to do. `SOCKLINE_HISTORIES` is how many rounds (20), `SOCKLINE_HISTORY_SEED` the
//! first one's number, `SOCKLINE_TEST_DISTURB` a shell command that disturbs the server itself
//! (compacts its store, restarts it), run in every fifth round.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use fastrand::Rng;
use http::{Request, StatusCode};
use kube::{Client, Config, config::Kubeconfig};
use serde_json::{Value, json};
use sockline_testbed::api::Resource;
use tokio::time::sleep;

use super::{
    expected::Expected,
    objects, over_tcp,
    proxy::{Mode, Proxy},
    random::{self, Allow, Change},
    watched::Watched,
};

fn number(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_history_the_plan_is_that_of_a_real_servers_objects() {
    let Some(kubeconfig) = env::var_os("SOCKLINE_TEST_KUBECONFIG").map(PathBuf::from) else {
        return;
    };
    let server = Real::connect(&kubeconfig).await;
    let proxy = Proxy::start(server.authority.clone()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let through = through(&kubeconfig, &proxy, folder.path());
    println!("server {}", server.version().await);
    server.prepare().await;
    let mut watched = Watched::with(over_tcp::client_of(&through).await);
    watched.reach(&server.expected().await).await.unwrap();
    let first = number("SOCKLINE_HISTORY_SEED", 0);
    for seed in first..first + number("SOCKLINE_HISTORIES", 20) {
        let mut rng = Rng::with_seed(seed);
        for _ in 0..rng.u8(5..40) {
            match rng.u8(..100) {
                0..70 => server.apply(&random::change(&mut rng, Allow::Valid)).await,
                70..80 => proxy.cut(),
                80..85 => proxy.set(Mode::Hold),
                85..90 => proxy.set(Mode::Refuse),
                90..95 => proxy.set(Mode::Pass),
                _ => sleep(Duration::from_millis(rng.u64(..1_500))).await,
            }
            watched.take_in();
        }
        if seed % 5 == 4
            && let Ok(command) = env::var("SOCKLINE_TEST_DISTURB")
        {
            let status = Command::new("sh").args(["-c", &command]).status().unwrap();
            assert!(status.success(), "{command}: {status}");
        }
        proxy.set(Mode::Pass);
        let (began, expected) = (Instant::now(), server.expected().await);
        if let Err(difference) = watched.reach(&expected).await {
            panic!("round {seed}: {difference}");
        }
        let lists: usize = watched.log.iter().filter(|event| is_list(event)).count();
        println!("round {seed}: right after {:?}, {lists} lists so far", began.elapsed());
    }
}

fn is_list(event: &sockline::source::Event) -> bool {
    matches!(event, sockline::source::Event::Replace(..))
}

/// A kubeconfig that leads through the proxy, to the same server by the same name.
fn through(kubeconfig: &Path, proxy: &Proxy, folder: &Path) -> PathBuf {
    let mut config = Kubeconfig::read_from(kubeconfig).unwrap();
    for named in &mut config.clusters {
        let cluster = named.cluster.as_mut().unwrap();
        let server: http::Uri = cluster.server.as_deref().unwrap().parse().unwrap();
        cluster.tls_server_name.get_or_insert_with(|| server.host().unwrap().to_owned());
        let scheme = server.scheme_str().unwrap();
        cluster.server = Some(format!("{scheme}://{}", proxy.address));
    }
    let path = folder.join("through");
    fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
    path
}

/// A server, asked directly.
struct Real {
    client: Client,
    /// `host:port`
    authority: String,
}

impl Real {
    async fn connect(kubeconfig: &Path) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
        let authority = config.cluster_url.authority().unwrap().to_string();
        Self { client: Client::try_from(config).unwrap(), authority }
    }

    async fn version(&self) -> String {
        let version = self.client.request::<Value>(get("/version")).await.unwrap();
        version["gitVersion"].to_string()
    }

    /// The namespaces and this node, which must be there for the rest.
    async fn prepare(&self) {
        for name in ["east", "west"] {
            self.apply(&Change::Apply(objects::namespace(name, json!({})))).await;
        }
        self.apply(&Change::Apply(objects::node())).await;
    }

    /// Makes a change if the server lets it.
    async fn apply(&self, change: &Change) {
        match change {
            Change::Apply(object) => {
                let path = collection(object);
                let created = self.send("POST", &path, "application/json", object).await;
                if created != StatusCode::CONFLICT {
                    return;
                }
                let path = format!("{path}/{}", name(object));
                let merge = "application/merge-patch+json";
                if self.send("PATCH", &path, merge, object).await
                    == StatusCode::UNPROCESSABLE_ENTITY
                {
                    self.delete(object).await;
                    self.send("POST", &collection(object), "application/json", object).await;
                }
            }
            // Its pods and services would go with it, for good: it takes the server minutes.
            Change::Delete(object) if object["kind"] == "Namespace" => {}
            Change::Delete(object) => self.delete(object).await,
        }
    }

    async fn delete(&self, object: &Value) {
        let path = format!("{}/{}", collection(object), name(object));
        // No kubelet is there to end a pod.
        let now = json!({"gracePeriodSeconds": 0});
        self.send("DELETE", &path, "application/json", &now).await;
    }

    async fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body.to_string().into_bytes().into())
            .unwrap();
        self.client.send(request).await.unwrap().status()
    }

    async fn expected(&self) -> Expected {
        let mut all = std::collections::HashMap::new();
        for resource in Resource::ALL {
            let list = self.client.request::<Value>(get(resource.path())).await.unwrap();
            all.insert(resource, list["items"].as_array().unwrap().clone());
        }
        Expected::from(|resource| all[&resource].clone())
    }
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).unwrap()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// Where objects like this one are made.
fn collection(object: &Value) -> String {
    let path = Resource::of(object).path();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => {
            let (version, resource) = path.rsplit_once('/').unwrap();
            format!("{version}/namespaces/{namespace}/{resource}")
        }
        None => path.to_owned(),
    }
}
