//! Ledgers: they remember which events were handled.
//!
//! A [`Ledger`] knows events by their [`EventName`]. [`MemoryLedger`] is for one process; the ledgers
//! on Redis and PostgreSQL are for several.

mod boxed;
mod digest;
mod event_name;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod key;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod lease;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod version;

use std::sync::Arc;
use std::time::Duration;

use tower::BoxError;

#[cfg(feature = "redis")]
pub use self::redis::{Reconnecting, RedisLedger, Sentinels};
use crate::event::FencingToken;
pub use boxed::BoxLedger;
pub use event_name::EventName;
pub use memory::MemoryLedger;
#[cfg(feature = "postgres")]
pub use postgres::{CommitInError, PostgresLedger};

/// Remembers which events are under way and which are settled.
///
/// Two phases: an event is *claimed* before its callback runs, and *committed* once it has
/// succeeded; if it fails, the claim is *released*. A claim is a lease: it expires if its
/// holder dies. Each has a [`FencingToken`], larger than every earlier one of the same
/// event, also over restarts. (Where a ledger has lost an event, its tokens go by the clock,
/// and are larger unless that was set back.)
///
/// **A success is never forgotten.** A holder whose lease ran out while it was slow may still
/// succeed: its commit settles the event, even if another holder has claimed it since. A release
/// with an overtaken token changes nothing.
///
/// [`MemoryLedger`] is one for a single process. Implement it for a
/// store that several share. Each method has to be atomic: of several that claim one event
/// at once, one is granted it.
///
/// An error of any of the three means that the ledger could not be asked, and is answered
/// 503: nothing is acknowledged that is not known to be settled. So is a panic, and no answer
/// within the layer's `with_ledger_timeout`; a method must not block its thread.
///
/// # Cancellation
///
/// The futures may be dropped, and are when they take too long. What then happened to the
/// claim is unknown, and the lease settles it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::ledger::{Claim, EventName, Ledger, MemoryLedger};
/// use mx_job_webhook::{Job, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = MemoryLedger::new();
/// let event = EventName::of(&Job::new("JOB-1".parse()?, Status::Completed).into());
/// let lease = Duration::from_secs(60);
///
/// let Claim::Granted(token) = ledger.claim(&event, lease).await? else { unreachable!() };
/// assert_eq!(ledger.claim(&event, lease).await?, Claim::InFlight);
/// ledger.commit(&event, token).await?;
/// assert_eq!(ledger.claim(&event, lease).await?, Claim::Settled);
/// # Ok(()) }
/// ```
pub trait Ledger: Send + Sync + 'static {
    /// What goes wrong when the ledger cannot be asked.
    type Error: Into<BoxError>;

    /// Claims an event for as long as the lease, if nobody else has.
    ///
    /// In this order: an event that is settled is [`Claim::Settled`]; one whose claim has not
    /// ended is [`Claim::InFlight`]; one that is older, by its
    /// [`ordering_time`](EventName::ordering_time), than another of the same job that is settled
    /// is [`Claim::Stale`]; any other is [`Claim::Granted`].
    ///
    /// An event of the same time as the latest settled one is not stale, and one without an
    /// ordering time neither is stale nor makes another so. The latest is a maximum: an older
    /// event may be settled after it. The lease may be zero, and `Duration::MAX`.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be asked; nothing may be claimed then, or for a lease at most.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::ledger::{Claim, EventName, Ledger, MemoryLedger};
    /// use mx_job_webhook::{Job, Status};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ledger = MemoryLedger::new();
    /// let event = EventName::of(&Job::new("JOB-1".parse()?, Status::Completed).into());
    ///
    /// // The holder of the first claim died; its lease is over at once.
    /// let Claim::Granted(first) = ledger.claim(&event, Duration::ZERO).await? else { unreachable!() };
    /// let Claim::Granted(second) = ledger.claim(&event, Duration::MAX).await? else { unreachable!() };
    /// assert!(second > first);
    /// # Ok(()) }
    /// ```
    fn claim(
        &self,
        event: &EventName,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, Self::Error>> + Send;

    /// Settles an event whose callback has succeeded.
    ///
    /// It records the success whatever became of the claim: its lease may have run out, another
    /// holder may have claimed the event since or given it back, and the ledger may have lost
    /// this claim, or claims made after the one it knows (a store that was restored from a
    /// backup). The event is settled by this token then. Only if another token has settled it
    /// before is the answer [`Commit::Overtaken`].
    ///
    /// To commit again with the token that settled the event is [`Commit::Settled`] too: a
    /// commit whose answer was lost is tried once more, and an application may commit inside
    /// its own transaction.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be told. The event is then delivered again.
    fn commit(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<Commit, Self::Error>> + Send;

    /// Gives a claim back, so that the next delivery need not wait for the lease.
    ///
    /// Nothing happens if somebody else has claimed the event since, or it is settled.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be told. The lease then ends by itself.
    fn release(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// A shared ledger is a ledger.
impl<L: Ledger> Ledger for Arc<L> {
    type Error = L::Error;

    fn claim(
        &self,
        event: &EventName,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, Self::Error>> + Send {
        L::claim(self, event, lease)
    }

    fn commit(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<Commit, Self::Error>> + Send {
        L::commit(self, event, token)
    }

    fn release(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        L::release(self, event, token)
    }
}

/// The answer of [`Ledger::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// Nobody else has it: run the callback, then commit or release.
    Granted(FencingToken),
    /// Somebody has it, and may yet fail.
    InFlight,
    /// It was handled.
    Settled,
    /// A later event of its job was handled.
    Stale,
}

/// What became of a commit.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
/// use mx_job_webhook::{Job, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = MemoryLedger::new();
/// let event = EventName::of(&Job::new("JOB-1".parse()?, Status::Completed).into());
/// let Claim::Granted(slow) = ledger.claim(&event, Duration::ZERO).await? else { unreachable!() };
/// let Claim::Granted(fast) = ledger.claim(&event, Duration::MAX).await? else { unreachable!() };
///
/// // Both succeed. The first success settles the event, even if its claim was taken over.
/// assert_eq!(ledger.commit(&event, slow).await?, Commit::Settled);
/// assert_eq!(ledger.commit(&event, fast).await?, Commit::Overtaken);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Commit {
    /// The event is settled, by this token.
    Settled,
    /// Another holder's success was recorded first.
    Overtaken,
}
