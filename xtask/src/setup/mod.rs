//! `cargo xtask setup`: finds or installs what building and testing need. Can be repeated.
//!
//! Every task that needs a tool calls [`ensure`] or `install_packages`. Only what is missing is installed; `root` is the one
//! place that asks for more rights.

mod debian;
mod linker;
mod root;
mod rust_src;
mod tools;

use std::path::PathBuf;

use anyhow::{Context, Result};

pub(crate) use self::tools::{
    install_from, install_packages, unpack_package, update_package_lists,
};
use crate::term;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Install the standard library's sources below this folder instead of the toolchain's sysroot, to test the
    /// installation
    #[arg(long, hide = true)]
    sysroot: Option<PathBuf>,
    /// Install the standard library's sources from Debian, without trying rustup
    #[arg(long, hide = true)]
    without_rustup: bool,
}

/// Something that must be installed.
struct Need {
    name: &'static str,
    /// Returns what was found, or `None` if it is missing.
    find: fn(&Args) -> Result<Option<String>>,
    /// Installs it, and returns how.
    install: fn(&Args) -> Result<String>,
}

const NEEDS: [Need; 6] = [
    Need { name: "rustfmt, clippy", find: tools::find_components, install: tools::add_components },
    Need { name: "rust-src", find: rust_src::find, install: rust_src::install },
    Need { name: "bpf-linker", find: linker::find, install: linker::install },
    Need { name: "iproute2", find: tools::find_ip, install: tools::install_ip },
    Need { name: "strace", find: tools::find_strace, install: tools::install_strace },
    Need { name: "prometheus", find: tools::find_prometheus, install: tools::install_prometheus },
];

pub(crate) fn run(args: &Args) -> Result<()> {
    check(args, Output::All)
}

/// Like [`run`], without output about what is installed already.
pub(crate) fn ensure() -> Result<()> {
    check(&Args::default(), Output::Installs)
}

/// What [`check`] prints.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Everything that is needed.
    All,
    /// What it installs.
    Installs,
}

fn check(args: &Args, output: Output) -> Result<()> {
    for need in &NEEDS {
        let step = || format!("setup step `{}`", need.name);
        if let Some(found) = (need.find)(args).with_context(step)? {
            if output == Output::All {
                term::ok(need.name, &found);
            }
            continue;
        }
        term::doing(need.name, "missing, installing");
        let done = (need.install)(args).with_context(step)?;
        let found = (need.find)(args)
            .with_context(step)?
            .with_context(|| format!("setup step `{}`: still missing after: {done}", need.name))?;
        term::ok(need.name, &format!("{found} ({done})"));
    }
    Ok(())
}
