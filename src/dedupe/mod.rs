//! Each event once: duplicates and stale events end here.
//!
//! [`DedupeLayer`] claims each event in a [`Ledger`](crate::ledger::Ledger) before the callback runs,
//! and commits it when the callback has succeeded.

mod backoff;
mod bounded;
mod claim_guard;
mod layer;
mod service;

pub use layer::DedupeLayer;
pub use service::Dedupe;
