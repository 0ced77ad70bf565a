//! A stand-in for the Kubernetes API server: streaming lists and watches of what it holds.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use nix::sys::socket::{Shutdown as NixShutdown, shutdown};
use serde_json::{Value, json};
use sockline_testbed::{Ns, Task};

/// What the cluster has, whether a server is up or not.
#[derive(Clone, Default)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By resource and name.
    objects: BTreeMap<(String, String), Value>,
    /// Everything that happened: version, resource, a line of a watch.
    history: Vec<(u64, String, String)>,
    /// Open watches: resource and connection.
    watches: Vec<(String, TcpStream)>,
}

/// A running server; it closes all connections when dropped.
pub struct ApiServer {
    address: SocketAddr,
    listener: TcpListener,
    cluster: Cluster,
    task: Option<Task<()>>,
}

impl Cluster {
    /// Creates or changes an object.
    pub fn apply(&self, object: &Value) {
        self.change("MODIFIED", object);
    }

    pub fn delete(&self, object: &Value) {
        self.change("DELETED", object);
    }

    fn change(&self, kind: &str, object: &Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let resource = resource_of(&object);
        let key = (resource.clone(), object["metadata"]["name"].as_str().unwrap().to_owned());
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        if kind == "DELETED" {
            state.objects.remove(&key);
        } else {
            state.objects.insert(key, object);
        }
        for (of, watch) in &mut state.watches {
            if *of == resource {
                // A client that is gone needs nothing.
                let _ = watch.write_all(line.as_bytes());
            }
        }
        state.history.push((version, resource, line));
    }

    /// Starts a server for it; port 0 means any.
    pub fn serve(&self, ns: &Ns, port: u16) -> ApiServer {
        let listener = ns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        let address = listener.local_addr().unwrap();
        let (accepting, cluster) = (listener.try_clone().unwrap(), self.clone());
        let task = ns
            .spawn(move || {
                while let Ok((stream, _)) = accepting.accept() {
                    let cluster = cluster.clone();
                    thread::spawn(move || cluster.answer(stream));
                }
            })
            .unwrap();
        ApiServer { address, listener, cluster: self.clone(), task: Some(task) }
    }

    /// One request per connection. A watch stays open: it belongs to the state from then on.
    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut request = String::new();
        let mut header = String::new();
        if reader.read_line(&mut request).is_err() {
            return;
        }
        while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
            header.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let mut state = self.state.lock().unwrap();
        let mut text = String::from(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        );
        if parameter("sendInitialEvents") == Some("true") {
            for ((_, _), object) in state.objects.iter().filter(|((of, _), _)| *of == resource) {
                text += &format!("{}\n", json!({"type": "ADDED", "object": object}));
            }
            let (api_version, kind) = kind_of(&resource);
            let metadata = json!({
                "resourceVersion": state.version.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"},
            });
            let mark = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
            text += &format!("{}\n", json!({"type": "BOOKMARK", "object": mark}));
        } else if let Some(from) = parameter("resourceVersion") {
            let from: u64 = from.parse().unwrap_or(0);
            for (version, of, line) in &state.history {
                if *version > from && *of == resource {
                    text += line;
                }
            }
        }
        let mut stream = stream;
        if stream.write_all(text.as_bytes()).is_ok() {
            state.watches.push((resource, stream));
        }
    }
}

impl ApiServer {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig that leads here.
    pub fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let server = format!("http://{}", self.address);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), NixShutdown::Both);
        if let Some(task) = self.task.take() {
            task.join();
        }
        for (_, watch) in self.cluster.state.lock().unwrap().watches.drain(..) {
            let _ = watch.shutdown(Shutdown::Both);
        }
    }
}

fn resource_of(object: &Value) -> String {
    format!("{}s", object["kind"].as_str().unwrap().to_lowercase())
}

fn kind_of(resource: &str) -> (&'static str, &'static str) {
    match resource {
        "endpointslices" => ("discovery.k8s.io/v1", "EndpointSlice"),
        "nodes" => ("v1", "Node"),
        "namespaces" => ("v1", "Namespace"),
        "pods" => ("v1", "Pod"),
        _ => ("v1", "Service"),
    }
}
