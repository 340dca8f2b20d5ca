//! Waiting for jobs, and never forgetting one.
//!
//! A [`JobWatch`] records which jobs an application expects, and tells it what was heard of them, on
//! whichever replica. A [`Failsafe`] reads jobs of which nothing was heard. What is expected is kept
//! in a [`WatchStore`].
//!
//! This module uses `ledger`, `callback`, `observe`, `background`, `event`, `job`, `error` and
//! `util`.

mod boxed;
mod entry;
mod expected;
mod failsafe;
mod heard;
mod job_watch;
mod layer;
mod listening;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod presence;
#[cfg(feature = "redis")]
mod redis;
mod store;
mod waiters;

#[cfg(feature = "redis")]
pub use self::redis::RedisWatchStore;
pub use entry::{Due, Entry, InvalidEntry};
pub use expected::Expected;
pub use failsafe::{Failsafe, GivenUp, ReadFn, ReadJob};
pub use heard::{Heard, SettledEvent};
pub use job_watch::JobWatch;
pub use layer::{Watch, WatchFuture, WatchLayer};
pub use memory::{Full, MemoryWatchStore};
#[cfg(feature = "postgres")]
pub use postgres::PostgresWatchStore;
pub use store::{Counts, Replaced, Stored, Update, WatchStore};
pub use waiters::Wake;
