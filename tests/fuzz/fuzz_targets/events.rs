#![no_main]

use libfuzzer_sys::fuzz_target;
use sockline_fuzz::{events, write_seeds};

fuzz_target!(
    init: write_seeds("events", &events::seeds()),
    |data: &[u8]| { events::run(data); }
);
