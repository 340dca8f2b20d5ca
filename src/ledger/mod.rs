//! Ledgers, which remember the events that were handled.
//!
//! A [`Ledger`] identifies events by their [`EventName`]. [`MemoryLedger`] serves one process; the
//! ledgers on Redis and Postgres are shared by several.
//!
//! This module uses `util`, `job` and `event`.

mod boxed;
#[cfg(not(feature = "postgres"))]
mod digest;
#[cfg(feature = "postgres")]
pub(crate) mod digest;
mod event_name;
#[cfg(any(feature = "redis", feature = "postgres"))]
pub(crate) mod key;
#[cfg(any(feature = "redis", feature = "postgres"))]
pub(crate) mod lease;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod version;

use std::sync::Arc;
use std::time::Duration;

use tower::BoxError;

#[cfg(feature = "redis")]
pub use self::redis::{Reconnecting, RedisLedger, Sentinels};
use crate::event::FencingToken;
pub use boxed::BoxLedger;
pub use event_name::{EventName, ParseEventNameError};
#[cfg(feature = "postgres")]
pub(crate) use event_name::{read_status, status_text};
pub use memory::MemoryLedger;
#[cfg(feature = "postgres")]
pub use postgres::{CommitInError, PostgresLedger};

/// A store that remembers which events are in flight and which are settled.
///
/// It works in two phases. An event is *claimed* before its callback runs. If the callback
/// succeeds, the event is *committed*, which settles it; if the callback fails, the claim is
/// *released*. A claim is a lease, which expires if its holder dies.
///
/// Each claim has a [`FencingToken`], which is larger than all earlier tokens of the same event,
/// also across restarts. If a ledger has lost an event, its next token comes from the clock. That
/// token is larger too, unless the clock was set back.
///
/// **A success is never forgotten.** If a slow holder succeeds after its lease has expired, its
/// commit settles the event, even if another holder has claimed it. A release with an outdated
/// token changes nothing.
///
/// [`MemoryLedger`] serves one process. Implement this trait for a store that several processes
/// share. Each method must be atomic: if several holders claim an event at once, one of them is
/// granted it.
///
/// If a method fails, the delivery is answered 503. So is a delivery whose ledger panics, or does
/// not answer within the layer's `with_ledger_timeout`. An event is acknowledged only if it is
/// known to be settled. The methods must not block their thread.
///
/// # Cancellation
///
/// A future is dropped if it takes too long, or if the delivery is. The call may or may not have
/// had its effect. A claim that was granted expires with its lease.
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
    /// The error of a ledger that cannot answer.
    type Error: Into<BoxError>;

    /// Claims an event for the duration of the lease, unless it is claimed or settled.
    ///
    /// The first of these that applies is returned:
    ///
    /// 1. [`Claim::Settled`], if the event is settled.
    /// 2. [`Claim::InFlight`], if the event is claimed and the lease has not expired.
    /// 3. [`Claim::Stale`], if a later event of the same job is settled, by their
    ///    [`ordering_time`](EventName::ordering_time).
    /// 4. [`Claim::Granted`] otherwise.
    ///
    /// An event with the same time as the latest settled one is not stale. An event without an
    /// ordering time is never stale, and makes no other event stale. The latest time is a maximum:
    /// settling an older event later does not lower it. The lease may be any duration, from zero to
    /// `Duration::MAX`.
    ///
    /// # Errors
    ///
    /// If the ledger cannot answer. The event may then be claimed until the lease expires.
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
    /// // The first lease expires at once, as if its holder had died.
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
    /// The success is recorded whatever has happened to the claim. The lease may have expired,
    /// another holder may have claimed or released the event, and a store that was restored from a
    /// backup may have lost this claim or later ones. In all these cases, this token settles the
    /// event. Only if another token has already settled it, the result is [`Commit::Overtaken`].
    ///
    /// A commit with the token that settled the event returns [`Commit::Settled`] again. This
    /// happens if the answer to a commit was lost and the commit is retried, or if the application
    /// has committed within its own transaction.
    ///
    /// # Errors
    ///
    /// If the ledger cannot answer. MX then delivers the event again.
    fn commit(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<Commit, Self::Error>> + Send;

    /// Releases a claim, so that the next delivery need not wait for the lease to expire.
    ///
    /// If another holder has claimed the event, or if the event is settled, nothing changes.
    ///
    /// # Errors
    ///
    /// If the ledger cannot answer. The claim then expires with its lease.
    fn release(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Forwards to the shared ledger.
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

/// The result of [`Ledger::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The event is claimed: run the callback, then commit or release.
    Granted(FencingToken),
    /// Another delivery has claimed the event.
    InFlight,
    /// The event is settled.
    Settled,
    /// A later event of the same job is settled.
    Stale,
}

/// The result of [`Ledger::commit`].
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
    /// This token has settled the event.
    Settled,
    /// Another token had already settled the event.
    Overtaken,
}
