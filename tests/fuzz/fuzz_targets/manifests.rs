#![no_main]

use libfuzzer_sys::fuzz_target;
use sockline_fuzz::{manifests, write_seeds};

fuzz_target!(
    init: write_seeds("manifests", &manifests::seeds()),
    |data: &[u8]| { manifests::run(data); }
);
