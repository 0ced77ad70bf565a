//! Requests to the stand-in.

use std::{collections::HashMap, time::Duration};

use super::Resource;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `None` for a path that the stand-in does not have.
    pub resource: Option<Resource>,
    pub path: String,
    pub query: HashMap<String, String>,
    /// `User-Agent`
    pub agent: String,
    /// The time, on the clock of the transport that delivered it.
    pub at: Duration,
}

impl Asked {
    pub(super) fn parse(target: &str, headers: &[(String, String)], at: Duration) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let agent = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
        Self {
            resource: Resource::at(path),
            path: path.to_owned(),
            query: pairs.map(|(key, value)| (decode(key), decode(value))).collect(),
            agent: agent.map_or_else(String::new, |(_, agent)| agent.clone()),
            at,
        }
    }

    /// A parameter; empty when it is not there.
    pub fn get(&self, parameter: &str) -> &str {
        self.query.get(parameter).map_or("", String::as_str)
    }

    pub fn is_watch(&self) -> bool {
        matches!(self.get("watch"), "true" | "1")
    }

    /// It requests the whole list: a streaming list, or the first page.
    pub fn is_first_of_list(&self) -> bool {
        if self.is_watch() {
            self.get("sendInitialEvents") == "true"
        } else {
            self.get("continue").is_empty()
        }
    }
}

/// Decodes a query.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(escaped)) => {
                decoded.push(escaped);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (other, _) => decoded.push(*other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
