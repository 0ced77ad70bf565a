//! What each fuzz target does with its input, and what must hold whatever that is.
//!
//! `cargo xtask fuzz` runs them under libFuzzer. An input that broke something goes into
//! `regressions/TARGET/`, a folder that the first one makes. This crate's tests run those and the seeds.

pub mod events;
pub mod invariants;
pub mod manifests;
pub mod planner;

use std::{env, fs, path::Path};

/// Where [`write_seeds`] puts a corpus to begin with.
pub const SEEDS: &str = "SOCKLINE_FUZZ_SEEDS";

/// Writes seeds into the folder that the environment names, if it does.
///
/// # Panics
/// When they cannot be written.
pub fn write_seeds(target: &str, seeds: &[Vec<u8>]) {
    let Some(folder) = env::var_os(SEEDS) else { return };
    for (number, seed) in seeds.iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number:03}"));
        fs::write(&path, seed)
            .unwrap_or_else(|error| panic!("{target}: writing {}: {error}", path.display()));
    }
}

/// A file of `tests/fixtures`.
fn fixture(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}
