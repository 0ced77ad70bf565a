#![no_main]

use libfuzzer_sys::fuzz_target;
use sockline_fuzz::{planner, write_seeds};

fuzz_target!(
    init: write_seeds("planner", &planner::seeds()),
    |data: &[u8]| { planner::run(data); }
);
