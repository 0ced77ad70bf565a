//! Builds the kernel programs, which the agent carries inside.

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf");
    // The target has no prebuilt `core`; building one needs unstable flags of the pinned stable
    // compiler. Set here, it reaches the eBPF crate and nothing else.
    // SAFETY: a build script has one thread.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
    // Both sides must be built with the same layout.
    let features: Vec<&str> =
        [("CARGO_FEATURE_TEST_LAYOUT", "test-layout"), ("CARGO_FEATURE_TEST_BUILD", "test-build")]
            .into_iter()
            .filter(|(variable, _)| std::env::var_os(variable).is_some())
            .map(|(_, feature)| feature)
            .collect();
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
