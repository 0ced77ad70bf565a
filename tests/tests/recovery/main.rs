//! Services keep working, or come back, when an agent crashes or stops and when the kernel state is damaged.
//!
//! The next agent completes or reverts what a crashed one left behind. A running agent repairs drift. After
//! the deadline without an agent, calls bypass Sockline.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod drift;
mod fail_open;
