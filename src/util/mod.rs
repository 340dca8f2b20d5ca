//! Tools without knowledge of jobs: catching panics, deadlines, random numbers, text on one line, polling
//! futures beside each other, tables of Postgres, and a name for `!`.
//!
//! This module uses no other room. The feature `tokio` chooses the implementation of deadlines here:
//! without it, no deadline ever passes.

pub(crate) mod catch_panic;
#[cfg(feature = "tokio")]
pub(crate) mod deadline;
#[cfg(not(feature = "tokio"))]
#[path = "no_deadline.rs"]
pub(crate) mod deadline;
pub(crate) mod later;
pub(crate) mod never;
pub(crate) mod one_line;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(any(feature = "redis", feature = "tokio"))]
pub(crate) mod random;
#[cfg(feature = "tokio")]
pub(crate) mod until;
