//! A stand-in for the API server: answers each resource's requests from a script, in order, and
//! remembers what was asked.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use futures::{StreamExt, stream};
use http::{HeaderMap, StatusCode, Uri, header::USER_AGENT};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The answer to one request.
pub(crate) enum Reply {
    /// A whole body.
    Whole(u16, String),
    /// A watch: these bytes, then this end.
    Watch(String, Ending),
}

#[derive(Clone, Copy)]
pub(crate) enum Ending {
    /// In order, as after `timeoutSeconds`.
    Close,
    /// The connection breaks.
    Break,
    /// It stays open until the client goes.
    Open,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) resource: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) agent: String,
}

impl Asked {
    pub(crate) fn get(&self, parameter: &str) -> &str {
        self.query.get(parameter).map_or("", String::as_str)
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.get("watch") == "true"
    }
}

#[derive(Default)]
struct Script {
    replies: HashMap<&'static str, VecDeque<Reply>>,
    asked: Vec<Asked>,
}

/// One server; clones are handles to it.
#[derive(Clone, Default)]
pub(crate) struct Api {
    script: Arc<Mutex<Script>>,
}

impl Api {
    /// Adds an answer for `services`, `endpointslices` or `nodes`. When a resource's script is used
    /// up, its streaming lists are empty and its watches silent.
    #[must_use]
    pub(crate) fn reply(self, resource: &'static str, reply: Reply) -> Self {
        self.script.lock().unwrap().replies.entry(resource).or_default().push_back(reply);
        self
    }

    /// The requests for one resource so far.
    pub(crate) fn asked(&self, resource: &str) -> Vec<Asked> {
        let script = self.script.lock().unwrap();
        script.asked.iter().filter(|asked| asked.resource == resource).cloned().collect()
    }

    pub(crate) async fn start(&self) -> SocketAddr {
        self.start_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
    }

    pub(crate) fn start_on(&self, listener: TcpListener) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }
}

async fn answer(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> Response {
    let resource = uri.path().rsplit('/').next().unwrap().to_owned();
    let query = form(uri.query().unwrap_or_default());
    let agent = headers.get(USER_AGENT).map_or("", |agent| agent.to_str().unwrap()).to_owned();
    let asked = Asked { resource, query, agent };
    let reply = {
        let mut script = api.script.lock().unwrap();
        script.asked.push(asked.clone());
        script.replies.get_mut(asked.resource.as_str()).and_then(VecDeque::pop_front)
    };
    match reply {
        Some(Reply::Whole(status, body)) => respond(status, Body::from(body)),
        Some(Reply::Watch(lines, ending)) => respond(200, watch_body(lines, ending)),
        None if asked.get("sendInitialEvents") == "true" => {
            let end = initial_end(kind_of(&asked.resource), "1");
            respond(200, watch_body(end, Ending::Open))
        }
        None if asked.is_watch() => respond(200, watch_body(String::new(), Ending::Open)),
        None => respond(500, Body::from(status(500, "InternalError", "no such scene"))),
    }
}

fn respond(status: u16, body: Body) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn watch_body(lines: String, ending: Ending) -> Body {
    let bytes = stream::iter([Ok::<_, Infallible>(Bytes::from(lines))]).map(|b| b.map_err(void));
    match ending {
        Ending::Close => Body::from_stream(bytes),
        Ending::Open => Body::from_stream(bytes.chain(stream::pending())),
        Ending::Break => {
            // Pending once first: hyper drops what it has buffered when a body fails.
            let broken = stream::once(async {
                tokio::task::yield_now().await;
                Err(io::Error::other("scripted"))
            });
            Body::from_stream(bytes.chain(broken))
        }
    }
}

fn void(never: Infallible) -> io::Error {
    match never {}
}

fn form(query: &str) -> HashMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decode(key), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(decoded).unwrap()
}

fn kind_of(resource: &str) -> (&'static str, &'static str) {
    match resource {
        "services" => ("v1", "Service"),
        "nodes" => ("v1", "Node"),
        "namespaces" => ("v1", "Namespace"),
        "pods" => ("v1", "Pod"),
        "endpointslices" => ("discovery.k8s.io/v1", "EndpointSlice"),
        other => panic!("a request for {other}"),
    }
}

/// A recorded body: `tests/fixtures/wire`.
pub(crate) fn recorded(name: &str) -> String {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire");
    std::fs::read_to_string(wire.join(name)).unwrap()
}

pub(crate) fn status(code: u16, reason: &str, message: &str) -> String {
    status_value(code, reason, message).to_string()
}

fn status_value(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub(crate) fn service(name: &str, version: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    })
}

/// One line of a watch.
pub(crate) fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

pub(crate) fn error_event(code: u16, reason: &str, message: &str) -> String {
    event("ERROR", &status_value(code, reason, message))
}

pub(crate) fn bookmark((api_version, kind): (&str, &str), version: &str) -> String {
    let metadata = json!({"resourceVersion": version});
    event("BOOKMARK", &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}))
}

/// The bookmark that ends a streaming list.
pub(crate) fn initial_end((api_version, kind): (&str, &str), version: &str) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": version, "annotations": annotations});
    event("BOOKMARK", &json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}))
}

pub(crate) const SERVICE: (&str, &str) = ("v1", "Service");

/// A streaming list of services.
pub(crate) fn services(names: &[&str], version: &str) -> String {
    let mut lines: String =
        names.iter().map(|name| event("ADDED", &service(name, version))).collect();
    lines.push_str(&initial_end(SERVICE, version));
    lines
}

/// A page of a list of services; `next` is the continue token.
pub(crate) fn page(names: &[&str], version: &str, next: &str) -> String {
    let items: Vec<_> = names.iter().map(|name| service(name, version)).collect();
    let metadata = json!({"resourceVersion": version, "continue": next});
    json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": metadata, "items": items})
        .to_string()
}
