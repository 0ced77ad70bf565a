//! `cargo xtask image`: the agent as a container image, in an archive that needs no daemon to make.

mod archive;
mod binary;
mod deployment;
mod podman;
mod provenance;
mod smoke_test;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use self::{archive::Image, provenance::Provenance};
use crate::{repo, term};

/// What an image to ship may weigh, unpacked and as an archive.
const LIMIT: u64 = 25_000_000;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Where to write it [default: target/sockline.oci.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The name it is loaded by [default: localhost/sockline:VERSION, as in deploy/base]
    #[arg(long, value_name = "NAME:TAG")]
    tag: Option<String>,
    /// For which nodes to build; another architecture than this machine's needs its linker
    #[arg(long, value_name = "TRIPLE", default_value_t = binary::default_target())]
    target: String,
    /// Take this static binary, and build none
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Do not optimise the binary, to have an image to try soon; it may be larger than one to ship
    #[arg(long, conflicts_with = "binary")]
    fast: bool,
    /// Then run it with podman, as deploy/base says, and see that it serves traffic (needs root)
    #[arg(long)]
    smoke_test: bool,
}

impl Args {
    /// What continuous integration runs.
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
                "--fast makes an image for this machine; leave it out for --target {}",
                args.target
            );
            build_static(true)?
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

/// Builds the agent for this machine without shared libraries: optimised as it is shipped, or as soon as
/// may be.
pub(crate) fn build_static(fast: bool) -> Result<PathBuf> {
    if fast { binary::build_fast() } else { binary::build(&binary::default_target()) }
}

/// Writes the archive and shows what it weighs.
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
            bail!(
                "the {what} has {} MB, and the limit is {} MB",
                megabytes(size),
                megabytes(limit)
            );
        }
    }
    term::ok("image", &format!("{tag} for {architecture} in {}", output.display()));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// The workspace's version, which is the agent's.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
