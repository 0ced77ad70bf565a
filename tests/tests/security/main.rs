//! The agent keeps only the rights it needs, and input from others cannot harm it or its services.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

#[path = "../common/mod.rs"]
mod common;

mod privileges;
mod untrusted_input;
