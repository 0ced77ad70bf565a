//! The log of a watch.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use sockline_testbed::api::{Cut, Fault, Resource};
use tracing::subscriber::{DefaultGuard, set_default};

use super::{objects, watched::Watched};

/// What is logged in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, [DefaultGuard; 2]) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        // While a process has a single subscriber, tracing lets the first thread that reaches a line of code decide
        // for all whether it is logged (`Rebuilder::JustOne` in tracing-core's callsite.rs). Other tests' threads have
        // none, so this one has two.
        let other = set_default(tracing_subscriber::fmt().with_writer(io::sink).finish());
        (log, [other, set_default(subscriber)])
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.0.lock().unwrap();
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_line_of_a_watch_names_its_kind() {
    let (log, _guard) = Log::start();
    let api = objects::cluster(&["cart"]);
    let mut watched = Watched::start(&api);
    watched.catch_up(&api).await;
    api.fault(Resource::EndpointSlices, Fault::Close);
    api.cut(Resource::EndpointSlices, Cut::Between);
    watched.until_source_error("watch of endpointslices").await;
    api.lift(Resource::EndpointSlices);
    watched.catch_up(&api).await;
    watched.until_quiet().await;

    let lines = log.lines();
    let of_agent = |line: &&Value| line["target"].as_str().unwrap().starts_with("sockline::source");
    let works: Vec<_> =
        lines.iter().filter(|line| line["fields"]["message"] == "the watch works again").collect();
    assert_eq!(works.len(), 1, "{lines:#?}");
    assert_eq!(works[0]["span"]["name"], "watch", "{works:#?}");
    assert_eq!(works[0]["span"]["kind"], "EndpointSlice", "{works:#?}");
    for line in lines.iter().filter(of_agent) {
        let kind = &line["spans"][0]["kind"];
        assert!(kind.is_string(), "a line without its kind: {line:#}");
    }
}
