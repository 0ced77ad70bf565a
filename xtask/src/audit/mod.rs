//! `cargo xtask audit`: checks the dependencies with cargo-deny: licences against the list in `deny.toml`,
//! yanked versions, and advisories of the RustSec database.
//!
//! The database is a git repository on the network. Without it, the task checks the rest and says that it did
//! not check advisories. Each run first proves that cargo-deny refuses an advisory and a licence that it must
//! refuse.

mod database;
mod deny;

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use self::{database::Database, deny::Deny};
use crate::term;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Git repository with the RustSec database [default: the one on GitHub]
    #[arg(long, value_name = "DIR|URL")]
    database: Option<String>,
}

/// Installs cargo-deny if it is missing.
pub(crate) fn install() -> Result<()> {
    deny::ensure()
}

pub(crate) fn run(args: &Args) -> Result<()> {
    install()?;
    let scratch = tempfile::tempdir().context("making a temporary folder")?;
    prove_it_refuses(scratch.path())?;
    let found = match &args.database {
        Some(source) => database::reach(source).map(|()| Database::named(source, scratch.path())),
        None => database::reach(database::URL).and_then(|()| Database::kept()),
    };
    match found {
        Ok(database) => {
            Deny::new(&database)?.check(&["all"])?;
            term::ok("audit", "advisories, yanked versions, licences and sources");
        }
        Err(error) => {
            // cargo-deny looks for yanked versions only together with advisories.
            let database = Database::against("no-such-crate", &scratch.path().join("none"))?;
            Deny::new(&database)?.check(&["all"])?;
            term::ok("audit", "yanked versions, licences and sources");
            let how = format!(
                "clone {} where the network allows it, and pass the clone with --database",
                database::URL
            );
            term::doing(
                "audit",
                &format!(
                    "ADVISORIES WERE NOT CHECKED, the database is not reachable; {how}: {error:#}"
                ),
            );
        }
    }
    Ok(())
}

fn prove_it_refuses(scratch: &Path) -> Result<()> {
    let database = Database::against("anyhow", &scratch.join("anyhow"))?;
    let advisory = Deny::new(&database)?.refusal(&["advisories"])?;
    if !advisory.contains(database::ADVISORY) {
        bail!("cargo-deny did not refuse a crate with an advisory: {advisory}");
    }
    let licence = Deny::new(&database)?.of(&copyleft(scratch)?).refusal(&["licenses"])?;
    if !licence.contains("GPL-3.0-only") {
        bail!("cargo-deny did not refuse a licence that is not on the list: {licence}");
    }
    Ok(())
}

/// A crate under a licence that is not on the list.
fn copyleft(scratch: &Path) -> Result<std::path::PathBuf> {
    let place = scratch.join("copyleft");
    let manifest = place.join("Cargo.toml");
    let text = "[package]\nname = \"copyleft\"\nversion = \"0.0.0\"\nlicense = \"GPL-3.0-only\"\n[workspace]\n";
    std::fs::create_dir_all(place.join("src"))
        .and_then(|()| std::fs::write(place.join("src/lib.rs"), ""))
        .and_then(|()| std::fs::write(&manifest, text))
        .context("making a crate to refuse")?;
    Ok(manifest)
}
