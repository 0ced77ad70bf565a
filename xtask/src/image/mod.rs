//! `cargo xtask image`: the agent as a container image, in an archive. Needs no daemon.
//!
//! `binary` builds, `archive` writes the image, `provenance` makes it the same for the same sources, and `smoke_test` runs it
//! with `podman` and the rights that `deployment` takes from deploy/. `ci` calls it.

mod archive;
mod binary;
mod deployment;
mod podman;
mod provenance;
mod smoke_test;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::binary::build_fast as build_static_fast;
use self::{archive::Image, provenance::Provenance};
use crate::{repo, term};

/// The largest size of an image to ship, unpacked and as an archive.
const LIMIT: u64 = 25_000_000;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Where to write the archive [default: target/sockline.oci.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name and tag of the image [default: localhost/sockline:VERSION, as in deploy/base]
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<String>,
    /// Target to build for; another architecture than this machine's needs a linker for it
    #[arg(long, value_name = "TRIPLE", default_value_t = binary::default_target())]
    target: String,
    /// Use this static binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Do not optimise the binary: faster to build, for tests; the size limit does not apply
    #[arg(long, conflicts_with = "binary")]
    fast: bool,
    /// Run the image with podman, with the rights that deploy/ gives it, and test it (needs root)
    #[arg(long)]
    smoke_test: bool,
}

impl Args {
    /// As continuous integration runs it.
    pub(crate) fn with_smoke_test() -> Self {
        Self { target: binary::default_target(), fast: true, smoke_test: true, ..Self::default() }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = match &args.binary {
        Some(path) => path.clone(),
        None if args.fast => {
            ensure!(
                args.target == binary::default_target(),
                "--fast builds for this machine only: remove it to build for {}",
                args.target
            );
            build_static_fast()?
        }
        None => binary::build(&args.target)?,
    };
    let output = args.output.clone().unwrap_or_else(|| repo::target_dir().join("sockline.oci.tar"));
    let tag = args.tag.clone().unwrap_or_else(|| format!("localhost/sockline:{}", version()));
    let limit = (!args.fast).then_some(LIMIT);
    write(&binary, &tag, &output, limit)
        .with_context(|| format!("writing {}", output.display()))?;
    if args.smoke_test {
        smoke_test::run(&output, &tag)?;
    }
    Ok(())
}

/// Installs podman if it is missing.
pub(crate) fn install_podman() -> Result<()> {
    podman::install()
}

/// Builds the agent for this machine as it is shipped: optimised, and without shared libraries.
pub(crate) fn build_static() -> Result<PathBuf> {
    binary::build(&binary::default_target())
}

/// Writes the archive and prints the sizes.
fn write(binary: &Path, tag: &str, output: &Path, limit: Option<u64>) -> Result<()> {
    let content = std::fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let architecture = binary::check(&content).with_context(|| binary.display().to_string())?;
    let image = Image::new(&content, architecture, tag, &Provenance::of_the_repository()?)?;
    let sizes = [
        ("binary", content.len() as u64),
        ("layer, compressed", image.layer_size()),
        ("archive", image.write(output)?),
    ];
    let rows: Vec<Vec<String>> =
        sizes.iter().map(|(what, size)| vec![(*what).to_owned(), megabytes(*size)]).collect();
    term::table(&["image", "MB"], &rows);
    for (what, size) in sizes {
        if let Some(limit) = limit.filter(|limit| size > *limit) {
            bail!("the {what} has {} MB, the limit is {} MB", megabytes(size), megabytes(limit));
        }
    }
    term::ok("image", &format!("{tag} for {architecture} in {}", output.display()));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "printed with one decimal")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// The workspace's version, which is the agent's.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
