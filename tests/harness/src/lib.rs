//! Starts what tests need as processes of their own: servers that a test may kill.
#![allow(
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::unwrap_used,
    reason = "it is for tests alone, and a panic is how a test fails"
)]

pub mod servers;
