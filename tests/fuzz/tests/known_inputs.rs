//! The seeds, and the inputs that broke something once, go through.

use std::{fs, path::Path};

use sockline_fuzz::{events, manifests, planner};

fn go_through(target: &str, run: fn(&[u8]), seeds: &[Vec<u8>]) {
    assert!(!seeds.is_empty(), "no seeds");
    seeds.iter().for_each(|seed| run(seed));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        println!("{}", entry.path().display());
        run(&fs::read(entry.path()).expect("a file of the repository can be read"));
    }
}

#[test]
fn known_inputs_of_the_manifest_reader_still_pass() {
    go_through("manifests", manifests::run, &manifests::seeds());
}

#[test]
fn known_inputs_of_the_planner_still_pass() {
    go_through("planner", planner::run, &planner::seeds());
}

#[test]
fn known_inputs_of_the_event_decoder_still_pass() {
    go_through("events", events::run, &events::seeds());
}
