//! The agent's binary, and its variants for upgrades.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

/// The agent's binary: `$SOCKLINE_BIN`, or `sockline` in the target folder this process is from.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn sockline_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SOCKLINE_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("SOCKLINE_BIN={} is not a file", path.display());
        }
        return Ok(path);
    }
    let exe = env::current_exe().context("finding this executable")?;
    // A test is in target/<profile>/deps, a binary in target/<profile>.
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("sockline"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `sockline` binary beside {}: run `cargo build -p sockline`, or set SOCKLINE_BIN",
                exe.display()
            )
        })
}

/// Builds of the agent that a node can be brought to; `xtask/src/variants.rs` makes the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    /// The one that [`sockline_binary`] finds.
    This,
    /// Of the same layout, with other programs.
    OtherPrograms,
    /// Of another layout of the maps.
    OtherLayout,
}

impl Build {
    /// Its binary: in the folder `variants` beside the agent's own.
    ///
    /// # Errors
    /// When there is none; the message says how to build it.
    pub fn binary(self) -> Result<PathBuf> {
        let own = sockline_binary()?;
        let name = match self {
            Self::This => return Ok(own),
            Self::OtherPrograms => "sockline-other-build",
            Self::OtherLayout => "sockline-other-layout",
        };
        let path = own.with_file_name("variants").join(name);
        if !path.is_file() {
            bail!("{} is not there: `cargo xtask build --variants` makes it", path.display());
        }
        Ok(path)
    }
}
