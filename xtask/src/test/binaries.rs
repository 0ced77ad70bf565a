//! The test binaries that cargo builds.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{process, repo};

/// A test binary.
pub(crate) struct Binary {
    /// Of the target: `restart`, `sockline`.
    pub(crate) name: String,
    /// Whether it is a file of `tests/`, and not a crate's own unit tests.
    pub(crate) is_integration: bool,
    pub(crate) path: PathBuf,
    /// Where cargo would run it.
    pub(crate) package: PathBuf,
}

/// Builds the workspace's tests: all, or what further arguments of cargo ask for.
pub(crate) fn build(args: &[&str]) -> Result<Vec<Binary>> {
    let mut cargo = repo::cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"])?;
    cargo.args(repo::WORKSPACE).args(args);
    let messages = process::output_of_long(&mut cargo)?;
    let binaries: Vec<Binary> = messages.lines().filter_map(parse).collect();
    if binaries.is_empty() {
        bail!("cargo has built no tests");
    }
    Ok(binaries)
}

/// The test binary that a line of cargo's messages is about.
fn parse(line: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["profile"]["test"] != true {
        return None;
    }
    Some(Binary {
        name: message["target"]["name"].as_str()?.to_owned(),
        is_integration: message["target"]["kind"] == serde_json::json!(["test"]),
        path: message["executable"].as_str()?.into(),
        package: PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_cargos_messages_those_about_tests_are_read() {
        let message = |kind: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
                "target":{{"kind":["{kind}"],"name":"udp"}},"profile":{{"test":{test}}},
                "executable":{executable}}}"#
            )
            .replace('\n', "")
        };
        let found = parse(&message("test", true, r#""/w/target/debug/deps/udp-1""#)).unwrap();
        assert_eq!((found.name.as_str(), found.is_integration), ("udp", true));
        assert_eq!(found.package, PathBuf::from("/w/tests"));
        let unit = parse(&message("lib", true, r#""/w/target/debug/deps/udp-2""#)).unwrap();
        assert!(!unit.is_integration);
        assert!(parse(&message("bin", false, r#""/w/target/debug/udp""#)).is_none());
        assert!(parse(&message("lib", false, "null")).is_none());
        assert!(parse(r#"{"reason":"build-finished","success":true}"#).is_none());
    }
}
