//! Deduplication: the callback runs once for each event, and never for a stale one.
//!
//! [`DedupeLayer`] claims each event in a [`Ledger`](crate::ledger::Ledger) before the callback
//! runs, and commits it when the callback has succeeded. Duplicates and stale events are
//! acknowledged without a callback.
//!
//! This module uses `ledger`, `callback`, `event`, `error`, `background` and `util`.

mod backoff;
mod bounded_ledger;
mod claim_guard;
mod layer;
mod service;

pub use layer::DedupeLayer;
pub use service::Dedupe;
