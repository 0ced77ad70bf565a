//! Builds the kernel programs, which the agent carries inside.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf");
    // The target has no prebuilt `core`; building one needs unstable flags of the pinned stable
    // compiler. Set here, it reaches the eBPF crate and nothing else.
    // SAFETY: a build script has one thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
    // Both sides must be built with the same layout.
    let features: Vec<&str> =
        [("CARGO_FEATURE_TEST_LAYOUT", "test-layout"), ("CARGO_FEATURE_TEST_BUILD", "test-build")]
            .into_iter()
            .filter(|(variable, _)| env::var_os(variable).is_some())
            .map(|(_, feature)| feature)
            .collect();
    // Held until the programs are copied from the shared folder.
    let _lock = share_builds().context("sharing the builds of the kernel programs")?;
    aya_build::build_ebpf(
        [Package {
            name: "sockline-ebpf",
            root_dir: root,
            no_default_features: true,
            features: &features,
        }],
        Toolchain::Custom(&toolchain),
    )
    .map_err(|error| anyhow!("{error:#}"))
    .context("building the kernel programs; `cargo xtask setup` installs what that needs")
}

/// Each profile of the agent, and each set of its features, has an `OUT_DIR` of its own. The kernel
/// programs have one profile, so they are built in one folder below cargo's target folder: `core` and
/// what else they depend on once, and not for each `OUT_DIR` again.
fn share_builds() -> Result<Option<File>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    // Cargo marks its target folder (<https://bford.info/cachedir/>), and in it the one of a target
    // that was asked for by its name.
    let marked =
        out.ancestors().skip_while(|path| !is_marked(path)).take_while(|path| is_marked(path));
    let Some(target) = marked.last() else {
        return Ok(None);
    };
    let shared = target.join("kernel");
    fs::create_dir_all(&shared)?;
    let lock = File::create(shared.join("lock"))?;
    lock.lock()?;
    // Where aya-build has cargo build.
    let own = out.join("aya-build/target");
    if own.is_symlink() {
        fs::remove_file(&own)?;
    } else if own.exists() {
        fs::remove_dir_all(&own)?;
    }
    fs::create_dir_all(out.join("aya-build"))?;
    symlink(shared, own)?;
    Ok(Some(lock))
}

fn is_marked(path: &Path) -> bool {
    path.join("CACHEDIR.TAG").exists()
}
