//! `cargo xtask lint`: rules of this repository that neither the compiler nor clippy checks. Reads files and
//! builds nothing.

mod architecture;
mod documents;
mod words;

use anyhow::Result;

#[cfg(test)]
pub(crate) use self::documents::lines as documents_as_text;
pub(crate) use self::documents::run as documents;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Which lint to run [default: all]
    #[command(subcommand)]
    lint: Option<Lint>,
}

#[derive(clap::Subcommand, Clone, Copy)]
enum Lint {
    /// Compare which folder uses which with the table in ARCHITECTURE.md
    Architecture,
    /// Look for broken links, paths that do not exist, documents that are too long, and modules that are in no list
    Documents,
    /// Look for words that are not to be used any more (xtask/src/lint/words/words.txt)
    Words,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.lint {
        Some(Lint::Architecture) => architecture::run(),
        Some(Lint::Documents) => documents::run(),
        Some(Lint::Words) => words::run(),
        None => {
            architecture::run()?;
            documents::run()?;
            words::run()
        }
    }
}
