//! Starts the processes that tests need: examples, curl, and servers that a test may kill.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::unwrap_used,
    reason = "only tests use it, and a panic is how a test fails"
)]

pub mod curl;
mod process;
#[cfg(feature = "servers")]
pub mod servers;

use std::path::Path;

pub use process::{Process, example, run};

/// Returns the root of the repository, where the examples' commands run.
pub fn repository() -> &'static Path {
    // This package is `tests/harness`.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap()
}
