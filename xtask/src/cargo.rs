//! cargo, run in the root folder, and what it says about its builds.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use cargo_metadata::{Artifact, Message, Metadata, MetadataCommand};

use crate::{process, repo};

/// `cargo ARGS`. Without `--package` that is about the workspace's default members, which Cargo.toml lists:
/// all but the kernel programs.
pub(crate) fn command(args: &[&str]) -> Result<Command> {
    let mut cargo = repo::command("cargo")?;
    cargo.args(args);
    Ok(cargo)
}

/// The workspace, without its dependencies.
pub(crate) fn metadata() -> Result<Metadata> {
    let text = process::output(&mut command(&["metadata", "--format-version=1", "--no-deps"])?)?;
    MetadataCommand::parse(text).context("reading the output of `cargo metadata`")
}

/// `cargo build` with the dependencies' features that the tests need: it builds a small test, too. Without
/// it, cargo would build some twenty crates twice, with and without these features.
pub(crate) fn build_as_for_tests() -> Result<Command> {
    command(&["build", "--test=upstream_issues"])
}

/// Runs a build, and returns what it made.
pub(crate) fn artifacts(cargo: &mut Command) -> Result<Vec<Artifact>> {
    cargo.arg("--message-format=json-render-diagnostics");
    let output = process::output_with_progress(cargo)?;
    let messages = Message::parse_stream(output.as_bytes()).collect::<Result<Vec<_>, _>>();
    let artifacts =
        messages.context("reading cargo's messages")?.into_iter().filter_map(|message| {
            if let Message::CompilerArtifact(artifact) = message { Some(artifact) } else { None }
        });
    Ok(artifacts.collect())
}

/// Runs a build, and returns where the program of this name is.
pub(crate) fn program(cargo: &mut Command, name: &str) -> Result<PathBuf> {
    let artifacts = artifacts(cargo)?;
    let made =
        artifacts.iter().find(|artifact| artifact.target.is_bin() && artifact.target.name == name);
    let path = made.and_then(|artifact| artifact.executable.as_ref());
    Ok(path.with_context(|| format!("cargo built no program {name}"))?.into())
}
