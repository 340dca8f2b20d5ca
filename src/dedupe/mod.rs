//! Each event once: duplicates and stale events end here.

mod bounded;
mod digest;
mod event_name;
mod fingerprint;
mod future;
mod held;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod key;
mod layer;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod lease;
mod ledger;
mod memory;
mod pauses;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod service;

pub use event_name::EventName;
pub use future::DedupeFuture;
pub use layer::DedupeLayer;
pub use ledger::{Claim, Commit, FencingToken, Ledger};
pub use memory::MemoryLedger;
#[cfg(feature = "postgres")]
pub use postgres::{CommitInError, PostgresLedger};
#[cfg(feature = "redis")]
pub use redis::{Reconnecting, RedisLedger, Sentinels};
pub use service::Dedupe;
